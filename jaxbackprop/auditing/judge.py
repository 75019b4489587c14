"""Is a gradient right? Each leaf at each point is compared with the witness; some differences are excused.

A leaf is right at a point if no entry is off by more than a tolerance times its largest entry. Two differences are no
mistake. Close to a kink of the loss, as relu's at 0, the witness jumps, and any value between is as good as its own.
And where large terms cancel, rounding alone makes a difference: autodiff in the narrower type shows how large a one.
Some formulas cancel where autodiff does not, as y-hat - y with y-hat nearly y; so a few roundings of the size that the
leaf has at unrelated parameters are allowed, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbackprop.auditing.points import Leaves, root_mean_square
from jaxbackprop.auditing.witness import Known, Witness

# Relative to a leaf's largest entry, by the size in bytes of the type that the gradient was worked out in.
TOLERANCES = {8: 1e-6, 4: 1e-3, 2: 5e-2}
ROUNDINGS = 16  # units of rounding of a leaf's size at unrelated parameters


class Verdict(NamedTuple):
    """One leaf at one point: how far off it is, whether that is too far, and what excuses it ("kink", "rounding")."""

    error: float
    wrong: bool
    excuse: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that was seen, as lists over the points of lists over the leaves, in float64; and what is known of the data.

    `right` is NaN where it is not known. `samples` is the size of the batch, `lengths` what else a mean may run over,
    `l2` the strength of the loss's penalty; None if unknown. `missing` are the leaves of another shape, of which
    nothing is judged. `summed` tells that `right` is the gradient of the sum over the samples, not of their mean.
    """

    paths: tuple[str, ...]
    dtypes: tuple[Any, ...]
    points: list[list[np.ndarray]]
    got: list[list[np.ndarray]]
    known: list[Known]
    verdicts: list[list[Verdict]]
    samples: int | None = None
    lengths: tuple[int, ...] = ()
    l2: float | None = None
    missing: frozenset[int] = frozenset()
    summed: bool = False

    def right(self, k: int, i: int) -> np.ndarray:
        return self.known[k].gradient[i]

    def wrong_points(self, i: int) -> list[int]:
        return [k for k, row in enumerate(self.verdicts) if row[i].wrong]

    def is_right(self, i: int) -> bool:
        """Whether a leaf was compared and is right."""
        return i not in self.missing and not self.wrong_points(i)

    def judged_points(self, i: int) -> list[int]:
        return [k for k, row in enumerate(self.verdicts) if row[i].excuse is None]


def largest(values: np.ndarray) -> float:
    """The largest size of an entry; NaN is not looked at."""
    return float(np.max(np.abs(values), initial=0.0, where=~np.isnan(values)))


def tolerance(dtype: Any) -> float:
    return TOLERANCES[np.dtype(dtype).itemsize]


def judge(
    got: Leaves,
    known: Known,
    point: Leaves,
    dtypes: Sequence[Any],
    witness: Witness,
    rng: np.random.Generator,
) -> list[Verdict]:
    """The verdict on each leaf at one point."""
    verdicts = [
        compare(g, right, error, along, tolerance(dtype))
        for g, right, error, along, dtype in zip(got, *known, dtypes, strict=True)
    ]
    wrong = [i for i, verdict in enumerate(verdicts) if verdict.wrong and np.isfinite(got[i]).all()]
    if wrong and witness.rounded is not None:
        differences = {i: largest(got[i] - known.gradient[i]) for i in wrong}
        noise = rounding(witness, point, known, dtypes, rng, wrong)
        jumps = jump(witness, point, dtypes, rng, wrong) if any(differences[i] > noise[i] for i in wrong) else noise
        for i in wrong:
            if differences[i] <= noise[i]:
                verdicts[i] = verdicts[i]._replace(wrong=False, excuse="rounding")
            elif jumps[i] >= 0.3 * differences[i]:
                verdicts[i] = verdicts[i]._replace(wrong=False, excuse="kink")
    return verdicts


