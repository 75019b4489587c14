"""A network as the audit is told about it, so that every quantity between the inputs and the gradient is known.

This is the document's backward pass once more, in NumPy and float64, with every step replaceable: a mistake in deriving
it by hand is another function in the place of one of the steps.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop._checks import check_real
from jaxbackprop.activations import Activation, get_activation
from jaxbackprop.auditing.mistakes.general import is_bias
from jaxbackprop.auditing.points import Leaves, Structure
from jaxbackprop.auditing.uncompiled import evaluate
from jaxbackprop.losses import Objective, get_objective

REDUCTIONS = ("mean", "sum", None)


def check_reduction(value: str | None) -> str | None:
    """**Raises:** `ValueError` if it is none of "mean", "sum" and None."""
    if value not in REDUCTIONS:
        raise ValueError(f'reduction={value!r} must be "mean", "sum", or None, which finds it out')
    return value


@dataclass(frozen=True)
class Network:
    """What a loss is made of: a fully connected network, whose parameters are pairs of a weight and a bias.

    - `activation`: of the hidden layers, a name or an `Activation`.
    - `objective`: "softmax", "sigmoid", "squared" or "poisson", or an `Objective` of one's own.
    - `l2`: the strength of the penalty l2/2 * sum(W^2).
    - `reduction`: whether the loss is the "mean" or the "sum" over the samples; None: found out by the loss itself.
    - `samples_first`: whether X is (samples, features) and a weight (in, out), as in most NumPy code; otherwise x is
      [features, samples] and a weight [out, in], as in the document.

    The first two arguments of the loss are the inputs and the targets, which may be labels.
    """

    activation: str | Activation
    objective: str | Objective = "softmax"
    l2: float | int = 0.0
    samples_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        get_activation(self.activation)
        get_objective(self.objective)
        check_real("l2", self.l2, 0)


def check_network_type(value: Any) -> None:
    """**Raises:** `ValueError` if it is no `Network`."""
    if not isinstance(value, Network):
        raise ValueError(f'network={value!r} must be a Network, such as Network("tanh")')


@dataclass(frozen=True)
class Layout:
    """Where the layers are among the leaves of the parameters: a pair of indices for each, weight and bias."""

    pairs: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]
    samples_first: bool

    def layers(self, leaves: Leaves) -> list[tuple[np.ndarray, np.ndarray]]:
        """W^l [out, in] and b^l [out] of every layer."""
        return [(leaves[w].T if self.samples_first else leaves[w], leaves[b].reshape(-1)) for w, b in self.pairs]

    def leaves(self, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """The other way round."""
        leaves: list[np.ndarray] = [np.empty(0)] * len(self.shapes)
        for (w, b), (weight, bias) in zip(self.pairs, layers, strict=True):
            leaves[w] = weight.T if self.samples_first else weight
            leaves[b] = bias.reshape(self.shapes[b])
        return leaves


def find_layers(structure: Structure, samples_first: bool) -> Layout:
    """Which leaves are the weights and which the biases, by name, or by order where they have no names.

    **Raises:** `ValueError` if they do not form a chain of layers.
    """
    paths, shapes = structure.paths, structure.shapes
    order = sorted(range(len(paths)), key=lambda i: _natural(paths[i]))
    named = any(re.search("[a-zA-Z]", path) for path in paths)
    biases = [i for place, i in enumerate(order) if (is_bias(paths[i], shapes[i]) if named else place % 2 == 1)]
    weights = [i for i in order if i not in biases]
    layout = Layout(tuple(zip(weights, biases, strict=False)), shapes, paths, samples_first)
    listed = ", ".join(f"{path} {shape}" for path, shape in zip(paths, shapes, strict=True))
    wanted = "(in, out)" if samples_first else "[out, in]"
    if len(weights) != len(biases):
        raise ValueError(f"network= needs a weight and a bias for each layer in params, got {listed}")
    width = None
    for w, b in layout.pairs:
        shape = shapes[w][::-1] if samples_first else shapes[w]
        if len(shape) != 2 or width not in (None, shape[1]) or np.prod(shapes[b]) != shape[0]:
            raise ValueError(
                f"network= needs layers that follow each other, weights {wanted}, got {listed}; "
                f"samples_first={not samples_first} would read them the other way"
            )
        width = shape[0]
    return layout


def _natural(path: str) -> list[tuple[int, str]]:
    """An order in which W2 comes before W10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path) if part]


class Trace(NamedTuple):
    """One forward pass in the document's numbering: `a[0]` is x, `a[L]` is y-hat, and `z[0]` is nothing.

    `slopes[l]` is f'(z^l) for a hidden layer l, `weights[l]` is W^l; `error` is N dL/dz^L, the document's delta.
    """

    weights: list[np.ndarray]
    z: list[np.ndarray]
    a: list[np.ndarray]
    slopes: list[np.ndarray]
    y: np.ndarray
    l2: float
    error: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.weights) - 1

    @property
    def samples(self) -> int:
        return self.a[0].shape[1]


