"""Embeddings for numerical features (Gorishniy, Rubachev and Babenko 2022): fixed maps of each feature to several.

The weights of a network's first layer on what a map gives are the embedding, and are trained with all the others.
"""

from typing import NamedTuple

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


class Waves(NamedTuple):
    """Periodic: sin(2 pi c x) and cos(2 pi c x) beside x itself; `column` is the feature of each frequency c."""

    column: Int[np.ndarray, " waves"]
    frequency: Float[np.ndarray, " waves"]


EMBEDDINGS: dict[str, type[Bins] | type[Waves]] = {"piecewise_linear": Bins, "periodic": Waves}


def fit_embedding(kind: str, X: Samples, weights: Float[np.ndarray, " samples"] | None, seed: int) -> Bins | Waves:
    """The embedding of that kind for standardized X. Features of two distinct values or fewer are left as they are."""
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, float)
    many = np.array([len(np.unique(x[weights > 0])) > 2 for x in X.T])
    return _waves(X, many, seed) if kind == "periodic" else _bins(X, many, weights)


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


def _waves(X: Samples, many: Bool[np.ndarray, " features"], seed: int) -> Waves:
    frequency = np.random.default_rng(seed).normal(0, SIGMA, (X.shape[1], WAVES))
    return Waves(np.repeat(np.flatnonzero(many), WAVES), frequency[many].ravel().astype(X.dtype))


def embed(embedding: Bins | Waves, X: Samples) -> Float[np.ndarray, "samples embedded"]:
    """X (n_samples, n_features), standardized, through an embedding."""
    own = X[:, embedding.column]
    if isinstance(embedding, Waves):
        angle = 2 * np.pi * embedding.frequency * own
        return np.hstack([X, np.sin(angle), np.cos(angle)]).astype(X.dtype)
    own = (own - embedding.low) / (embedding.high - embedding.low)
    return np.hstack([X[:, embedding.plain], np.clip(own, embedding.floor, embedding.ceiling)])
