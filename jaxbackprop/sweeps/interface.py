"""A hyperparameter grid, trained: few compiled programs, each for many networks, on every device there is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.network import SCHEMES
from jaxbackprop.sweeps.grid import Trial, expand
from jaxbackprop.sweeps.halving import schedule
from jaxbackprop.sweeps.ledger import Ledger
from jaxbackprop.sweeps.loop import Job, agree, interruptible, train
from jaxbackprop.sweeps.planner import CACHE, Plan, Workload, plan_trials
from jaxbackprop.sweeps.program import Stopping
from jaxbackprop.sweeps.result import SCORES, SweepResult
from jaxbackprop.sweeps.resume import Keeper, new_work
from jaxbackprop.sweeps.runner import make_mesh
from jaxbackprop.sweeps.splits import Problem, make_problem

Grid = Mapping[str, Any] | Sequence[Any]


def sweep(
    grid: Grid,
    X: Any,
    y: Any,
    *,
    epochs: int,
    validation: float | tuple[Any, Any] | None = 0.2,
    folds: Any = None,
    weights: Any = None,
    objective: str | None = None,
    scheme: str = "course",
    record_every: int | None = None,
    shuffle_seed: int = 0,
    patience: int | None = None,
    halving: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    devices: int | None = None,
    memory_budget: int = 2**31,
    progress: bool = True,
) -> SweepResult:
    """Train every trial of a grid.

    A trial's outcome depends on its own settings and seed and on `shuffle_seed` alone, not on what else is in the grid.
    Ctrl-C ends the training and returns what has come of each trial until then; a second one interrupts at once.

    **Arguments:**
    - `grid`: a dict of lists, or a list of such dicts, as scikit-learn's `ParameterGrid` takes it, with the keys
      `activation`, `hidden` (tuples of widths), `learning_rate`, `l2`, `momentum`, `weight_decay`, `seed`, `optimizer`,
      `batch_size` (None for the full batch). `grid.Trial` has the defaults.
    - `X`, `y`: (n_samples, n_features) and labels of any type, or numbers to predict, or 0/1 indicators of labels.
    - `epochs`: passes over the training samples; with the full batch an epoch is one step.
    - `validation`: the share of samples to hold out, stratified; or a pair (X, y) of one's own; or None.
    - `folds`: instead, cross-validation: a number of folds, a scikit-learn splitter, or pairs of index arrays. All
      folds are trained together, in the same programs.
    - `weights`: one a sample.
    - `objective`: "softmax", "sigmoid" or "squared"; by default what y calls for.
    - `scheme`: how initial parameters are drawn, see `init_params`.
    - `record_every`: epochs from one point of the loss curves to the next; by default a twentieth of them all.
    - `shuffle_seed`: of the split and of the order of mini-batches, one order for the whole grid.
    - `patience`: early stopping: a trial ends after so many records without a lower validation loss, and keeps the
      parameters of its best record.
    - `halving`: successive halving by this factor: a part of the trials goes on at each rung, those with the lowest
      validation loss, and the others end there.
    - `checkpoint`: a directory to save the training in every `checkpoint_every` seconds, with the extra `[checkpoint]`.
      After a crash the same call goes on from there and ends with the same numbers, bit by bit.
    - `devices`: how many to use, by default all of JAX's.
    - `memory_budget`: bytes that the training may take, on all devices together.
    - `progress`: whether to show a bar.

    **Returns:** a `SweepResult`.

    **Raises:** `ValueError` that names the argument, before anything compiles.
    """
    trials = expand(grid)
    epochs = check_integer("epochs", epochs, 1)
    every = max(1, epochs // 20) if record_every is None else check_integer("record_every", record_every, 1)
    choose("scheme", scheme, SCHEMES)
    shuffle_seed = check_integer("shuffle_seed", shuffle_seed, 0)
    problem = make_problem(
        X, y, validation=validation, folds=folds, weights=weights, objective=objective, seed=shuffle_seed
    )
    _check_batches(trials, problem)
    if patience is not None:
        patience = check_integer("patience", patience, 1)
        if problem.validation_sizes[0] == 0:
            raise ValueError("patience needs samples held out: give validation or folds")
    if halving is not None:
        halving = check_integer("halving", halving, 2)
    check_real("checkpoint_every", checkpoint_every, 0)
    mesh = make_mesh(devices)
    rungs = [(epochs, 0)] if halving is None else schedule(epochs, len(trials), halving)
    job = Job(
        plan=plan_trials(trials, workload(problem, epochs, mesh.devices.size, memory_budget)),
        trials=trials,
        problem=problem,
        mesh=mesh,
        marks=np.union1d(np.arange(0, epochs, every), [epoch for epoch, _ in rungs]),
        rungs=rungs,
        scheme=scheme,
        shuffle_seed=shuffle_seed,
        monitor=None if patience is None else "validation",
        stopping=Stopping(patience or 0, 0.0),
    )
    keeper = None if checkpoint is None else Keeper(checkpoint, checkpoint_every, job)
    return run_job(job, keeper, progress)


def run_job(job: Job, keeper: Keeper | None = None, progress: bool = False) -> SweepResult:
    """Train a job, from where its keeper left it, and make the result."""
    work = new_work(job) if keeper is None else keeper.take_up()
    bar = tqdm(
        total=job.plan.network_steps,
        unit=" network-steps",
        unit_scale=True,
        desc="sweep",
        disable=not progress or jax.process_index() > 0,
    )
    with bar, interruptible() as interrupted:

        def pause() -> bool:
            if keeper is not None:
                keeper.save_if_due(work)
            return agree(interrupted())

        train(job, work, bar, pause)
    if keeper is not None:
        keeper.save(work)
    return make_result(job, work.ledger)


def make_result(job: Job, ledger: Ledger) -> SweepResult:
    """What the ledger says, in the trials' order."""
    splits = len(job.problem.train_sizes)
    shape = (len(job.trials), splits)
    return SweepResult(
        table=make_table(job, ledger),
        trials=job.trials,
        epochs=job.marks,
        train_loss=ledger.curves.train_loss.T.reshape(*shape, -1),
        validation_loss=ledger.curves.validation_loss.T.reshape(*shape, -1),
        finished=np.asarray(ledger.finished.reshape(shape).all(axis=1)),
        plan=job.plan,
        objective=job.problem.objective,
        classes=job.problem.classes,
        _stacked=ledger.params,
        _place=ledger.place.reshape(*shape, 2),
    )


