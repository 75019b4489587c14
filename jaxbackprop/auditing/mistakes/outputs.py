"""The mistakes in the first step of a backward pass: dL/dz^L, and the y-hat that it is made of."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxbackprop.activations import ACTIVATIONS, Activation
from jaxbackprop.auditing.layered import Steps, Trace, elementwise, with_activation
from jaxbackprop.auditing.mistakes.general import number
from jaxbackprop.auditing.mistakes.variants import RIGHT, Family, NetworkHypothesis, Variant, always, same_everywhere
from jaxbackprop.losses import get_objective


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
        if f.network.l2 > 0 and not f.evidence.summed:
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


def activations_differ(f: Family) -> Iterator[Variant]:
    """Another activation forward, and backward the derivative of the right one, or of a third one."""
    spoiled = f.evidence.wrong_points(f.layout.pairs[-1][1])  # y-hat is another one
    for name, there in ACTIVATIONS.items() if spoiled and f.depth > 1 else ():
        if there == f.activation:
            continue
        for back in dict.fromkeys((f.activation, ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"], ACTIVATIONS["relu"])):
            if back == there:
                continue
            for given in ("z", "a"):

                def steps(k: int, there: Activation = there, back: Activation = back, given: str = given) -> Steps:
                    o = with_activation(f.traces[k], there, f.network.objective)

                    def slope(t: Trace, l: int) -> np.ndarray:
                        if given == "z":
                            return elementwise(back.derivative, o.z[l])
                        return elementwise(back.slope, o.z[l], o.a[l])

                    return Steps(error=lambda t: RIGHT.error(o), slope=slope, seen=lambda t, l: RIGHT.seen(o, l))

                yield Variant(steps, {"forward": name, "backward": back.name, "f": f.activation.name})


def wrong_rows(f: Family) -> Iterator[Variant]:
    """1 subtracted from whole rows or columns of y-hat, chosen by the labels, in place of one entry of each sample."""
    classes, samples = f.traces[0].y.shape
    labels = np.unique(f.traces[0].y.argmax(axis=0))
    if not np.array_equal(f.traces[0].y.max(axis=0), np.ones(samples)):
        return
    mask = np.zeros((classes, samples))
    if labels.max() < samples:
        mask[:, labels] = 1
        rows = Steps(error=lambda t: (t.a[-1] - mask) / t.samples)
        yield same_everywhere(rows, {"where": "from all classes of the samples whose numbers are the labels"})
    columns = np.zeros((classes, samples))
    columns[labels] = 1
    steps = Steps(error=lambda t: (t.a[-1] - columns) / t.samples)
    yield same_everywhere(steps, {"where": "from every sample, in all the classes that occur"})


def in_delta(error: Callable[[Trace], np.ndarray]) -> Callable[[Family], Iterator[Variant]]:
    """A mistake in dL/dz^L = (y-hat - y) / N, which networks of another dL/dz^L cannot have."""

    def variants(f: Family) -> Iterator[Variant]:
        if get_objective(f.network.objective).error is None:
            yield from always(error=error)(f)

    return variants


def other_softmax(values: Callable[[np.ndarray], np.ndarray]) -> Callable[[Family], Iterator[Variant]]:
    """delta with another y-hat than the loss's."""

    def variants(f: Family) -> Iterator[Variant]:
        if get_objective(f.network.objective).name == "softmax":
            steps = Steps(error=lambda t: (values(t.z[-1]) - t.y) / t.samples)
            yield same_everywhere(steps, {"L": f.depth})

    return variants


def over_batch(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def over_samples(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


OUTPUT_MISTAKES = (
    NetworkHypothesis(
        "delta_sign",
        in_delta(lambda t: -RIGHT.error(t)),
        "the sign of delta^{delta} is turned: dL/dz^{L} is (y-hat - y)/{N}, not (y - y-hat)/{N}",
    ),
    NetworkHypothesis(
        "delta_without_y",
        in_delta(lambda t: t.a[-1] / t.samples),
        "delta^{delta} is y-hat alone, without - y: dL/dz^{L} is (y-hat - y)/{N}",
    ),
    NetworkHypothesis(
        "softmax_jacobian_diagonal",
        in_delta(softmax_diagonal),
        "only the diagonal of the softmax Jacobian is there, y-hat_i (1 - y-hat_i) for j = i; the terms "
        "-y-hat_i y-hat_j for j != i are missing. With both, dL/dz^{L} is (y-hat - y)/{N}",
    ),
    NetworkHypothesis(
        "softmax_jacobian_twice",
        in_delta(jacobian_again),
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
    NetworkHypothesis(
        "activations_differ",
        activations_differ,
        "the forward pass is one with {forward}, the derivative that of {backward}, and the loss has {f}",
    ),
    NetworkHypothesis(
        "wrong_rows",
        wrong_rows,
        "y is subtracted from the wrong entries of y-hat, {where}: it is 1 less at one entry of each sample, "
        "delta[range(N), y] -= 1 with the samples first",
    ),
    NetworkHypothesis(
        "softmax_over_batch",
        other_softmax(over_batch),
        "the softmax in delta is normalised over the whole batch; it is over the classes of each sample",
    ),
    NetworkHypothesis(
        "softmax_over_samples",
        other_softmax(over_samples),
        "the softmax in delta is taken over the samples; it goes over the classes of each sample",
    ),
    NetworkHypothesis(
        "sigmoid_for_softmax",
        other_softmax(lambda z: 1 / (1 + np.exp(-z))),
        "a sigmoid of each class stands in delta where y-hat, their softmax, belongs",
    ),
    NetworkHypothesis(
        "softmax_missing",
        other_softmax(lambda z: z),
        "delta has the logits z^{L} where y-hat, their softmax, belongs",
    ),
)
