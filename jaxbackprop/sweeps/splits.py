"""The data of a sweep, checked and turned features first: all samples once, and which of them each split trains on and
holds out."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxbackprop._checks import check_finite, check_integer, check_real
from jaxbackprop.data import Targets, check_lengths, encode, features_first, split
from jaxbackprop.losses import Objective, get_objective
from jaxbackprop.oracle import check_error
from jaxbackprop.sweeps.program import Data

Index = Int[np.ndarray, " _"]
ALIGNMENT = 64  # bytes: arrays that start at a multiple of it are shared by all CPU devices, others copied to each


class Splits(NamedTuple):
    """Samples, how many of them each split trains on and holds out, and what the targets mean.

    `targets` says how y is read: as the objective of that name reads it, whatever the network is trained for.
    """

    data: Data
    train_sizes: tuple[int, ...]
    validation_sizes: tuple[int, ...]
    objective: Objective
    targets: str
    classes: Shaped[np.ndarray, " classes"] | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.data.x.dtype)


def make_splits(
    X: Any,
    y: Any,
    *,
    validation: float | tuple[Any, Any] | None,
    folds: Any,
    weights: Any,
    objective: str | Objective | None,
    seed: int,
    frequencies: Any = None,
) -> Splits:
    """See `sweep` for the arguments."""
    own = objective if isinstance(objective, Objective) else None
    x = features_first(X)
    targets = encode(y, None if isinstance(objective, Objective) else objective)
    if own is not None:
        check_error(own, targets.y)
    check_lengths(X, y)
    dtype = training_type(x.dtype)
    x, t = as_type("X", x, dtype), as_type("y", targets.y, dtype)
    w = None if weights is None else _check_weights(weights, x.shape[1], dtype)
    every, labels = np.arange(x.shape[1]), _labels(targets)

    if folds is not None:
        if isinstance(validation, tuple):
            raise ValueError("validation=(X, y) and folds were both given; each fold already holds samples out")
        pairs = _fold_indices(folds, np.asarray(X), labels)
    elif validation is None:
        pairs = [(every, every[:0])]
    elif isinstance(validation, tuple):
        x_val, t_val = _held_out(validation, x.shape[0], targets, dtype)
        x, t = np.concatenate([x, x_val], axis=1), np.concatenate([t, t_val], axis=1)
        w = None if w is None else np.concatenate([w, np.ones(x_val.shape[1], dtype)])
        pairs = [(every, np.arange(len(every), x.shape[1]))]
    elif not isinstance(validation, Real):
        raise ValueError(
            f"validation must be a share of the samples, a pair (X, y) as a tuple, or None, got {validation!r:.60}"
        )
    else:
        share = check_real("validation", validation, 0, exclusive=True)
        stratified_by = every.astype(float) if labels is None else labels  # by floats it is not
        parts = split(every[:, None], stratified_by, validation=share, test=0.0, seed=seed)
        pairs = [(parts.train.X[:, 0].astype(int), parts.validation.X[:, 0].astype(int))]
    if w is not None:
        _check_weighted(w, pairs)
    data = make_data(x, t, w, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if frequencies is not None:
        data = data._replace(frequency=check_frequencies(frequencies, len(x), dtype))
    return Splits(
        data,
        tuple(len(pair[0]) for pair in pairs),
        tuple(len(pair[1]) for pair in pairs),
        get_objective(targets.objective) if own is None else own,
        targets.objective,
        targets.classes,
    )


def make_data(
    x: Float[np.ndarray, "features samples"],
    y: Float[np.ndarray, "classes samples"],
    weights: Float[np.ndarray, " samples"] | None,
    train: Sequence[Index],
    validation: Sequence[Index],
) -> Data:
    """Samples, once, and the index of each split, the smaller splits filled up with -1."""
    uneven = any(len({len(index) for index in part}) > 1 for part in (train, validation))
    if weights is None and uneven:
        weights = np.ones(x.shape[1], x.dtype)
    arrays: Any = (aligned(x), aligned(y), weights, _filled(train), _filled(validation))
    return Data(*arrays)


def _filled(splits: Sequence[Index]) -> Any:
    most = max(len(index) for index in splits)
    return np.stack([np.pad(index, (0, most - len(index)), constant_values=-1) for index in splits]).astype(np.int32)


def aligned(array: np.ndarray) -> np.ndarray:
    """The same numbers in rows, at an address that JAX's CPU devices can share without a copy."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    own = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    own[...] = array
    return own


def training_type(dtype: Any) -> np.dtype:
    """float32, or float64 where the data have it and JAX has it enabled; half precision is widened."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.promote_types(dtype, np.float32)))


def as_type(argument: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` in the type that is trained in.

    **Raises:** `ValueError` for a number that this type cannot hold.
    """
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if not np.isfinite(converted).all():
        raise ValueError(
            f"{argument} holds {array.flat[int(np.argmin(np.isfinite(converted)))]:g}, beyond the range of "
            f"{dtype.name} (±{np.finfo(dtype).max:.1e}); scale it, as StandardScaler does"
        )
    return converted


