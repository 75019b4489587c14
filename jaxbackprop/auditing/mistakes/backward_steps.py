"""The mistakes that are made in deriving a network's backward pass: each replaces one step of it.

Rows are as those of `general`, but a prediction is of all leaves at once: a wrong delta spoils every gradient below
it, and that the others are right is evidence too. Where a step is made at several layers, it may be wrong in all of
them or in one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.activations import ACTIVATIONS, Activation, get_activation
from jaxbackprop.auditing.judge import Evidence
from jaxbackprop.auditing.layered import Layout, Network, Steps, Trace, backward, elementwise, with_activation
from jaxbackprop.auditing.mistakes.general import inner, number, ratio
from jaxbackprop.auditing.mistakes.slopes import WrongSlope, formula, wrong_slopes


@dataclass(frozen=True)
class Family:
    """A network at every point where it was looked at."""

    network: Network
    layout: Layout
    traces: list[Trace]
    evidence: Evidence

    @property
    def depth(self) -> int:
        return self.traces[0].depth

    @property
    def activation(self) -> Activation:
        return get_activation(self.network.activation)

    @cached_property
    def wrong_slopes(self) -> list[list[list[WrongSlope]]]:
        """For each point and each hidden layer, from 1 on, the values of all the wrong derivatives."""
        return [[[], *(wrong_slopes(self.activation, t.z[l], t.a[l]) for l in range(1, t.depth))] for t in self.traces]

    def predict(self, steps: Steps, k: int) -> list[np.ndarray]:
        """The gradient at point k that such a backward pass gives, leaf by leaf."""
        return self.predict_from(self.traces[k], steps)

    def predict_from(self, t: Trace, steps: Steps) -> list[np.ndarray]:
        return self.layout.leaves(backward(t, steps))


class Variant(NamedTuple):
    """One way to make a mistake: the steps at each point, and what its sentence is to say."""

    steps: Callable[[int], Steps]
    facts: dict[str, Any]


def same_everywhere(steps: Steps, facts: dict[str, Any]) -> Variant:
    return Variant(lambda k: steps, facts)


class NetworkHypothesis(NamedTuple):
    """A mistake: its code, the ways to make it, and a sentence with places for the facts."""

    code: str
    variants: Callable[[Family], Iterator[Variant]]
    sentence: str


def always(**steps: Callable) -> Callable[[Family], Iterator[Variant]]:
    """A mistake that there is one way to make."""

    def variants(f: Family) -> Iterator[Variant]:
        yield same_everywhere(Steps(**steps), {"L": f.depth, "N": f.traces[0].samples, "delta": f.depth + 1})

    return variants


def hidden_layers(f: Family) -> list[tuple[int, ...]]:
    """The layers that a mistake may be made at: all hidden ones, or one of them."""
    hidden = tuple(range(1, f.depth))
    return [hidden, *((l,) for l in hidden if len(hidden) > 1)] if hidden else []


def named(layers: Sequence[int], f: Family) -> dict[str, Any]:
    """How a sentence calls those layers' quantities."""
    index = str(layers[0]) if len(layers) == 1 else "l"
    where = "" if len(layers) > 1 or f.depth <= 2 else f" at layer {index}"
    return {
        "z": f"z^{index}",
        "a": f"a^{index}",
        "f": f.activation.name,
        "formula": formula(f.activation, f"z^{index}"),
        "where": where,
        "l": index,
    }


def at(layers: Sequence[int], wrong: Callable[..., np.ndarray], right: Callable[..., np.ndarray]) -> Callable:
    """A step that is wrong at some layers."""
    return lambda t, l, *rest: (wrong if l in layers else right)(t, l, *rest)


RIGHT = Steps()


def softmax_diagonal(t: Trace) -> np.ndarray:
    """dL/dy-hat times the diagonal of the softmax Jacobian, y-hat (1 - y-hat), without -y-hat_i y-hat_j."""
    return -t.y * (1 - t.a[-1]) / t.samples


def jacobian_again(t: Trace) -> np.ndarray:
    """The softmax Jacobian once more on y-hat - y, which has it inside: J e = y-hat * (e - sum(y-hat * e))."""
    e, y_hat = RIGHT.error(t), t.a[-1]
    return y_hat * (e - np.sum(y_hat * e, axis=0))


