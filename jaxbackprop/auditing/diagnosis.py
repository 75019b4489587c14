"""Which mistake explains a wrong gradient: every hypothesis is scored by the share of the difference that it explains.

A diagnosis is made only if what it leaves unexplained is next to nothing; near misses are not guessed at. One mistake
that explains all leaves, the right ones included, goes before several that explain a leaf each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbackprop.auditing.judge import Evidence, compare, largest, tolerance
from jaxbackprop.auditing.layered import Steps
from jaxbackprop.auditing.mistakes.backward_steps import NETWORK_HYPOTHESES
from jaxbackprop.auditing.mistakes.general import HYPOTHESES, Hypothesis, fitted_factor, inner, number, ratio
from jaxbackprop.auditing.mistakes.variants import RIGHT, Family

LARGE = 200_000  # products in a forward pass
NEXT_TO_NOTHING = (
    1e-3  # of the difference, and of the gradient handed in, may stay unexplained, or what rounding makes of it
)


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


UNUSED = "the right gradient is 0 wherever it was looked at: the forward pass leaves it out, or what it feeds is dead"


def diagnose(e: Evidence, family: Family | None, table: tuple[Hypothesis, ...] = ()) -> dict[int, Diagnosis]:
    """The mistake in every wrong leaf; those of `table` go before the general ones."""
    wrong = [i for i in range(len(e.paths)) if e.wrong_points(i)]
    if not wrong:
        return {}
    noises = {i: noise(e, i) for i in wrong}

    def fits(candidate: Candidate, i: int) -> bool:
        return candidate.unexplained.get(i, 1.0) <= max(NEXT_TO_NOTHING, noises[i])

    special = list(table_candidates(e, wrong, table) if family is None else network_candidates(e, family, wrong))
    whole = [c for c in special if c.spares_the_right and all(fits(c, i) for i in wrong)]
    if whole:
        one = best(whole, noises)
        return {i: Diagnosis(one.code, one.sentence, 1 - one.unexplained[i]) for i in wrong}

    general = general_candidates(e, wrong, (*table, *HYPOTHESES))
    candidates = [*general, *([] if family is None else special)]
    fitting = {i: [c for c in candidates if fits(c, i)] for i in wrong}
    rest = [i for i in wrong if not fitting[i]]
    if family is not None and rest:
        for twofold in (scaled_candidates, paired_candidates):
            found = list(twofold(e, family, rest))
            fitting |= {i: [c for c in found if fits(c, i)] for i in rest}
            rest = [i for i in rest if not fitting[i]]
            if not rest:
                break
    diagnoses = {}
    for i in wrong:
        if fitting[i]:
            one = best(fitting[i], {i: noises[i]})
            diagnoses[i] = Diagnosis(one.code, one.sentence, 1 - one.unexplained[i])
        else:
            known = unknown(e, i, candidates)
            where = "" if family is None or known.code else deduction(family, i)
            diagnoses[i] = known._replace(sentence=known.sentence + where)
    return diagnoses


def table_candidates(e: Evidence, wrong: Sequence[int], table: Sequence[Hypothesis]) -> Iterator[Candidate]:
    """What a table's hypotheses leave unexplained, of all leaves at once; of what they leave right they say nothing."""
    for rank, hypothesis in enumerate(table):
        guesses = {i: guess for i in range(len(e.paths)) for guess in hypothesis.predict(e, i)}
        left = {i: unexplained(e, i, guesses[i].gradient.__getitem__) for i in wrong if i in guesses}
        others = [i for i in guesses if i not in wrong and i not in e.missing]
        spared = all(spares(e, i, guesses[i].gradient.__getitem__) for i in others)
        yield Candidate(rank, hypothesis.code, hypothesis.sentence, left, spared)


def general_candidates(e: Evidence, wrong: Sequence[int], table: Sequence[Hypothesis]) -> Iterator[Candidate]:
    """What the hypotheses for any loss leave unexplained, leaf by leaf."""
    for rank, hypothesis in enumerate(table):
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
                left[i] = unexplained(e, i, leaf, few=1)  # one point tells whether the others are worth the work
                if left[i] < 0.5:
                    left[i] = unexplained(e, i, leaf)
            if min(left.values()) < 0.5:
                spared = all(
                    spares(e, i, partial(predict_leaf, predict, i)) for i in range(len(e.paths)) if i not in wrong
                )
                yield Candidate(rank, hypothesis.code, hypothesis.sentence.format(**facts), left, spared)


def scaled_candidates(e: Evidence, f: Family, leaves: Sequence[int]) -> Iterator[Candidate]:
    """A network's mistake together with a constant factor: two in one leaf, one of them the most common one."""
    for rank, hypothesis in enumerate(NETWORK_HYPOTHESES, start=len(HYPOTHESES)):
        for steps, facts in hypothesis.variants(f):
            predict = cache(partial(predict_point, f, steps))
            for i in leaves:
                leaf = partial(predict_leaf, predict, i)
                if scaled(e, i, leaf, few=1)[0] < 0.1:
                    left, factor = scaled(e, i, leaf)
                    sentence = hypothesis.sentence.format(**facts) + and_a_factor(factor, e)
                    yield Candidate(rank, hypothesis.code, sentence, {i: left})


