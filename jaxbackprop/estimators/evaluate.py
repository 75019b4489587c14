"""Trains and scores the candidates of a search on all folds, in as few jobs of the grid engine as can be."""

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection._validation import _fit_and_score, _score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from jaxbackprop.devices import precision
from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.estimators.candidates import Candidate, Group, final_step, group_candidates, split_into_jobs
from jaxbackprop.estimators.quasi_newton import refuse_dropout, train_lbfgs
from jaxbackprop.estimators.reuse import Reusable
from jaxbackprop.estimators.samples import Samples, make_splits
from jaxbackprop.estimators.scores import encode, usual, usual_scores
from jaxbackprop.estimators.search_ensemble import Archive
from jaxbackprop.estimators.trainer import Machine, train_networks
from jaxbackprop.network import Params
from jaxbackprop.sweeps.splits import Index, Splits
from jaxbackprop.sweeps.state import Book

Row = dict[str, Any]  # what scikit-learn's searches note of one candidate on one fold


class Search(NamedTuple):
    """What is the same for all candidates. `scorer` is from scikit-learn's `check_scoring`, or a user's callable;
    `programs` takes those that the refit may be trained by, if there is one."""

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
    memory_budget: int | None
    devices: int | None
    n_jobs: Any
    archive: Archive | None = None
    programs: list[Reusable] | None = None


@dataclass(frozen=True, eq=False)
class Fold:
    """One split of the data behind the steps before the network.

    `before` holds the parts of X as they come out of these steps: "fit", to train on, which may be another than "train"
    (out of fold, for a target's encoder); those to score, unless a step refuses them. Where there are no steps, parts
    are taken out of the search's own X when they are needed.
    """

    search: Search
    number: int
    steps: Any
    before: Mapping[str, Any]

    def index(self, part: str) -> np.ndarray:
        """Positions of the samples of a part: "test", or "train", which "fit" is too."""
        return self.search.splits[self.number][1 if part == "test" else 0]

    def whole(self, part: str) -> tuple[Any, Any]:
        """X and y of a part, before any step."""
        search, train = self.search, self.index("train")
        return _safe_split(search.estimator, search.X, search.y, self.index(part), train if part == "test" else None)

    def samples(self, part: str) -> tuple[Any, Any]:
        """X and y of a part, as the network sees them."""
        X, y = self.whole(part)
        if self.steps is None:
            return X, y
        return self.before[part] if part in self.before else self.steps.transform(X), y


class Ready(NamedTuple):
    """A fold, a network that knows its classes, its samples, and which of them to train on and to stop by."""

    fold: Fold
    template: BaseBackprop
    samples: Samples
    parts: tuple[Index, Index]


def evaluate(
    search: Search, candidates: Mapping[int, Mapping[str, Any]], *, bar: bool, advance: Callable[[float], None]
) -> dict[tuple[int, int], Row]:
    """The row of every candidate (by its number) on every fold.

    **Arguments:** `bar`, whether to show one; `advance`, called with the part of the candidates that is done.
    """
    rows: dict[tuple[int, int], Row] = {}
    for group in group_candidates(search.estimator, candidates):
        valid = []
        for candidate in group.candidates:
            try:
                candidate.network._validate_params()
                candidate.network._activation(), candidate.network._hidden()
                if candidate.network.solver == "lbfgs":
                    refuse_dropout(candidate.network.dropout)
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
            first, share = len({number for number, _ in rows}) / len(candidates), len(job) / len(candidates)
            part = partial(_advance_part, advance, first, share)
            rows |= _run_job(search, job, folds, bar, part)
    return rows


def _advance_part(advance: Callable[[float], None], first: float, share: float, done: float) -> None:
    advance(first + share * done)


def _failure(search: Search, fold: int, error: Exception) -> Row:
    if search.error_score == "raise":
        raise error
    return {"fit_error": error, "fit_time": 0.0, "score_time": 0.0, "n_test_samples": len(search.splits[fold][1])}


def _fold(search: Search, group: Group, number: int) -> Fold:
    """Fit the steps before the network on the training part of one split."""
    bare = Fold(search, number, None, {})
    if not isinstance(search.estimator, Pipeline) or len(search.estimator.steps) == 1:
        return bare
    # Steps that are candidates themselves are each fold's own, too.
    steps = clone(search.estimator[:-1]).set_params(**clone(group.before, safe=False))
    before = {"fit": steps.fit_transform(*bare.whole("fit"))}
    for part in scored_parts(search):
        with contextlib.suppress(Exception):  # it is raised again, and told of, when the part is scored
            before[part] = steps.transform(bare.whole(part)[0])
    return Fold(search, number, steps, before)


def scored_parts(search: Search) -> tuple[str, ...]:
    """The parts of each fold that are scored."""
    return ("test", "train") if search.return_train_score else ("test",)


