"""The host's loop, the only one: programs one after another, rung by rung, from record to record.

Everything that a training has to remember is in its book; what is on the devices is put there from the book and written
back to it. So halving, early stopping, interruption and checkpoints are nothing but moments at which the book is read.
"""

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxbackprop.network import Params
from jaxbackprop.sweeps.assessment import Metrics
from jaxbackprop.sweeps.costs import ORDER_ENTRIES
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.halving import worst
from jaxbackprop.sweeps.planner import Plan, Program
from jaxbackprop.sweeps.program import Data, Recipe, make_program, shapes_of
from jaxbackprop.sweeps.pruning import drop_trials
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.sweeps.state import TRAINING, WAITING, Book, open_book
from jaxbackprop.sweeps.stopping import Fall, Stopping
from jaxbackprop.sweeps.transfer import (
    Run,
    begin,
    fetch,
    leave_seats,
    put,
    take_seats,
    waiting,
)

STRETCH_SECONDS = 1.0  # about how long a call may last before the host looks up
LOOKS = 16  # how often the host looks, at least, whether networks have stopped and the others can be moved together
RECORDS = 64  # of each network that a call hands back, at most
RECORD_BYTES = 2**24  # that these take together, at most
NEVER, CONSTANT = Stopping(0), Fall()
WORTH_MOVING = 0.9  # networks are moved together when that leaves this part of the chunks, or less


class Made(NamedTuple):
    """What a program has been compiled for: its recipe, and the steps of the order of batches that a call takes, 0 for
    full batches."""

    recipe: Recipe
    steps: int


@dataclass(frozen=True, eq=False)
class Job:
    """What a training has to do; none of it changes on the way.

    - `marks`: the epochs at which it records; `rungs`: (epoch, trials that go on from there), the last one (epochs, 0).
    - `draw`: initial parameters, see `transfer.begin`.
    - `shuffle_seed`: of the order of mini-batches; None for the order in which the samples stand.
    - `monitor`, `stopping`, `shared_l2`, `assess`: see `program.Recipe`.
    - `rule`, `fall`: how learning rates fall, see `stopping`; asks for a mark at every epoch.
    - `curves`: whether the metrics of every record are kept.
    - `at_once`: epochs from one look of the host to the next, at most; None for what takes about a second.
    - `choose`: from the book and a rung to the trials that end there, see `pruning`.
    - `made`: how an earlier job has had the only program of the plan compiled, to use it as it is; `lends`: whether a
      later job will use one of this, and ask it for curves.
    """

    plan: Plan
    trials: Sequence[Trial]
    splits: Splits
    mesh: Mesh
    marks: Int[np.ndarray, " records"]
    rungs: Sequence[tuple[int, int]]
    draw: Callable[[Sequence[Trial], tuple[int, ...]], Params]
    shuffle_seed: int | None
    monitor: str | None = None
    stopping: Stopping = NEVER
    shared_l2: bool = False
    assess: bool = True
    curves: bool = True
    rule: str | None = None
    fall: Fall = CONSTANT
    at_once: int | None = None
    choose: Callable[[Book, int, int], Int[np.ndarray, " trials"]] = worst
    made: Made | None = None
    lends: bool = False
    columns: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        dtype = self.splits.dtype
        reals = ("learning_rate", "l2", "momentum", "weight_decay", "beta_1", "beta_2", "epsilon", "dropout")
        names: dict[str, Any] = {**dict.fromkeys(reals, dtype), "seed": np.uint32}
        columns = {name: np.array([getattr(t, name) for t in self.trials], kind) for name, kind in names.items()}
        object.__setattr__(self, "columns", columns)


class Progress(NamedTuple):
    """What a call has done: network-steps taken, those that will never be since networks have ended early, and a
    function that writes all there is into the book, which is otherwise behind the devices."""

    steps: int
    skipped: int
    settle: Callable[[], None]


def new_book(job: Job) -> Book:
    """Nothing done yet."""
    data = job.splits.data
    return open_book(
        job.trials,
        len(data.train),
        data.inputs,
        len(data.y),
        job.splits.dtype,
        monitored=job.monitor is not None,
        records=len(job.marks) if job.curves else None,
        falling=job.rule is not None,
        start=data.frequency,
    )


def train(job: Job, book: Book) -> Generator[Progress, None, None]:
    """Train everything that is left to do by the book, yielding after each call of a program. Closing the iterator ends
    the training there; the book then holds all that has come of each network."""
    data = put(job.splits.data, job.mesh, spread=False)
    try:
        for rung in range(int(book.rung[0]), len(job.rungs)):
            epoch, keep = job.rungs[rung]
            for program in job.plan.programs:
                for networks in _cohorts(book, program, epoch):
                    yield from _train_program(job, book, data, program, networks, epoch)
            # Where nothing was held out, trials are judged by what they make of the training samples.
            if rung + 1 == len(job.rungs) or max(job.splits.validation_sizes) == 0:
                _measure(job, book, data, between=False)
            dropped = drop_trials(book, job.choose(book, epoch, keep))
            book.seated[dropped] = False
            book.rung[0] = rung + 1
            yield Progress(0, _steps_left(job, book, dropped), lambda: None)
    except GeneratorExit:
        _measure(job, book, data, between=True)
        raise


