"""The mistakes that can be made with any loss: each predicts the wrong gradient from the right one and the inputs.

A hypothesis is a row of a table: a stable code, a small pure function, and the sentence that it stands for. The
function yields guesses for one leaf: what the person's gradient would be at each point, and the facts that the sentence
names.
Earlier rows are preferred where two of them predict the same.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbackprop.auditing.judge import Evidence, largest


class Guess(NamedTuple):
    """A prediction of one leaf at every point, and what its sentence is to say."""

    gradient: list[np.ndarray]
    facts: dict[str, Any]


class Hypothesis(NamedTuple):
    """A mistake: its code, its predictions for a leaf, and a sentence with places for the facts."""

    code: str
    predict: Callable[[Evidence, int], Iterator[Guess]]
    sentence: str


def zero(e: Evidence, i: int) -> Iterator[Guess]:
    """Exactly zero: what is merely small says something else."""
    if not any(row[i].any() for row in e.got):
        yield Guess([np.zeros_like(point[i]) for point in e.points], {})


def times(constant: float | int, e: Evidence, i: int) -> Iterator[Guess]:
    """The right gradient times a constant that is known beforehand."""
    yield Guess([constant * e.right(k, i) for k in range(len(e.points))], {"factor": number(fitted_factor(e, i))})


def times_samples(e: Evidence, i: int) -> Iterator[Guess]:
    """The gradient of the sum over the samples, where the loss is their mean."""
    for guess in times(e.samples, e, i) if e.samples and not e.summed else ():
        yield guess._replace(facts={**guess.facts, "length": e.samples, "axis": f"{e.samples} samples"})


def over_samples(e: Evidence, i: int) -> Iterator[Guess]:
    """The mean taken twice."""
    for guess in times(1 / e.samples, e, i) if e.samples and not e.summed else ():
        yield guess._replace(facts={**guess.facts, "length": e.samples, "axis": f"{e.samples} samples"})


def of_the_mean(e: Evidence, i: int) -> Iterator[Guess]:
    """The gradient of the mean over the samples, where that of their sum is wanted."""
    for guess in times(1 / e.samples, e, i) if e.samples and e.summed else ():
        yield guess._replace(facts={**guess.facts, "length": e.samples, "axis": f"{e.samples} samples"})


def of_data(constant: Callable[[int], float]) -> Callable[[Evidence, int], Iterator[Guess]]:
    """The right l2 term beside a data term that is off by a constant, which may depend on the number of samples."""

    def predict(e: Evidence, i: int) -> Iterator[Guess]:
        if not e.l2 or is_bias(e.paths[i], e.points[0][i].shape):
            return
        factor = constant(e.samples or 1)
        data = [e.right(k, i) - e.l2 * e.points[k][i] for k in range(len(e.points))]
        values = [factor * term + e.l2 * e.points[k][i] for k, term in enumerate(data)]
        yield Guess(values, {"factor": number(factor)})

    return predict


def summed_too_far(e: Evidence, i: int) -> Iterator[Guess]:
    """The sum of all entries of the right gradient in each of them: a sum over both axes, where one is for a bias."""
    if e.points[0][i].size > 1:
        yield Guess([np.full_like(e.points[k][i], np.sum(e.right(k, i))) for k in range(len(e.points))], {})


def times_length(e: Evidence, i: int) -> Iterator[Guess]:
    """The same for another axis of the data, or for two of them."""
    for length in e.lengths:
        for guess in times(length, e, i):
            yield guess._replace(facts={**guess.facts, "length": length, "axis": axis_of(length, e)})


def over_length(e: Evidence, i: int) -> Iterator[Guess]:
    for length in e.lengths:
        for guess in times(1 / length, e, i):
            yield guess._replace(facts={**guess.facts, "length": length, "axis": axis_of(length, e)})


def twice(e: Evidence, i: int) -> Iterator[Guess]:
    yield from times(2, e, i)


def half(e: Evidence, i: int) -> Iterator[Guess]:
    yield from times(0.5, e, i)


def negative(e: Evidence, i: int) -> Iterator[Guess]:
    yield from times(-1, e, i)


def any_factor(e: Evidence, i: int) -> Iterator[Guess]:
    """The right gradient times whatever constant fits best."""
    factor = fitted_factor(e, i)
    if factor != 0:
        yield from times(factor, e, i)


def transposed(e: Evidence, i: int) -> Iterator[Guess]:
    """The right gradient with its axes in another order, where that has the same shape."""
    shape = e.points[0][i].shape
    for axes in list(permutations(range(len(shape))))[1:] if len(shape) <= 3 else []:
        if tuple(shape[axis] for axis in axes) == shape:
            yield Guess([e.right(k, i).transpose(axes) for k in range(len(e.points))], {})


def copy_of_another(e: Evidence, i: int) -> Iterator[Guess]:
    """Another leaf of the same shape: its right gradient, or what the person has there."""
    for j, path in enumerate(e.paths):
        if j != i and e.points[0][j].shape == e.points[0][i].shape:
            yield Guess([e.right(k, j) for k in range(len(e.points))], {"other": path})
            if not e.wrong_points(j):
                yield Guess([row[j] for row in e.got], {"other": path})


def at_first_point(e: Evidence, i: int) -> Iterator[Guess]:
    """The gradient at the first parameters that it was asked for, whatever the parameters are now."""
    yield Guess([e.right(0, i)] * len(e.points), {"which": "those of the first call"})


def at_previous_point(e: Evidence, i: int) -> Iterator[Guess]:
    """The gradient at the parameters of the call before."""
    if len(e.points) > 2:  # with two points it is the same as the first
        rows = [e.right(max(k - 1, 0), i) for k in range(len(e.points))]
        yield Guess(rows, {"which": "those of the call before"})


def stale(e: Evidence, i: int) -> Iterator[Guess]:
    yield from at_first_point(e, i)
    yield from at_previous_point(e, i)


# What an l2 penalty l2/2 sum(W^2), whose gradient is l2 W, goes wrong by: the multiple of l2 W that is too much.
def penalty(excess: Callable[[int], float | int], e: Evidence, i: int) -> Iterator[Guess]:
    """The right gradient plus a multiple of the parameters themselves."""
    if e.l2:
        strength = excess(e.samples or 1) * e.l2
        facts = {"l2": number(e.l2), "samples": e.samples, "excess": number(fitted_penalty(e, i))}
        yield Guess([e.right(k, i) + strength * e.points[k][i] for k in range(len(e.points))], facts)
    else:  # the strength is not known: whatever fits; or the loss has none, and the gradient has one
        strength = fitted_penalty(e, i)
        if strength * excess(2) > 0 and (e.l2 is None or strength > 0):
            facts = {"l2": number(abs(strength)), "samples": "N", "excess": number(strength)}
            yield Guess([e.right(k, i) + strength * e.points[k][i] for k in range(len(e.points))], facts)


def penalty_on_bias(e: Evidence, i: int) -> Iterator[Guess]:
    if is_bias(e.paths[i], e.points[0][i].shape):
        yield from penalty(lambda samples: 1, e, i)


def penalty_missing(e: Evidence, i: int) -> Iterator[Guess]:
    yield from penalty(lambda samples: -1, e, i)


def penalty_doubled(e: Evidence, i: int) -> Iterator[Guess]:
    if not is_bias(e.paths[i], e.points[0][i].shape):
        yield from penalty(lambda samples: 1, e, i)


def penalty_halved(e: Evidence, i: int) -> Iterator[Guess]:
    if e.l2:
        yield from penalty(lambda samples: -0.5, e, i)


def penalty_negative(e: Evidence, i: int) -> Iterator[Guess]:
    if e.l2:
        yield from penalty(lambda samples: -2, e, i)


def penalty_times_samples(e: Evidence, i: int) -> Iterator[Guess]:
    if e.l2 and e.samples is not None and e.samples > 1:
        yield from penalty(lambda samples: samples - 1, e, i)


def penalty_over_samples(e: Evidence, i: int) -> Iterator[Guess]:
    if e.l2 and e.samples is not None and e.samples > 1:
        yield from penalty(lambda samples: 1 / samples - 1, e, i)


def penalty_other(e: Evidence, i: int) -> Iterator[Guess]:
    if e.l2:
        yield from penalty(lambda samples: fitted_penalty(e, i) / e.l2, e, i)  # type: ignore[operator]


def narrow_values(e: Evidence, i: int) -> Iterator[Guess]:
    """The right gradient rounded to a narrower type: the person's has no digit beyond it."""
    for name in ("bfloat16", "float16", "float32"):
        dtype = jnp.dtype(name)
        eps = float(jnp.finfo(dtype).eps)
        if dtype.itemsize >= np.dtype(e.dtypes[i]).itemsize:
            continue
        rows = [row[i] for row in e.got]
        near = all(largest(row - e.right(k, i)) <= 100 * eps * largest(e.right(k, i)) for k, row in enumerate(rows))
        if near and has_no_digit_beyond(np.concatenate([row.reshape(-1) for row in rows]), dtype):
            yield Guess(rows, {"narrow": name, "wide": np.dtype(e.dtypes[i]).name})


