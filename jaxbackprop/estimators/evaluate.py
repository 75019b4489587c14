"""Trains and scores the candidates of a search on all folds, in as few jobs of the grid engine as can be."""

import copy
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import cross_validate
from sklearn.model_selection._validation import _score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split

from jaxbackprop.estimators.base import BaseBackprop, Samples, make_problem
from jaxbackprop.estimators.candidates import Candidate, Group, final_step, group_candidates, split_into_jobs
from jaxbackprop.estimators.scores import encode, usual, usual_scores
from jaxbackprop.estimators.trainer import Trained, train_networks
from jaxbackprop.network import Layer, Params

Row = dict[str, Any]  # what scikit-learn's searches note of one candidate on one fold


class Search(NamedTuple):
    """What is the same for all candidates. `scorer` is from scikit-learn's `check_scoring`, or a user's callable."""

    estimator: Any
    X: Any
    y: Any
    splits: Sequence[tuple[np.ndarray, np.ndarray]]
    scoring: Any
    scorer: Any
    weights: Any
    score_weights: Any
    error_score: Any
    return_train_score: bool


class Fold(NamedTuple):
    """One split of the data behind the steps before the network; `whole` is what was there before them."""

    number: int
    steps: Any
    train: tuple[Any, Any, Any]
    test: tuple[Any, Any, Any]
    whole: dict[str, tuple[Any, Any]]


class Ready(NamedTuple):
    """A fold, a network that knows its classes, and the samples to train on and to stop by."""

    fold: Fold
    template: BaseBackprop
    train: Samples
    held_out: Samples


def evaluate(search: Search, candidates: Mapping[int, Mapping[str, Any]]) -> dict[tuple[int, int], Row]:
    """The row of every candidate (by its number) on every fold."""
    rows: dict[tuple[int, int], Row] = {}
    for group in group_candidates(search.estimator, candidates):
        valid = []
        for candidate in group.candidates:
            try:
                candidate.network._validate_params()
                candidate.network._hidden()
                valid.append(candidate)
            except ValueError as error:
                for number in range(len(search.splits)):
                    rows[candidate.number, number] = _failure(search, number, error)
        folds = []
        for number in range(len(search.splits)):
            try:
                folds.append(_fold(search, group, number))
            except Exception as error:  # whatever a transformer raises
                rows |= {(c.number, number): _failure(search, number, error) for c in valid}
        most = max((len(split[0]) for split in search.splits), default=1)
        for job in split_into_jobs(valid, most) if folds else []:
            rows |= _run_job(search, job, folds)
    return rows


def _failure(search: Search, fold: int, error: Exception) -> Row:
    if search.error_score == "raise":
        raise error
    return {"fit_error": error, "fit_time": 0.0, "score_time": 0.0, "n_test_samples": len(search.splits[fold][1])}


def _fold(search: Search, group: Group, number: int) -> Fold:
    """Fit the steps before the network on the training part of one split."""
    train, test = search.splits[number]
    X_train, y_train = _safe_split(search.estimator, search.X, search.y, train)
    X_test, y_test = _safe_split(search.estimator, search.X, search.y, test, train)
    weights = None if search.weights is None else _safe_indexing(search.weights, train)
    scored = [None if search.score_weights is None else _safe_indexing(search.score_weights, k) for k in (train, test)]
    whole = {"train": (X_train, scored[0]), "test": (X_test, scored[1])}
    steps = None
    if isinstance(search.estimator, Pipeline) and len(search.estimator.steps) > 1:
        steps = clone(search.estimator[:-1]).set_params(**group.before)
        X_train, X_test = steps.fit_transform(X_train, y_train), steps.transform(X_test)
    return Fold(number, steps, (X_train, y_train, weights), (X_test, y_test, None), whole)


def _run_job(search: Search, job: Sequence[Candidate], folds: Sequence[Fold]) -> dict[tuple[int, int], Row]:
    """Train and score candidates that share a job, on all folds whose arrays have the same shape."""
    rows: dict[tuple[int, int], Row] = {}
    alike: dict[tuple, list[Ready]] = defaultdict(list)
    for fold in folds:
        template = clone(job[0].network)
        try:
            samples = template._check_samples(*fold.train, restart=True)
            train, held_out = template._hold_out(samples, job[0].seed)
        except ValueError as error:
            rows |= {(c.number, fold.number): _failure(search, fold.number, error) for c in job}
            continue
        # A fold may lack a class, and a step before the network may keep other features of it.
        shape = (samples.X.shape[1], samples.y.shape[1], template._objective())
        alike[shape].append(Ready(fold, template, train, held_out))
    for (_, _, objective), ready in alike.items():
        start = time.perf_counter()
        problem = make_problem([r.train for r in ready], [r.held_out for r in ready], objective)
        trials = [c.network._trial(c.seed, max(problem.train_sizes)) for c in job]
        schedule = job[0].network._schedule(job[0].seed, job[0].network.max_iter)
        if not job[0].network.early_stopping and job[0].network.n_iter_no_change >= job[0].network.max_iter:
            schedule = schedule._replace(monitor=None)  # nothing can stop before the last epoch
        trained = train_networks(trials, problem, schedule)
        seconds = (time.perf_counter() - start) / (len(job) * len(ready))
        for key, row in _score_all(search, job, ready, trained).items():
            rows[key] = {"fit_time": seconds, **row}
    return rows


