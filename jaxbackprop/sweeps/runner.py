"""One program of a plan, seen from the host: its networks are put on the devices, trained a stretch at a time, and
moved together when some of them are done."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int

from jaxbackprop._checks import check_integer
from jaxbackprop.losses import OBJECTIVES
from jaxbackprop.network import Params
from jaxbackprop.optimizers import OPTIMIZERS, Hyperparameters
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.planner import AHEAD, Program
from jaxbackprop.sweeps.program import (
    GRID_AXIS,
    Carry,
    Kept,
    Metrics,
    Part,
    Recipe,
    Stopping,
    Trials,
    gathered_bytes,
    stretch_program,
)
from jaxbackprop.sweeps.splits import Problem
from jaxbackprop.sweeps.starts import draw_starts
from jaxbackprop.training import State

STRETCH_SECONDS = 1.0  # about how long a call may last before the host looks up
ORDER_ENTRIES = 4_000_000  # of the batch order, at most, handed over in one call


class Layout(NamedTuple):
    """Which network stands where; the first `chunks` chunks of every device are in use."""

    slots: Int[np.ndarray, "chunks networks"]
    activation: Int[np.ndarray, " chunks"]
    split: Int[np.ndarray, " chunks"]
    chunks: int


class Run(NamedTuple):
    """A program under way: what is on the devices, where each network stands there, and the epochs done."""

    mesh: Mesh
    recipe: Recipe
    layout: Layout
    carry: Carry
    trials: Trials
    train: Part
    validation: Part
    epoch: int


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


def start_run(
    program: Program,
    trials: Sequence[Trial],
    problem: Problem,
    mesh: Mesh,
    scheme: str,
    *,
    monitor: str | None = None,
    shared_l2: bool = False,
    assess: bool = True,
    layout: Layout | None = None,
    carry: Carry | None = None,
    epoch: int = 0,
) -> Run:
    """Draw the initial parameters of a program's networks, or take up a `carry` and its `layout` where they were left,
    and put everything on the devices."""
    splits = len(problem.train_sizes)
    dtype = problem.train.x.dtype
    features, outputs = problem.train.x.shape[1], problem.train.y.shape[1]
    if layout is None:
        per_device = len(program.slots) // mesh.devices.size
        layout = Layout(program.slots, program.activation, program.split, per_device)
    slots = layout.slots
    # An empty slot is filled with the program's first network; what becomes of it is never looked at.
    first = int(program.slots[program.slots >= 0][0])
    members = [trials[n // splits] for n in np.where(slots >= 0, slots, first).flat]

    def column(name: str, dtype: Any) -> Any:
        return np.array([getattr(t, name) for t in members], dtype).reshape(slots.shape)

    widths: Any = np.array([t.hidden for t in members], np.int32).reshape(len(members), -1)
    optimizer = OPTIMIZERS[program.optimizer]
    if carry is None:
        edge = np.ones((len(members), 1), np.int32)
        sizes = np.hstack([features * edge, widths, outputs * edge])
        padded = (features, *program.hidden, outputs)
        flat = draw_starts(column("seed", np.int64).reshape(-1), sizes, padded, scheme=scheme, dtype=dtype)
        params: Params = jax.tree.map(lambda a: a.reshape(*slots.shape, *a.shape[1:]), flat)
        # Every optimizer of ours starts from constants, so a single network's state tells all of them.
        one = jax.tree.map(np.asarray, optimizer.init(jax.tree.map(lambda a: a[0, 0], params)))
        state = State(params, jax.tree.map(lambda a: np.broadcast_to(a, slots.shape + a.shape), one))
        carry = first_carry(state, slots.shape, dtype, monitor)
    per_chunk: Any = (layout.activation, layout.split)
    settings = Trials(
        Hyperparameters(
            learning_rate=column("learning_rate", dtype),
            l2=column("l2", dtype),
            momentum=column("momentum", dtype),
            weight_decay=column("weight_decay", dtype),
            seed=column("seed", np.int32),
        ),
        widths.reshape(*slots.shape, -1),
        *per_chunk,
    )
    return Run(
        mesh,
        Recipe(
            program.activations, optimizer, OBJECTIVES[problem.objective], program.padded, monitor, shared_l2, assess
        ),
        layout,
        put(carry, mesh, spread=True),
        put(settings, mesh, spread=True),
        put(problem.train, mesh, spread=False),
        put(problem.validation, mesh, spread=False),
        epoch,
    )


def first_carry(state: State, shape: tuple[int, int], dtype: Any, monitor: str | None) -> Carry:
    """Before the first record: nothing measured, nothing stopped."""
    nan: Any = np.full(shape, np.nan, dtype)
    zero: Any = np.zeros(shape, dtype)
    none: Any = np.full(shape, -1, np.int32)  # the first record, before training, is number 0
    metrics = Metrics(nan, nan, nan, nan)
    if monitor is None:
        return Carry(state, metrics, none, None, None)
    stale: Any = np.zeros(shape, np.int32)
    active: Any = np.ones(shape, bool)
    kept = Kept(state.params, metrics, none, np.inf + zero, stale, active)
    return Carry(state, metrics, none, (zero, zero), kept)


def epoch_order(seed: int, epoch: int, size: int, batch_size: int) -> Int[np.ndarray, "batches batch_size"]:
    """Which samples make up the batches of one epoch, from the sweep's shuffle seed and the epoch alone; the empty
    slots of a last, smaller batch hold -1. On the host: a shuffle is a sort, and would double a program's compile time.
    """
    order = np.random.default_rng((seed, epoch)).permutation(size).astype(np.int32)
    return np.pad(order, (0, -size % batch_size), constant_values=-1).reshape(-1, batch_size)


def stretch_epochs(program: Program, problem: Problem, epochs: int, record_every: int) -> int:
    """How many epochs to hand to the devices in one call: about a second's work."""
    most = max(1, int(STRETCH_SECONDS / max(program.seconds, 1e-9) * epochs))
    if program.batch_size is not None:
        entries = program.batches * program.batch_size * len(problem.train_sizes)
        most = min(most, max(1, ORDER_ENTRIES // entries))
        gathered = gathered_bytes(problem.train, entries)
        if gathered <= AHEAD:
            most = min(most, AHEAD // gathered)
    return min(most, record_every)


def advance(
    run: Run,
    program: Program,
    problem: Problem,
    stop: int,
    *,
    at_once: int,
    measure: bool,
    shuffle_seed: int,
    stopping: Stopping,
) -> Run:
    """Train all networks of a run up to the epoch `stop`, at most `at_once` away, and measure them there."""
    batches: Array | None = None
    if program.batch_size is not None:
        # Splits of other sizes may need another number of batches; those belong to another program.
        order = np.full((len(problem.train_sizes), at_once * program.batches, program.batch_size), -1, np.int32)
        for split in np.unique(run.layout.split[(run.layout.slots >= 0).any(axis=1)]):
            size = problem.train_sizes[split]
            for k, epoch in enumerate(range(run.epoch, stop)):
                place = slice(k * program.batches, (k + 1) * program.batches)
                order[split, place] = epoch_order(shuffle_seed, epoch, size, program.batch_size)
        batches = put(order, run.mesh, spread=False)
    limits: Any = (np.int32(stopping.patience), np.asarray(stopping.tolerance, run.train.x.dtype))
    carry = stretch_program(run.mesh, run.recipe)(
        run.carry,
        run.trials,
        run.train,
        run.validation,
        batches,
        np.int32((stop - run.epoch) * program.batches),
        np.int32(run.layout.chunks),
        np.bool_(measure),
        Stopping(*limits),
    )
    return run._replace(carry=jax.block_until_ready(carry), epoch=stop)


def compact(run: Run, keep: Bool[np.ndarray, "chunks networks"]) -> Run:
    """Move the networks to keep into as few chunks as hold them, so that the work shrinks with their number. The arrays
    stay as large as they are, and with them the compiled program: it just visits fewer chunks."""
    devices, size = run.mesh.devices.size, run.layout.slots.shape[1]
    groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for chunk, slot in np.argwhere(keep & (run.layout.slots >= 0)):
        groups[int(run.layout.activation[chunk]), int(run.layout.split[chunk])].append((int(chunk), int(slot)))
    rows = [
        (key, members[start : start + size])
        for key, members in groups.items()
        for start in range(0, len(members), size)
    ]
    total = len(run.layout.slots)
    per_device = total // devices
    slots = np.full_like(run.layout.slots, -1)
    activation: Any = np.zeros_like(run.layout.activation)
    split: Any = np.zeros_like(run.layout.split)
    source = np.zeros((total, size, 2), int)
    for number, (key, members) in enumerate(rows):
        row = number % devices * per_device + number // devices  # dealt out to the devices in turn
        activation[row], split[row] = key
        for slot, (a, b) in enumerate(members):
            slots[row, slot] = run.layout.slots[a, b]
            source[row, slot] = a, b
    move = (source[..., 0], source[..., 1])
    carry = jax.tree.map(lambda a: a[move], fetch(run.carry))
    trials = run.trials._replace(
        hyperparameters=jax.tree.map(lambda a: a[move], fetch(run.trials.hyperparameters)),
        widths=fetch(run.trials.widths)[move],
        activation=activation,
        split=split,
    )
    return run._replace(
        layout=Layout(slots, activation, split, -(-len(rows) // devices)),
        carry=put(carry, run.mesh, spread=True),
        trials=put(trials, run.mesh, spread=True),
    )


def chunks_needed(run: Run, keep: Bool[np.ndarray, "chunks networks"]) -> int:
    """How many chunks of each device `compact` would leave."""
    present = keep & (run.layout.slots >= 0)
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for chunk in np.flatnonzero(present.any(axis=1)):
        counts[int(run.layout.activation[chunk]), int(run.layout.split[chunk])] += int(present[chunk].sum())
    rows = sum(-(-count // run.layout.slots.shape[1]) for count in counts.values())
    return -(-rows // run.mesh.devices.size)
