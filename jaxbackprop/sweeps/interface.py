"""A hyperparameter grid, trained: few compiled programs, each for many networks, on every device there is."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.losses import Objective
from jaxbackprop.network import SCHEMES
from jaxbackprop.sweeps.costs import CACHE, Workload
from jaxbackprop.sweeps.frame import plan_in_frame
from jaxbackprop.sweeps.grid import Trial, expand
from jaxbackprop.sweeps.halving import schedule, worst
from jaxbackprop.sweeps.host import Job, new_book, train
from jaxbackprop.sweeps.interruption import agree, interruptible
from jaxbackprop.sweeps.planner import Plan, plan_trials
from jaxbackprop.sweeps.pruning import Prune, check_pruning, pruned
from jaxbackprop.sweeps.result import SweepResult, make_result
from jaxbackprop.sweeps.splits import Splits, check_frequencies, make_splits
from jaxbackprop.sweeps.starts import draw_members
from jaxbackprop.sweeps.state import Book
from jaxbackprop.sweeps.stopping import Stopping
from jaxbackprop.sweeps.transfer import make_mesh

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
    objective: str | Objective | None = None,
    scheme: str = "course",
    record_every: int | None = None,
    shuffle_seed: int = 0,
    patience: int | None = None,
    halving: int | None = None,
    prune: Prune | None = None,
    prune_at: Sequence[int] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    devices: int | None = None,
    memory_budget: int = 2**31,
    frame: Grid | None = None,
    room: int | None = None,
    frequencies: Any = None,
    progress: bool = True,
) -> SweepResult:
    """Train every trial of a grid.

    A trial's outcome depends on its own settings and seed and on `shuffle_seed` alone, not on what else is in the grid.
    Ctrl-C ends the training and returns what has come of each trial until then; a second one interrupts at once.

    **Arguments:**
    - `grid`: a dict of lists, or a list of such dicts, as scikit-learn's `ParameterGrid` takes it, with the keys
      `activation`, `hidden` (tuples of widths), `learning_rate`, `l2`, `momentum`, `weight_decay`, `beta_1`, `beta_2`,
      `epsilon`, `dropout` (the share of hidden activations that a step drops), `seed`, `optimizer`, `batch_size` (None
      for the full batch). `grid.Trial` has the defaults. An `Activation` or `Optimizer` of one's own may stand in place
      of a name; an activation's slope is held against autodiff before anything is trained. A tuple of activations is
      one for each hidden layer.
    - `X`, `y`: (n_samples, n_features) and labels of any type, or numbers to predict, or 0/1 indicators of labels.
    - `epochs`: passes over the training samples; with the full batch an epoch is one step.
    - `validation`: the share of samples to hold out, stratified; or a pair (X, y) of one's own; or None.
    - `folds`: instead, cross-validation: a number of folds, a scikit-learn splitter, or pairs of index arrays. All
      folds are trained together, in the same programs if their epochs have as many batches.
    - `weights`: what each sample counts in the loss, (n_samples,), at least 0; None: all alike.
    - `objective`: "softmax", "sigmoid" or "squared", by default what y calls for; "poisson" for counts; or an
      `Objective` of one's own, whose dL/dz is held against autodiff before anything is trained.
    - `scheme`: how initial parameters are drawn, see `init_params`.
    - `record_every`: epochs from one point of the loss curves to the next; by default a twentieth of them all. With
      mini-batches a point of the training curve is the mean loss of the batches since the point before, as they were
      trained on: each before its step, with its dropout and the penalty of l2. That costs nothing beside training, so
      that a record every epoch is cheap; the table is measured on all training samples at the end.
    - `shuffle_seed`: of the split and of the order of mini-batches, one order for the whole grid.
    - `patience`: early stopping: a trial ends after so many records without a lower validation loss, and keeps the
      parameters of its best record.
    - `halving`: successive halving by this factor: a part of the trials goes on at each rung, those with the lowest
      validation loss (training loss where nothing is held out), and the others end there.
    - `prune`, `prune_at`: a rule of one's own instead: at each of these epochs `prune(epoch, trials, losses, scores)`
      is asked, with the numbers of the trials that still train and their means over the splits, and answers with a
      mask, True for a trial that ends there. It should go by its arguments alone, so that other processes, and the
      same call after a crash, come to the same end.
    - `checkpoint`: a directory to save the training in every `checkpoint_every` seconds. After a crash or Ctrl-C the
      same call goes on from there and ends with the same numbers: bit by bit on the same machine, to rounding on other
      devices, another number of them, or with another budget.
    - `devices`: how many to use, by default all of JAX's.
    - `memory_budget`: bytes that the training may take, on all devices together. On CPUs that is all the memory there
      is: data, parameters of all trials, and what the devices work on; compiling and JAX itself come on top.
    - `frame`, `room`: for sweeps that follow one another: a grid that holds whatever any of them has, the widest layers
      and all activations, and how many trials there are at most. Programs are made for these and not for `grid`, so
      that only the first sweep compiles.
    - `frequencies`: (embedded features, waves), to put a periodic embedding before the first layer: the first so many
      features x go in with sin(2 pi c x) and cos(2 pi c x) of these frequencies c beside them, and every network trains
      its own from there (Gorishniy, Rubachev and Babenko 2022). `weight_decay` draws them back to where they started,
      l2 leaves them alone.
    - `progress`: whether to show a bar.

    **Returns:** a `SweepResult`.

    **Raises:** `ValueError` that names the argument, before anything compiles.
    """
    trials = expand(grid)
    epochs = check_integer("epochs", epochs, 1)
    every = max(1, epochs // 20) if record_every is None else check_integer("record_every", record_every, 1)
    choose("scheme", scheme, SCHEMES)
    shuffle_seed = check_integer("shuffle_seed", shuffle_seed, 0)
    splits = make_splits(
        X,
        y,
        validation=validation,
        folds=folds,
        weights=weights,
        objective=objective,
        seed=shuffle_seed,
        frequencies=frequencies,
    )
    _check_batches(trials, splits)
    if patience is not None:
        patience = check_integer("patience", patience, 1)
        if splits.validation_sizes[0] == 0:
            raise ValueError("patience needs samples held out: give validation or folds")
    if halving is not None:
        halving = check_integer("halving", halving, 2)
    check_real("checkpoint_every", checkpoint_every, 0)
    check_integer("memory_budget", memory_budget, 1)
    mesh = make_mesh(devices)
    pruned_at = check_pruning(prune, prune_at, epochs)
    if halving is not None and prune is not None:
        raise ValueError("halving and prune were both given; trials end by one rule")
    rungs = [(e, 0) for e in [*pruned_at, epochs]] if halving is None else schedule(epochs, len(trials), halving)
    sizes = workload(splits, epochs, mesh.devices.size, memory_budget)
    if patience is not None:
        sizes = sizes._replace(monitored=True)
    job = Job(
        plan=_plan(trials, sizes, frame, room),
        trials=trials,
        splits=splits,
        mesh=mesh,
        marks=np.union1d(np.arange(0, epochs, every), [epoch for epoch, _ in rungs]),
        rungs=rungs,
        draw=partial(draw_members, scheme=scheme, dtype=splits.dtype),
        shuffle_seed=shuffle_seed,
        monitor=None if patience is None else "validation",
        stopping=Stopping(patience or 0),
        choose=worst if prune is None else partial(pruned, prune),
    )
    book = new_book(job)
    if checkpoint is None:
        _run(job, book, None, progress)
    else:
        from jaxbackprop.sweeps.checkpoint import Keeper

        with Keeper(checkpoint, checkpoint_every, job, book) as keeper:
            _run(job, book, keeper, progress)
    return make_result(job, book)


def _plan(trials: Sequence[Trial], sizes: Workload, frame: Grid | None, room: int | None) -> Plan:
    if (frame is None) != (room is None):
        raise ValueError("frame and room go together: what the trials stay inside, and how many there are at most")
    if frame is None or room is None:
        return plan_trials(trials, sizes)
    return plan_in_frame(trials, expand(frame), check_integer("room", room, 1), sizes)


def _run(job: Job, book: Book, keeper: Any, progress: bool) -> None:
    """Train what is left to do, until it is done or Ctrl-C ends it."""
    hidden = not progress or jax.process_index() > 0
    bar = tqdm(total=job.plan.network_steps, unit=" network-steps", unit_scale=True, desc="sweep", disable=hidden)
    with bar, interruptible() as interrupted:
        with closing(train(job, book)) as calls:
            for call in calls:
                bar.update(call.steps)
                if call.skipped:
                    bar.total = max(bar.n, (bar.total or 0) - call.skipped)
                    bar.refresh()
                if keeper is not None:
                    keeper.save_if_due(call.settle)
                del call  # which holds what is on the devices, beside what comes there next
                if agree(interrupted(), job.mesh):
                    break
        if keeper is not None:
            keeper.save()


def workload(splits: Splits, epochs: int, devices: int, memory_budget: int) -> Workload:
    """What the planner needs to know of the data and the machine."""
    data = splits.data
    return Workload(
        features=len(data.x),
        outputs=len(data.y),
        samples=data.x.shape[1],
        train=splits.train_sizes,
        validation=splits.validation_sizes,
        epochs=epochs,
        devices=devices,
        memory_budget=memory_budget,
        cache=CACHE if jax.default_backend() == "cpu" else None,
        itemsize=splits.dtype.itemsize,
        waves=0 if data.frequency is None else data.frequency.size,
    )


def plan(
    grid: Grid,
    *,
    features: int,
    outputs: int,
    samples: int,
    epochs: int,
    validation_samples: int = 0,
    frequencies: Any = None,
    devices: int | None = None,
    memory_budget: int = 2**31,
) -> Plan:
    """What `sweep` would do with a grid, without doing it: print it to see the programs and what they cost.

    **Arguments:**
    - `grid`, `epochs`, `frequencies`, `devices`, `memory_budget`: as in `sweep`.
    - `features`, `outputs`: the widths of what goes in and comes out; a class is an output.
    - `samples`, `validation_samples`: how many are trained on, and how many are held out.

    **Returns:** a `Plan`, with the seconds to compile and to train and the bytes that it predicts.

    **Raises:** `ValueError` as `sweep` does, for the grid and for a memory budget that is too small.
    """
    sizes = {"features": features, "outputs": outputs, "samples": samples, "epochs": epochs}
    for argument, value in sizes.items():
        check_integer(argument, value, 1)
    check_integer("validation_samples", validation_samples, 0)
    check_integer("memory_budget", memory_budget, 1)
    return plan_trials(
        expand(grid),
        Workload(
            features,
            outputs,
            samples + validation_samples,
            (samples,),
            (validation_samples,),
            epochs,
            make_mesh(devices).devices.size,
            memory_budget,
            CACHE if jax.default_backend() == "cpu" else None,
            waves=0 if frequencies is None else check_frequencies(frequencies, features, np.dtype("float32")).size,
        ),
    )


def _check_batches(trials: Sequence[Trial], splits: Splits) -> None:
    largest = max(trial.batch_size or 0 for trial in trials)
    samples = min(splits.train_sizes)
    if largest > samples:
        raise ValueError(f"batch_size={largest} is larger than the data, which has {samples} training samples")