SUM_NOT_MEAN = (
    "equal to {factor} times the gradient of the loss: it is the gradient of the sum over {axis}, the loss is their "
    "mean; divide by {length}"
)
MEAN_TWICE = (
    "equal to {factor} times the gradient of the loss: the mean over {axis} is taken twice; divide by {length} once"
)

DATA_TERM = "its data term is {factor} times as large as that of the others, the l2 term is right"
HYPOTHESES = (
    Hypothesis(
        "zero", zero, "zero everywhere, and the right gradient is not: nothing is written into it, or it is reset"
    ),
    Hypothesis(
        "precision",
        narrow_values,
        "right, but only to the digits of {narrow}, while the parameters are {wide}: "
        "an array or a constant on the way is {narrow}",
    ),
    Hypothesis("sum_not_mean", times_samples, SUM_NOT_MEAN),
    Hypothesis("mean_twice", over_samples, MEAN_TWICE),
    Hypothesis(
        "mean_not_sum",
        of_the_mean,
        "equal to {factor} times the gradient of the sum over {axis}: it is divided by {length}, and the rest is not",
    ),
    Hypothesis(
        "sign",
        negative,
        "equal to {factor} times the gradient of the loss: its sign is turned, so that descending along it climbs",
    ),
    Hypothesis(
        "double",
        twice,
        "equal to {factor} times the gradient of the loss: the 1/2 that goes with a square in the loss is "
        "lost, or something is added twice",
    ),
    Hypothesis(
        "half",
        half,
        "equal to {factor} times the gradient of the loss: the 2 that a square brings down when it is "
        "differentiated is lost, or a 1/2 is there twice",
    ),
    Hypothesis("sign", of_data(lambda samples: -1), "the sign of its data term is turned, the l2 term is right"),
    Hypothesis("sum_not_mean", of_data(lambda samples: samples), DATA_TERM),
    Hypothesis("mean_twice", of_data(lambda samples: 1 / samples), DATA_TERM),
    Hypothesis("sum_not_mean", times_length, SUM_NOT_MEAN),
    Hypothesis("mean_twice", over_length, MEAN_TWICE),
    Hypothesis(
        "transposed",
        transposed,
        "the transpose of the right gradient: the two factors of the outer product are swapped",
    ),
    Hypothesis(
        "summed_over_both",
        summed_too_far,
        "the same number everywhere, the sum of all entries of the right gradient: it is summed over both axes, and "
        "belongs summed over the samples alone",
    ),
    Hypothesis(
        "l2_on_bias",
        penalty_on_bias,
        "the right gradient plus {excess} times the bias itself: the l2 term is put on a bias, and the loss "
        "penalises weights only",
    ),
    Hypothesis(
        "l2_missing",
        penalty_missing,
        "the right gradient less {l2} times the parameters themselves: the l2 term is missing; add {l2} * W",
    ),
    Hypothesis(
        "l2_doubled",
        penalty_doubled,
        "the right gradient plus {excess} times the parameters themselves: the l2 term is there twice "
        "(the derivative of l2/2 W^2 is l2 W, not 2 l2 W), or the loss has none",
    ),
    Hypothesis(
        "l2_halved",
        penalty_halved,
        "short of half of the l2 term {l2} * W: the 1/2 of l2/2 W^2 goes away when the square is differentiated",
    ),
    Hypothesis("l2_sign", penalty_negative, "the l2 term has the wrong sign: it is + {l2} * W, not - {l2} * W"),
    Hypothesis(
        "l2_times_n",
        penalty_times_samples,
        "{samples} times the l2 term is there: the loss adds l2/2 W^2 once, not once a sample; add {l2} * W",
    ),
    Hypothesis(
        "l2_over_n",
        penalty_over_samples,
        "only 1/{samples} of the l2 term is there: the penalty stands outside the mean over the {samples} samples, "
        "its gradient {l2} * W is not divided by {samples}",
    ),
    Hypothesis(
        "l2_wrong",
        penalty_other,
        "the right gradient plus {excess} times the parameters themselves: the strength of the l2 term is not {l2}, "
        "which is the loss's",
    ),
    Hypothesis(
        "copy", copy_of_another, "a copy of the gradient of {other}: the wrong variable is returned or assigned"
    ),
    Hypothesis(
        "stale",
        stale,
        "the gradient at other parameters, {which}: something is remembered, or read from outside, that must be "
        "worked out anew from the parameters handed in",
    ),
    Hypothesis(
        "factor",
        any_factor,
        "equal to {factor} times the gradient of the loss: its direction is right, a constant factor is not",
    ),
)


