"""What a person's derivative does exactly at a kink, where a formula written with >= for > shows, and nowhere else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbackprop.auditing.judge import largest, tolerance
from jaxbackprop.auditing.layered import Steps, elementwise, trace
from jaxbackprop.auditing.mistakes.general import number
from jaxbackprop.auditing.mistakes.variants import Family
from jaxbackprop.auditing.points import Leaves

AT_KINK = (
    "At a kink there is no right slope: exactly at {z} = {kink} your {f}' is {wrong}, where the derivation has "
    "{right}. Both are right there."
)


def kink_point(f: Family) -> list[np.ndarray]:
    """The last point with the first unit of the last hidden layer exactly on a kink, for every sample."""
    layers = f.layout.layers(f.evidence.points[-1])
    weight, bias = (values.copy() for values in layers[f.depth - 2])
    weight[0], bias[0] = 0, f.activation.kinks[-1]
    layers[f.depth - 2] = weight, bias
    return f.layout.leaves(layers)


def kink_notes(f: Family, point: Leaves, gradient: Leaves, args: Sequence[Any]) -> list[str]:
    """What to say if a gradient takes another slope at a kink than the derivation does; it is as right there."""
    l, kink = f.depth - 1, f.activation.kinks[-1]
    t = trace(f.network, f.layout, point, args)._replace(l2=f.traces[0].l2)
    right = f.predict_from(t, Steps())
    got = [leaf.astype(np.float64).reshape(r.shape) for leaf, r in zip(gradient, right, strict=True)]

    def near(other: Leaves) -> bool:
        allowed = [10 * tolerance(dtype) * largest(o) for dtype, o in zip(f.evidence.dtypes, other, strict=True)]
        return all(largest(g - o) <= limit for g, o, limit in zip(got, other, allowed, strict=True))

    for side in () if near(right) else (1.0, 0.5, -1.0):  # from the right, half-way, from the left
        slope = one_sided(f, t.z[l], side)
        if near(f.predict_from(t, Steps(slope=lambda t, m: slope if m == l else t.slopes[m]))):  # noqa: B023
            facts = {"z": f"z^{l}", "kink": number(kink), "f": f.activation.name}
            return [AT_KINK.format(**facts, wrong=number(slope[0, 0]), right=number(t.slopes[l][0, 0]))]
    return []


def one_sided(f: Family, z: np.ndarray, side: float) -> np.ndarray:
    """f'(z), at kinks its limit from the right (1), from the left (-1), or their mean (0.5)."""
    left, right = (elementwise(f.activation.derivative, z + shift) for shift in (-1e-9, 1e-9))
    limit = {1.0: right, -1.0: left, 0.5: (left + right) / 2}[side]
    return np.where(np.isin(z, f.activation.kinks), limit, elementwise(f.activation.derivative, z))
