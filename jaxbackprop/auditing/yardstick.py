"""The right values of a network of the course, in NumPy and float64, in the shapes of somebody else's code.

These are the package's own hand-derived formulas, which its tests hold against `jax.grad`; here they cost no compiling.
"""

from collections import namedtuple
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.judge import compare
from jaxbackprop.auditing.layered import Layout, Network, Trace, backward, find_layers, trace
from jaxbackprop.auditing.mistakes.shapes import fits
from jaxbackprop.auditing.points import Structure, describe
from jaxbackprop.auditing.uncompiled import evaluate
from jaxbackprop.auditing.witness import Known, Witness
from jaxbackprop.losses import Objective, get_objective

Leaves = Mapping[str, np.ndarray]
WITNESS = "the document's gradient, which is proven against jax.grad, in float64"
OTHER_WITNESS = "the gradient of the {name}, by hand, in float64"


class Data(NamedTuple):
    """X (samples, features) and the labels."""

    X: np.ndarray
    y: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.y)


class Yardstick(NamedTuple):
    """A network and a batch, ready to say what is right."""

    network: Network
    structure: Structure
    layout: Layout
    args: tuple[np.ndarray, np.ndarray]

    def trace(self, leaves: Leaves) -> Trace:
        return trace(self.network, self.layout, [np.asarray(leaf, np.float64) for leaf in leaves.values()], self.args)

    def gradient(self, leaves: Leaves) -> dict[str, np.ndarray]:
        right = self.layout.leaves(backward(self.trace(leaves)))
        return dict(zip(leaves, right, strict=True))

    def loss(self, leaves: Leaves) -> float:
        """The mean cross-entropy, or what else the network is trained for, and the penalty l2/2 sum(W^2)."""
        t = self.trace(leaves)
        penalty = sum(float(np.sum(weight**2)) for weight in t.weights[1:])
        if self.network.objective == "softmax":
            return float(-np.sum(t.y * np.log(t.a[-1])) / t.samples + t.l2 / 2 * penalty)
        each = evaluate(get_objective(self.network.objective).per_sample, t.z[-1], t.y)
        return float(np.mean(each) + t.l2 / 2 * penalty)

    def witness(self) -> Witness:
        def at(point: Any) -> Known:
            right = self.layout.leaves(backward(trace(self.network, self.layout, point, self.args)))
            return Known(right, [np.zeros_like(leaf) for leaf in right], [None] * len(right))

        def rounded(point: Any, dtype: Any) -> list[np.ndarray]:
            rough = at([np.asarray(leaf, dtype).astype(np.float64) for leaf in point]).gradient
            return [np.asarray(leaf, dtype).astype(np.float64) for leaf in rough]

        name = get_objective(self.network.objective).name
        return Witness(WITNESS if name == "softmax" else OTHER_WITNESS.format(name=name), at, rounded)


def yardstick(
    leaves: Leaves,
    data: Data,
    activation: str,
    samples_first: bool,
    l2: float = 0.0,
    objective: str | Objective = "softmax",
) -> Yardstick:
    """The right values for parameters named W1, b1, W2, …, whose weights are (in, out) or [out, in]."""
    network = Network(activation, objective, l2=l2, samples_first=samples_first)
    structure = describe(in_order(leaves))
    args = (data.X if samples_first else data.X.T, data.y)
    return Yardstick(network, structure, find_layers(structure, samples_first), args)


def in_order(leaves: Mapping[str, Any]) -> Any:
    """A named tuple of the leaves, so that a report lists them as W1, b1, W2, b2."""
    return namedtuple("Parameters", list(leaves))(**leaves)


def right_leaves(got: Leaves, right: Leaves, factor: float = 1.0, tolerance: float = 1e-6) -> list[str]:
    """Which leaves are `factor` times the right gradient."""
    return [
        name
        for name, leaf in right.items()
        if fits(np.shape(got[name]), leaf.shape)
        and not compare(
            np.asarray(got[name], np.float64).reshape(leaf.shape), factor * leaf, np.zeros_like(leaf), None, tolerance
        ).wrong
    ]


def is_sum(got: Leaves, right: Leaves, samples: int) -> bool:
    """Whether a gradient is rather that of the sum over the samples than of their mean, as far as its leaves tell."""
    as_mean, as_sum = len(right_leaves(got, right)), len(right_leaves(got, right, samples))
    if as_mean != as_sum:
        return as_sum > as_mean
    if as_mean:
        return False
    sizes = [
        np.linalg.norm(got[name]) / np.linalg.norm(leaf)
        for name, leaf in right.items()
        if fits(np.shape(got[name]), leaf.shape) and np.linalg.norm(leaf) > 0 and np.isfinite(got[name]).all()
    ]
    return bool(sizes) and float(np.median(sizes)) > samples**0.5


def draw_leaves(shapes: Mapping[str, tuple[int, ...]], samples_first: bool, rng: np.random.Generator) -> Leaves:
    """Random parameters of a usual size."""
    leaves = {}
    for name, shape in shapes.items():
        fan_in = shape[0] if samples_first else shape[-1]
        leaves[name] = rng.normal(size=shape) / np.sqrt(fan_in) if name[0] == "W" else rng.normal(0, 0.3, shape)
    return leaves


def draw_data(features: int, classes: int, samples: int, rng: np.random.Generator) -> Data:
    """A random batch in which every class is there, if there are samples enough."""
    return Data(rng.normal(size=(samples, features)), rng.permutation(np.arange(samples) % classes))