def trace(network: Network, layout: Layout, point: Leaves, args: Sequence[Any]) -> Trace:
    """The forward pass at one point."""
    layers = layout.layers(point)
    x, y = read_data(network, args, outputs=layers[-1][1].size)
    activation = get_activation(network.activation)
    nothing = np.empty(0)
    weights, z, a, slopes = [nothing], [nothing], [x], [nothing]
    for l, (weight, bias) in enumerate(layers, start=1):
        weights.append(weight)
        z.append(weight @ a[-1] + bias[:, None])
        if l < len(layers):
            a.append(elementwise(activation.value, z[l]))
            slopes.append(elementwise(activation.slope, z[l], a[l]))
    a.append(predicted(network.objective, z[-1]))
    return Trace(weights, z, a, slopes, y, float(network.l2), output_error(network.objective, z[-1], a[-1], y))


def with_activation(t: Trace, activation: Activation, objective: str | Objective) -> Trace:
    """The forward pass of a trace with another activation."""
    weights, z, a, slopes = t.weights, t.z[:1], t.a[:1], t.slopes[:1]
    for l in range(1, t.depth + 1):
        bias = t.z[l] - weights[l] @ t.a[l - 1]
        z.append(weights[l] @ a[-1] + bias)
        if l < t.depth:
            a.append(elementwise(activation.value, z[l]))
            slopes.append(elementwise(activation.slope, z[l], a[l]))
    y_hat = predicted(objective, z[-1])
    return t._replace(z=z, a=[*a, y_hat], slopes=slopes, error=output_error(objective, z[-1], y_hat, t.y))


def predicted(objective: str | Objective, z: np.ndarray) -> np.ndarray:
    """y-hat from the logits, in float64."""
    return np.asarray(evaluate(get_objective(objective).predict, z))


def output_error(objective: str | Objective, z: np.ndarray, y_hat: np.ndarray, y: np.ndarray) -> np.ndarray:
    """N dL/dz^L, in float64: y-hat - y, unless the objective has another."""
    error = get_objective(objective).error
    return y_hat - y if error is None else np.asarray(evaluate(error, z, y))


def read_data(network: Network, args: Sequence[Any], outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """x [features, samples] and y [classes, samples] from the loss's first two arguments.

    **Raises:** `ValueError` if there are no two arrays that fit.
    """
    if len(args) < 2:
        raise ValueError(
            f"network= needs the inputs and the targets as the loss's first arguments, got {len(args)} of them"
        )
    x, y = np.asarray(args[0], np.float64), np.asarray(args[1])
    if x.ndim != 2:
        raise ValueError(f"network= needs inputs with two axes as the loss's first argument, got shape {x.shape}")
    x = x.T if network.samples_first else x
    samples = x.shape[1]
    if outputs > 1 and y.size == samples:  # labels
        y = np.eye(outputs)[:, y.reshape(-1).astype(int)]
    elif y.ndim == 1:
        y = y[None, :]
    elif network.samples_first:
        y = y.T
    if y.shape != (outputs, samples):
        raise ValueError(
            f"network= needs {samples} labels or {outputs} targets for each of {samples} samples as the loss's second "
            f"argument, got shape {np.shape(args[1])}"
        )
    return x, y.astype(np.float64)


class Steps(NamedTuple):
    """The steps of the backward pass, each a function of the trace. `e` is an error dL/dz, l a layer.

    - `error`: dL/dz^L.
    - `through`: dL/da^l from dL/dz^(l+1), which is `e`, and dL/dW^(l+1).
    - `slope`: f'(z^l).
    - `seen`: a^(l-1), what layer l multiplies.
    - `formed`: the error that dL/dW^l is formed with; `errors[m]` is dL/dz^m, of every layer from l on.
    - `summed`: the sum over the samples that is dL/db^l.
    """

    error: Callable[[Trace], np.ndarray] = lambda t: t.error / t.samples
    through: Callable[[Trace, int, np.ndarray, np.ndarray], np.ndarray] = lambda t, l, e, dW: t.weights[l + 1].T @ e
    slope: Callable[[Trace, int], np.ndarray] = lambda t, l: t.slopes[l]
    seen: Callable[[Trace, int], np.ndarray] = lambda t, l: t.a[l - 1]
    formed: Callable[[Trace, int, Mapping[int, np.ndarray]], np.ndarray] = lambda t, l, errors: errors[l]
    summed: Callable[[Trace, int, Mapping[int, np.ndarray]], np.ndarray] = lambda t, l, errors: errors[l].sum(axis=1)


def backward(t: Trace, steps: Steps = Steps()) -> list[tuple[np.ndarray, np.ndarray]]:  # noqa: B008
    """dL/dW^l and dL/db^l of every layer, with the given steps."""
    errors, gradient = {t.depth: steps.error(t)}, []
    for l in range(t.depth, 0, -1):
        by_weight = steps.formed(t, l, errors) @ steps.seen(t, l).T + t.l2 * t.weights[l]
        gradient.append((by_weight, steps.summed(t, l, errors)))
        if l > 1:
            errors[l - 1] = steps.through(t, l - 1, errors[l], by_weight) * steps.slope(t, l - 1)
    return gradient[::-1]


def elementwise(function: Callable[..., Any], *values: np.ndarray) -> np.ndarray:
    """A JAX function of arrays of one shape, entry by entry, in float64; its last axis may be a new one.

    The entries are laid out in a row of one of a few lengths, so that one traced program serves networks of many
    shapes.
    """
    size = values[0].size
    length = 64
    while length < size:
        length *= 4
    rows = [np.pad(value.reshape(-1), (0, length - size)) for value in values]
    out = np.asarray(evaluate(function, *rows))
    return out[..., :size].reshape(*out.shape[:-1], *values[0].shape)
