"""The sum over the samples or their mean: a convention, in which a right gradient may differ from the loss.

A course's formula dL/dW = a^T delta is the gradient of the sum of the samples' losses; the loss that is plotted beside
it is divided by N. That is no mistake if it is so in every leaf. So before anything is called wrong the factor that
all leaves have in common is found, and the gradient is judged, and explained, as that multiple of the loss's.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbackprop.auditing.judge import tolerance
from jaxbackprop.auditing.points import Leaves
from jaxbackprop.auditing.witness import Known, Witness

NEAR = 1e-2  # of a multiple's length a leaf may be off that follows it


class Multiple(NamedTuple):
    """A multiple of the loss's gradient: of all of it, or of its data term while the penalty stays."""

    factor: float = 1.0
    whole: bool = True

    def of(self, values: np.ndarray, penalty: np.ndarray | float) -> np.ndarray:
        """The same multiple of one leaf, whose share that the penalty makes is given."""
        return self.factor * values + (0.0 if self.whole else (1 - self.factor) * penalty)


def rescaled(known: Known, point: Leaves, multiple: Multiple, strengths: Sequence[float]) -> Known:
    """What is known of such a multiple; `strengths` are the penalty's, leaf by leaf."""
    if multiple.factor == 1:
        return known
    gradient = [
        multiple.of(right, strength * leaf)
        for right, leaf, strength in zip(known.gradient, point, strengths, strict=True)
    ]
    along = []
    for check, leaf, strength in zip(known.along, point, strengths, strict=True):
        if check is not None:
            step, slope = check
            value = float(multiple.of(np.asarray(slope.value), strength * np.sum(leaf * step)))
            check = step, slope._replace(value=value, error=abs(multiple.factor) * slope.error)
        along.append(check)
    return Known(gradient, [abs(multiple.factor) * error for error in known.error], along)


def rescaled_witness(witness: Witness, multiple: Multiple, strengths: Sequence[float]) -> Witness:
    """The witness of such a multiple."""
    if multiple.factor == 1:
        return witness

    def at(point: Leaves) -> Known | None:
        known = witness.at(point)
        return None if known is None else rescaled(known, point, multiple, strengths)

    def rounded(point: Leaves, dtype: Any) -> list[np.ndarray]:
        assert witness.rounded is not None
        rough = witness.rounded(point, dtype)
        return [multiple.of(r, strength * leaf) for r, leaf, strength in zip(rough, point, strengths, strict=True)]

    return Witness(witness.name, at, None if witness.rounded is None else rounded, witness.notes)


def follows(got: np.ndarray, right: np.ndarray, dtype: Any, near: float = NEAR) -> bool:
    """Whether a leaf at one point is as good as this one; kinks and rounding spoil single points, not the length."""
    off = np.sqrt(np.nansum((got - right) ** 2))
    return bool(off <= max(near, 10 * tolerance(dtype)) * np.sqrt(np.nansum(right**2)))


def loss_reduction(loss: Callable[..., Any], args: Sequence[Any], samples: int | None) -> str | None:
    """Whether a loss is the mean or the sum over its samples: with every sample twice a mean stays what it is.

    None if it cannot be told. `loss` is a function of the loss's arguments but the parameters.
    """
    if not samples or samples < 2:
        return None
    try:
        once, twice = float(loss(*args)), float(loss(*doubled(args, samples)))
    except Exception:  # a loss that insists on the number of its samples
        return None
    if not (np.isfinite(once) and np.isfinite(twice)) or once == 0:
        return None
    return "mean" if abs(twice - once) <= 1e-6 * abs(once) else "sum"


def doubled(args: Sequence[Any], samples: int) -> list[Any]:
    """The arguments with every sample twice."""

    def twice(leaf: Any) -> Any:
        shape = np.shape(leaf) if isinstance(leaf, np.ndarray | jax.Array) else ()
        if samples not in shape:
            return leaf
        axis = 0 if shape[0] == samples else len(shape) - 1 if shape[-1] == samples else shape.index(samples)
        return np.concatenate([np.asarray(leaf)] * 2, axis=axis)

    return jax.tree.map(twice, list(args))


def allowed(asked: str | None, loss_is: str | None, samples: int | None, penalised: bool) -> list[Multiple]:
    """The multiples of the loss's gradient that are right, the one that is preferred first."""
    if not samples or samples < 2:
        return [Multiple()]
    factor = 1 / samples if loss_is == "sum" else float(samples)
    turned = [Multiple(factor), *([Multiple(factor, whole=False)] if penalised else [])]
    if asked is None:
        return [Multiple(), *turned]
    return [Multiple()] if asked == (loss_is or "mean") else turned


class Seen(NamedTuple):
    """The leaves' names and types; at each point the parameters, what is known, and what was handed in.

    `strengths` are the penalty's, leaf by leaf; `missing` the leaves of another shape.
    """

    paths: tuple[str, ...]
    dtypes: Sequence[Any]
    points: Sequence[Leaves]
    knowns: Sequence[Known]
    raw: Sequence[Leaves]
    strengths: Sequence[float]
    missing: frozenset[int]


