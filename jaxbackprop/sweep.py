"""A hyperparameter grid, trained: few compiled programs, each for many networks, on every device there is."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from jaxbackprop._checks import check_integer, choose
from jaxbackprop.grid import Trial, expand
from jaxbackprop.network import SCHEMES
from jaxbackprop.planner import CACHE, Plan, Workload, plan_trials
from jaxbackprop.problem import Problem, make_problem
from jaxbackprop.results import SCORES, SweepResult
from jaxbackprop.runner import Curves, finish_program, make_mesh, start_program, train_program

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
    devices: int | None = None,
    memory_budget: int = 2**31,
    progress: bool = True,
) -> SweepResult:
    """Train every trial of a grid.

    A trial's outcome depends on its own settings and seed and on `shuffle_seed` alone, not on what else is in the grid.

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
    - `record_every`: epochs from one point of the loss curves to the next; by default a fiftieth of them all.
    - `shuffle_seed`: of the split and of the order of mini-batches, one order for the whole grid.
    - `devices`: how many to use, by default all of JAX's.
    - `memory_budget`: bytes that the training may take, on all devices together.
    - `progress`: whether to show a bar.

    **Returns:** a `SweepResult`.

    **Raises:** `ValueError` that names the argument, before anything compiles.
    """
    trials = expand(grid)
    epochs = check_integer("epochs", epochs, 1)
    every = max(1, epochs // 50) if record_every is None else check_integer("record_every", record_every, 1)
    choose("scheme", scheme, SCHEMES)
    shuffle_seed = check_integer("shuffle_seed", shuffle_seed, 0)
    problem = make_problem(
        X, y, validation=validation, folds=folds, weights=weights, objective=objective, seed=shuffle_seed
    )
    _check_batches(trials, problem)
    mesh = make_mesh(devices)
    plan = plan_trials(trials, workload(problem, epochs, mesh.devices.size, memory_budget))

    marks = np.array([*range(0, epochs, every), epochs])
    curves = Curves.empty(plan.networks, len(marks))
    stacked, place = [], np.zeros((plan.networks, 2), int)
    with tqdm(total=plan.network_steps, unit="step", unit_scale=True, disable=not progress, desc="sweep") as bar:
        for number, program in enumerate(plan.programs):
            run = start_program(program, trials, problem, mesh, scheme)
            run = train_program(run, program, problem, marks, shuffle_seed, curves, bar)
            networks, params = finish_program(run, program)
            place[networks] = np.stack([np.full(len(networks), number), np.arange(len(networks))], axis=1)
            stacked.append(params)

    splits = len(problem.train_sizes)
    shape = (len(trials), splits)
    return SweepResult(
        table=make_table(trials, curves, splits, problem, epochs),
        trials=trials,
        epochs=marks,
        train_loss=curves.train_loss.T.reshape(*shape, -1),
        validation_loss=curves.validation_loss.T.reshape(*shape, -1),
        plan=plan,
        objective=problem.objective,
        classes=problem.classes,
        _stacked=stacked,
        _place=place.reshape(*shape, 2),
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


def make_table(trials: Sequence[Trial], curves: Curves, splits: int, problem: Problem, epochs: int) -> pd.DataFrame:
    """One row a trial: its settings and what came of it, averaged over the splits."""
    score = SCORES[problem.objective]
    table = pd.DataFrame(list(trials), columns=Trial._fields)
    table.index.name = "trial"
    table["hidden"] = [trial.hidden for trial in trials]
    shape = (len(trials), splits)
    last = {name: getattr(curves, name)[-1].reshape(shape) for name in curves._fields}
    table["train_loss"] = last["train_loss"].mean(axis=1)
    table["validation_loss"] = last["validation_loss"].mean(axis=1)
    table[f"train_{score}"] = last["train_score"].mean(axis=1)
    table[f"validation_{score}"] = last["validation_score"].mean(axis=1)
    if splits > 1:
        table[f"validation_{score}_std"] = last["validation_score"].std(axis=1)
    table["epochs"] = epochs
    table["diverged"] = ~np.isfinite(last["train_loss"]).all(axis=1)
    return table
