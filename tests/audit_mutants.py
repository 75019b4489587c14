"""Wrong gradients as data: a backward pass as people write it, in NumPy with the samples first, and what to replace.

Each `Mutant` is one mistake: the text that goes wrong, how, and the code by which the audit has to name it. Each
`Spoiler` does the same to the gradient of any loss.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
import reference

from jaxbackprop import ACTIVATIONS, Activation, Layer, network

SAMPLES = 7

BACKWARD = """
def backward(params, X, y, f, slope, l2):
    W, b = params[0::2], params[1::2]
    N, L = len(X), len(W)
    z, a = [None], [X]
    for l in range(1, L + 1):
        z.append(a[l - 1] @ W[l - 1] + b[l - 1])
        a.append(f(z[l]))
    y_hat = softmax(z[L])
    delta = (y_hat - one_hot(y, y_hat)) / N
    gradient = [None] * (2 * L)
    for l in reversed(range(1, L + 1)):
        dW = a[l - 1].T @ delta + l2 * W[l - 1]
        db = delta.sum(axis=0)
        gradient[2 * l - 2 : 2 * l] = dW, db
        if l > 1:
            delta = delta @ W[l - 1].T * slope(z[l - 1])
    return gradient
"""


class Mutant(NamedTuple):
    """A mistake: its code, the text replaced, what by; for which activation and sizes it can be made."""

    code: str
    old: str
    new: str
    activation: str | None = None
    sizes: tuple[int, ...] | None = None
    l2: float = 0.0


SLOPE = "slope(z[l - 1])"
DELTA = "delta = (y_hat - one_hot(y, y_hat)) / N"
BACK = "delta = delta @ W[l - 1].T"
DW = "dW = a[l - 1].T @ delta + l2 * W[l - 1]"
DB = "db = delta.sum(axis=0)"
END = "    return gradient"
SQUARE = (3, 3, 3, 3)
WRONG_ROWS = "delta = y_hat.copy()\n    delta[ROWS] -= 1\n    delta /= N"
OUTPUT = "(y_hat - one_hot(y, y_hat)) / N"

MUTANTS = (
    # The output's error.
    Mutant("delta_sign", DELTA, "delta = (one_hot(y, y_hat) - y_hat) / N"),
    Mutant("delta_sign", DELTA, "delta = (one_hot(y, y_hat) - y_hat) / N", l2=0.1),
    Mutant("delta_without_y", DELTA, "delta = y_hat / N"),
    Mutant("softmax_jacobian_diagonal", DELTA, "delta = -one_hot(y, y_hat) / y_hat * y_hat * (1 - y_hat) / N"),
    Mutant(
        "softmax_jacobian_twice",
        "    gradient =",
        "    delta = y_hat * (delta - (delta * y_hat).sum(1, keepdims=True))\n    gradient =",
    ),
    Mutant("slope_at_output", "    gradient =", "    delta = delta * slope(z[L])\n    gradient ="),
    Mutant("sum_not_mean", DELTA, "delta = y_hat - one_hot(y, y_hat)"),
    Mutant("sum_not_mean", DELTA, "delta = y_hat - one_hot(y, y_hat)", l2=0.1),
    Mutant("mean_twice", DELTA, DELTA + " / N"),
    Mutant("mean_twice", DELTA, DELTA + " / N", l2=0.1),
    Mutant("mean_twice", DW, "dW = a[l - 1].T @ delta / N"),
    # The activation, and its derivative.
    Mutant("other_activation", "    z, a =", "    f, slope = others['tanh']\n    z, a ="),
    Mutant("other_activation", "    z, a =", "    f, slope = others['softplus']\n    z, a ="),
    Mutant("slope_missing", SLOPE, "1"),
    Mutant("slope_missing", SLOPE, "(1 if l == 2 else slope(z[l - 1]))"),
    Mutant("slope_at_a", SLOPE, "slope(a[l - 1])"),
    Mutant("slope_formula_of_z", SLOPE, "(1 - z[l - 1] ** 2)", "tanh"),
    Mutant("slope_formula_of_z", SLOPE, "z[l - 1] * (1 - z[l - 1])", "sigmoid"),
    Mutant("slope_formula_of_z", SLOPE, "(1 - np.exp(-z[l - 1]))", "softplus"),
    Mutant("tanh_slope_cosh_2z", SLOPE, "1 / np.cosh(2 * z[l - 1])", "tanh"),
    Mutant("tanh_slope_of_z_squared", SLOPE, "(1 - np.tanh(z[l - 1] ** 2))", "tanh"),
    Mutant("tanh_slope_not_squared", SLOPE, "(1 - a[l - 1])", "tanh"),
    Mutant("tanh_slope_not_squared", SLOPE, "1 / np.cosh(z[l - 1])", "tanh"),
    Mutant("tanh_slope_sign", SLOPE, "(1 + a[l - 1] ** 2)", "tanh"),
    Mutant("sigmoid_slope_unfinished", SLOPE, "a[l - 1]", "sigmoid"),
    Mutant("sigmoid_slope_unfinished", SLOPE, "(1 - a[l - 1])", "sigmoid"),
    Mutant("sigmoid_slope_sign", SLOPE, "a[l - 1] * (1 + a[l - 1])", "sigmoid"),
    Mutant("slope_of_other", SLOPE, "others['tanh'][1](z[l - 1])"),
    Mutant("slope_of_other", SLOPE, "others['sigmoid'][1](z[l - 1])"),
    Mutant("slope_of_other", SLOPE, "others['relu'][1](z[l - 1])"),
    Mutant("slope_of_other", SLOPE, "others['gelu'][1](z[l - 1])"),
    Mutant("slope_of_other", SLOPE, "(1 - a[l - 1] ** 2)"),
    Mutant("slope_of_other", SLOPE, "a[l - 1] * (1 - a[l - 1])"),
    Mutant("slope_is_a", SLOPE, "a[l - 1]", "relu"),
    Mutant("slope_is_a", SLOPE, "a[l - 1]", "softplus"),
    Mutant("slope_is_1_minus_a", SLOPE, "(1 - a[l - 1])", "relu"),
    Mutant("slope_is_1_minus_a", SLOPE, "(1 - a[l - 1])", "elu"),
    Mutant("slope_twice", SLOPE, SLOPE + " ** 2"),
    Mutant("slope_of_another_layer", SLOPE, "slope(z[min(l, L - 1)])", sizes=SQUARE),
    Mutant("sigmoid_slope_1_minus_z", SLOPE, "a[l - 1] / (1 + np.exp(z[l - 1] - 1))", "sigmoid"),
    Mutant("sigmoid_slope_quotient", SLOPE, "np.exp(-z[l - 1]) / (1 + z[l - 1] ** 2) ** 2", "sigmoid"),
    Mutant("tanh_slope_sinh", SLOPE, "(1 - np.sinh(z[l - 1]) / (2 * np.cosh(z[l - 1]) ** 2))", "tanh"),
    Mutant("relu_slope_clipped", SLOPE, "np.clip(a[l - 1], 0, 1)", "relu"),
    Mutant("slope_missing", SLOPE, "(a[l - 1] >= 0)", "relu"),
    Mutant("activations_differ", "    z, a =", "    f = others['sigmoid'][0]\n    z, a =", "tanh"),
    Mutant("activations_differ", "    z, a =", "    f, slope = others['softplus'][0], others['relu'][1]\n    z, a ="),
    Mutant("wrong_rows", DELTA, WRONG_ROWS.replace("ROWS", "y[:, None], range(y_hat.shape[1])")),
    Mutant("wrong_rows", DELTA, WRONG_ROWS.replace("ROWS", ":, y")),
    Mutant("softmax_over_batch", "y_hat = softmax(z[L])", "y_hat = np.exp(z[L]) / np.exp(z[L]).sum()"),
    Mutant("softmax_over_samples", "y_hat = softmax(z[L])", "y_hat = softmax(z[L].T).T"),
    Mutant("sigmoid_for_softmax", "y_hat = softmax(z[L])", "y_hat = 1 / (1 + np.exp(-z[L]))"),
    Mutant("softmax_missing", "y_hat = softmax(z[L])", "y_hat = z[L]"),
    # The way back through the weights.
    Mutant("weight_not_transposed", BACK, "delta = delta @ W[l - 1]", sizes=SQUARE),
    Mutant("weight_of_another_layer", BACK, "delta = delta @ W[l - 2].T", sizes=SQUARE),
    Mutant("weight_of_another_layer", BACK, "delta = delta @ W[0]", sizes=(3, 4, 3)),
    Mutant("weight_of_another_layer", BACK, "delta = delta @ W[-1].T", sizes=SQUARE),
    Mutant("weight_skipped", BACK, "delta = delta", sizes=SQUARE),
    Mutant("weight_updated", BACK, "delta = delta @ (W[l - 1] - 0.1 * dW).T"),
    Mutant("weight_updated", BACK, "delta = delta @ (W[l - 1] - 0.5 * dW).T", l2=0.1),
    # The inputs of the layers, and the sums over the samples.
    Mutant("input_of_another_layer", DW, "dW = a[l if l < L else l - 1].T @ delta", sizes=SQUARE),
    Mutant("input_of_another_layer", DW, "dW = a[0].T @ delta", sizes=SQUARE),
    Mutant("input_before_activation", DW, "dW = (z[l - 1] if l > 1 else X).T @ delta"),
    Mutant("delta_of_another_layer", END, f"    gradient[0] = X.T @ {OUTPUT}\n    return gradient"),
    Mutant("few_samples", DB, "db = delta[0]"),
    Mutant("summed_over_both", DB, "db = delta.sum()"),
    Mutant("summed_over_both", DB, "db = np.zeros_like(b[l - 1]) + delta.sum()"),
    Mutant("few_samples", DB, "db = delta[: y_hat.shape[1]].sum(axis=0)"),
    Mutant("not_summed", DB, "db = delta"),
    # Single leaves.
    Mutant("zero", END, "    gradient[0] = np.zeros_like(gradient[0])\n    return gradient"),
    Mutant("zero", END, "    gradient[3] = 0 * gradient[3]\n    return gradient"),
    Mutant("sign", END, "    gradient[1] = -gradient[1]\n    return gradient"),
    Mutant("double", END, "    gradient[2] = 2 * gradient[2]\n    return gradient"),
    Mutant("half", END, "    gradient[2] = gradient[2] / 2\n    return gradient"),
    Mutant("sum_not_mean", END, "    gradient[3] = N * gradient[3]\n    return gradient"),
    Mutant("factor", END, "    gradient[0] = 1.7 * gradient[0]\n    return gradient"),
    Mutant("transposed", END, "    gradient[2] = gradient[2].T\n    return gradient"),
    Mutant("transposed", END, "    gradient[2] = gradient[2].T\n    return gradient", sizes=SQUARE),
    Mutant("copy", END, "    gradient[0] = gradient[2]\n    return gradient", sizes=SQUARE),
    Mutant("copy", END, "    gradient[1] = gradient[3]\n    return gradient", sizes=SQUARE),
    Mutant("precision", END, "    return [g.astype(np.float32) for g in gradient]"),
    Mutant("precision", END, "    return [g.astype(np.float32).astype(float) for g in gradient]"),
    Mutant("precision", END, "    return [g.astype(np.float16).astype(float) for g in gradient]"),
    # The l2 term.
    Mutant("l2_missing", "+ l2 * W[l - 1]", "", l2=0.1),
    Mutant("l2_doubled", "+ l2 * W[l - 1]", "+ 2 * l2 * W[l - 1]", l2=0.1),
    Mutant("l2_halved", "+ l2 * W[l - 1]", "+ l2 / 2 * W[l - 1]", l2=0.1),
    Mutant("l2_sign", "+ l2 * W[l - 1]", "- l2 * W[l - 1]", l2=0.1),
    Mutant("l2_times_n", "+ l2 * W[l - 1]", "+ N * l2 * W[l - 1]", l2=0.1),
    Mutant("l2_over_n", "+ l2 * W[l - 1]", "+ l2 * W[l - 1] / N", l2=0.1),
    Mutant("l2_wrong", "+ l2 * W[l - 1]", "+ 0.37 * W[l - 1]", l2=0.1),
    Mutant("l2_on_bias", DB, DB + " + l2 * b[l - 1]", l2=0.1),
)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def one_hot(y, like):
    return np.eye(like.shape[1], dtype=like.dtype)[y]


def build(activation, mutant=None, l2=0.0):
    """The backward pass as a function of (params, X, y), with its mistake, and that one's l2, if there is one."""
    source = BACKWARD
    if mutant is not None:
        assert source.count(mutant.old) == 1, mutant.old
        source, l2 = source.replace(mutant.old, mutant.new), mutant.l2
    names = {"np": np, "softmax": softmax, "one_hot": one_hot, "others": reference.ACTIVATIONS}
    exec(source, names)
    f, slope = reference.ACTIVATIONS[activation]
    return lambda params, X, y, *_: names["backward"](params, X, y, f, slope, l2)


