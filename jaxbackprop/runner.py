"""Runs one program of a plan from the host: puts its networks on the devices, trains them a stretch at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxbackprop._checks import check_integer
from jaxbackprop.engine import GRID_AXIS, Carry, Metrics, Part, Recipe, Trials, stretch_program
from jaxbackprop.grid import Trial
from jaxbackprop.losses import OBJECTIVES
from jaxbackprop.network import Params
from jaxbackprop.optimizers import OPTIMIZERS, Hyperparameters
from jaxbackprop.planner import Program
from jaxbackprop.problem import Problem
from jaxbackprop.starts import draw_starts
from jaxbackprop.training import State

STRETCH_SECONDS = 1.0  # about how long a call may last before the host looks up
ORDER_ENTRIES = 4_000_000  # of the batch order, at most, handed over in one call


class Run(NamedTuple):
    """A program under way: its networks' state and settings on the devices, and the data they share."""

    mesh: Mesh
    recipe: Recipe
    carry: Carry
    trials: Trials
    train: Part
    validation: Part


class Curves(NamedTuple):
    """Metrics of every network at every record, [records, networks]."""

    train_loss: Float[np.ndarray, "records networks"]
    train_score: Float[np.ndarray, "records networks"]
    validation_loss: Float[np.ndarray, "records networks"]
    validation_score: Float[np.ndarray, "records networks"]

    @classmethod
    def empty(cls, networks: int, records: int) -> "Curves":
        """Nothing recorded yet: all NaN."""
        return cls(*(np.full((records, networks), np.nan, np.float32) for _ in cls._fields))


def make_mesh(devices: int | None) -> Mesh:
    """A mesh of `devices` devices, by default of all, over the grid axis.

    **Raises:** `ValueError` if there are fewer.
    """
    present = jax.devices()
    wanted = len(present) if devices is None else check_integer("devices", devices, 1)
    if wanted > len(present):
        kind = present[0].platform
        raise ValueError(
            f"devices={wanted}, but JAX has {len(present)} of kind {kind!r}"
            + ("; use_all_cores() at the start of a script makes each core one" if kind == "cpu" else "")
        )
    return Mesh(np.array(present[:wanted]), (GRID_AXIS,))


def put(tree: Any, mesh: Mesh, *, spread: bool) -> Any:
    """NumPy arrays on the devices of a mesh, spread along their first axis or copied to each; every process that takes
    part holds the whole arrays and hands over its share."""
    sharding = NamedSharding(mesh, PartitionSpec(GRID_AXIS) if spread else PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(np.shape(a), sharding, lambda index: np.asarray(a)[index]), tree
    )


