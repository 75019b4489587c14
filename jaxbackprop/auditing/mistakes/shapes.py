"""Gradients of another shape than the parameters: brought into shape where possible, and named for how.

A leading axis of length 1 more or less is fine, as for a bias (1, n): broadcasting does not mind.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from jaxbackprop.auditing.diagnosis import Diagnosis

TRANSPOSED = (
    "shape {got} where the parameters have {right}: it is the transpose of the right gradient; the two factors of the "
    "product are swapped"
)
NOT_SUMMED = (
    "shape {got} where the parameters have {right}: the {length} samples are still there, along axis {axis}; "
    "the {sum} over that axis is the right gradient, and broadcasting hides that it is missing"
)
RESHAPED = (
    "shape {got} where the parameters have {right}: the numbers are right, but subtracting such an array broadcasts to "
    "another shape; reshape it"
)
OTHER = "shape {got} where the parameters have {right}: no entry of it can be compared"


def fits(shape: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether a gradient of one shape can stand for one of the other."""
    return shape == right or _without_leading_ones(shape) == _without_leading_ones(right)


def wrong_shape(got: np.ndarray, right: np.ndarray, tolerance: float) -> Diagnosis:
    """Why a gradient has another shape than the right one, as far as its numbers tell."""
    facts = {"got": str(got.shape), "right": str(right.shape)}
    for code, sentence, values, more in _ways(got, right.shape):
        off = np.abs(values - right)
        if np.all(off <= tolerance * np.nanmax(np.abs(right), initial=0), where=~np.isnan(off)):
            return Diagnosis(code, sentence.format(**facts, **more), 1.0)
    return Diagnosis("shape", OTHER.format(**facts), 0.0)


def _ways(got: np.ndarray, right: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray, dict]]:
    for axes in list(permutations(range(got.ndim)))[1:] if got.ndim <= 3 else []:
        if min(got.shape) > 1 and fits(got.transpose(axes).shape, right):
            yield "transposed", TRANSPOSED, got.transpose(axes).reshape(right), {}
    if got.size == np.prod(right):
        yield "shape", RESHAPED, got.reshape(right), {}
    for axis, length in enumerate(got.shape):
        for name, over in (("sum", got.sum(axis=axis)), ("mean", got.mean(axis=axis))):
            if length > 1 and _squeezed(over.shape) == _squeezed(right):
                yield "not_summed", NOT_SUMMED, over.reshape(right), {"length": length, "axis": axis, "sum": name}


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _without_leading_ones(shape[1:]) if shape[:1] == (1,) else shape


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
