"""The host's loop of a sweep: programs one after another, records, early stopping, rungs, checkpoints, Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.halving import survivors
from jaxbackprop.sweeps.ledger import Ledger, in_use, record, settle, store
from jaxbackprop.sweeps.planner import Plan, Program
from jaxbackprop.sweeps.program import Stopping
from jaxbackprop.sweeps.runner import Run, advance, chunks_needed, compact, fetch, start_run, stretch_epochs
from jaxbackprop.sweeps.splits import Problem

WORTH_MOVING = 0.75  # networks are moved together when that leaves this part of the chunks, or less


@dataclass(frozen=True)
class Job:
    """What a sweep has to do; none of it changes on the way."""

    plan: Plan
    trials: Sequence[Trial]
    problem: Problem
    mesh: Mesh
    marks: Int[np.ndarray, " records"]
    rungs: Sequence[tuple[int, int]]
    scheme: str
    shuffle_seed: int
    monitor: str | None
    stopping: Stopping
    shared_l2: bool = False
    assess: bool = True


@dataclass
class Work:
    """How far a sweep has come; all of it goes into a checkpoint."""

    ledger: Ledger
    rung: int = 0
    runs: dict[int, Run] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)


def train(job: Job, work: Work, bar: Any, pause: Callable[[], bool]) -> None:
    """Train everything that is left of a job. `pause` is called between stretches; if it says so, training ends there,
    and what has come of each network until then is its outcome."""
    for rung in range(work.rung, len(job.rungs)):
        work.rung = rung
        epoch, keep = job.rungs[rung]
        for number, program in enumerate(job.plan.programs):
            if number in work.finished:
                continue
            if number not in work.runs:
                work.runs[number] = _measured_start(job, program)
                record(work.ledger, work.runs[number], 0)
            if _train_program(job, work, number, epoch, bar, pause):
                for run in work.runs.values():
                    store(work.ledger, run, in_use(run), finished=False)
                return
            run = work.runs[number]
            if keep == 0 or not in_use(run).any():
                store(work.ledger, run, in_use(run), finished=True)
                work.finished.add(number)
                del work.runs[number]
        if keep:
            _drop_worst(job, work, keep, bar)


def _measured_start(job: Job, program: Program) -> Run:
    run = start_run(
        program,
        job.trials,
        job.problem,
        job.mesh,
        job.scheme,
        monitor=job.monitor,
        shared_l2=job.shared_l2,
        assess=job.assess,
    )
    return _advance(job, program, run, 0)


def _advance(job: Job, program: Program, run: Run, stop: int) -> Run:
    return advance(
        run,
        program,
        job.problem,
        stop,
        at_once=_at_once(job, program),
        measure=bool(np.isin(stop, job.marks)),
        shuffle_seed=job.shuffle_seed,
        stopping=job.stopping,
    )


def _at_once(job: Job, program: Program) -> int:
    return stretch_epochs(program, job.problem, int(job.marks[-1]), int(np.diff(job.marks).max()))


def _train_program(job: Job, work: Work, number: int, stop: int, bar: Any, pause: Callable[[], bool]) -> bool:
    """Train one program up to the epoch `stop`; whether `pause` ended it before."""
    program = job.plan.programs[number]
    while work.runs[number].epoch < stop and in_use(work.runs[number]).any():
        run = work.runs[number]
        mark = int(np.searchsorted(job.marks, run.epoch, side="right"))
        until = min(stop, int(job.marks[mark]), run.epoch + _at_once(job, program))
        new = _advance(job, program, run, until)
        bar.update(int(in_use(run).sum()) * (until - run.epoch) * program.batches)
        if until == job.marks[mark]:
            record(work.ledger, new, mark)
            new = _retire(job, work, new, program, bar)
        work.runs[number] = new
        if pause():
            return True
    return False


def _retire(job: Job, work: Work, run: Run, program: Program, bar: Any) -> Run:
    """Take the networks that early stopping has stopped out of a run, once that saves enough work."""
    if run.carry.kept is None:
        return run
    active = fetch(run.carry.kept.active) & in_use(run)
    if active.all() or chunks_needed(run, active) > WORTH_MOVING * run.layout.chunks:
        # What has stopped but still stands in its slot trains on unseen, its kept parameters out of reach.
        settle(work.ledger, run, ~active, finished=True)
        return run
    return _leave(job, work, run, active, program, bar, finished=True)


def _leave(job: Job, work: Work, run: Run, keep: Any, program: Program, bar: Any, *, finished: bool) -> Run:
    """Store the networks that are not kept, and move the others together."""
    gone = in_use(run) & ~keep
    store(work.ledger, run, gone, finished=finished)
    skipped = int(gone.sum()) * (int(job.marks[-1]) - run.epoch) * program.batches
    bar.total = max(bar.n, (bar.total or 0) - skipped)
    bar.refresh()
    return compact(run, keep)


def _drop_worst(job: Job, work: Work, keep: int, bar: Any) -> None:
    """At the end of a rung: the trials with the lowest validation loss (training loss where nothing is held out),
    averaged over the splits, go on; the others are done."""
    splits = len(job.problem.train_sizes)
    losses = np.full(len(job.trials) * splits, np.nan)
    for run in work.runs.values():
        metrics = fetch(run.carry.metrics if run.carry.kept is None else run.carry.kept.metrics)
        values = metrics.validation_loss if job.problem.validation_sizes[0] else metrics.train_loss
        losses[run.layout.slots[in_use(run)]] = values[in_use(run)]
    for number in work.finished:  # early stopping has ended all of their networks
        networks = np.flatnonzero(work.ledger.place[:, 0] == number)
        values = work.ledger.final.validation_loss if job.problem.validation_sizes[0] else work.ledger.final.train_loss
        losses[networks] = values[networks]
    mean = losses.reshape(-1, splits).mean(axis=1)
    alive = np.unique(np.concatenate([r.layout.slots[in_use(r)] for r in work.runs.values()] or [[]]) // splits)
    chosen = survivors(mean, alive.astype(int), keep)
    for number, run in list(work.runs.items()):
        stays = in_use(run) & np.isin(run.layout.slots // splits, chosen)
        if not (in_use(run) & ~stays).any():
            continue
        work.runs[number] = _leave(job, work, run, stays, job.plan.programs[number], bar, finished=False)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While it lasts, the first Ctrl-C only sets a flag, which the function that it yields reads; the second one
    interrupts at once. Outside the main thread, where signals cannot be caught, nothing changes."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def agree(flag: bool) -> bool:
    """Process 0's answer, in every process: all of them have to take the same way."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.bool_(flag)))
