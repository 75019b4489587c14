"""The forward pass in plain NumPy, samples first as scikit-learn's arrays are: predicting compiles nothing.

The parameters of one network, or of many stacked along a first axis, go through the same lines.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import erf, expit

from jaxbackprop.activations import LEAK, SELU_ALPHA, SELU_SCALE, SHRINK

Values = Float[np.ndarray, "*shape"]


def _elu(z: Values) -> Values:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


FUNCTIONS: dict[str, Callable[[Values], Values]] = {
    "sigmoid": expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "identity": lambda z: z,
    "leaky_relu": lambda z: np.where(z > 0, z, LEAK * z),
    "elu": _elu,
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: np.logaddexp(z, z.dtype.type(0)),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: z * (1 + erf(z * z.dtype.type(np.sqrt(0.5)))) / 2,
    "mish": lambda z: z * np.tanh(np.logaddexp(z, z.dtype.type(0))),
    "hardshrink": lambda z: np.where(np.abs(z) <= SHRINK, 0, z),
}


def _softmax(z: Values) -> Values:
    # NumPy takes maxima and sums of few classes twice as fast where the samples lie next to each other.
    last = np.ascontiguousarray(z.T)
    e = np.exp(last - last.max(axis=0))
    return (e / e.sum(axis=0)).T


OUTPUTS: dict[str, Callable[[Values], Values]] = {
    "softmax": _softmax,
    "sigmoid": expit,
    "squared": lambda z: z,
    "poisson": np.exp,
}


def with_waves(
    X: Float[np.ndarray, "samples features"], frequency: Float[np.ndarray, "embedded waves"]
) -> Float[np.ndarray, "samples inputs"]:
    """What the first layer behind an embedding is given: features, their sines and their cosines, see `embedded`."""
    v = (X[:, : len(frequency), None] * (frequency * X.dtype.type(2 * np.pi))).reshape(len(X), frequency.size)
    return np.hstack([X, np.sin(v), np.cos(v)])


def logits(
    X: Float[np.ndarray, "samples features"],
    coefs: Sequence[Float[np.ndarray, "*networks _ _"]],
    intercepts: Sequence[Float[np.ndarray, "*networks _"]],
    activation: str | Callable[[Values], Values] | tuple[str | Callable[[Values], Values], ...],
) -> Float[np.ndarray, "*networks samples outputs"]:
    """z of the last layer; `coefs` are [in, out] each, the transposes of the document's W. `activation` is one for all
    hidden layers, or one for each."""
    each = activation if isinstance(activation, tuple) else (activation,) * len(coefs)
    functions = [FUNCTIONS[f] if isinstance(f, str) else f for f in each]
    a = X
    for l, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        z = a @ coef
        z += intercept[..., None, :]
        a = z if l == len(coefs) - 1 else functions[l](z)
    return a


def outputs(
    X: Float[np.ndarray, "samples features"],
    coefs: Sequence[Float[np.ndarray, "*networks _ _"]],
    intercepts: Sequence[Float[np.ndarray, "*networks _"]],
    activation: str | tuple[str, ...],
    objective: str,
) -> Float[np.ndarray, "*networks samples outputs"]:
    """y-hat: probabilities, or for the objectives "squared" and "poisson" the predicted numbers."""
    return OUTPUTS[objective](logits(X, coefs, intercepts, activation))