def times_output_slope(f: Family) -> Iterator[Variant]:
    """The activation's derivative at the output layer too, which has a softmax in its place."""

    def error(t: Trace) -> np.ndarray:
        return RIGHT.error(t) * elementwise(f.activation.derivative, t.z[-1])

    yield same_everywhere(Steps(error=error), {"f": f.activation.name, "L": f.depth})


def constant_error(constant: Callable[[Trace], float | int]) -> Callable[[Family], Iterator[Variant]]:
    """dL/dz^L times a constant, beside an l2 term that is right; without one every leaf shows it by itself."""

    def variants(f: Family) -> Iterator[Variant]:
        if f.network.l2 > 0:
            steps = Steps(error=lambda t: constant(t) * RIGHT.error(t))
            facts = {"samples": f.traces[0].samples, "factor": number(constant(f.traces[0]))}
            yield same_everywhere(steps, facts)

    return variants


def other_activation(f: Family) -> Iterator[Variant]:
    """The right gradient of another network: with another activation, forward and backward."""
    spoiled = f.evidence.wrong_points(f.layout.pairs[-1][1])  # y-hat is another one, so b^L is wrong in any case
    for name, activation in ACTIVATIONS.items() if spoiled and f.depth > 1 else ():
        if activation != f.activation:

            def steps(k: int, activation: Activation = activation) -> Steps:
                o = with_activation(f.traces[k], activation, f.network.objective)
                return Steps(
                    error=lambda t: RIGHT.error(o),
                    slope=lambda t, l: RIGHT.slope(o, l),
                    seen=lambda t, l: RIGHT.seen(o, l),
                )

            yield Variant(steps, {"other": name, "f": f.activation.name})


def slopes(code: str) -> Callable[[Family], Iterator[Variant]]:
    """A wrong derivative of the activation, in all hidden layers or in one."""

    def variants(f: Family) -> Iterator[Variant]:
        if f.depth < 2:
            return
        for row, wrong in enumerate(f.wrong_slopes[0][1]):
            if wrong.code == code:
                for layers in hidden_layers(f):

                    def steps(k: int, row: int = row, layers: Sequence[int] = layers) -> Steps:
                        values = f.wrong_slopes[k]
                        return Steps(slope=at(layers, lambda t, l: values[l][row].values, RIGHT.slope))

                    facts = named(layers, f)
                    yield Variant(steps, {**facts, "sentence": wrong.sentence.format(**facts)})

    return variants


def slope_of_another_layer(f: Family) -> Iterator[Variant]:
    """f'(z^m) of another hidden layer of the same width."""
    widths = [t.shape[0] for t in f.traces[0].a]
    for l in range(1, f.depth):
        for m in range(1, f.depth):
            if m != l and widths[m] == widths[l]:
                steps = Steps(slope=at((l,), lambda t, l, m=m: t.slopes[m], RIGHT.slope))
                yield same_everywhere(steps, {**named((l,), f), "m": m})


def weight_not_transposed(f: Family) -> Iterator[Variant]:
    """W instead of its transpose, where W is square."""
    for layers in hidden_layers(f):
        shapes = [f.traces[0].weights[l + 1].shape for l in layers]
        if all(rows == columns for rows, columns in shapes):
            steps = Steps(through=at(layers, lambda t, l, e, dW: t.weights[l + 1] @ e, RIGHT.through))
            yield same_everywhere(steps, named_weight(layers, f))


def weight_of_another_layer(f: Family) -> Iterator[Variant]:
    """The weights of another layer, as far as shapes allow: of the layer itself, or of any other one."""
    weights = f.traces[0].weights
    for layers in hidden_layers(f):
        for m in range(1, f.depth + 1) if len(layers) == 1 else (None,):
            for turn, name in ((np.transpose, "(W^{})^T"), (np.asarray, "W^{}")):
                fits = [(m or l) != l + 1 and turn(weights[m or l]).shape == weights[l + 1].T.shape for l in layers]
                if all(fits):
                    wrong = lambda t, l, e, dW, m=m, turn=turn: turn(t.weights[m or l]) @ e  # noqa: E731
                    facts = {**named_weight(layers, f), "other": name.format(m or "l")}
                    yield same_everywhere(Steps(through=at(layers, wrong, RIGHT.through)), facts)