@jax.jit
def numbered_loss(params, X, y, k, l2):
    """The loss of the mutants' network, for the activation number k: one compiled program for all of them."""
    values = [activation.value for activation in ACTIVATIONS.values()]
    activation = Activation("numbered", lambda z: jax.lax.switch(k, values, z), lambda z, a: a)
    layers = tuple(Layer(weight.T, bias) for weight, bias in zip(params[0::2], params[1::2], strict=True))
    targets = jax.nn.one_hot(y, params[-1].size, axis=0, dtype=X.dtype)
    return network.loss(layers, X.T, targets, activation=activation, l2=l2)


def draw(sizes, seed, dtype=np.float64, samples=SAMPLES):
    rng = np.random.default_rng(seed)
    params = []
    for fan_in, fan_out in pairwise(sizes):
        params += [rng.normal(0, fan_in**-0.5, (fan_in, fan_out)), rng.normal(0, 0.3, fan_out)]
    X, y = rng.normal(size=(samples, sizes[0])), rng.integers(sizes[-1], size=samples)
    return [leaf.astype(dtype) for leaf in params], X.astype(dtype), y


class Spoiler(NamedTuple):
    """A mistake in the gradient of any loss: its code, the leaf it is in, and how it changes the right gradient_fn.

    `l2` is the strength of the loss's penalty, on W alone; None if the audit is not told it.
    """

    code: str
    leaf: str
    spoil: Callable
    l2: float | None = 0.0


