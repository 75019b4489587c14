"""What a person's derivative does exactly at a kink, where a formula written with >= for > shows, and nowhere else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbackprop.auditing.diagnosis import Diagnosis
from jaxbackprop.auditing.judge import largest, tolerance
from jaxbackprop.auditing.layered import Steps, elementwise, trace
from jaxbackprop.auditing.mistakes.general import number
from jaxbackprop.auditing.mistakes.variants import Family
from jaxbackprop.auditing.points import Leaves
from jaxbackprop.auditing.witness import Witness
from jaxbackprop.oracle import relative_error

AT_KINK = (
    "right but for one point: exactly at {z} = {kink} {f}' is taken as {wrong}, where the derivation gives the "
    '"otherwise" branch, {right}; compare with >, not with >='
)


def kink_point(f: Family) -> list[np.ndarray]:
    """The last point with the first unit of the last hidden layer exactly on a kink, for every sample."""
    layers = f.layout.layers(f.evidence.points[-1])
    weight, bias = (values.copy() for values in layers[f.depth - 2])
    weight[0], bias[0] = 0, f.activation.kinks[-1]
    layers[f.depth - 2] = weight, bias
    return f.layout.leaves(layers)


def at_kinks(
    f: Family, point: Leaves, gradient: Leaves, witness: Witness, args: Sequence[Any]
) -> dict[int, tuple[float, Diagnosis]]:
    """The leaves that are neither the derivation's nor the witness's at a kink, but those of its other side.

    Anything else is left alone: at a kink there is no derivative to be wrong about.
    """
    l, kink = f.depth - 1, f.activation.kinks[-1]
    t, known = trace(f.network, f.layout, point, args), witness.at(point)
    right = f.predict_from(t, Steps())
    got = [leaf.astype(np.float64).reshape(r.shape) for leaf, r in zip(gradient, right, strict=True)]
    allowed = [10 * tolerance(dtype) * largest(r) for dtype, r in zip(f.evidence.dtypes, right, strict=True)]
    off = [largest(g - r) for g, r in zip(got, right, strict=True)]
    wrong = [i for i in range(len(got)) if off[i] > allowed[i]]
    if not wrong or (known is not None and all(largest(got[i] - known.gradient[i]) <= allowed[i] for i in wrong)):
        return {}
    for side in (1.0, 0.5, -1.0):  # from the right, half-way, from the left
        slope = one_sided(f, t.z[l], side)
        other = f.predict_from(t, Steps(slope=lambda t, m: slope if m == l else t.slopes[m]))  # noqa: B023
        limits = [10 * tolerance(dtype) * largest(o) for dtype, o in zip(f.evidence.dtypes, other, strict=True)]
        if all(largest(got[i] - other[i]) <= limits[i] for i in wrong):
            facts = {"z": f"z^{l}", "kink": number(kink), "f": f.activation.name}
            sentence = AT_KINK.format(**facts, wrong=number(slope[0, 0]), right=number(t.slopes[l][0, 0]))
            return {i: (relative_error(got[i], right[i]), Diagnosis("slope_at_kink", sentence, 1.0)) for i in wrong}
    return {}


def one_sided(f: Family, z: np.ndarray, side: float) -> np.ndarray:
    """f'(z), at kinks its limit from the right (1), from the left (-1), or their mean (0.5)."""
    left, right = (elementwise(f.activation.derivative, z + shift) for shift in (-1e-9, 1e-9))
    limit = {1.0: right, -1.0: left, 0.5: (left + right) / 2}[side]
    return np.where(np.isin(z, f.activation.kinks), limit, elementwise(f.activation.derivative, z))