def weight_skipped(f: Family) -> Iterator[Variant]:
    """No W at all, where the widths allow."""
    widths = [t.shape[0] for t in f.traces[0].a]
    for layers in hidden_layers(f):
        if all(widths[l] == widths[l + 1] for l in layers):
            steps = Steps(through=at(layers, lambda t, l, e, dW: e, RIGHT.through))
            yield same_everywhere(steps, named_weight(layers, f))


def named_weight(layers: Sequence[int], f: Family) -> dict[str, Any]:
    above = str(layers[0] + 1) if len(layers) == 1 else "(l+1)"
    return {**named(layers, f), "above": above}


def updated(rate: float | int) -> Steps:
    """Back through W - rate dW: the step of gradient descent has been taken before the error went through."""
    return Steps(through=lambda t, l, e, dW: (t.weights[l + 1] - rate * dW).T @ e)


def weight_updated(f: Family) -> Iterator[Variant]:
    """An already updated W. The last hidden layer's gradient is linear in the learning rate, which tells it."""
    if f.depth < 2:
        return
    leaf, e = f.layout.pairs[f.depth - 2][0], f.evidence
    over = under = 0.0
    for k in e.wrong_points(leaf):
        change = f.predict(updated(1.0), k)[leaf] - f.predict(RIGHT, k)[leaf]
        over += inner(e.got[k][leaf] - e.right(k, leaf), change)
        under += inner(change, change)
    rate = ratio(over, under)
    if rate != 0:
        facts = {**named_weight(tuple(range(1, f.depth)), f), "rate": number(rate)}
        yield same_everywhere(updated(rate), facts)


def input_of_another_layer(f: Family) -> Iterator[Variant]:
    """dL/dW^l from a^m, m != l - 1, as far as widths allow."""
    widths = [a.shape[0] for a in f.traces[0].a]
    for l in range(f.depth, 0, -1):
        for m in range(f.depth + 1):
            if m != l - 1 and widths[m] == widths[l - 1]:
                steps = Steps(seen=at((l,), lambda t, l, m=m: t.a[m], RIGHT.seen))
                facts = {"l": l, "wrong": activation_name(m, f), "right": activation_name(l - 1, f)}
                yield same_everywhere(steps, facts)


def input_before_activation(f: Family) -> Iterator[Variant]:
    """dL/dW^l from z^(l-1) in place of a^(l-1)."""
    above = tuple(range(2, f.depth + 1))
    for layers in [above, *((l,) for l in above if len(above) > 1)] if above else []:
        steps = Steps(seen=at(layers, lambda t, l: t.z[l - 1], RIGHT.seen))
        index = layers[0] - 1 if len(layers) == 1 else "(l-1)"
        yield same_everywhere(steps, {"l": layers[0] if len(layers) == 1 else "l", "below": index})


def activation_name(m: int, f: Family) -> str:
    return "x" if m == 0 else f"a^{m}" if m < f.depth else f"a^{m} = y-hat"


def few_samples(f: Family) -> Iterator[Variant]:
    """Sums over the samples that stop too early: at the first, at the last, at the number of classes."""
    samples, classes = f.traces[0].samples, f.traces[0].y.shape[0]
    choices = [
        ("the first sample", slice(0, 1), 1),
        ("the last sample", slice(-1, None), 1),
        ("the first sample", slice(0, 1), samples),  # and not divided by N
        ("the last sample", slice(-1, None), samples),
        (f"the first {classes} samples (as many as classes)", slice(0, classes), 1),
    ]
    for which, part, factor in choices if samples > 1 else []:
        chosen = np.zeros(samples)
        chosen[part] = factor
        facts = {"which": which, "N": samples}
        yield same_everywhere(Steps(error=partial(chosen_error, chosen)), facts)
        yield same_everywhere(Steps(summed=partial(chosen_sum, chosen)), facts)


def chosen_error(chosen: np.ndarray, t: Trace) -> np.ndarray:
    return RIGHT.error(t) * chosen


def chosen_sum(chosen: np.ndarray, t: Trace, e: np.ndarray) -> np.ndarray:
    return e @ chosen