def of(leaf, change):
    """Change one leaf; `change` is a function of the leaf's right gradient, all parameters, X and the l2."""

    def spoil(right, l2):
        def wrong(params, X, Y):
            gradient = right(params, X, Y)
            return gradient | {leaf: change(gradient[leaf], params, X, l2)}

        return wrong

    return spoil


def remembered(right, l2):
    calls = []

    def wrong(params, X, Y):
        calls.append(right(params, X, Y))
        return calls[-1] | {"W": calls[0]["W"]}

    return wrong


def one_call_late(right, l2):
    calls = []

    def wrong(params, X, Y):
        calls.append(right(params, X, Y))
        return calls[-1] | {"V": calls[max(len(calls) - 2, 0)]["V"]}

    return wrong


def copied(right, l2):
    def wrong(params, X, Y):
        gradient = right(params, X, Y)
        return gradient | {"V": gradient["U"]}

    return wrong


# The loss is the mean, over N samples and 3 outputs, of the square of tanh(X W U) V + b - Y, plus l2/2 sum(W^2).
SPOILERS = (
    Spoiler("zero", "W", of("W", lambda g, p, X, l2: 0 * g)),
    Spoiler("sign", "V", of("V", lambda g, p, X, l2: -g)),
    Spoiler("double", "b", of("b", lambda g, p, X, l2: 2 * g)),
    Spoiler("half", "W", of("W", lambda g, p, X, l2: g / 2)),
    Spoiler("sum_not_mean", "W", of("W", lambda g, p, X, l2: len(X) * g)),
    Spoiler("sum_not_mean", "V", of("V", lambda g, p, X, l2: 3 * g)),  # summed over the outputs
    Spoiler("sum_not_mean", "b", of("b", lambda g, p, X, l2: 3 * len(X) * g)),
    Spoiler("mean_twice", "V", of("V", lambda g, p, X, l2: g / len(X))),
    Spoiler("mean_twice", "W", of("W", lambda g, p, X, l2: g / 3)),
    Spoiler("factor", "W", of("W", lambda g, p, X, l2: -0.37 * g)),
    Spoiler("transposed", "V", of("V", lambda g, p, X, l2: g.T)),
    Spoiler("transposed", "W", of("W", lambda g, p, X, l2: g.T)),
    Spoiler("copy", "V", copied),
    Spoiler("stale", "W", remembered),
    Spoiler("stale", "V", one_call_late),
    Spoiler("not_summed", "b", of("b", lambda g, p, X, l2: np.tile(g / len(X), (len(X), 1)))),
    Spoiler("not_finite", "b", of("b", lambda g, p, X, l2: np.full_like(g, np.nan))),
    Spoiler("precision", "W", of("W", lambda g, p, X, l2: g.astype(np.float32))),
    Spoiler("l2_missing", "W", of("W", lambda g, p, X, l2: g - l2 * p["W"]), 0.3),
    Spoiler("l2_missing", "W", of("W", lambda g, p, X, l2: g - 0.3 * p["W"]), None),
    Spoiler("l2_doubled", "W", of("W", lambda g, p, X, l2: g + l2 * p["W"]), 0.3),
    Spoiler("l2_doubled", "V", of("V", lambda g, p, X, l2: g + 0.3 * p["V"])),  # and the loss has none
    Spoiler("l2_halved", "W", of("W", lambda g, p, X, l2: g - l2 / 2 * p["W"]), 0.3),
    Spoiler("l2_sign", "W", of("W", lambda g, p, X, l2: g - 2 * l2 * p["W"]), 0.3),
    Spoiler("l2_on_bias", "b", of("b", lambda g, p, X, l2: g + l2 * p["b"]), 0.3),
    Spoiler("l2_on_bias", "b", of("b", lambda g, p, X, l2: g + 0.3 * p["b"]), None),
    Spoiler("l2_times_n", "W", of("W", lambda g, p, X, l2: g + (len(X) - 1) * l2 * p["W"]), 0.3),
    Spoiler("l2_over_n", "W", of("W", lambda g, p, X, l2: g - (1 - 1 / len(X)) * l2 * p["W"]), 0.3),
    Spoiler("l2_wrong", "W", of("W", lambda g, p, X, l2: g + 0.07 * p["W"]), 0.3),
)
