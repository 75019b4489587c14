"""Gradients of another shape than the parameters: brought into shape where possible, and named for how.

A leading axis of length 1 more or less is fine, as for a bias (1, n): broadcasting does not mind.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from jaxbackprop.auditing.diagnosis import Diagnosis
from jaxbackprop.auditing.mistakes.general import ratio
from jaxbackprop.auditing.mistakes.variants import Family

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
SUMMED = (
    "shape {got} where the parameters have {right}: it is summed over both axes, and belongs summed over the samples"
)
OTHER_DELTA = (
    "shape {got} where the parameters have {right}: it is formed with delta^{other}, and dL/d{leaf}^{l} belongs with "
    "delta^{delta}, the error at z^{l}"
)
OTHER = "shape {got} where the parameters have {right}: no entry of it can be compared"


def fits(shape: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether a gradient of one shape can stand for one of the other."""
    return shape == right or _without_leading_ones(shape) == _without_leading_ones(right)


def wrong_shape(got: np.ndarray, truth: np.ndarray, tolerance: float) -> Diagnosis:
    """Why a gradient has another shape than the right one, as far as its numbers tell."""
    facts = {"got": str(got.shape), "right": str(truth.shape)}
    for code, sentence, values, more in _ways(got, truth.shape):
        right = np.full(truth.shape, truth.sum()) if code == "summed_over_both" else truth
        off = np.abs(values - right)
        if np.all(off <= tolerance * np.nanmax(np.abs(truth), initial=0), where=~np.isnan(off)):
            return Diagnosis(code, sentence.format(**facts, **more), 1.0)
    return Diagnosis("shape", OTHER.format(**facts), 0.0)


def formed_elsewhere(f: Family, i: int, got: Sequence[np.ndarray]) -> Diagnosis | None:
    """A gradient of layer l that is formed with the error of another layer, told by its shape and by its numbers.

    Any constant factor is let pass.
    """
    l = next(l for l, pair in enumerate(f.layout.pairs, start=1) if i in pair)
    is_weight = i == f.layout.pairs[l - 1][0]
    errors = [f.errors(k) for k in range(len(got))]
    for m in range(1, f.depth + 1):
        forms = [e[m] @ t.a[l - 1].T if is_weight else e[m].sum(axis=1) for e, t in zip(errors, f.traces, strict=True)]
        for turn in (np.asarray, np.transpose):
            pairs = [(g, turn(form)) for g, form in zip(got, forms, strict=True)]
            if m == l or not all(fits(g.shape, form.shape) for g, form in pairs):
                continue
            flat, forms_flat = (
                np.concatenate([array.reshape(-1) for array in part]) for part in zip(*pairs, strict=True)
            )
            factor = ratio(float(flat @ forms_flat), float(forms_flat @ forms_flat))
            if np.linalg.norm(flat - factor * forms_flat) <= 1e-3 * np.linalg.norm(flat):
                facts = {"got": str(got[0].shape), "right": str(f.layout.shapes[i]), "leaf": "W" if is_weight else "b"}
                text = OTHER_DELTA.format(**facts, l=l, delta=l + 1, other=m + 1)
                return Diagnosis("delta_of_another_layer", text, 1.0)
    return None


def _ways(got: np.ndarray, right: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray, dict]]:
    for axes in list(permutations(range(got.ndim)))[1:] if got.ndim <= 3 else []:
        if min(got.shape) > 1 and fits(got.transpose(axes).shape, right):
            yield "transposed", TRANSPOSED, got.transpose(axes).reshape(right), {}
    if got.size == 1 < np.prod(right):
        yield "summed_over_both", SUMMED, np.full(right, got.reshape(())), {}
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
