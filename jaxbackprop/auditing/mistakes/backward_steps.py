"""The mistakes in the way back through a network's layers: slopes, weights, inputs and sums over the samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxbackprop.auditing.layered import Steps, Trace
from jaxbackprop.auditing.mistakes.general import inner, number, ratio
from jaxbackprop.auditing.mistakes.outputs import OUTPUT_MISTAKES
from jaxbackprop.auditing.mistakes.variants import (
    RIGHT,
    Family,
    NetworkHypothesis,
    Variant,
    at,
    hidden_layers,
    named,
    same_everywhere,
)


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


def chosen_sum(chosen: np.ndarray, t: Trace, l: int, errors: Mapping[int, np.ndarray]) -> np.ndarray:
    return errors[l] @ chosen


def delta_of_another_layer(f: Family) -> Iterator[Variant]:
    """dL/dW^l formed with dL/dz^m of a layer above that is as wide, or dL/db^l summed from it."""
    for l in range(1, f.depth):
        for m in range(l + 1, f.depth + 1):
            if len(f.traces[0].z[m]) == len(f.traces[0].z[l]):
                facts = {"l": l, "delta": l + 1, "other": m + 1}
                formed = at((l,), lambda t, l, errors, m=m: errors[m], RIGHT.formed)
                summed = at((l,), lambda t, l, errors, m=m: errors[m].sum(axis=1), RIGHT.summed)
                yield same_everywhere(Steps(formed=formed), {**facts, "leaf": "W"})
                yield same_everywhere(Steps(summed=summed), {**facts, "leaf": "b"})


GIVEN = "{sentence}"  # by the row of the wrong derivative
SLOPE_CODES = (
    "slope_missing",
    "slope_at_a",
    "slope_formula_of_z",
    "tanh_slope_cosh_2z",
    "tanh_slope_of_z_squared",
    "tanh_slope_not_squared",
    "tanh_slope_sign",
    "tanh_slope_sinh",
    "sigmoid_slope_unfinished",
    "sigmoid_slope_sign",
    "sigmoid_slope_1_minus_z",
    "sigmoid_slope_quotient",
    "relu_slope_clipped",
    "slope_of_other",
    "slope_is_a",
    "slope_is_1_minus_a",
    "slope_twice",
)

NETWORK_HYPOTHESES = (
    *OUTPUT_MISTAKES,
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
        "delta_of_another_layer",
        delta_of_another_layer,
        "dL/d{leaf}^{l} is formed with delta^{other} and belongs with delta^{delta}, the error at z^{l}",
    ),
    NetworkHypothesis(
        "few_samples",
        few_samples,
        "only {which} counted: the gradient sums over all {N} samples",
    ),
)