GIVEN = "{sentence}"  # by the row of the wrong derivative
SLOPE_CODES = (
    "slope_missing",
    "slope_at_a",
    "slope_formula_of_z",
    "tanh_slope_cosh_2z",
    "tanh_slope_of_z_squared",
    "tanh_slope_not_squared",
    "tanh_slope_sign",
    "sigmoid_slope_unfinished",
    "sigmoid_slope_sign",
    "slope_of_other",
    "slope_is_a",
    "slope_is_1_minus_a",
    "slope_twice",
)

NETWORK_HYPOTHESES = (
    NetworkHypothesis(
        "delta_sign",
        always(error=lambda t: -RIGHT.error(t)),
        "the sign of delta^{delta} is turned: dL/dz^{L} is (y-hat - y)/{N}, not (y - y-hat)/{N}",
    ),
    NetworkHypothesis(
        "delta_without_y",
        always(error=lambda t: t.a[-1] / t.samples),
        "delta^{delta} is y-hat alone, without - y: dL/dz^{L} is (y-hat - y)/{N}",
    ),
    NetworkHypothesis(
        "softmax_jacobian_diagonal",
        always(error=softmax_diagonal),
        "only the diagonal of the softmax Jacobian is there, y-hat_i (1 - y-hat_i) for j = i; the terms "
        "-y-hat_i y-hat_j for j != i are missing. With both, dL/dz^{L} is (y-hat - y)/{N}",
    ),
    NetworkHypothesis(
        "softmax_jacobian_twice",
        always(error=jacobian_again),
        "the softmax Jacobian is multiplied in twice: y-hat - y has it inside already, dL/dz^{L} is (y-hat - y)/{N}",
    ),
    NetworkHypothesis(
        "sum_not_mean",
        constant_error(lambda t: t.samples),
        "the gradient of the data term is {factor} times too large: it is that of the sum over {samples} samples, the "
        "loss is their mean; divide by {samples}",
    ),
    NetworkHypothesis(
        "mean_twice",
        constant_error(lambda t: 1 / t.samples),
        "the gradient of the data term is {factor} times the right one: the mean over {samples} samples is taken "
        "twice; divide by {samples} once only",
    ),
    NetworkHypothesis(
        "slope_at_output",
        times_output_slope,
        "delta is multiplied by {f}'(z^{L}) at the output layer, which has no {f}: softmax and cross-entropy together "
        "give dL/dz^{L} = (y-hat - y)/N and nothing more",
    ),
    NetworkHypothesis(
        "other_activation",
        other_activation,
        "the gradient of a network with {other}, forward and backward, where the loss has {f}",
    ),
    *(NetworkHypothesis(code, slopes(code), GIVEN) for code in SLOPE_CODES),
    NetworkHypothesis(
        "slope_of_another_layer",
        slope_of_another_layer,
        "the derivative of {f} is taken at z^{m} where delta passes {z}: f' belongs to the layer that delta arrives at",
    ),
    NetworkHypothesis(
        "weight_not_transposed",
        weight_not_transposed,
        "delta goes back through W^{above} where it wants the transpose: W is square, so the shapes do not tell; "
        "dL/d{a} is (W^{above})^T dL/dz^{above}",
    ),
    NetworkHypothesis(
        "weight_of_another_layer",
        weight_of_another_layer,
        "delta goes back through {other} and belongs through (W^{above})^T: {z} acts on the loss through z^{above}, so "
        "dL/d{a} is (W^{above})^T dL/dz^{above}",
    ),
    NetworkHypothesis(
        "weight_skipped",
        weight_skipped,
        "delta is passed on to layer {l} without W^{above}: dL/d{a} is (W^{above})^T dL/dz^{above}",
    ),
    NetworkHypothesis(
        "weight_updated",
        weight_updated,
        "delta goes back through a W^{above} that has been updated already, W - {rate} dL/dW: work out all gradients "
        "first, then take the step",
    ),
    NetworkHypothesis(
        "input_of_another_layer",
        input_of_another_layer,
        "dL/dW^{l} is formed with {wrong} and belongs with {right}, the input of layer {l}",
    ),
    NetworkHypothesis(
        "input_before_activation",
        input_before_activation,
        "dL/dW^{l} is formed with z^{below}, before the activation, and belongs with a^{below}, the input of layer {l}",
    ),
    NetworkHypothesis(
        "few_samples",
        few_samples,
        "only {which} counted: the gradient sums over all {N} samples",
    ),
)
