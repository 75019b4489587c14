"""A program that a search has had compiled trains the best candidate on all samples, too.

What a program is compiled for are shapes: widths, chunks, samples, batches. One more network fits in where none of its
own is larger; what is smaller is filled up, its chunk is the only one that is visited. For small data that saves a
third of a search, which is spent on compiling.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxbackprop.optimizers import get_optimizer
from jaxbackprop.sweeps.grid import Trial, each_activation
from jaxbackprop.sweeps.host import Job, Made, what_was_made
from jaxbackprop.sweeps.placement import slot_widths
from jaxbackprop.sweeps.planner import Plan, Program
from jaxbackprop.sweeps.program import Data
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.sweeps.transfer import spans_processes


class Reusable(NamedTuple):
    """A program, how it was compiled, the devices it runs on, and the data that it was compiled for; `epochs` are those
    of the training that its seconds were predicted for."""

    program: Program
    made: Made
    mesh: Mesh
    splits: Splits
    epochs: int


def reusable(job: Job) -> list[Reusable]:
    """The programs of a job that another network can be trained by alone, if it lends them."""
    if not job.lends or spans_processes(job.mesh):
        return []
    epochs = int(job.marks[-1])
    return [Reusable(p, what_was_made(job, p), job.mesh, job.splits, epochs) for p in job.plan.programs]


def widened(splits: Splits, plan: Plan, samples: int) -> Splits:
    """Splits with room for so many samples to train on, if that costs less than another program.

    A full batch computes the empty places along; of mini-batches only the index is longer.
    """
    data, most = splits.data, splits.data.train.shape[1]
    full = [program for program in plan.programs if program.batch_size is None]
    more = sum(program.seconds for program in full) * (samples / max(1, most) - 1)
    if samples <= most or more > min(program.compile_seconds for program in plan.programs):
        return splits
    weights = np.ones(data.x.shape[1], splits.dtype) if full and data.weights is None else data.weights
    train: Any = np.pad(np.asarray(data.train), ((0, 0), (0, samples - most)), constant_values=-1)
    return splits._replace(data=data._replace(train=train, weights=weights))  # type: ignore[arg-type]


def reuse(
    known: Sequence[Reusable], trial: Trial, splits: Splits, plan: Plan, monitor: str | None, rule: str | None
) -> tuple[Plan, Splits, Mesh, Made] | None:
    """How one network, planned by itself in `plan`, trains by a program that is compiled already: the plan, the data
    filled up to the program's, the devices, and the program's recipe. None where no program serves, or none that would
    be faster than compiling another.
    """
    for program, made, mesh, room, epochs in known:
        now = plan.workload
        alone = program.seconds * mesh.devices.size / program.chunks * now.epochs / epochs
        if (
            _fits(trial, program)
            and (made.recipe.monitor, made.recipe.rule) == (monitor, rule)
            and (room.objective, room.targets, room.dtype) == (splits.objective, splits.targets, splits.dtype)
            and plan.programs[0].batches <= (made.steps or 1)
            and alone < plan.programs[0].compile_seconds
        ):
            filled = _filled_up(splits, room.data)
            if filled is not None:
                own = replace(program, networks=np.array([0]), batches=plan.programs[0].batches, seconds=alone)
                return replace(plan, programs=(own,)), filled, mesh, made
    return None


def _fits(trial: Trial, program: Program) -> bool:
    depth, slots = len(trial.hidden), len(program.hidden)
    return (
        depth in program.depths
        and all(own <= most for own, most in zip(trial.hidden, program.hidden[:depth], strict=True))
        and (program.padded or slot_widths(trial.hidden, slots) == program.hidden)
        and each_activation(trial, slots) in program.activations
        and get_optimizer(trial.optimizer) is program.optimizer
        and trial.batch_size == program.batch_size
        and (program.dropout or trial.dropout == 0)
    )


def _filled_up(splits: Splits, room: Any) -> Splits | None:
    """The only split of some data as the first of several, in arrays of the shapes of `room`, which are a `Data`, too;
    None if it is too large for these."""
    data = splits.data
    weights: Any = data.weights
    if weights is None and room.weights is not None:
        weights = np.ones(data.x.shape[1], data.x.dtype)
    own = data._replace(weights=weights)
    pairs = [(a, b) for a, b in zip(own, room, strict=True) if a is not None]
    rows = (len(data.train), len(data.x), len(data.y)) == (1, len(room.x), len(room.y))
    if not rows or (room.weights is None) != (weights is None) or any(a.shape[-1] > b.shape[-1] for a, b in pairs):
        return None

    def fill(array: Any, like: Any, empty: int = 0) -> Any:
        return np.pad(array, [(0, n - m) for m, n in zip(array.shape, like.shape, strict=True)], constant_values=empty)

    filled = Data(
        fill(own.x, room.x),
        fill(own.y, room.y),
        None if weights is None else fill(weights, room.weights),
        fill(own.train, room.train, -1),
        fill(own.validation, room.validation, -1),
    )
    others = [0] * (len(room.train) - 1)
    sizes = (*splits.train_sizes, *others), (*splits.validation_sizes, *others)
    return splits._replace(data=filled, train_sizes=sizes[0], validation_sizes=sizes[1])