def _cohorts(book: Book, program: Program, stop: int) -> list[Int[np.ndarray, " some"]]:
    """The networks of a program that are to be trained up to an epoch, by how long they have been.

    That is one set, unless the training was planned otherwise when it was interrupted. With it go those that have
    ended but not yet left their seats.
    """
    own = program.networks
    alive = own[np.isin(book.status[own], (WAITING, TRAINING)) & (book.epoch[own] < stop)]
    if len(alive) == 0:
        return []
    so_far = np.stack([book.epoch[alive], book.record[alive]], axis=1)
    lengths, cohort = np.unique(so_far, axis=0, return_inverse=True)
    if len(lengths) == 1:
        return [own[book.seated[own]]]
    return [alive[cohort.reshape(-1) == k] for k in range(len(lengths))]


def _train_program(
    job: Job, book: Book, data: Data, program: Program, networks: Int[np.ndarray, " some"], stop: int
) -> Iterator[Progress]:
    """Train some networks of a program up to the epoch `stop`."""
    begin(book, program, waiting(book, networks), job.trials, job.draw)
    recipe = make_recipe(job, program)
    at_once, skipped = _epochs_at_once(job, program), 0

    def sit(networks: Int[np.ndarray, " some"]) -> Run:
        return take_seats(book, program, networks, job.trials, job.columns, job.mesh, recipe.runs)

    def settle() -> Int[np.ndarray, " ended"]:
        return leave_seats(book, run, job.marks, int(job.marks[-1]))

    def note() -> None:
        nonlocal skipped
        skipped += _steps_left(job, book, settle())

    run, living = sit(networks), int((book.status[networks] == TRAINING).sum())
    while living and run.epoch < stop:
        before = run.epoch
        run = _advance(job, book, data, recipe, run, stop, at_once)
        steps = living * (run.epoch - before) * program.batches
        if run.carry.kept is not None:
            active = fetch(run.carry.kept.active) & (run.seats.networks >= 0)
            living = int(active.sum())
            fewer = living and _chunks_needed(job, run, active) <= WORTH_MOVING * run.seats.used
            if fewer and run.epoch < stop:
                note()
                book.seated[networks] = book.status[networks] == TRAINING
                networks = networks[book.seated[networks]]
                run = sit(networks)
        try:
            yield Progress(steps, skipped, note)
            skipped = 0
        except GeneratorExit:
            note()
            raise
    note()
    if skipped:
        yield Progress(0, skipped, lambda: None)
    book.seated[networks] = book.status[networks] == TRAINING