def _score_all(
    search: Search, job: Sequence[Candidate], ready: Sequence[Ready], trained: Trained
) -> dict[tuple[int, int], Row]:
    rows: dict[tuple[int, int], Row] = {}
    for numbers, params in zip(trained.networks, trained.params, strict=True):
        finite = np.all([np.isfinite(a).reshape(len(a), -1).all(axis=1) for layer in params for a in layer], axis=0)
        names = np.array([job[n // len(ready)].network._trial(0, 1).activation for n in numbers])
        for k, now in enumerate(ready):
            here = numbers % len(ready) == k
            for name in np.unique(names[here]):
                chosen = np.flatnonzero(here & (names == name))
                members = [job[n // len(ready)] for n in numbers[chosen]]
                new = _score_stack(search, now, members, params, chosen, name, trained.epochs[numbers[chosen]])
                for candidate, ok, row in zip(members, finite[chosen], new, strict=True):
                    if not ok:
                        row = _failure(search, now.fold.number, ValueError("Training diverged to non-finite weights."))
                    rows[candidate.number, now.fold.number] = row
    return rows


def _score_stack(
    search: Search,
    now: Ready,
    members: Sequence[Candidate],
    params: Params,
    chosen: np.ndarray,
    activation: str,
    epochs: np.ndarray,
) -> list[Row]:
    """Score networks of one program on one fold; all of them have the same activation."""
    parts = {"test": now.fold.test, **({"train": now.fold.train} if search.return_train_score else {})}
    start = time.perf_counter()
    scores: dict[str, Any] = {}
    for part, (X, y, _) in parts.items():
        y_codes = encode(now.template, y) if _is_usual(search, now) else None
        if y_codes is not None:
            checked = now.template._check_X(X)
            coefs, intercepts = zip(*((w[chosen].swapaxes(1, 2), b[chosen]) for w, b in params), strict=True)
            with np.errstate(all="ignore"):  # networks that diverged are among them
                values = usual_scores(checked, y_codes, coefs, intercepts, activation, now.template._objective())
            scores[part] = values.tolist()
        else:
            scores[part] = [
                _score_one(search, now, part, X, y, _fitted(now, candidate, params, int(place), int(n)))
                for candidate, place, n in zip(members, chosen, epochs, strict=True)
            ]
    seconds = (time.perf_counter() - start) / len(members)
    size = len(search.splits[now.fold.number][1])
    return [
        {"score_time": seconds, "n_test_samples": size, **{f"{part}_scores": scores[part][i] for part in parts}}
        for i in range(len(members))
    ]


def _is_usual(search: Search, now: Ready) -> bool:
    return search.score_weights is None and not callable(search.scoring) and usual(search.scoring, now.template)


def _fitted(now: Ready, candidate: Candidate, params: Params, place: int, epochs: int) -> BaseBackprop | None:
    """A candidate's trained network, as `fit` would have left it but for the loss curve; None if it diverged."""
    fitted = copy.copy(now.template).set_params(**candidate.network.get_params(deep=False))
    widths = (now.train.X.shape[1], *fitted._hidden(), now.train.y.shape[1])
    layers = [
        Layer(weight[place, :m, :n], bias[place, :m])
        for (weight, bias), n, m in zip(params, widths, widths[1:], strict=False)
    ]
    try:
        fitted._set_network(tuple(layers))
    except ValueError:
        return None
    fitted.n_iter_ = epochs
    return fitted


def _score_one(search: Search, now: Ready, part: str, X: Any, y: Any, network: BaseBackprop | None) -> Any:
    """A scorer by name sees what the network predicts; a callable gets the whole pipeline and the data as they were."""
    if network is None:
        return np.nan
    whole, weights = now.fold.whole[part]
    if callable(search.scoring) and isinstance(search.estimator, Pipeline):
        name = final_step(search.estimator)[0].removesuffix("__")
        before = [] if now.fold.steps is None else now.fold.steps.steps
        estimator, X = Pipeline([*before, (name, network)]), whole
    else:
        estimator = network
    kwargs = {} if weights is None else {"sample_weight": weights}
    return _score(estimator, X, y, search.scorer, kwargs, search.error_score)


def evaluate_one_by_one(
    search: Search, params: Mapping[str, Any], number: int, fit_params: Mapping[str, Any]
) -> dict[tuple[int, int], Row]:
    """The rows of one candidate that cannot be trained with others, by scikit-learn's own cross-validation."""
    estimator = clone(search.estimator).set_params(**clone(dict(params), safe=False))
    try:
        out = cross_validate(
            estimator,
            search.X,
            search.y,
            cv=search.splits,
            scoring=search.scoring,
            params=dict(fit_params),
            error_score=search.error_score,
            return_train_score=search.return_train_score,
        )
    except ValueError as error:
        return {(number, k): _failure(search, k, error) for k in range(len(search.splits))}
    rows = {}
    for k, (_, test) in enumerate(search.splits):
        row = {"fit_time": out["fit_time"][k], "score_time": out["score_time"][k], "n_test_samples": len(test)}
        for part in ("test", "train"):
            named = {key.removeprefix(f"{part}_"): v[k] for key, v in out.items() if key.startswith(f"{part}_")}
            if named:
                row[f"{part}_scores"] = named["score"] if list(named) == ["score"] else named
        rows[number, k] = row
    return rows
