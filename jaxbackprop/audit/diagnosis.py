"""Which mistake explains a wrong gradient: every hypothesis is scored by the share of the difference that it explains.

A diagnosis is made only if what it leaves unexplained is next to nothing; near misses are not guessed at. One mistake
that explains all leaves, the right ones included, goes before several that explain a leaf each.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from jaxbackprop.audit.hypotheses import HYPOTHESES, fitted_factor, inner, number, ratio
from jaxbackprop.audit.judge import Evidence, largest, tolerance
from jaxbackprop.audit.network import Steps
from jaxbackprop.audit.network_hypotheses import NETWORK_HYPOTHESES, Family

NEXT_TO_NOTHING = 1e-3  # of the difference may stay unexplained, or what rounding makes of it


class Diagnosis(NamedTuple):
    """A code or None, its sentence, and the share of the difference that it explains."""

    code: str | None
    sentence: str
    explained: float


class Candidate(NamedTuple):
    """A hypothesis with its facts, and how much of each leaf's difference it leaves unexplained."""

    rank: int
    code: str
    sentence: str
    unexplained: dict[int, float]
    spares_the_right: bool = False


def diagnose(e: Evidence, family: Family | None) -> dict[int, Diagnosis]:
    """The mistake in every wrong leaf."""
    wrong = [i for i in range(len(e.paths)) if e.wrong_points(i)]
    if not wrong:
        return {}
    general = list(general_candidates(e, wrong))
    special = [] if family is None else list(network_candidates(e, family, wrong))

    whole = [c for c in special if c.spares_the_right and all(accepted(c.unexplained.get(i, 1.0), e, i) for i in wrong)]
    if whole:
        one = best(whole, e, wrong)
        return {i: Diagnosis(one.code, one.sentence, 1 - one.unexplained[i]) for i in wrong}

    diagnoses = {}
    for i in wrong:
        fits = [c for c in (*general, *special) if accepted(c.unexplained.get(i, 1.0), e, i)]
        if not fits and family is not None:
            fits = list(scaled_candidates(e, family, i))
        if fits:
            one = best(fits, e, [i])
            diagnoses[i] = Diagnosis(one.code, one.sentence, 1 - one.unexplained[i])
        else:
            diagnoses[i] = unknown(e, i, [*general, *special])
    return diagnoses


def general_candidates(e: Evidence, wrong: Sequence[int]) -> Iterator[Candidate]:
    """What the hypotheses for any loss leave unexplained, leaf by leaf."""
    for rank, hypothesis in enumerate(HYPOTHESES):
        for i in wrong:
            for gradient, facts in hypothesis.predict(e, i):
                left = unexplained(e, i, gradient.__getitem__)
                yield Candidate(rank, hypothesis.code, hypothesis.sentence.format(**facts), {i: left})


def network_candidates(e: Evidence, f: Family, wrong: Sequence[int]) -> Iterator[Candidate]:
    """What the hypotheses for a network leave unexplained, of all leaves at once."""
    for rank, hypothesis in enumerate(NETWORK_HYPOTHESES, start=len(HYPOTHESES)):
        for steps, facts in hypothesis.variants(f):
            predict = cache(partial(predict_point, f, steps))
            left = {}
            for i in wrong:
                leaf = partial(predict_leaf, predict, i)
                first = unexplained(e, i, leaf, few=1)  # one point tells whether the others are worth the work
                left[i] = unexplained(e, i, leaf) if first < 0.5 else first
            if min(left.values()) < 0.5:
                spared = all(spares(e, i, predict) for i in range(len(e.paths)) if i not in wrong)
                yield Candidate(rank, hypothesis.code, hypothesis.sentence.format(**facts), left, spared)


def scaled_candidates(e: Evidence, f: Family, i: int) -> Iterator[Candidate]:
    """A network's mistake together with a constant factor: the two most common ones at once."""
    for rank, hypothesis in enumerate(NETWORK_HYPOTHESES, start=len(HYPOTHESES)):
        for steps, facts in hypothesis.variants(f):
            predict = partial(predict_leaf, cache(partial(predict_point, f, steps)), i)
            points = e.wrong_points(i)
            factor = ratio(
                sum(inner(e.got[k][i], predict(k)) for k in points), sum(inner(predict(k), predict(k)) for k in points)
            )
            left = unexplained(e, i, lambda k: factor * predict(k))  # noqa: B023  called here and now
            if accepted(left, e, i):
                which = f"; and on top of that, all is {number(factor)} times as large"
                which += f" ({of_the_batch(factor, e)})" if of_the_batch(factor, e) else ""
                yield Candidate(rank, hypothesis.code, hypothesis.sentence.format(**facts) + which, {i: left})


def of_the_batch(factor: float, e: Evidence) -> str:
    """What a factor has to do with the number of samples."""
    for name, value in (("the number of samples: a sum, not a mean", e.samples), ("the sign is turned", -1)):
        if value and abs(factor / value - 1) < 1e-3:
            return name
    return (
        "one over the number of samples: a mean taken twice" if e.samples and abs(factor * e.samples - 1) < 1e-3 else ""
    )


def predict_point(f: Family, steps: Callable[[int], Steps], k: int) -> list[np.ndarray]:
    return f.predict(steps(k), k)


def predict_leaf(predict: Callable[[int], Sequence[np.ndarray]], i: int, k: int) -> np.ndarray:
    return predict(k)[i]


