"""Trains the networks of estimators, one or thousands, by the compiled programs of a sweep.

A sweep records a few dozen times; scikit-learn looks at the loss after every epoch, to draw `loss_curve_` and to decide
whether to stop. So here the program itself runs many epochs, each with its record, before the host looks up.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxbackprop.estimators.glorot import glorot_starts
from jaxbackprop.network import Params
from jaxbackprop.optimizers import OPTIMIZERS
from jaxbackprop.selection import choose_activation
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.interface import workload
from jaxbackprop.sweeps.ledger import in_use
from jaxbackprop.sweeps.loop import WORTH_MOVING, interruptible
from jaxbackprop.sweeps.planner import Program, plan_trials
from jaxbackprop.sweeps.program import (
    Carry,
    Part,
    Recipe,
    Stopping,
    Trials,
    at,
    make_batches,
    spread_grid,
    train_chunk,
)
from jaxbackprop.sweeps.runner import (
    Run,
    chunks_needed,
    compact,
    epoch_order,
    fetch,
    first_carry,
    make_mesh,
    put,
    start_run,
    stretch_epochs,
)
from jaxbackprop.sweeps.splits import Problem
from jaxbackprop.training import State

RECORDS = 64  # epochs in one call of a program, at most: so much of the loss curve it hands back at once
LOOKS = 16  # how often the host looks, at least, whether networks have stopped and the others can be moved together
COMPILING = 1.5  # epochs with their records compile so many times as long as a sweep's stretch of steps
MEMORY = 2**32  # bytes, for the networks of all candidates and folds


class Schedule(NamedTuple):
    """How long to train, what to look at, and in which order the samples come.

    `monitor` is "train", "score" (of held-out samples) or None, as in `engine.Recipe`. The order of the samples is
    drawn from `seed`, None for the order in which they stand.
    """

    epochs: int
    monitor: str | None
    stopping: Stopping
    seed: int | None


class Warm(NamedTuple):
    """Where a single network goes on: its parameters, the state of its optimizer, the best monitored value so far."""

    params: Params
    optimizer: Any | None
    best: float = np.inf


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks after training, those of program p stacked in `params[p]` and numbered by `networks[p]`.

    `hidden` are the widths that each program has padded its networks to, `epochs` how long each network has trained.
    `curve` is there for a single network only: the training loss and the validation score after each epoch.
    """

    params: list[Params]
    networks: list[Int[np.ndarray, " networks"]]
    epochs: Int[np.ndarray, " networks"]
    curve: Float[np.ndarray, "2 epochs"] | None = None
    optimizer: Any | None = None
    interrupted: bool = False


@functools.lru_cache(maxsize=256)
def epochs_program(mesh: Mesh, recipe: Recipe, records: int) -> Any:
    """The compiled function (carry, trials, train, validation, batches, epochs, chunks, stopping) -> carry, curves.

    `batches` is [splits, epochs, steps, batch_size], or None for full batches. A chunk whose networks have all stopped
    is left. The curves are [chunks, networks, 2, records], NaN where nothing was trained; None for no records.
    """

    def run(
        carry: Carry,
        trials: Trials,
        train: Part,
        validation: Part,
        batches: Int[Array, "splits epochs steps batch_size"] | None,
        epochs: Int[Array, ""],
        chunks: Int[Array, ""],
        stopping: Stopping,
    ) -> tuple[Carry, Float[Array, "chunks networks 2 records"] | None]:
        most, steps = (0, 1) if batches is None else batches.shape[1:3]
        gathered = None if batches is None else make_batches(train, batches)
        blank = jnp.full((*carry.record.shape, 2, records), jnp.nan, train.x.dtype) if records else None

        def visit(c: Array, done: tuple[Carry, Array | None]) -> tuple[Carry, Array | None]:
            split = trials.split[c]
            settings, own, held_out = at(trials.hyperparameters, c), at(train, split), at(validation, split)
            activation = choose_activation(recipe.activations, trials.activation[c])

            def goes_on(now: tuple[Array, Carry, Array | None]) -> Array:
                e, carry, _ = now
                return e < epochs if carry.kept is None else (e < epochs) & jnp.any(carry.kept.active)

            def one_epoch(now: tuple[Array, Carry, Array | None]) -> tuple[Array, Carry, Array | None]:
                e, carry, curve = now
                order = gathered and gathered._replace(first=(split * most + e) * steps)
                widths, always = trials.widths[c], jnp.bool_(True)
                carry = train_chunk(
                    carry, settings, widths, activation, own, held_out, order, steps, always, stopping, recipe
                )
                if curve is not None:
                    point = jnp.stack([carry.metrics.train_loss, carry.metrics.validation_score], axis=-1)
                    curve = lax.dynamic_update_index_in_dim(curve, point, e, axis=2)
                return e + 1, carry, curve

            new = lax.while_loop(goes_on, one_epoch, (jnp.int32(0), at(done[0], c), at(done[1], c)))[1:]
            return jax.tree.map(lambda old, new: lax.dynamic_update_index_in_dim(old, new, c, 0), done, new)

        return lax.fori_loop(0, chunks, visit, (carry, blank))

    return spread_grid(run, mesh, whole=6)


