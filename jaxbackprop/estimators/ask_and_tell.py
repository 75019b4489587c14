"""Optuna's ask and tell in batches: ask for many trials, train them as one sweep, tell all of them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxbackprop._checks import check_integer
from jaxbackprop.sweeps.interface import sweep
from jaxbackprop.sweeps.result import SweepResult

if TYPE_CHECKING:
    import optuna


def optimize_in_batches(
    study: "optuna.Study",
    suggest: Callable[[Any], Mapping[str, Any]],
    X: Any,
    y: Any,
    *,
    batches: int,
    batch: int = 32,
    prune_at: Sequence[int] | None = None,
    report: Callable[[SweepResult], None] | None = None,
    **options: Any,
) -> "optuna.Study":
    """Search with an Optuna study, a batch of trials at a time.

    A sampler that thinks is told of many trials at once, and so learns a little less from each than it would one after
    another; in turn a batch takes hardly longer than one trial. Samplers that expect it, such as
    `TPESampler(constant_liar=True)`, spread a batch out.

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(constant_liar=True))
        optimize_in_batches(study, lambda trial: {"learning_rate": trial.suggest_float("rate", 1e-3, 1, log=True)},
                            X, y, batches=5, epochs=100)

    **Arguments:**
    - `study`: minimizes the mean validation loss over the splits, or maximizes their score (accuracy, or r2), by its
      direction.
    - `suggest`: from an Optuna trial to settings, by the keys of a sweep's grid, such as `{"hidden": (32,)}`; where it
      raises `optuna.TrialPruned`, the trial is pruned and not trained.
    - `X`, `y`, and `options` such as `epochs`, `folds`, `patience`: as in `sweep`. With `frame`, a grid that holds all
      that may be suggested, only the first batch compiles.
    - `batches`, `batch`: how many, and of how many trials each.
    - `prune_at`: epochs at which the study's pruner is asked: the value so far of each trial that still trains is
      reported, as the step of that epoch, and those that should be pruned are trained no further. A batch is told at
      its end, so that pruners that compare with completed trials, such as `MedianPruner`, begin with the second one.
    - `report`: called with the result of each batch.

    **Returns:** the study. Each trial has the user attributes "loss", "score" and "epochs"; one that diverged has
    failed, and one that was pruned is pruned. After Ctrl-C the batch under way is told as it is, and the search ends;
    so it does after the batch with which a sampler has nothing left, as `GridSampler` at the end of its grid.

    **Raises:** `ValueError` as `sweep` does, and for a study of several objectives; the trials that were asked for then
    have failed. Before anything is asked for, for options of `sweep` that have no place here, such as `halving`.
    """
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    batches, batch = check_integer("batches", batches, 1), check_integer("batch", batch, 1)
    if len(study.directions) > 1:
        raise ValueError(f"study has {len(study.directions)} objectives; a batch is judged by one")
    _check_options(options)
    by_score = study.direction == StudyDirection.MAXIMIZE
    options.setdefault("progress", False)
    if options.get("frame") is not None:
        options["room"] = batch
    for _ in range(batches):
        asked = [study.ask() for _ in range(batch)]
        try:
            trained, grid = _suggested(suggest, asked)
            ended = np.zeros(len(trained), bool)
            if prune_at is not None:
                options |= {"prune": partial(_ask_pruner, trained, by_score, ended), "prune_at": prune_at}
            result = sweep(grid, X, y, **options) if grid else None
        except BaseException:
            for trial in asked:
                _tell(study, trial, state=TrialState.FAIL)
            raise
        told = [_tell(study, trial, state=TrialState.PRUNED) for trial in asked if trial not in trained]
        goes_on = all(told)
        if result is not None:
            goes_on &= _tell_batch(study, trained, result, ended, by_score, prune_at is not None)
            if report is not None:
                report(result)
            if not (result.finished | ended).all():
                message = "the search was interrupted, and ends with the batch under way"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
                break
        if not goes_on:
            break
    return study


def _check_options(options: Mapping[str, Any]) -> None:
    """Options that a batch of a study cannot be trained with, or what comes of it not be judged."""
    instead = {
        "prune": "the study's pruner is asked, at the epochs prune_at",
        "halving": "the study's pruner ends trials, such as SuccessiveHalvingPruner at the epochs prune_at",
        "room": "a frame has room for a batch",
        "checkpoint": "one belongs to a single sweep; the study's storage keeps what was told",
    }
    for name, reason in instead.items():
        if options.get(name) is not None:
            raise ValueError(f"{name}={options[name]!r} cannot be given: {reason}")
    if options.get("validation", 0.2) is None and options.get("folds") is None:
        raise ValueError("validation=None leaves nothing to judge trials by: give a share of the samples, or folds")


def _suggested(suggest: Callable[[Any], Any], asked: Sequence[Any]) -> tuple[list[Any], list[dict[str, list[Any]]]]:
    """The trials for which there are settings, and these."""
    from optuna import TrialPruned

    trained, grid = [], []
    for trial in asked:
        try:
            grid.append(_one_trial(suggest(trial)))
        except TrialPruned:
            continue
        trained.append(trial)
    return trained, grid


def _one_trial(settings: Any) -> dict[str, list[Any]]:
    """Settings as a grid of one trial."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"suggest must return a dict of settings, such as {{'hidden': (32,)}}, got {settings!r}")
    return {key: [value] for key, value in settings.items()}


def _tell(study: "optuna.Study", trial: Any, value: float | None = None, state: Any = None) -> bool:
    """Tell what came of a trial. False where the sampler then has nothing left: it stops the study, which Optuna takes
    for an error outside of its own loop, after all has been stored."""
    try:
        study.tell(trial, value, state=state)
    except RuntimeError as error:
        if "Study.stop" not in str(error):
            raise
        return False
    return True


def _tell_batch(
    study: "optuna.Study",
    trained: Sequence[Any],
    result: SweepResult,
    ended: Bool[np.ndarray, " batch"],
    by_score: bool,
    pruning: bool,
) -> bool:
    """Tell what came of trials that were trained; `ended` are those that the pruner ended. False as in `_tell`."""
    from optuna.trial import TrialState

    held_out, table, goes_on = result.split_metrics(), result.table, True
    losses, scores = (np.mean(m, axis=1) for m in (held_out.validation_loss, held_out.validation_score))
    values = scores if by_score else losses
    for number, trial in enumerate(trained):
        value, epochs = float(values[number]), int(table["epochs"][number])
        for key, outcome in (("loss", float(losses[number])), ("score", float(scores[number])), ("epochs", epochs)):
            trial.set_user_attr(key, outcome)
        if ended[number]:
            goes_on &= _tell(study, trial, state=TrialState.PRUNED)
        elif table["diverged"][number] or not np.isfinite(value):
            goes_on &= _tell(study, trial, state=TrialState.FAIL)
        else:
            if pruning and result.finished[number]:  # by it pruners know how long a training is
                trial.report(value, epochs)
            goes_on &= _tell(study, trial, value)
    return goes_on


def _ask_pruner(
    trained: Sequence[Any],
    by_score: bool,
    ended: Bool[np.ndarray, " batch"],
    epoch: int,
    living: Int[np.ndarray, " living"],
    losses: Float[np.ndarray, " living"],
    scores: Float[np.ndarray, " living"],
) -> Bool[np.ndarray, " living"]:
    """Report what the trials of a batch that still train are worth, ask which end, and note it in `ended`."""
    for number, value in zip(living, scores if by_score else losses, strict=True):
        trained[number].report(float(value), epoch)
    ended[living] = [trained[number].should_prune() for number in living]
    return ended[living]