def fetch(tree: Any) -> Any:
    """The whole of every array, as NumPy, in every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def start_program(program: Program, trials: Sequence[Trial], problem: Problem, mesh: Mesh, scheme: str) -> Run:
    """Draw the initial parameters of a program's networks and put everything on the devices."""
    splits = len(problem.train_sizes)
    dtype = problem.train.x.dtype
    features, outputs = problem.train.x.shape[1], problem.train.y.shape[1]
    # An empty slot is filled with the program's first network; what becomes of it is never looked at.
    first = int(program.slots[program.slots >= 0][0])
    members = [trials[n // splits] for n in np.where(program.slots >= 0, program.slots, first).flat]
    slots = program.slots.shape

    def column(name: str, dtype: Any) -> Any:
        return np.array([getattr(t, name) for t in members], dtype).reshape(slots)

    widths: Any = np.array([t.hidden for t in members], np.int32).reshape(len(members), -1)
    edge = np.ones((len(members), 1), np.int32)
    sizes = np.hstack([features * edge, widths, outputs * edge])
    padded = (features, *program.hidden, outputs)
    flat = draw_starts(column("seed", np.int64).reshape(-1), sizes, padded, scheme=scheme, dtype=dtype)
    params: Params = jax.tree.map(lambda a: a.reshape(*slots, *a.shape[1:]), flat)
    optimizer = OPTIMIZERS[program.optimizer]
    # Every optimizer of ours starts from constants, so a single network's state tells all of them.
    one = jax.tree.map(np.asarray, optimizer.init(jax.tree.map(lambda a: a[0, 0], params)))
    state = State(params, jax.tree.map(lambda a: np.broadcast_to(a, slots + a.shape), one))
    nothing: Any = np.full(slots, np.nan, dtype)
    per_chunk: Any = (program.activation, program.split)
    settings = Trials(
        Hyperparameters(
            learning_rate=column("learning_rate", dtype),
            l2=column("l2", dtype),
            momentum=column("momentum", dtype),
            weight_decay=column("weight_decay", dtype),
            seed=column("seed", np.int32),
        ),
        widths.reshape(*slots, -1),
        *per_chunk,
    )
    return Run(
        mesh,
        Recipe(program.activations, optimizer, OBJECTIVES[problem.objective], program.padded),
        put(Carry(state, Metrics(*[nothing] * 4)), mesh, spread=True),
        put(settings, mesh, spread=True),
        put(problem.train, mesh, spread=False),
        put(problem.validation, mesh, spread=False),
    )


def epoch_order(seed: int, epoch: int, size: int, batch_size: int) -> Int[np.ndarray, "batches batch_size"]:
    """Which samples make up the batches of one epoch, from the sweep's shuffle seed and the epoch alone; the empty
    slots of a last, smaller batch hold -1. On the host: a shuffle is a sort, and would double a program's compile time.
    """
    order = np.random.default_rng((seed, epoch)).permutation(size).astype(np.int32)
    return np.pad(order, (0, -size % batch_size), constant_values=-1).reshape(-1, batch_size)


def train_program(
    run: Run,
    program: Program,
    problem: Problem,
    marks: Int[np.ndarray, " records"],
    shuffle_seed: int,
    curves: Curves,
    bar: Any,
) -> Run:
    """Train a program's networks from the first to the last of `marks` (in epochs), recording their metrics at each."""
    stretch = stretch_program(run.mesh, run.recipe)
    chunks = np.int32(len(program.slots) // run.mesh.devices.size)
    networks = int((program.slots >= 0).sum())
    gaps = np.diff(marks)
    at_once = max(1, int(STRETCH_SECONDS / max(program.seconds, 1e-9) * gaps.sum()))
    if program.batch_size is not None:
        entries = program.batches * program.batch_size * len(problem.train_sizes)
        at_once = min(at_once, max(1, ORDER_ENTRIES // entries))
    at_once = min(at_once, int(gaps.max())) if len(gaps) else 1

    def order(start: int, stop: int) -> Int[Array, "splits steps batch_size"] | None:
        if program.batch_size is None:
            return None
        # Splits of other sizes may need another number of batches; those belong to another program.
        own = np.full((len(problem.train_sizes), at_once * program.batches, program.batch_size), -1, np.int32)
        for split in set(program.split[(program.slots >= 0).any(axis=1)].tolist()):
            epochs = [
                epoch_order(shuffle_seed, epoch, problem.train_sizes[split], program.batch_size)
                for epoch in range(start, stop)
            ]
            if epochs:
                own[split, : len(epochs) * program.batches] = np.concatenate(epochs)
        return put(own, run.mesh, spread=False)

    carry, epoch = run.carry, int(marks[0])
    for record, mark in enumerate(marks):
        while True:
            stop = min(int(mark), epoch + at_once)
            length = np.int32((stop - epoch) * program.batches)
            carry = stretch(
                carry, run.trials, run.train, run.validation, order(epoch, stop), length, chunks, np.bool_(stop == mark)
            )
            jax.block_until_ready(carry)
            bar.update(int(length) * networks)
            epoch = stop
            if epoch == mark:
                break
        record_metrics(fetch(carry.metrics), program, curves, record)
    return run._replace(carry=carry)


def record_metrics(metrics: Metrics, program: Program, curves: Curves, record: int) -> None:
    """Write the metrics of a program's networks to their places in the curves."""
    present = program.slots >= 0
    for values, curve in zip(metrics, curves, strict=True):
        curve[record, program.slots[present]] = values[present]


def finish_program(run: Run, program: Program) -> tuple[Int[np.ndarray, " networks"], Params]:
    """The networks of a program and their parameters, stacked in the same order."""
    present = program.slots >= 0
    params = fetch(run.carry.state.params)
    return program.slots[present], jax.tree.map(lambda a: a[present], params)
