"""Which candidates of a search can be trained together: those that differ only in what a compiled program can vary.

Candidates with the same preprocessing share the preprocessed folds; among them, those that train for the same number
of epochs, with the same rules for stopping and the same order of samples, share a job of the grid engine. L-BFGS, which
knows no order and stops each network by its own rules, has jobs of its own.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from jaxbackprop.estimators.base import BaseBackprop, draw_seed
from jaxbackprop.estimators.reuse import Reusable


class Candidate(NamedTuple):
    """One setting of the grid: its number, its network, not yet trained, and the seed of that."""

    number: int
    network: BaseBackprop
    seed: int


class Group(NamedTuple):
    """Candidates that share their preprocessing (parameters of the steps before the network)."""

    before: dict[str, Any]
    candidates: list[Candidate]


def is_ours(estimator: Any) -> bool:
    """Whether an estimator is a network of ours, or a pipeline that ends in one."""
    return isinstance(final_step(estimator)[1], BaseBackprop)


def redefined(estimator: Any) -> str | None:
    """A method that a class derived from ours, or from `Pipeline`, has defined anew, if there is one: what is trained
    together would pass it by. Public ones come first."""
    found = []
    for part in (estimator, final_step(estimator)[1]):
        kinds = type(part).__mro__
        base = next(k for k in kinds if k is Pipeline or k.__module__.startswith(f"{__package__}."))
        for kind in kinds[: kinds.index(base)]:
            for name, value in vars(kind).items():
                if not name.startswith("__") and callable(value) and hasattr(base, name):
                    found.append((name.startswith("_"), f"{kind.__module__}.{kind.__qualname__}.{name}"))
    return min(found)[1] if found else None


def final_step(estimator: Any) -> tuple[str, Any]:
    """The prefix of the last step's parameters, "" for an estimator alone, and that step."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return f"{name}__", last
    return "", estimator


def weight_name(estimator: Any) -> str:
    """The name by which `fit` takes the network's sample weights."""
    return f"{final_step(estimator)[0]}sample_weight"


@contextmanager
def lent(estimator: Any, programs: Sequence[Reusable]) -> Iterator[None]:
    """While it lasts, the network of an estimator may be trained by programs that are compiled already."""
    network = final_step(estimator)[1]
    network._programs = programs
    try:
        yield
    finally:
        del network._programs


def one_by_one(estimator: Any, params: Mapping[str, Any]) -> str | None:
    """Why a candidate cannot be trained together with others, if so: its step is not known before."""
    prefix = final_step(estimator)[0]
    return next((repr(name) for name in (prefix.removesuffix("__"), "steps") if prefix and name in params), None)


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
    """Candidates that can be trained by one job of the engine or of L-BFGS; `samples` are those of the largest fold."""
    jobs: dict[tuple, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        network, seed = candidate.network, candidate.seed
        common = (
            network.solver == "lbfgs",
            network.dtype,
            network._machine(),
            getattr(network, "loss", None),
            repr(getattr(network, "class_weight", None)),
        )
        if network.solver == "lbfgs":
            jobs[common].append(candidate)
            continue
        trial = network._trial(seed, samples)
        # Without batches to draw and samples to hold out the seed decides over the start alone, which may differ.
        schedule = network._schedule(seed, int(network.max_iter))
        drawn = network.early_stopping or (network.shuffle and trial.batch_size is not None)
        given = isinstance(network.random_state, Integral | np.random.RandomState)
        jobs[
            *common,
            network.max_iter,
            network.tol,
            network.n_iter_no_change,
            network.early_stopping,
            network.validation_fraction,
            network.shuffle,
            (schedule.rule, schedule.power if schedule.rule == "invscaling" else None),
            seed if drawn and given else None,
        ].append(candidate)
    return list(jobs.values())