def paired_candidates(e: Evidence, f: Family, leaves: Sequence[int]) -> Iterator[Candidate]:
    """Two mistakes in different steps of the backward pass, which meet in the leaves below.

    There are a thousand such pairs: of large networks they are not looked for.
    """
    if sum(weight.size for weight in f.traces[0].weights) * f.traces[0].samples > LARGE:
        return
    single = [
        (rank, hypothesis.code, hypothesis.sentence.format(**facts), steps, changed_steps(steps(0)))
        for rank, hypothesis in enumerate(NETWORK_HYPOTHESES, start=len(HYPOTHESES))
        for steps, facts in hypothesis.variants(f)
        if hypothesis.code not in ("weight_updated", "activations_differ", "other_activation")
    ]
    for n, (rank, code, sentence, one, changed) in enumerate(single):
        for _, _, also, other, changed_too in single[n + 1 :]:
            if changed & changed_too:
                continue

            def both(k: int, one: Callable = one, other: Callable = other, names: frozenset = changed_too) -> Steps:
                return one(k)._replace(**{name: getattr(other(k), name) for name in names})

            predict = cache(partial(predict_point, f, both))
            for i in leaves:
                leaf = partial(predict_leaf, predict, i)
                if unexplained(e, i, leaf, few=1) < 0.1:
                    yield Candidate(rank, code, f"{sentence}; and {also}", {i: unexplained(e, i, leaf)})


def changed_steps(steps: Steps) -> frozenset[str]:
    """The names of the steps that are not the right ones."""
    return frozenset(name for name, step in steps._asdict().items() if step is not getattr(RIGHT, name))


def scaled(e: Evidence, i: int, predict: Callable[[int], np.ndarray], few: int | None = None) -> tuple[float, float]:
    """What a prediction times the constant that fits best leaves unexplained, and that constant."""
    points = e.wrong_points(i)[:few]
    over = sum(inner(e.got[k][i], predict(k)) for k in points)
    factor = ratio(over, sum(inner(predict(k), predict(k)) for k in points))
    return unexplained(e, i, lambda k: factor * predict(k), few), factor


def and_a_factor(factor: float | int, e: Evidence) -> str:
    """The second mistake in words."""
    names = {-1.0: "the sign is turned"}
    if e.samples:
        names |= {e.samples: "a sum over the samples, not their mean", 1 / e.samples: "a mean taken twice"}
    name = next((f" ({name})" for value, name in names.items() if abs(factor / value - 1) < 1e-3), "")
    return f"; and on top of that it is {number(factor)} times as large{name}"


def without_false_excuses(e: Evidence, table: Sequence[Hypothesis], derivation: Hypothesis) -> Evidence:
    """Where the largest of several numbers is equal to another one, any shares of the two are a slope if they sum to
    one. If a prediction of the table fits at every point, and at a kink sums to something else than the derivation by
    hand, that kink excuses nothing; and the derivation tells what is right there."""
    verdicts, known = [list(row) for row in e.verdicts], list(e.known)
    for i in range(len(e.paths)):
        kinks = [k for k, row in enumerate(e.verdicts) if row[i].excuse == "kink" or np.isnan(e.right(k, i)).any()]
        if not kinks or e.wrong_points(i):
            continue
        (right,) = derivation.predict(e, i)
        for guess in (guess for hypothesis in table for guess in hypothesis.predict(e, i)):
            if all(near(e, i, got[i], predicted) for got, predicted in zip(e.got, guess.gradient, strict=True)):
                for k in kinks:
                    by_hand = right.gradient[k]
                    if not near(e, i, guess.gradient[k].sum(), by_hand.sum()):
                        verdicts[k][i] = compare(e.got[k][i], by_hand, 0 * by_hand, None, tolerance(e.dtypes[i]))
                        gradient = [by_hand if j == i else leaf for j, leaf in enumerate(known[k].gradient)]
                        known[k] = known[k]._replace(gradient=gradient)
    return replace(e, verdicts=verdicts, known=known)


def near(e: Evidence, i: int, some: np.ndarray, other: np.ndarray) -> bool:
    return largest(some - other) <= tolerance(e.dtypes[i]) * largest(other)


def predict_point(f: Family, steps: Callable[[int], Steps], k: int) -> list[np.ndarray]:
    return f.predict(steps(k), k)


def predict_leaf(predict: Callable[[int], Sequence[np.ndarray]], i: int, k: int) -> np.ndarray:
    return predict(k)[i]


