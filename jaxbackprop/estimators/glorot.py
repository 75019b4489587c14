"""Initial parameters as scikit-learn's multi-layer perceptron draws them: the very same numbers for the same seed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxbackprop.activations import OneOrEach
from jaxbackprop.network import Layer, Params
from jaxbackprop.sweeps.grid import Trial


def glorot_start(seed: int, sizes: Sequence[int], activation: OneOrEach, dtype: Any) -> Params:
    """Weights and biases uniform on [-b, b] with b^2 = 6 / (fan_in + fan_out), or 2 / (…) before a sigmoid (Glorot and
    Bengio 2010); drawn layer by layer from `RandomState(seed)`. The last layer is drawn as the last hidden one is."""
    return _draw(seed, sizes, _factors(activation, len(sizes) - 1), dtype)


def glorot_starts(members: Sequence[Trial], padded: tuple[int, ...], *, dtype: Any) -> Params:
    """The starts of many networks, stacked, and filled up with zeros to the layer sizes `padded`."""
    features, *_, outputs = padded
    keys = [(trial.seed, trial.hidden, _factors(trial.activation, len(padded) - 1)) for trial in members]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    zeros: Any = np.zeros
    distinct = tuple(
        Layer(zeros((len(places), m, n), dtype), zeros((len(places), m), dtype)) for n, m in pairwise(padded)
    )
    for (seed, hidden, factors), place in places.items():
        start = _draw(seed, (features, *hidden, outputs), factors, dtype)
        for stacked, layer in zip(distinct, start, strict=True):
            m, n = layer.weight.shape
            stacked.weight[place, :m, :n], stacked.bias[place, :m] = layer
    which = np.array([places[key] for key in keys])
    return tuple(Layer(layer.weight[which], layer.bias[which]) for layer in distinct)


def _factors(activation: OneOrEach, layers: int) -> tuple[int, ...]:
    """The numerator of b^2 of each layer."""
    each = activation if isinstance(activation, tuple) else (activation,) * max(1, layers - 1)
    return tuple(2 if name == "sigmoid" else 6 for name in (*each, each[-1] if each else ""))[-layers:]


def _draw(seed: int, sizes: Sequence[int], factors: tuple[int, ...], dtype: Any) -> Params:
    generator = np.random.RandomState(seed)
    layers = []
    for (fan_in, fan_out), factor in zip(pairwise(sizes), factors, strict=True):
        bound = np.sqrt(factor / (fan_in + fan_out))
        weight: Any = generator.uniform(-bound, bound, (fan_in, fan_out)).T.astype(dtype)
        bias: Any = generator.uniform(-bound, bound, fan_out).astype(dtype)
        layers.append(Layer(weight, bias))
    return tuple(layers)


def to_params(coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Params:
    """The document's W^l and b^l from scikit-learn's attributes."""
    make: Any = Layer
    return tuple(make(coef.T, intercept) for coef, intercept in zip(coefs, intercepts, strict=True))


def refuse_other_layers(coefs: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
    """**Raises:** `ValueError` if a network has not the layers that it should go on with, from features to outputs."""
    had = [len(coefs[0]), *(coef.shape[1] for coef in coefs)]
    if had != list(sizes):
        raise ValueError(
            f"hidden_layer_sizes and y ask for layers of {list(sizes)} units, features first, but the network that "
            f"goes on has {had}; warm_start=False begins a new one"
        )