def _ready(search: Search, candidate: Candidate, folds: Sequence[Fold]) -> tuple[list[Ready], dict[int, Exception]]:
    """Check the samples of each fold, and what is wrong with the others.

    Without steps before the network, and without weights that each fold would set otherwise, all folds share one copy
    of the samples.
    """
    shared = None
    if all(fold.steps is None for fold in folds) and getattr(candidate.network, "class_weight", None) is None:
        # If it fails, each fold says what is wrong with its own samples.
        with contextlib.suppress(Exception):
            template = clone(candidate.network)
            samples = template._check_samples(search.X, search.y, search.weights, restart=True)
            for known in ("classes_", "_label_binarizer"):  # a fold's network knows those that it has seen
                vars(template).pop(known, None)
            shared = samples, template
    ready, wrong = [], {}
    for fold in folds:
        template, index = clone(candidate.network), fold.index("train")
        try:
            if shared is None:
                weights = None if search.weights is None else _safe_indexing(search.weights, index)
                own = template._check_samples(*fold.samples("fit"), weights, restart=True)
                parts = template._hold_out(own, candidate.seed)
                ready.append(Ready(fold, template, own, parts))
                continue
            template = copy.copy(shared[1])
            whole = search.y if sparse.issparse(search.y) else np.asarray(search.y)
            y = template._check_targets(_safe_indexing(whole, index), restart=True).astype(shared[0].y.dtype)
            if not np.array_equal(y, shared[0].y[index]):  # it lacks a class
                every = shared[0]._replace(X=shared[0].X[index], y=y)
                own = every._replace(weights=None if every.weights is None else every.weights[index])
                ready.append(Ready(fold, template, own, template._hold_out(own, candidate.seed)))
                continue
            train, held_out = template._hold_out(Samples(index, y, None), candidate.seed)
            ready.append(Ready(fold, template, shared[0], (index[train], index[held_out])))
        except Exception as error:  # whatever scikit-learn's checks raise
            wrong[fold.number] = error
    return ready, wrong


def _run_job(
    search: Search, job: Sequence[Candidate], folds: Sequence[Fold], bar: bool, advance: Callable[[float], None]
) -> dict[tuple[int, int], Row]:
    """Train and score candidates that share a job, on all folds whose arrays have the same shape."""
    found, wrong = _ready(search, job[0], folds)
    rows: dict[tuple[int, int], Row] = {
        (c.number, number): _failure(search, number, error) for number, error in wrong.items() for c in job
    }
    alike: dict[tuple, list[Ready]] = defaultdict(list)
    for one in found:
        # A fold may lack a class, and a step before the network may keep other features of it.
        alike[one.samples.X.shape[1], one.samples.y.shape[1], one.template._objective()].append(one)
    for (_, _, objective), ready in alike.items():
        start = time.perf_counter()
        distinct = list({id(r.samples): r.samples for r in ready}.values())
        samples = distinct if len(distinct) == 1 else [r.samples for r in ready]
        splits = make_splits(samples, [r.parts for r in ready], objective)
        book = _train_job(search, job, splits, bar, advance)
        seconds = (time.perf_counter() - start) / (len(job) * len(ready))
        if search.archive is not None:
            search.archive.keep(job, ready, book)
        for key, row in _score_all(search, job, ready, book).items():
            rows[key] = {"fit_time": seconds, **row}
    return rows


def _train_job(
    search: Search, job: Sequence[Candidate], splits: Splits, bar: bool, advance: Callable[[float], None]
) -> Book:
    """Train candidates that share a job, on folds whose arrays have the same shape."""
    trials = [c.network._trial(c.seed, max(splits.train_sizes)) for c in job]
    first = job[0].network
    own = first._machine()
    machine = Machine(search.memory_budget or own.memory_budget, search.devices or own.devices)
    if first.solver == "lbfgs":
        return train_lbfgs(trials, [c.network._stop() for c in job], splits, machine, bar=bar, advance=advance)
    schedule = first._schedule(job[0].seed, int(first.max_iter))
    if not first.early_stopping and first.n_iter_no_change >= first.max_iter:
        # nothing can stop, or fall for want of progress, before the last epoch
        schedule = schedule._replace(monitor=None, rule=None if schedule.rule == "adaptive" else schedule.rule)
    later = 0 if search.programs is None else _num_samples(search.y)
    with precision(splits.dtype):
        trained = train_networks(trials, splits, schedule, machine, bar=bar, advance=advance, later=later)
    if search.programs is not None:
        search.programs.extend(trained.programs)
    return trained.book


