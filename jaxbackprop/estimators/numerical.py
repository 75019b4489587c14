"""Embeddings for numerical features (Gorishniy, Rubachev and Babenko 2022), each of which becomes several.

The bins of a piecewise linear one are fixed; the frequencies of a periodic one start here and are trained by each
network, see `embedded`. The weights of a network's first layer on what comes out are trained with all the others.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 16  # of a feature, at most
WAVES = 8  # frequencies of a feature
SIGMA = 0.25  # their deviation, in periods for each deviation of the feature

Samples = Float[np.ndarray, "samples features"]


class Bins(NamedTuple):
    """Piecewise linear: bin t gives min(max((x - low_t) / (high_t - low_t), floor_t), ceiling_t).

    `plain` are the features that pass as they are, `column` the feature of each bin.
    """

    plain: Int[np.ndarray, " plain"]
    column: Int[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    floor: Float[np.ndarray, " bins"]
    ceiling: Float[np.ndarray, " bins"]


class Periodic(NamedTuple):
    """sin(2 pi c x) and cos(2 pi c x) beside x itself: `frequency` is where the frequencies c start. `order` is that of
    the features for the networks: first those of several frequencies."""

    order: Int[np.ndarray, " features"]
    frequency: Float[np.ndarray, "embedded waves"]


EMBEDDINGS: dict[str, type[Bins] | type[Periodic]] = {"piecewise_linear": Bins, "periodic": Periodic}


def fit_embedding(kind: str, X: Samples, weights: Float[np.ndarray, " samples"] | None, seed: int) -> Bins | Periodic:
    """The embedding of that kind for standardized X. Features of two distinct values or fewer are left as they are."""
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, float)
    many = np.array([len(np.unique(x[weights > 0])) > 2 for x in X.T])
    return _periodic(X, many, seed) if kind == "periodic" else _bins(X, many, weights)


def _bins(X: Samples, many: Bool[np.ndarray, " features"], weights: Float[np.ndarray, " samples"]) -> Bins:
    """Bins between quantiles. What is below the first bin or above the last goes on along its line (eq. 1)."""
    edges = {j: quantiles(X[:, j], weights) for j in np.flatnonzero(many).tolist()}
    floor = [np.where(np.arange(len(e) - 1) == 0, -np.inf, 0) for e in edges.values()]
    ceiling = [np.where(np.arange(len(e) - 1) == len(e) - 2, np.inf, 1) for e in edges.values()]
    parts = [[e[:-1] for e in edges.values()], [e[1:] for e in edges.values()], floor, ceiling]
    column = np.repeat(np.array(list(edges), np.int64), [len(e) - 1 for e in edges.values()])
    joined = (np.concatenate([np.zeros(0), *part]).astype(X.dtype) for part in parts)
    return Bins(np.flatnonzero(~many), column, *joined)


def quantiles(x: Float[np.ndarray, " samples"], weights: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " edges"]:
    """The distinct ones of BINS + 1 quantiles: a sample of weight 2 counts as two samples do, one of weight 0 not."""
    order = np.argsort(x, kind="stable")
    order = order[weights[order] > 0]
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached, np.arange(BINS + 1) / BINS * reached[-1])
    return np.unique(x[order][np.minimum(at, len(order) - 1)])


def _periodic(X: Samples, many: Bool[np.ndarray, " features"], seed: int) -> Periodic:
    frequency = np.random.default_rng(seed).normal(0, SIGMA, (X.shape[1], WAVES))
    return Periodic(np.argsort(~many, kind="stable"), frequency[many].astype(X.dtype))


def frequencies(embedding: Bins | Periodic | None) -> Any:
    """What `sweep` is to be given: (embedded features, waves), or None."""
    return embedding.frequency if isinstance(embedding, Periodic) and embedding.frequency.size else None


def embed(embedding: Bins | Periodic, X: Samples) -> Float[np.ndarray, "samples embedded"]:
    """X (n_samples, n_features), standardized, as the networks are given it: the waves are their own part."""
    if isinstance(embedding, Periodic):
        return X[:, embedding.order]
    own = X[:, embedding.column]
    own = (own - embedding.low) / (embedding.high - embedding.low)
    return np.hstack([X[:, embedding.plain], np.clip(own, embedding.floor, embedding.ceiling)])
