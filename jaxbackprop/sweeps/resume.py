"""A sweep under way as plain arrays, and back again: what a checkpoint holds."""

import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxbackprop.sweeps.checkpoint as checkpoint
from jaxbackprop.network import SCHEMES
from jaxbackprop.sweeps.ledger import open_ledger
from jaxbackprop.sweeps.loop import Job, Work, agree
from jaxbackprop.sweeps.runner import Layout, fetch, start_run


def to_arrays(work: Work) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and what else is needed to make sense of them."""
    ledger = work.ledger
    arrays = {f"ledger/{i}": a for i, a in enumerate(jax.tree.leaves(_ledger_tree(ledger)))}
    runs = {}
    for number, run in work.runs.items():
        tree = fetch((run.layout[:3], run.carry))
        arrays |= {f"run{number}/{i}": a for i, a in enumerate(jax.tree.leaves(tree))}
        runs[str(number)] = {"chunks": run.layout.chunks, "epoch": run.epoch}
    return arrays, {"rung": work.rung, "finished": sorted(work.finished), "runs": runs}


def from_arrays(job: Job, arrays: dict[str, np.ndarray], notes: dict[str, Any]) -> Work:
    """The work that `to_arrays` was handed."""
    work = new_work(job)
    for i, own in enumerate(jax.tree.leaves(_ledger_tree(work.ledger))):
        own[...] = arrays[f"ledger/{i}"]
    work.rung, work.finished = notes["rung"], set(notes["finished"])
    for key, saved in notes["runs"].items():
        program = job.plan.programs[int(key)]
        options: Any = {"monitor": job.monitor, "shared_l2": job.shared_l2, "assess": job.assess}
        fresh = start_run(program, job.trials, job.problem, job.mesh, job.scheme, **options)
        places, structure = jax.tree.flatten((fresh.layout[:3], fresh.carry))
        leaves = [arrays[f"run{key}/{i}"] for i in range(len(places))]
        (slots, activation, split), carry = jax.tree.unflatten(structure, leaves)
        work.runs[int(key)] = start_run(
            program,
            job.trials,
            job.problem,
            job.mesh,
            job.scheme,
            **options,
            layout=Layout(slots, activation, split, saved["chunks"]),
            carry=carry,
            epoch=saved["epoch"],
        )
    return work


def new_work(job: Job) -> Work:
    """Nothing done yet."""
    return Work(open_ledger(job.plan, len(job.marks), job.problem.train.x.dtype))


def _ledger_tree(ledger: Any) -> Any:
    return (ledger.curves, ledger.final, ledger.epochs, ledger.kept, ledger.finished, ledger.params)


class Keeper:
    """Saves a job's work to a directory, now and then, and takes it up from there."""

    def __init__(self, directory: str | Path, every: float, job: Job) -> None:
        self.directory, self.every, self.job = Path(directory), every, job
        self.fingerprint = checkpoint.fingerprint_of(
            grid=[tuple(trial) for trial in job.trials],
            data=jax.tree.leaves((job.problem.train, job.problem.validation)),
            epochs=[job.marks.tolist(), [list(rung) for rung in job.rungs]],
            options=[job.scheme, sorted(SCHEMES), job.shuffle_seed, job.monitor, [float(s) for s in job.stopping]],
            devices=int(job.mesh.devices.size),
            versions=[version("jaxbackprop"), jax.__version__],
        )
        self.step = 0
        self.saved_at = time.monotonic()

    def take_up(self) -> Work:
        """The work as it was saved last, or none done yet.

        **Raises:** `ValueError` if the directory cannot be used, or holds what is damaged or belongs to another sweep.
        """
        if jax.process_index() == 0:
            saved = checkpoint.open_checkpoint(self.directory, self.fingerprint)
        agree(True)  # process 0 has made and cleared the directory when the others look
        if jax.process_index() > 0:
            saved = checkpoint.open_checkpoint(self.directory, self.fingerprint)
        if agree(saved is not None) != (saved is not None):
            raise ValueError(
                f"checkpoint={str(self.directory)!r} must be one directory that all processes share: process 0 and "
                f"process {jax.process_index()} do not find the same in it"
            )
        if saved is None:
            return new_work(self.job)
        self.step = saved.notes["step"]
        return from_arrays(self.job, saved.arrays, saved.notes)

    def save_if_due(self, work: Work) -> None:
        """Save, if the last time is long enough ago."""
        if agree(time.monotonic() - self.saved_at >= self.every):
            self.save(work)

    def save(self, work: Work) -> None:
        """Save now. A save that fails is reported and does not end the training."""
        arrays, notes = to_arrays(work)
        self.step += 1
        if jax.process_index() == 0:
            try:
                checkpoint.save_checkpoint(
                    self.directory, self.step, arrays, notes | {"step": self.step}, self.fingerprint
                )
            except (OSError, ValueError) as error:
                warnings.warn(f"checkpoint not saved, the sweep goes on: {error}", RuntimeWarning, stacklevel=2)
        self.saved_at = time.monotonic()