def axis_of(length: int, e: Evidence) -> str:
    """What a sum of that many terms may run over."""
    if e.samples and length != e.samples and length % e.samples == 0:
        return f"{e.samples} samples and an axis of length {length // e.samples}"
    return f"an axis of length {length}"


def fitted_factor(e: Evidence, i: int) -> float:
    """The c for which c times the right gradient is nearest to the person's, over all the points where it is wrong."""
    pairs = [(e.got[k][i], e.right(k, i)) for k in e.wrong_points(i)]
    return ratio(sum(inner(g, r) for g, r in pairs), sum(inner(r, r) for _, r in pairs))


def fitted_penalty(e: Evidence, i: int) -> float:
    """The c for which the right gradient plus c times the parameters is nearest to the person's."""
    triples = [(e.got[k][i], e.right(k, i), e.points[k][i]) for k in e.wrong_points(i)]
    over = sum(inner(np.where(np.isnan(r), np.nan, p), p) for _, r, p in triples)
    return ratio(sum(inner(g - r, p) for g, r, p in triples), over)


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products over the entries that are known."""
    return float(np.nansum(a * b))


def ratio(over: float | int, under: float | int) -> float:
    return over / under if under > 0 else 0.0


def number(value: float | int) -> str:
    """A measured number with the digits that matter: 200, 0.005, -1."""
    return f"{value:.4g}"


def is_bias(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a leaf is a bias, by its name, or by its shape where it has none."""
    name = next((part for part in reversed(path.split(".")) if not part.isdigit()), "").lower()
    if name and name != "params":
        return name.startswith("b") or name.endswith("bias")
    return len(shape) <= 1


def has_no_digit_beyond(values: np.ndarray, dtype: Any) -> bool:
    """Whether every entry is exact in a narrower type, which is chance only for round numbers."""
    filled = values[values != 0]
    mantissas = np.unique(np.abs(np.frexp(filled)[0]))
    with np.errstate(over="ignore"):  # what does not fit is another number, and infinite
        return mantissas.size > 1 and bool((filled.astype(dtype).astype(np.float64) == filled).all())