def unexplained(e: Evidence, i: int, predict: Callable[[int], np.ndarray], few: int | None = None) -> float:
    """The size of got - predicted over that of got - right, pooled over the points where the leaf is judged.

    Each point counts alike, whatever the size of its gradient; entries that are not known do not count.
    """
    points = e.wrong_points(i)[:few] if few else e.judged_points(i)
    left = difference = 0.0
    for k in points:
        got, right, predicted = e.got[k][i], e.right(k, i), predict(k)
        known = ~np.isnan(right + predicted)
        if not known.any() or not np.isfinite(got).all():
            continue
        unit = np.sum(right**2, where=~np.isnan(right)) or 1.0
        left += np.sum((got - predicted) ** 2, where=known) / unit
        difference += np.sum((got - right) ** 2, where=known) / unit
    return float(np.sqrt(left / difference)) if difference > 0 else 1.0


def noise(e: Evidence, i: int) -> float:
    """The share of a leaf's difference that rounding, and the witness's own error, may make."""
    worst = 0.0
    for k in e.wrong_points(i):
        scale = largest(e.right(k, i))
        size = 1e-2 * tolerance(e.dtypes[i]) * scale + 3 * largest(e.known[k].error[i])
        difference = largest(e.got[k][i] - e.right(k, i))
        worst = max(worst, size / difference if difference > 0 else 0.0)
    return min(worst, 0.1)


def accepted(left: float, e: Evidence, i: int) -> bool:
    return left <= max(NEXT_TO_NOTHING, noise(e, i))


def best(candidates: Sequence[Candidate], e: Evidence, leaves: Sequence[int]) -> Candidate:
    """The first in the order of the tables among those that explain as much as the one that explains most."""

    def worst(candidate: Candidate) -> float:
        return max(candidate.unexplained[i] for i in leaves)

    limit = max(3 * min(map(worst, candidates)), max(noise(e, i) for i in leaves))
    return min((c for c in candidates if worst(c) <= limit), key=lambda c: c.rank)


def spares(e: Evidence, i: int, predict: Callable[[int], Sequence[np.ndarray]]) -> bool:
    """Whether a hypothesis leaves a right leaf right."""
    for k in e.judged_points(i):
        right = e.right(k, i)
        off = largest(predict(k)[i] - right)
        if off > 2 * tolerance(e.dtypes[i]) * largest(right) + 3 * largest(e.known[k].error[i]):
            return False
    return True


def unknown(e: Evidence, i: int, candidates: Sequence[Candidate]) -> Diagnosis:
    """That the mistake is not known, with what can be said of the difference: its size, its direction, its place."""
    points = e.wrong_points(i)
    k = max(points, key=lambda k: e.verdicts[k][i].error)
    got, right = e.got[k][i], e.right(k, i)
    if not np.isfinite(got).all():
        bad = int((~np.isfinite(got)).sum())
        return Diagnosis("not_finite", f"{bad} of {got.size} entries are NaN or infinite", 0.0)
    difference = got - right
    size = np.sqrt(inner(difference, difference) / (inner(right, right) or 1.0))
    cosine = ratio(inner(got, right), np.sqrt(inner(np.where(np.isnan(right), 0, got), got) * inner(right, right)))
    parts = [
        "wrong, and by none of the mistakes known here",
        f"the difference is {size:.2g} times as long as the right gradient",
        place(difference, e, i, right),
        direction(cosine, fitted_factor(e, i)),
    ]
    nearest = min(candidates, key=lambda c: c.unexplained.get(i, 1.0), default=None)
    if nearest is not None and nearest.unexplained.get(i, 1.0) < 0.3:
        share = 1 - nearest.unexplained[i]
        parts.append(f"nearest comes {nearest.code}, which explains {share:.0%} of it")
        return Diagnosis(None, "; ".join(filter(None, parts)), share)
    return Diagnosis(None, "; ".join(filter(None, parts)), 0.0)


def direction(cosine: float, factor: float) -> str:
    if cosine > 0.99:
        return f"it points the right way, about {number(factor)} times as long"
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return f"it points {angle:.0f} degrees off the right direction"


def place(difference: np.ndarray, e: Evidence, i: int, right: np.ndarray) -> str:
    """Which rows, columns or entries the difference is in, if it is not in most of them."""
    off = np.abs(np.nan_to_num(difference)) > tolerance(e.dtypes[i]) * largest(right)
    if off.sum() in (0, off.size) or difference.ndim == 0:
        return ""
    if difference.ndim == 2:
        rows, columns = np.flatnonzero(off.any(axis=1)).tolist(), np.flatnonzero(off.any(axis=0)).tolist()
        if len(rows) * 2 <= off.shape[0] and len(rows) <= 4:
            return f"only {indexed('row', rows)} of {off.shape[0]} {'is' if len(rows) == 1 else 'are'} wrong"
        if len(columns) * 2 <= off.shape[1] and len(columns) <= 4:
            return f"only {indexed('column', columns)} of {off.shape[1]} {'is' if len(columns) == 1 else 'are'} wrong"
    if np.isnan(difference).any():
        return ""
    first = tuple(int(j) for j in np.argwhere(off)[0])
    return f"{int(off.sum())} of {off.size} entries are wrong, the first at index {first}"


def indexed(name: str, indices: Sequence[int]) -> str:
    return f"{name}{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"
