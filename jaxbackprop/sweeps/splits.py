"""The data of a sweep, checked and turned features first: what is trained on and what is held out, for each split."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.model_selection import check_cv

from jaxbackprop._checks import check_finite, check_real
from jaxbackprop.data import check_lengths, encode, features_first, split
from jaxbackprop.sweeps.program import Part

Index = Int[np.ndarray, " _"]


class Problem(NamedTuple):
    """Train and validation samples of each split, how many of them are real, and what the targets mean."""

    train: Part
    validation: Part
    train_sizes: tuple[int, ...]
    validation_sizes: tuple[int, ...]
    objective: str
    classes: Shaped[np.ndarray, " classes"] | None


def make_problem(
    X: Any,
    y: Any,
    *,
    validation: float | tuple[Any, Any] | None,
    folds: Any,
    weights: Any,
    objective: str | None,
    seed: int,
) -> Problem:
    """See `sweep` for the arguments."""
    x = features_first(X)
    targets = encode(y, objective)
    check_lengths(X, y)
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    x, t = x.astype(dtype), targets.y.astype(dtype)
    w = None if weights is None else _check_weights(weights, x.shape[1]).astype(dtype)
    every = np.arange(x.shape[1])

    if folds is not None:
        if isinstance(validation, tuple):
            raise ValueError("validation=(X, y) and folds were both given; each fold already holds samples out")
        labels = np.asarray(y) if targets.objective == "softmax" and np.asarray(y).ndim == 1 else None
        pairs = _fold_indices(folds, np.asarray(X), labels)
    elif validation is None:
        pairs = [(every, every[:0])]
    elif isinstance(validation, tuple):
        x_val, t_val = _held_out(validation, x.shape[0], targets, dtype)
        x, t = np.concatenate([x, x_val], axis=1), np.concatenate([t, t_val], axis=1)
        w = None if w is None else np.concatenate([w, np.ones(x_val.shape[1], dtype)])
        pairs = [(every, np.arange(len(every), x.shape[1]))]
    else:
        share = check_real("validation", validation, 0, exclusive=True)
        labels = np.asarray(y, float) if targets.objective == "squared" else y  # floats are not stratified
        parts = split(every[:, None], labels, validation=share, test=0.0, seed=seed)
        pairs = [(parts.train.X[:, 0].astype(int), parts.validation.X[:, 0].astype(int))]

    train, validation_part = (_gather(x, t, w, [pair[k] for pair in pairs]) for k in (0, 1))
    sizes, held_out = (tuple(len(pair[k]) for pair in pairs) for k in (0, 1))
    return Problem(train, validation_part, sizes, held_out, targets.objective, targets.classes)


def _gather(
    x: Float[np.ndarray, "features samples"],
    y: Float[np.ndarray, "classes samples"],
    weights: Float[np.ndarray, " samples"] | None,
    splits: Sequence[Index],
) -> Part:
    """The samples of each split, the smaller splits filled up with samples of weight 0."""
    most = max(len(index) for index in splits)
    if weights is None and any(len(index) < most for index in splits):
        weights = np.ones(x.shape[1], x.dtype)
    filled = np.stack([np.pad(index, (0, most - len(index))) for index in splits])
    present = np.stack([np.arange(most) < len(index) for index in splits])
    first: Any = np.ascontiguousarray(np.moveaxis(x[:, filled], 1, 0))
    second: Any = np.ascontiguousarray(np.moveaxis(y[:, filled], 1, 0))
    shares: Any = None if weights is None else (weights[filled] * present).astype(x.dtype)
    return Part(first, second, shares)


def _check_weights(weights: Any, samples: int) -> Float[np.ndarray, " samples"]:
    array = np.asarray(weights, float)
    if array.shape != (samples,):
        raise ValueError(f"weights must have shape ({samples},), one a sample, got {array.shape}")
    check_finite("weights", array)
    if (array < 0).any() or array.sum() == 0:
        raise ValueError("weights must be at least 0, and not all 0")
    return array


def _held_out(pair: tuple[Any, Any], features: int, targets: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    if len(pair) != 2:
        raise ValueError(f"validation must be a share of the samples or a pair (X, y), got {len(pair)} entries")
    x = features_first(pair[0], argument="validation[0]")
    if x.shape[0] != features:
        raise ValueError(f"validation[0] has {x.shape[0]} features, X has {features}")
    check_lengths(*pair)
    return x.astype(dtype), encode(pair[1], targets.objective, classes=targets.classes).y.astype(dtype)


def _fold_indices(folds: Any, X: np.ndarray, labels: np.ndarray | None) -> list[tuple[Index, Index]]:
    """(train, validation) indices: from a number of folds, a scikit-learn splitter, or pairs of indices."""
    try:
        splitter = check_cv(folds, labels, classifier=labels is not None)
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in splitter.split(X, labels)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"folds={folds!r} does not split the data: {error}") from error
    if not pairs or isinstance(folds, str) or not (isinstance(folds, Iterable) or hasattr(splitter, "split")):
        raise ValueError(f"folds={folds!r} must be a number of folds, a splitter, or pairs of index arrays")
    return pairs
