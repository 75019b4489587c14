"""Initial parameters as scikit-learn's multi-layer perceptron draws them: the very same numbers for the same seed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxbackprop.network import Layer, Params
from jaxbackprop.sweeps.grid import Trial


def glorot_start(seed: int, sizes: Sequence[int], activation: str, dtype: Any) -> Params:
    """Weights and biases uniform on [-b, b] with b^2 = 6 / (fan_in + fan_out), or 2 / (…) before a sigmoid (Glorot and
    Bengio 2010); drawn layer by layer from `RandomState(seed)`."""
    generator = np.random.RandomState(seed)
    factor = 2 if activation == "sigmoid" else 6
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        bound = np.sqrt(factor / (fan_in + fan_out))
        weight: Any = generator.uniform(-bound, bound, (fan_in, fan_out)).T.astype(dtype)
        bias: Any = generator.uniform(-bound, bound, fan_out).astype(dtype)
        layers.append(Layer(weight, bias))
    return tuple(layers)


def glorot_starts(members: Sequence[Trial], padded: tuple[int, ...], *, dtype: Any) -> Params:
    """The starts of many networks, stacked, and filled up with zeros to the layer sizes `padded`."""
    features, *_, outputs = padded
    keys = [(trial.seed, trial.hidden, trial.activation == "sigmoid") for trial in members]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    zeros: Any = np.zeros
    distinct = tuple(
        Layer(zeros((len(places), m, n), dtype), zeros((len(places), m), dtype)) for n, m in pairwise(padded)
    )
    for (seed, hidden, squashed), place in places.items():
        start = glorot_start(seed, (features, *hidden, outputs), "sigmoid" if squashed else "", dtype)
        for stacked, layer in zip(distinct, start, strict=True):
            m, n = layer.weight.shape
            stacked.weight[place, :m, :n], stacked.bias[place, :m] = layer
    which = np.array([places[key] for key in keys])
    return tuple(Layer(layer.weight[which], layer.bias[which]) for layer in distinct)
