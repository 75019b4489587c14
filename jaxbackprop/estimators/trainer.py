"""Trains the networks of estimators, one or thousands, by the grid engine.

A sweep records a few dozen times; scikit-learn looks at the loss after every epoch, to draw `loss_curve_` and to decide
whether to stop. So here every epoch is a record, and what a record costs is the mean loss of its batches.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from jaxbackprop.estimators.glorot import glorot_starts
from jaxbackprop.estimators.reuse import Reusable, reusable, reuse, widened
from jaxbackprop.network import Params
from jaxbackprop.optimizers import Moments
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.host import Job, new_book, train
from jaxbackprop.sweeps.interface import workload
from jaxbackprop.sweeps.interruption import interruptible
from jaxbackprop.sweeps.planner import plan_trials
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.sweeps.state import TRAINING, Book
from jaxbackprop.sweeps.stopping import Fall, Stopping
from jaxbackprop.sweeps.transfer import local_mesh, make_mesh

Report = Callable[[Float[np.ndarray, "3 epochs"]], None]
Watch = Callable[[Callable[[], Params], bool], bool]


class Schedule(NamedTuple):
    """How long to train, what to look at, and in which order the samples come.

    `monitor` is "train", "score" (of held-out samples) or None, as in `program.Recipe`. The order of the samples is
    drawn from `seed`, None for the order in which they stand. `rule` and `power` say how the learning rate falls.
    """

    epochs: int
    monitor: str | None
    stopping: Stopping
    seed: int | None
    rule: str | None = None
    power: float = 0.0


class Machine(NamedTuple):
    """What a training may take: bytes, and devices, None for all."""

    memory_budget: int
    devices: int | None


class Warm(NamedTuple):
    """Where a single network goes on: its parameters, the state of its optimizer, the best monitored value so far and
    for how many epochs there has been no progress, the learning rate, and the samples seen until now."""

    params: Params
    optimizer: Any | None
    best: float
    stale: int
    learning_rate: float
    seen: int


class Trained(NamedTuple):
    """The book of networks after training, and what is known of a single one besides: training loss, validation score
    and validation loss after each epoch, and whether Ctrl-C ended the training; of many, the programs that can train
    another."""

    book: Book
    curve: Float[np.ndarray, "3 epochs"] | None = None
    interrupted: bool = False
    programs: Sequence[Reusable] = ()


class Course(NamedTuple):
    """How the training of a single network went.

    `curve` is training loss, validation score and validation loss after each epoch; `optimizer` the optimizer's state,
    `stale` for how many epochs there has been no progress, `learning_rate` the last step size.
    """

    params: Params
    curve: Float[np.ndarray, "3 epochs"]
    optimizer: Any
    stale: int
    learning_rate: float
    interrupted: bool


def train_one(
    trial: Trial,
    splits: Splits,
    schedule: Schedule,
    machine: Machine,
    warm: Warm | None,
    report: Report,
    watch: Watch | None,
    known: Sequence[Reusable] = (),
) -> Course:
    """Train a single network on the engine, by a program that is `known` already if one serves."""
    trained = train_networks([trial], splits, schedule, machine, warm=warm, report=report, watch=watch, known=known)
    book = trained.book
    assert trained.curve is not None
    assert book.monitored is not None
    state = jax.tree.map(lambda a: a[0].copy(), book.kinds[0].optimizer)
    rate = trial.learning_rate if book.rate is None else float(book.rate[0])
    if isinstance(state, Moments) and state.steps > 0:
        rate *= float(np.sqrt(1 - trial.beta_2**state.steps) / (1 - trial.beta_1**state.steps))
    return Course(book.params(0), trained.curve, state, int(book.monitored.stale[0]), rate, trained.interrupted)


def train_networks(
    trials: Sequence[Trial],
    splits: Splits,
    schedule: Schedule,
    machine: Machine,
    *,
    warm: Warm | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
    known: Sequence[Reusable] = (),
    bar: bool = False,
    advance: Callable[[float], None] = lambda done: None,
    later: int = 0,
) -> Trained:
    """Train every trial on every split, as scikit-learn's multi-layer perceptron trains.

    **Arguments:**
    - `warm`: for a single network, where to start.
    - `report`: for a single network, called with each new part of its curve; asks for the curve.
    - `watch`: for a single network, called after each epoch with a function that gives the parameters to hand back as
      they are now, and with whether another epoch follows; training ends if it returns True.
    - `known`: for a single network, programs that may serve.
    - `bar`: for many, whether to show one; `advance`, called with the part of the work that is done; `later`, how many
      samples one of them may be trained on afterwards by the same program.

    **Raises:** `ValueError` if there are fewer devices, or the budget is too small.
    """
    single = report is not None
    mesh = make_mesh(machine.devices)  # refused, even for one network, if there are fewer
    mesh = local_mesh() if single else mesh
    sizes = workload(splits, schedule.epochs, mesh.devices.size, machine.memory_budget)
    sizes = sizes._replace(monitored=schedule.monitor is not None, assess=False)
    every_epoch = single or schedule.monitor is not None or schedule.rule is not None
    plan, made = plan_trials(trials, sizes), None
    lends = later > 0 and schedule.monitor == "train"  # what says how the loss of a single network goes, too
    if lends:
        splits = widened(splits, plan, later)
    found = reuse(known, trials[0], splits, plan, schedule.monitor, schedule.rule) if single else None
    if found is not None:
        plan, splits, mesh, made = found
    job = Job(
        plan=plan,
        trials=trials,
        splits=splits,
        mesh=mesh,
        marks=np.arange(1, schedule.epochs + 1) if every_epoch else np.array([schedule.epochs]),
        rungs=[(schedule.epochs, 0)],
        draw=partial(glorot_starts, dtype=splits.dtype),
        shuffle_seed=schedule.seed,
        monitor=schedule.monitor,
        stopping=schedule.stopping,
        shared_l2=True,
        assess=False,
        curves=single,
        rule=schedule.rule,
        at_once=None if watch is None else 1,
        fall=Fall(schedule.power, 0 if warm is None else warm.seen),
        made=made,
        lends=lends,
    )
    book = new_book(job)
    if warm is not None:
        _start_from(book, warm)
    if report is None:
        total, hidden = job.plan.network_steps, not bar or jax.process_index() > 0
        with tqdm(total=total, unit=" network-steps", unit_scale=True, desc="search", disable=hidden) as shown:
            done = 0
            for call in train(job, book):
                done += call.steps + call.skipped
                shown.update(call.steps + call.skipped)
                advance(min(1.0, done / total))
        return Trained(book, programs=reusable(job))
    told = 0
    with interruptible() as interrupted, closing(train(job, book)) as calls:
        for call in calls:
            now = _curve(book)
            noted = int(np.isfinite(now[0]).cumsum().argmax()) + 1 if np.isfinite(now[0]).any() else 0
            report(now[:, told:noted])
            stops = interrupted()
            if watch is not None and noted > told:
                call.settle()
                stops |= watch(lambda: book.params(0), bool(book.status[0] == TRAINING))
            told = max(told, noted)
            if stops:
                break
    curve = _curve(book)[:, : int(book.record[0]) + 1]
    report(curve[:, told:])
    return Trained(book, curve, interrupted())


def _curve(book: Book) -> Float[np.ndarray, "3 epochs"]:
    curves = book.curves
    assert curves is not None
    return np.stack([curves.train_loss[:, 0], curves.validation_score[:, 0], curves.validation_loss[:, 0]])


def _start_from(book: Book, warm: Warm) -> None:
    """Note in the book where its only network goes on."""
    kind = book.kinds[0]
    for own, given in (
        *zip(jax.tree.leaves(kind.params), jax.tree.leaves(warm.params), strict=True),
        *zip(jax.tree.leaves(kind.kept), jax.tree.leaves(warm.params), strict=True),
        *zip(jax.tree.leaves(kind.optimizer), jax.tree.leaves(warm.optimizer or ()), strict=False),
    ):
        own[0] = given
    if book.monitored is not None:
        book.monitored.best[0], book.monitored.stale[0] = warm.best, warm.stale
    if book.rate is not None:
        book.rate[0] = warm.learning_rate
    book.status[0] = TRAINING