def make_recipe(job: Job, program: Program) -> Recipe:
    """What a program of a job is compiled for."""
    if job.made is not None:
        return job.made.recipe
    records = 0
    if job.curves or job.lends:
        room = RECORD_BYTES // (4 * job.splits.dtype.itemsize * program.chunks * program.size)
        spacing = int(np.diff(job.marks).min(initial=job.marks[-1]))
        records = max(1, min(RECORDS, room, len(job.marks), _epochs_at_once(job, program) // max(1, spacing)))
    return Recipe(
        program.activations,
        program.optimizer,
        job.splits.objective,
        job.splits.targets,
        program.padded,
        program.depths[0],
        job.monitor,
        job.shared_l2,
        job.assess,
        records,
        program.quick,
        job.rule,
        program.batch_size is not None,
    )


def what_was_made(job: Job, program: Program) -> Made:
    """How a program of a job is compiled, for a later job."""
    steps = 0 if program.batch_size is None else _epochs_at_once(job, program) * program.batches
    return Made(make_recipe(job, program), steps)


def _epochs_at_once(job: Job, program: Program) -> int:
    """How many epochs to hand to the devices in one call, at most: about a second's work, and a part of the training
    where networks may stop."""
    epochs = int(job.marks[-1])
    most = min(job.at_once or epochs, epochs, max(1, int(STRETCH_SECONDS / max(program.seconds, 1e-9) * epochs)))
    if job.monitor is not None and len(job.plan.programs[0].networks) > 1:
        most = min(most, -(-epochs // LOOKS))
    if program.batch_size is not None and job.made is not None:
        most = min(most, job.made.steps // program.batches)
    elif program.batch_size is not None:
        entries = program.batches * program.batch_size * len(job.splits.train_sizes)
        most = min(most, max(1, ORDER_ENTRIES // entries))
    return most


def _advance(job: Job, book: Book, data: Data, recipe: Recipe, run: Run, stop: int, at_once: int) -> Run:
    """One call: from record to record as far as these are equally far apart, or a part of the way to the next one."""
    marks, k = job.marks, run.record
    gap = int(marks[k]) - run.epoch
    measure, times = gap <= at_once, 1
    if measure:
        most = recipe.records or len(marks)
        while (
            times < most
            and k + times < len(marks)
            and marks[k + times] - marks[k + times - 1] == gap
            and marks[k + times] <= min(stop, run.epoch + at_once)
        ):
            times += 1
    else:
        gap = at_once
    new, curves = _call(job, data, recipe, run, gap, times, measure, at_once)
    if not measure:
        return new
    if curves is not None and book.curves is not None:
        taken = run.seats.networks >= 0
        for own, values in zip(book.curves, fetch(curves), strict=True):
            own[k : k + times, run.seats.networks[taken]] = values[taken][:, :times].T
    return new._replace(record=k + times)


def _call(
    job: Job, data: Data, recipe: Recipe, run: Run, epochs: int, times: int, measure: bool, at_once: int
) -> tuple[Run, Any]:
    """`times` times so many epochs, in order."""
    program, splits = run.program, job.splits
    batches = None
    if program.batch_size is not None:
        steps = at_once * program.batches if job.made is None else job.made.steps
        order = np.full((len(splits.train_sizes), steps, program.batch_size), -1, np.int32)
        # Splits of other sizes may need another number of batches; those belong to another program.
        for split in np.unique(run.seats.split[(run.seats.networks >= 0).any(axis=1)]):
            own = np.asarray(splits.data.train[split])[: splits.train_sizes[split]]
            for k in range(epochs * times):
                place = slice(k * program.batches, (k + 1) * program.batches)
                order[split, place] = epoch_order(job.shuffle_seed, run.epoch + k, own, program.batch_size)
        batches = put(order, job.mesh, spread=False)
    patience, tolerance, strict = job.stopping
    limits: Any = (np.int32(patience), np.asarray(tolerance, splits.dtype), np.bool_(strict))
    arguments = (
        run.carry,
        run.settings,
        data,
        batches,
        np.int32(run.epoch * program.batches),
        np.int32(epochs * program.batches),
        np.int32(times),
        np.int32(run.seats.used),
        np.bool_(measure),
        Stopping(*limits),
        Fall(*(np.asarray(number, splits.dtype) for number in job.fall)),
    )
    with _no_collection():
        carry, curves = make_program(job.mesh, recipe, shapes_of(arguments))(*arguments)
    return run._replace(carry=jax.block_until_ready(carry), epoch=run.epoch + epochs * times), curves


@contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes so many objects that Python would look through all there are for garbage, a tenth of a second of a
    small search."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _measure(job: Job, book: Book, data: Data, *, between: bool) -> None:
    """Note the metrics of the parameters to hand back, where no record has measured them: on the training samples, if
    they were trained on mini-batches; on all, if they were left `between` two records, which early stopping, that hands
    back those of a record, never does.

    A record before which there are no batches measures them, so that no program is compiled for it.
    """
    if not job.assess:
        return
    left = (book.status == TRAINING) & (between and book.monitored is None)
    handed_back = replace(
        book,
        status=np.full_like(book.status, TRAINING),
        running=np.zeros_like(book.running),
        kinds=[kind._replace(params=kind.kept) for kind in book.kinds],
    )
    for program in job.plan.programs:
        begun = left if program.batch_size is None else book.status != WAITING
        networks = program.networks[begun[program.networks]]
        if len(networks) == 0:
            continue
        recipe = make_recipe(job, program)
        run = take_seats(handed_back, program, networks, job.trials, job.columns, job.mesh, recipe.runs)
        run, _ = _call(job, data, recipe, run, 0, 1, True, _epochs_at_once(job, program))
        taken = run.seats.networks >= 0
        numbers = run.seats.networks[taken]
        for name, own, values in zip(Metrics._fields, book.outcome(), fetch(run.carry.metrics), strict=True):
            new = left[numbers] | name.startswith("train")
            own[numbers[new]] = values[taken][new]


def epoch_order(
    seed: int | None, epoch: int, samples: Int[np.ndarray, " samples"], batch_size: int
) -> Int[np.ndarray, "batches batch_size"]:
    """Which samples make up the batches of one epoch, from the shuffle seed and the epoch alone; the empty slots of a
    last, smaller batch hold -1. On the host: a shuffle is a sort, and would double a program's compile time."""
    order = samples
    if seed is not None:
        order = samples[np.random.default_rng((seed, epoch)).permutation(len(samples))]
    slots = np.full(len(samples) + -len(samples) % batch_size, -1, samples.dtype)  # np.pad takes as long as all of this
    slots[: len(samples)] = order
    return slots.reshape(-1, batch_size)


def _chunks_needed(job: Job, run: Run, keep: Any) -> int:
    """How many chunks of each device would hold some of a run's networks."""
    shared = (run.seats.activation, run.seats.depth, run.seats.split)
    groups = np.stack([np.broadcast_to(own[:, None], keep.shape)[keep] for own in shared])
    counts = np.unique(groups, axis=1, return_counts=True)[1]
    return -(-int((-(-counts // keep.shape[1])).sum()) // job.mesh.devices.size)


def _steps_left(job: Job, book: Book, networks: Int[np.ndarray, " some"]) -> int:
    """Network-steps that networks have left until the last epoch."""
    left = 0
    for number in networks:
        batch_size = job.trials[number // book.splits].batch_size
        batches = job.plan.workload.batches(batch_size, int(number) % book.splits)
        left += (int(job.marks[-1]) - int(book.epoch[number])) * batches
    return left
