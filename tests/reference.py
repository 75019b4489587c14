"""The document's network in plain NumPy, one sample after another: a witness that shares no line with the package."""

from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_expit, log_softmax, ndtr

from jaxbackprop import Layer
from jaxbackprop.devices import compiler_options

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805

# For programs that are run a few times: the compiler's optimisations would take longer than they save.
QUICKLY = compiler_options(quick=True)


def gelu_slope(z):
    return ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def mish_slope(z):
    inner = np.logaddexp(0, z)
    return np.tanh(inner) + z * expit(z) / np.cosh(np.minimum(inner, 40)) ** 2


# Value and derivative, from other formulas than the package's.
ACTIVATIONS = {
    "sigmoid": (expit, lambda z: expit(z) * expit(-z)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.clip(z, -40, 40)) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.heaviside(z, 0)),
    "identity": (lambda z: z, np.ones_like),
    "leaky_relu": (lambda z: np.maximum(z, 0.01 * z), lambda z: 0.01 + 0.99 * np.heaviside(z, 0)),
    "elu": (lambda z: np.maximum(z, 0) + np.expm1(np.minimum(z, 0)), lambda z: np.exp(np.minimum(z, 0))),
    "selu": (
        lambda z: SCALE * (np.maximum(z, 0) + ALPHA * np.expm1(np.minimum(z, 0))),
        lambda z: SCALE * np.where(z > 0, 1, ALPHA * np.exp(np.minimum(z, 0))),
    ),
    "softplus": (lambda z: -log_expit(-z), expit),
    "silu": (lambda z: z * expit(z), lambda z: expit(z) * (1 + z * expit(-z))),
    "gelu": (lambda z: z * ndtr(z), gelu_slope),
    "mish": (lambda z: z * np.tanh(np.logaddexp(0, z)), mish_slope),
    "hardshrink": (lambda z: z * (np.abs(z) > 0.5), lambda z: 1.0 * (np.abs(z) > 0.5)),
}

# The prediction from one sample's logits, and its loss.
OBJECTIVES = {
    "softmax": (lambda z: np.exp(log_softmax(z)), lambda z, y: -np.sum(y * log_softmax(z))),
    "sigmoid": (expit, lambda z, y: -np.sum(y * log_expit(z) + (1 - y) * log_expit(-z))),
    "squared": (lambda z: z, lambda z, y: np.sum((z - y) ** 2) / 2),
    "poisson": (np.exp, lambda z, y: np.sum(np.exp(z) - y * z)),
}


def forward(params, column, activation):
    """z^1 … z^L and x, a^1 … a^(L-1) of one sample."""
    f, _ = ACTIVATIONS[activation]
    zs, inputs = [], [np.asarray(column)]
    for weight, bias in params:
        zs.append(np.asarray(weight) @ inputs[-1] + np.asarray(bias))
        inputs.append(f(zs[-1]))
    return zs, inputs[:-1]


def loss_and_grad(params, x, y, activation, *, objective="softmax", weights=None, l2=0.0):
    """Part 1d as the document corrects to: the outer products of all samples, added up one by one."""
    params = [(np.asarray(weight), np.asarray(bias)) for weight, bias in params]
    x, y = np.asarray(x), np.asarray(y)
    shares = np.full(x.shape[1], 1 / x.shape[1]) if weights is None else np.asarray(weights) / np.sum(weights)
    predict, per_sample = OBJECTIVES[objective]
    _, slope = ACTIVATIONS[activation]
    loss = sum(l2 / 2 * np.sum(weight**2) for weight, _ in params)
    gradient = [Layer(l2 * weight, np.zeros_like(bias)) for weight, bias in params]
    for n, share in enumerate(shares):
        zs, inputs = forward(params, x[:, n], activation)
        loss += share * per_sample(zs[-1], y[:, n])
        error = share * (predict(zs[-1]) - y[:, n])
        for l in reversed(range(len(params))):
            weight, bias = gradient[l]
            gradient[l] = Layer(weight + np.outer(error, inputs[l]), bias + error)
            if l > 0:
                error = params[l][0].T @ error * slope(zs[l - 1])
    return loss, tuple(gradient)


class Problem(NamedTuple):
    """A network and a batch for it."""

    params: tuple[Layer, ...]
    x: jnp.ndarray
    y: jnp.ndarray
    weights: jnp.ndarray


def draw_problem(seed, sizes, samples, *, objective="softmax", dtype=np.float64):
    """Parameters of a scale that keeps units out of saturation, inputs, targets and sample weights."""
    rng = np.random.default_rng(seed)
    classes = sizes[-1]
    targets = {
        "softmax": np.eye(classes)[:, rng.permutation(np.arange(samples) % classes)],
        "sigmoid": rng.integers(0, 2, (classes, samples)),
        "squared": rng.normal(size=(classes, samples)),
        "poisson": rng.poisson(2.0, (classes, samples)),
    }
    params = tuple(
        Layer(jnp.asarray(rng.normal(0, i**-0.5, (o, i)), dtype), jnp.asarray(rng.normal(0, 0.3, o), dtype))
        for i, o in pairwise(sizes)
    )
    x, weights = rng.normal(size=(sizes[0], samples)), rng.uniform(0.5, 2, samples)
    return Problem(params, *(jnp.asarray(array, dtype) for array in (x, targets[objective], weights)))