def _score_all(
    search: Search, job: Sequence[Candidate], ready: Sequence[Ready], book: Book
) -> dict[tuple[int, int], Row]:
    rows: dict[tuple[int, int], Row] = {}
    for kind in book.kinds:
        numbers, params = kind.networks, kind.kept
        finite = np.all([np.isfinite(a).reshape(len(a), -1).all(axis=1) for layer in params for a in layer], axis=0)
        names = [job[n // len(ready)].network._activation() for n in numbers]
        for k, now in enumerate(ready):
            here = numbers % len(ready) == k
            alike: dict[Any, list[int]] = defaultdict(list)
            for place in np.flatnonzero(here):
                alike[names[place]].append(int(place))
            for name, places in alike.items():
                chosen = np.array(places)
                members = [job[n // len(ready)] for n in numbers[chosen]]
                new = _score_stack(search, now, members, params, chosen, name, book.epoch[numbers[chosen]])
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
    activation: str | tuple[str, ...],
    epochs: np.ndarray,
) -> list[Row]:
    """Score networks of one program on one fold; all of them have the same activation."""
    parts = scored_parts(search)
    start = time.perf_counter()
    scores: dict[str, Any] = {}
    for part in parts:
        X, y = _usual_arrays(search, now, part)
        if y is not None:
            coefs, intercepts = zip(*((w[chosen].swapaxes(1, 2), b[chosen]) for w, b in params), strict=True)
            with np.errstate(all="ignore"):  # networks that diverged are among them
                values = usual_scores(X, y, coefs, intercepts, activation, now.template._objective())
            scores[part] = values.tolist()
        else:
            scores[part] = [
                _score_one(search, now, part, _fitted(now, candidate, params, int(place), int(n)))
                for candidate, place, n in zip(members, chosen, epochs, strict=True)
            ]
    seconds = (time.perf_counter() - start) / len(members)
    size = len(search.splits[now.fold.number][1])
    return [
        {"score_time": seconds, "n_test_samples": size, **{f"{part}_scores": scores[part][i] for part in parts}}
        for i in range(len(members))
    ]


def _usual_arrays(search: Search, now: Ready, part: str) -> tuple[Any, Any]:
    """X and y as `usual_scores` takes them; None if each network has to be scored alone, and to say what is wrong."""
    if search.score_weights is not None or callable(search.scoring) or not usual(search.scoring, now.template):
        return None, None
    try:
        X, y = now.fold.samples(part)
        return now.template._check_X(X, now.samples.X.dtype), encode(now.template, y)
    except Exception:  # whatever a transformer raises
        return None, None


def _fitted(now: Ready, candidate: Candidate, params: Params, place: int, epochs: int) -> BaseBackprop | None:
    """A candidate's trained network, as `fit` would have left it but for the loss curve; None if it diverged."""
    fitted = copy.copy(now.template).set_params(**candidate.network.get_params(deep=False))
    try:
        fitted._set_network(jax.tree.map(lambda a: a[place], params))
    except ValueError:
        return None
    fitted.n_iter_ = epochs
    return fitted


def _score_one(search: Search, now: Ready, part: str, network: BaseBackprop | None) -> Any:
    """A scorer by name sees what the network predicts; a callable, alone or in a dict, gets the whole pipeline and the
    data as they were; so does any scorer if a step refuses the data, to say so."""
    if network is None:
        return np.nan
    fold, estimator = now.fold, network
    X, y = fold.whole(part)
    weights = None if search.score_weights is None else _safe_indexing(search.score_weights, fold.index(part))
    refused = fold.steps is not None and part not in fold.before
    named = search.scoring.values() if isinstance(search.scoring, Mapping) else [search.scoring]
    if isinstance(search.estimator, Pipeline) and (any(map(callable, named)) or refused):
        name = final_step(search.estimator)[0].removesuffix("__")
        estimator = Pipeline([*([] if fold.steps is None else fold.steps.steps), (name, network)])
    else:
        X = fold.before.get(part, X)
    kwargs = {} if weights is None else {"sample_weight": weights}
    return _score(estimator, X, y, search.scorer, kwargs, search.error_score)


def evaluate_one_by_one(
    search: Search,
    params: Mapping[str, Any],
    number: int,
    fit_params: Mapping[str, Any],
    score_params: Mapping[str, Any],
) -> dict[tuple[int, int], Row]:
    """The rows of one candidate that cannot be trained with others, fitted and scored by scikit-learn's own means."""
    estimator = clone(search.estimator).set_params(**clone(dict(params), safe=False))
    out = Parallel(n_jobs=search.n_jobs)(
        delayed(_fit_and_score)(
            clone(estimator),
            search.X,
            search.y,
            scorer=search.scorer,
            train=train,
            test=test,
            verbose=0,
            parameters=None,
            fit_params=dict(fit_params),
            score_params=dict(score_params),
            return_train_score=search.return_train_score,
            return_times=True,
            error_score=search.error_score,
        )
        for train, test in search.splits
    )
    rows = {}
    for k, row in enumerate(out):
        error = row.pop("fit_error")
        rows[number, k] = row if error is None else _failure(search, k, ValueError(error))
    return rows