def _check_weights(weights: Any, samples: int, dtype: np.dtype) -> Float[np.ndarray, " samples"]:
    array = np.asarray(weights, float)
    if array.shape != (samples,):
        raise ValueError(f"weights must have shape ({samples},), one a sample, got {array.shape}")
    check_finite("weights", array)
    if (array < 0).any() or array.sum() == 0:
        raise ValueError("weights must be at least 0, and not all 0")
    return as_type("weights", array, dtype)


def check_frequencies(frequencies: Any, features: int, dtype: np.dtype) -> Any:
    """Frequencies of an embedding as an array of their type. **Raises:** `ValueError` for another shape or type."""
    array = np.asarray(frequencies, float)
    if array.ndim != 2 or len(array) > features or array.size == 0:
        raise ValueError(
            f"frequencies must be (embedded features, waves), for at most the {features} features of X, got shape "
            f"{array.shape}"
        )
    check_finite("frequencies", array)
    return as_type("frequencies", array, dtype)


def _check_weighted(weights: Float[np.ndarray, " samples"], pairs: Sequence[tuple[Index, Index]]) -> None:
    """A part of no weight would have the loss 0, and win."""
    for k, pair in enumerate(pairs):
        for part, index in zip(("training", "validation"), pair, strict=True):
            if len(index) and not weights[index].any():
                raise ValueError(f"weights are all 0 for the {len(index)} {part} samples of split {k}")


def labels_of(
    y_hat: Float[np.ndarray, "samples outputs"], targets: str, classes: Shaped[np.ndarray, " classes"] | None
) -> Shaped[np.ndarray, "samples ..."]:
    """What predictions say in the terms of y: the likeliest class, by its number where none are named; 0 or 1 a label
    for several labels; numbers for numbers."""
    if targets == "softmax":
        likeliest = np.argmax(y_hat, axis=1)
        return likeliest if classes is None else classes[likeliest]
    if targets == "sigmoid":
        return (y_hat > 0.5).astype(int)
    return y_hat[:, 0] if y_hat.shape[1] == 1 else y_hat


def _labels(targets: Targets) -> Shaped[np.ndarray, " samples"] | None:
    """The class of each sample, however it was written; None for numbers and several labels."""
    if targets.objective != "softmax" or targets.classes is None:
        return None
    labels = targets.classes[targets.y.argmax(axis=0)]
    return labels.astype(int) if labels.dtype.kind == "f" else labels


def _held_out(pair: tuple[Any, Any], features: int, targets: Any, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    if len(pair) != 2:
        raise ValueError(f"validation must be a share of the samples or a pair (X, y), got {len(pair)} entries")
    x = features_first(pair[0], argument="validation[0]")
    if x.shape[0] != features:
        raise ValueError(f"validation[0] has {x.shape[0]} features, X has {features}")
    check_lengths(*pair)
    y = encode(pair[1], targets.objective, classes=targets.classes).y
    return as_type("validation[0]", x, dtype), as_type("validation[1]", y, dtype)


def _fold_indices(folds: Any, X: np.ndarray, labels: np.ndarray | None) -> list[tuple[Index, Index]]:
    """(train, validation) indices: from a number of folds, a scikit-learn splitter, or pairs of indices."""
    from sklearn.model_selection import check_cv

    if not isinstance(folds, str | Iterable) and not hasattr(folds, "split"):
        check_integer("folds", folds, 2)
    try:
        splitter = check_cv(folds, labels, classifier=labels is not None)
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in splitter.split(X, labels)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"folds={folds!r} does not split the data: {error}") from error
    if not pairs or isinstance(folds, str):
        raise ValueError(f"folds={folds!r} must be a number of folds, a splitter, or pairs of index arrays")
    return [
        (_check_index(k, "training", a, len(X)), _check_index(k, "validation", b, len(X)))
        for k, (a, b) in enumerate(pairs)
    ]


def _check_index(fold: int, part: str, index: np.ndarray, samples: int) -> Index:
    """The positions that a fold names: masks become positions."""
    where = f"folds[{fold}]: its {part} samples"
    if index.dtype == bool and index.shape == (samples,):
        index = np.flatnonzero(index)
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(f"{where} must be a one-dimensional array of at least one position, got shape {index.shape}")
    if index.dtype.kind not in "iu":
        raise ValueError(f"{where} must be positions, integers from 0, got {index.dtype.name}")
    if index.min() < 0 or index.max() >= samples:
        bad = index[(index < 0) | (index >= samples)][0]
        raise ValueError(f"{where} name position {bad}, but the data have {samples} samples, numbered from 0")
    return index.astype(np.int32)
