"""Which candidates of a search can be trained together: those that differ only in what a compiled program can vary.

Candidates with the same preprocessing share the preprocessed folds; among them, those that train for the same number
of epochs, with the same rules for stopping and the same order of samples, share a job of the grid engine.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from jaxbackprop.estimators.base import BaseBackprop, draw_seed


class Candidate(NamedTuple):
    """One setting of the grid: its number, its network, not yet trained, and the seed of that."""

    number: int
    network: BaseBackprop
    seed: int


class Group(NamedTuple):
    """Candidates that share their preprocessing (parameters of the steps before the network)."""

    before: dict[str, Any]
    candidates: list[Candidate]


def final_step(estimator: Any) -> tuple[str, BaseBackprop]:
    """The prefix of the network's parameters, "" for a network alone, and the network.

    **Raises:** `ValueError` if the estimator is no network of ours, nor a pipeline that ends in one.
    """
    name, network = ("", estimator)
    if isinstance(estimator, Pipeline):
        name, network = estimator.steps[-1]
        name += "__"
    if not isinstance(network, BaseBackprop):
        raise ValueError(
            f"estimator={estimator!r} must be a BackpropClassifier or BackpropRegressor, or a Pipeline that ends in "
            "one; GridSearchCV takes any other"
        )
    return name, network


def one_by_one(estimator: Any, params: Mapping[str, Any]) -> str | None:
    """The parameter for which a candidate cannot be trained with others: one that replaces the network itself."""
    prefix, _ = final_step(estimator)
    return prefix.removesuffix("__") if prefix and prefix.removesuffix("__") in params else None


def group_candidates(estimator: Any, candidates: Mapping[int, Mapping[str, Any]]) -> list[Group]:
    """Candidates (by their numbers) that share their preprocessing, in groups."""
    prefix, network = final_step(estimator)
    groups: dict[str, Group] = {}
    for number, params in candidates.items():
        own = {key: value for key, value in params.items() if not prefix or key.startswith(prefix)}
        before = {key: value for key, value in params.items() if key not in own}
        group = groups.setdefault(joblib.hash(before), Group(before, []))
        settings = {key.removeprefix(prefix): clone(value, safe=False) for key, value in own.items()}
        member = clone(network).set_params(**settings)
        group.candidates.append(Candidate(number, member, draw_seed(member.random_state)))
    return list(groups.values())


def split_into_jobs(candidates: Sequence[Candidate], samples: int) -> list[list[Candidate]]:
    """Candidates that can be trained by one job of the engine; `samples` are those of the largest fold."""
    jobs: dict[tuple, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        network, seed = candidate.network, candidate.seed
        trial = network._trial(seed, samples)
        # Without batches to draw and samples to hold out the seed decides over the start alone, which may differ.
        drawn = network.early_stopping or (network.shuffle and trial.batch_size is not None)
        given = isinstance(network.random_state, Integral | np.random.RandomState)
        jobs[
            network.max_iter,
            network.tol,
            network.n_iter_no_change,
            network.early_stopping,
            network.validation_fraction,
            network.shuffle,
            seed if drawn and given else None,
            repr(getattr(network, "class_weight", None)),
        ].append(candidate)
    return list(jobs.values())