def workload(problem: Problem, epochs: int, devices: int, memory_budget: int) -> Workload:
    """What the planner needs to know of the data and the machine."""
    return Workload(
        features=problem.train.x.shape[1],
        outputs=problem.train.y.shape[1],
        train=problem.train_sizes,
        validation=problem.validation_sizes,
        epochs=epochs,
        devices=devices,
        memory_budget=memory_budget,
        cache=CACHE if jax.default_backend() == "cpu" else None,
        itemsize=problem.train.x.dtype.itemsize,
    )


def plan(
    grid: Grid,
    *,
    features: int,
    outputs: int,
    samples: int,
    epochs: int,
    validation_samples: int = 0,
    devices: int | None = None,
    memory_budget: int = 2**31,
) -> Plan:
    """What `sweep` would do with a grid, without doing it: print it to see the programs and what they cost.

    **Raises:** `ValueError` as `sweep` does, for the grid and for a memory budget that is too small.
    """
    sizes = {"features": features, "outputs": outputs, "samples": samples, "epochs": epochs}
    for argument, value in sizes.items():
        check_integer(argument, value, 1)
    check_integer("validation_samples", validation_samples, 0)
    return plan_trials(
        expand(grid),
        Workload(
            features,
            outputs,
            (samples,),
            (validation_samples,),
            epochs,
            make_mesh(devices).devices.size,
            memory_budget,
            CACHE if jax.default_backend() == "cpu" else None,
        ),
    )


def _check_batches(trials: Sequence[Trial], problem: Problem) -> None:
    largest = max(trial.batch_size or 0 for trial in trials)
    samples = min(problem.train_sizes)
    if largest > samples:
        raise ValueError(f"batch_size={largest} is larger than the data, which has {samples} training samples")


def make_table(job: Job, ledger: Ledger) -> pd.DataFrame:
    """One row a trial: its settings and what came of it, averaged over the splits."""
    score = SCORES[job.problem.objective]
    table = pd.DataFrame(list(job.trials), columns=Trial._fields)
    table.index.name = "trial"
    table["hidden"] = [trial.hidden for trial in job.trials]
    shape = (len(job.trials), len(job.problem.train_sizes))
    final = {name: values.reshape(shape) for name, values in ledger.final._asdict().items()}
    table["train_loss"] = final["train_loss"].mean(axis=1)
    table["validation_loss"] = final["validation_loss"].mean(axis=1)
    table[f"train_{score}"] = final["train_score"].mean(axis=1)
    table[f"validation_{score}"] = final["validation_score"].mean(axis=1)
    if shape[1] > 1:
        table[f"validation_{score}_std"] = final["validation_score"].std(axis=1)
    epochs = ledger.epochs.reshape(shape).max(axis=1)
    table["epochs"] = epochs
    if job.monitor is not None:
        table["best_epoch"] = job.marks[ledger.kept].reshape(shape).max(axis=1)
    # A trial that was never reached, because the sweep was interrupted before, has NaN but did not diverge.
    table["diverged"] = (epochs > 0) & ~np.isfinite(final["train_loss"]).all(axis=1)
    return table