class Choice:
    """Which multiple of the loss's gradient a gradient is judged as."""

    def __init__(
        self, seen: Seen, samples: int | None, asked: str | None, loss_is: Callable[[int | None], str | None]
    ) -> None:
        self.seen, self.samples, self.asked, self._ask = seen, samples, asked, loss_is
        rights = [known.gradient for known in seen.knowns]
        self.leaves = [
            i
            for i in range(len(seen.paths))
            if i not in seen.missing and any(np.any(np.nan_to_num(right[i])) for right in rights)
        ]

    @cached_property
    def loss_is(self) -> str | None:
        return self._ask(self.samples)

    def followers(self, got: Sequence[Leaves], multiple: Multiple, near: float = NEAR) -> tuple[int, ...]:
        """The leaves that follow such a multiple of the right gradient at most points, but for a share of `near`."""
        found, s = [], self.seen
        rows = [rescaled(*pair, multiple, s.strengths).gradient for pair in zip(s.knowns, s.points, strict=True)]
        for i in self.leaves:
            votes = [follows(g[i], right[i], s.dtypes[i], near) for g, right in zip(got, rows, strict=True)]
            if 2 * sum(votes) > len(votes):
                found.append(i)
        return tuple(found)

    def distance(self, got: Sequence[Leaves], multiple: Multiple) -> float:
        """How far the leaves are off that multiple, each relative to its size."""
        s, total = self.seen, 0.0
        for g, known, point in zip(got, s.knowns, s.points, strict=True):
            right = rescaled(known, point, multiple, s.strengths).gradient
            for i in self.leaves:
                total += float(np.nansum((g[i] - right[i]) ** 2) / (np.nansum(right[i] ** 2) or 1.0))
        return total

    def multiple(self, got: Sequence[Leaves], unnamed: Callable[[Multiple], int]) -> Multiple:
        """The one that most leaves follow, the loss's own before others. If none does, the one that explains most.

        `unnamed` counts the leaves that are wrong without a name if the gradient is judged as such a multiple.
        """
        if self.asked is None and len(self.followers(got, Multiple())) == len(self.leaves):
            return Multiple()
        choices = allowed(self.asked, self.loss_is, self.samples, any(self.seen.strengths))
        # A small penalty tells two of them apart only in the leaves that are right to the last digits.
        counts = [len(self.followers(got, multiple, near=0.0)) for multiple in choices]
        if not max(counts):
            counts = [len(self.followers(got, multiple)) for multiple in choices]
        if not max(counts):
            return min(choices, key=unnamed)
        if counts[0] == max(counts) and choices[0].factor == 1:
            return choices[0]
        best = [multiple for multiple, count in zip(choices, counts, strict=True) if count == max(counts)]
        return min(best, key=lambda multiple: self.distance(got, multiple))

    def common(self, got: Sequence[Leaves], multiple: Multiple) -> Multiple | None:
        """A further constant that at least two leaves share, and more than are right without it; None if none is."""
        factors: list[float] = []
        for i in self.leaves:
            pairs = [(g[i], known.gradient[i]) for g, known in zip(got, self.seen.knowns, strict=True)]
            under = sum(np.nansum(right**2) for _, right in pairs)
            factor = float(sum(np.nansum(g * right) for g, right in pairs) / under) if under > 0 else 0.0
            if np.isfinite(factor) and factor and all(follows(g, factor * r, self.seen.dtypes[i]) for g, r in pairs):
                factors.append(factor)
        shared = [Multiple(f) for n, f in enumerate(factors) if any(abs(o / f - 1) < 1e-3 for o in factors[:n])]
        least = len(self.followers(got, multiple))
        better = [m for m in shared if least < len(self.followers(got, m)) < len(self.leaves)]
        return max(better, key=lambda m: len(self.followers(got, m)), default=None)

    def is_sum(self, multiple: Multiple) -> bool:
        """Whether that multiple is the gradient of the sum over the samples."""
        if multiple.factor == 1:
            return self.asked != "mean" and "loss_is" in self.__dict__ and self.loss_is == "sum"
        return multiple.factor == self.samples

    def convention(self, multiple: Multiple) -> str:
        """What a right gradient is right as; empty if simply as the gradient of the loss."""
        if multiple.factor == 1 or not self.samples:
            return ""
        kind = "sum" if multiple.factor == self.samples else "mean"
        return f"the gradient of the {kind} over {self.samples} samples"

    def notes(self, multiple: Multiple, right: bool) -> list[str]:
        """What follows from judging it so."""
        if multiple.factor == 1 or not self.samples:
            return []
        here, there = ("mean", "sum") if multiple.factor == self.samples else ("sum", "mean")
        if not right:
            return [f"Judged as {self.convention(multiple)}; the loss is their {here}, and that is no mistake."]
        penalty = "" if multiple.whole else " The penalty is added once, as in the loss."
        how = f"{self.samples} times as {'large' if there == 'sum' else 'small'}"
        return [
            f"The loss is the {here} over the {self.samples} samples, this the gradient of their {there}, {how}: "
            f'choose the learning rate for it.{penalty} With reduction="{here}" this would be wrong.'
        ]