def compare(
    got: np.ndarray,
    right: np.ndarray,
    error: np.ndarray,
    along: tuple[np.ndarray, Any] | None,
    tolerance: float,
) -> Verdict:
    """One leaf against what the witness knows of it."""
    if not np.isfinite(got).all():
        return Verdict(np.inf, True)
    if np.isnan(right).all() and right.size:  # a kink along every entry
        return Verdict(0.0, False, "kink")
    difference, scale = np.abs(got - right), largest(right)
    relative = largest(difference) / scale if scale > 0 else np.inf if largest(difference) > 0 else 0.0
    wrong = bool(np.any(difference > tolerance * scale + 3 * error, where=~np.isnan(difference)))
    if along is not None:  # the entries that were not sampled, all together
        step, slope = along
        off = abs(float(np.sum(got * step)) - slope.value)
        size = np.sqrt(np.sum(step**2)) * max(scale, np.finfo(float).tiny)
        if off > tolerance * size + 3 * slope.error:
            wrong, relative = True, max(relative, off / size)
    return Verdict(float(relative), wrong)


def rounding(
    witness: Witness,
    point: Leaves,
    known: Known,
    dtypes: Sequence[Any],
    rng: np.random.Generator,
    leaves: Sequence[int],
) -> dict[int, float]:
    """The difference that rounding alone may make to each leaf, judged by what it makes to `jax.grad` in float32."""
    assert witness.rounded is not None
    narrow = min((np.dtype(dtype) for dtype in dtypes), key=lambda dtype: dtype.itemsize)
    narrow = np.dtype(np.float32) if narrow.itemsize == 8 else narrow
    rough = witness.rounded(point, narrow)
    total = max(map(largest, known.gradient))
    sizes = usual_sizes(witness, point, rng)
    allowed = {}
    for i in leaves:
        eps = float(jnp.finfo(dtypes[i]).eps)
        seen = np.max(np.abs(rough[i] - known.gradient[i]), initial=0.0)
        seen = seen * eps / float(jnp.finfo(narrow).eps) if np.isfinite(seen) else 0.0
        allowed[i] = max(20 * seen + eps * total, ROUNDINGS * eps * sizes[i])
    return allowed


def usual_sizes(witness: Witness, point: Leaves, rng: np.random.Generator) -> list[float]:
    """How large each leaf of the gradient is, at most, at a few random parameters as large as these."""
    typical = root_mean_square(point) or 1.0
    sizes = [0.0] * len(point)
    for _ in range(4):
        known = witness.at([(root_mean_square([leaf]) or typical) * rng.normal(size=leaf.shape) for leaf in point])
        if known is not None:
            sizes = list(map(max, sizes, map(largest, known.gradient)))
    return sizes


def jump(
    witness: Witness, point: Leaves, dtypes: Sequence[Any], rng: np.random.Generator, leaves: Sequence[int]
) -> dict[int, float]:
    """How far the right gradient jumps within a few roundings of the point: far at a kink, hardly elsewhere."""
    typical = root_mean_square(point) or 1.0
    sizes = [
        max(16 * float(jnp.finfo(dtype).eps), 1e-9) * (root_mean_square([leaf]) or typical)
        for leaf, dtype in zip(point, dtypes, strict=True)
    ]
    steps = [size * rng.normal(size=leaf.shape) for size, leaf in zip(sizes, point, strict=True)]
    # What is on a kink at the point itself is off it on one side ahead, and on the other side behind.
    ahead = witness.at([leaf + step for leaf, step in zip(point, steps, strict=True)])
    behind = witness.at([leaf - step for leaf, step in zip(point, steps, strict=True)])
    if ahead is None or behind is None:
        return dict.fromkeys(leaves, 0.0)
    return {i: largest(ahead.gradient[i] - behind.gradient[i]) for i in leaves}