def unexplained(e: Evidence, i: int, predict: Callable[[int], np.ndarray], few: int | None = None) -> float:
    """The size of got - predicted over that of got - right, or over that of got if it is smaller still.

    A prediction has to account for the difference and for the gradient handed in: of a gradient that is small
    everything small would be an explanation. Pooled over the points where the leaf is judged; each counts alike,
    whatever the size of its gradient; entries that are not known do not count.
    """
    points = e.wrong_points(i)[:few] if few else e.judged_points(i)
    left = difference = size = 0.0
    for k in points:
        got, right, predicted = e.got[k][i], e.right(k, i), predict(k)
        known = ~np.isnan(right + predicted)
        if not known.any() or not np.isfinite(got).all():
            continue
        unit = np.sum(right**2, where=~np.isnan(right)) or 1.0
        left += np.sum((got - predicted) ** 2, where=known) / unit
        difference += np.sum((got - right) ** 2, where=known) / unit
        size += np.sum(got**2, where=known) / unit
    if left == 0 or difference == 0:
        return float(difference == 0)
    # Rounding leaves a zero that was summed up a little beside it.
    floor = 100 * float(jnp.finfo(e.dtypes[i]).eps)
    return float(np.sqrt(left) / max(min(np.sqrt(difference), np.sqrt(size)), floor * 1e3))


def noise(e: Evidence, i: int) -> float:
    """The share of a leaf's difference that rounding, and the witness's own error, may make."""
    worst = 0.0
    for k in e.wrong_points(i):
        scale = largest(e.right(k, i))
        size = 1e-2 * tolerance(e.dtypes[i]) * scale + 3 * largest(e.known[k].error[i])
        difference = largest(e.got[k][i] - e.right(k, i))
        worst = max(worst, size / difference if difference > 0 else 0.0)
    return min(worst, 0.1)


def best(candidates: Sequence[Candidate], noises: Mapping[int, float]) -> Candidate:
    """The first in the order of the tables among those that explain as much as the one that explains most.

    Of a leaf's difference the share in `noises` cannot be told apart.
    """

    def worst(candidate: Candidate) -> float:
        return max(candidate.unexplained[i] for i in noises)

    limit = max(3 * min(map(worst, candidates)), *noises.values())
    return min((c for c in candidates if worst(c) <= limit), key=lambda c: c.rank)


def spares(e: Evidence, i: int, predict: Callable[[int], np.ndarray]) -> bool:
    """Whether a hypothesis leaves a right leaf right."""
    for k in e.judged_points(i):
        right = e.right(k, i)
        off = largest(predict(k) - right)
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
    if not any(np.any(e.right(k, i)) for k in range(len(e.points))):
        return Diagnosis("unused", UNUSED, 1.0)
    difference = got - right
    size = np.sqrt(inner(difference, difference) / (inner(right, right) or 1.0))
    cosine = ratio(inner(got, right), np.sqrt(inner(np.where(np.isnan(right), 0, got), got) * inner(right, right)))
    parts = [
        "wrong, and by none of the mistakes known here",
        f"the difference is {size:.2g} times as long as the right gradient",
        place(difference, e, i, right),
        direction(cosine, fitted_factor(e, i)),
    ]
    if size < 1e-5 and np.dtype(e.dtypes[i]).itemsize == 8:
        parts.append("so small a difference is what float32 leaves somewhere on the way")
    nearest = min(candidates, key=lambda c: c.unexplained.get(i, 1.0), default=None)
    if nearest is not None and nearest.unexplained.get(i, 1.0) < 0.3:
        share = 1 - nearest.unexplained[i]
        parts.append(f"nearest comes {nearest.code}, which explains {share:.0%} of it")
        return Diagnosis(None, "; ".join(filter(None, parts)), share)
    return Diagnosis(None, "; ".join(filter(None, parts)), 0.0)


def deduction(f: Family, i: int) -> str:
    """Where a mistake without a name must lie, from which of the other leaves are right.

    A leaf of another shape was not compared: it is no evidence.
    """
    right = [(f.evidence.is_right(w), f.evidence.is_right(b)) for w, b in f.layout.pairs]
    l = next(l for l, pair in enumerate(f.layout.pairs, start=1) if i in pair)
    by_weight, by_bias = right[l - 1]
    if by_bias:
        return f". As b^{l} is right, so is delta: the mistake is in dL/dW^{l} itself"
    if by_weight:
        return f". As W^{l} is right, so is delta: the mistake is in dL/db^{l} itself"
    if l == f.depth:
        return f". It is in the first step, delta^{l + 1}, or in both gradients of layer {l}"
    if not any(right[l]):  # the layer above
        return "; it may be a consequence of what is wrong above it"
    return f". As the layer above has it right, the mistake is in the step from delta^{l + 2} to delta^{l + 1}"


def direction(cosine: float | int, factor: float | int) -> str:
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