def train_networks(
    trials: Sequence[Trial],
    problem: Problem,
    schedule: Schedule,
    *,
    warm: Warm | None = None,
    report: Callable[[Float[np.ndarray, "2 epochs"]], None] | None = None,
) -> Trained:
    """Train every trial on every split of a problem, as scikit-learn's multi-layer perceptron trains.

    **Arguments:**
    - `warm`: for a single network, where to start.
    - `report`: for a single network, called with each new part of its curve; asks for the curve.
    """
    single = report is not None
    mesh = make_mesh(1 if single else None)
    sizes = workload(problem, schedule.epochs, mesh.devices.size, MEMORY)
    plan = plan_trials(trials, sizes._replace(compiling=COMPILING))
    trained = Trained([], [], np.zeros(plan.networks, int))
    curves = []
    with interruptible() if single else nullcontext(lambda: False) as interrupted:
        for program in plan.programs:
            run = _start(program, trials, problem, mesh, schedule, warm)
            store = _Store(program, trained.epochs)
            at_once = _epochs_at_once(program, problem, schedule, single)
            while in_use(run).any() and run.epoch < schedule.epochs and not interrupted():
                run, curve = _advance(run, program, problem, schedule, at_once, RECORDS if single else 0)
                if report is not None:
                    curves.append(curve)
                    report(curve)
                run = _retire(run, store)
            store.take(run, in_use(run))
            trained.params.append(store.params)
            trained.networks.append(store.networks)
        if not single:
            return trained
        state = jax.tree.map(lambda a: a[0, 0], fetch(run.carry.state.optimizer))
        return replace(trained, curve=np.concatenate(curves, axis=1), optimizer=state, interrupted=interrupted())


def _epochs_at_once(program: Program, problem: Problem, schedule: Schedule, single: bool) -> int:
    """How many epochs to hand to the devices in one call."""
    most = RECORDS if single else schedule.epochs
    if schedule.monitor is not None and not single:
        most = -(-schedule.epochs // LOOKS)
    return stretch_epochs(program, problem, schedule.epochs, min(most, schedule.epochs))


def _start(
    program: Program, trials: Sequence[Trial], problem: Problem, mesh: Mesh, schedule: Schedule, warm: Warm | None
) -> Run:
    """The networks of a program on the devices, before the first epoch."""
    splits, dtype = len(problem.train_sizes), problem.train.x.dtype
    shape = program.slots.shape
    first = int(program.slots[program.slots >= 0][0])  # stands in for an empty slot, as in `start_run`
    if warm is None:
        members = [trials[n // splits] for n in np.where(program.slots >= 0, program.slots, first).flat]
        flat = glorot_starts(members, (problem.train.x.shape[1], *program.hidden, problem.train.y.shape[1]), dtype)
    else:
        flat = jax.tree.map(lambda a: np.broadcast_to(a, (program.slots.size, *a.shape)), warm.params)
    params = jax.tree.map(lambda a: np.asarray(a, dtype).reshape(*shape, *a.shape[1:]), flat)
    if warm is None or warm.optimizer is None:
        # All optimizers offered here start from zeros; asking for their shapes compiles nothing.
        one = jax.eval_shape(OPTIMIZERS[program.optimizer].init, jax.tree.map(lambda a: a[0, 0], params))
        state = jax.tree.map(lambda a: np.zeros((*shape, *a.shape), a.dtype), one)
    else:
        state = jax.tree.map(lambda a: np.broadcast_to(a, (*shape, *np.shape(a))), warm.optimizer)
    carry = first_carry(State(params, state), shape, dtype, schedule.monitor)
    if carry.kept is not None:
        best: Any = np.full(shape, np.inf if warm is None else warm.best, dtype)
        active: Any = program.slots >= 0
        carry = carry._replace(kept=carry.kept._replace(best=best, active=active))
    options: Any = {"monitor": schedule.monitor, "shared_l2": True, "assess": False}
    return start_run(program, trials, problem, mesh, "glorot", **options, carry=carry)


def _advance(
    run: Run, program: Program, problem: Problem, schedule: Schedule, at_once: int, records: int
) -> tuple[Run, Float[np.ndarray, "2 epochs"]]:
    """Train for at most `at_once` epochs; the curve of the first network, if there are records."""
    stop = min(schedule.epochs, run.epoch + at_once)
    batches: Array | None = None
    if program.batch_size is not None:
        order = np.full((len(problem.train_sizes), at_once, program.batches, program.batch_size), -1, np.int32)
        # Splits of other sizes may need another number of batches; those belong to another program.
        for split in np.unique(run.layout.split[in_use(run).any(axis=1)]):
            size = problem.train_sizes[split]
            for k, epoch in enumerate(range(run.epoch, stop)):
                order[split, k] = _order(schedule, epoch, size, program.batch_size)
        batches = put(order, run.mesh, spread=False)
    before = run.epoch
    limits: Any = (np.int32(schedule.stopping.patience), np.asarray(schedule.stopping.tolerance, run.train.x.dtype))
    carry, curves = epochs_program(run.mesh, run.recipe, records)(
        run.carry,
        run.trials,
        run.train,
        run.validation,
        batches,
        np.int32(stop - before),
        np.int32(run.layout.chunks),
        Stopping(*limits),
    )
    run = run._replace(carry=carry, epoch=stop)
    if curves is None:
        return run, np.zeros((2, 0), run.train.x.dtype)
    taken = int(fetch(carry.record)[0, 0]) + 1 - before
    return run, fetch(curves)[0, 0, :, :taken]


def _order(schedule: Schedule, epoch: int, size: int, batch_size: int) -> Int[np.ndarray, "batches batch_size"]:
    if schedule.seed is not None:
        return epoch_order(schedule.seed, epoch, size, batch_size)
    return np.pad(np.arange(size, dtype=np.int32), (0, -size % batch_size), constant_values=-1).reshape(-1, batch_size)


class _Store:
    """Takes over a program's networks as they stop."""

    def __init__(self, program: Program, epochs: Int[np.ndarray, " networks"]) -> None:
        self.networks = np.sort(program.slots[program.slots >= 0])
        self.epochs = epochs
        self.params: Any = None

    def take(self, run: Run, which: Bool[np.ndarray, "chunks networks"]) -> None:
        if not which.any():
            return
        numbers = run.layout.slots[which]
        kept = run.carry.kept
        params = fetch(run.carry.state.params if kept is None else kept.params)
        if self.params is None:
            self.params = jax.tree.map(lambda a: np.zeros((len(self.networks), *a.shape[2:]), a.dtype), params)
        place = np.searchsorted(self.networks, numbers)
        for own, new in zip(jax.tree.leaves(self.params), jax.tree.leaves(params), strict=True):
            own[place] = new[which]
        # With the best parameters kept, that of the best epoch is not when the training ended.
        record = run.carry.record if kept is None or run.recipe.monitor == "score" else kept.record
        self.epochs[numbers] = fetch(record)[which] + 1


def _retire(run: Run, store: _Store) -> Run:
    """Take the networks that have stopped out of a run, once that saves enough work."""
    if run.carry.kept is None:
        return run
    active = fetch(run.carry.kept.active) & in_use(run)
    if active.any() and chunks_needed(run, active) > WORTH_MOVING * run.layout.chunks:
        return run
    store.take(run, in_use(run) & ~active)
    if active.any():
        return compact(run, active)
    return run._replace(layout=run.layout._replace(slots=np.full_like(run.layout.slots, -1)))
