"""The derivatives f'(z) that people write down in place of the right one.

A row is a formula of z and a = f(z), and the sentence that it stands for. Some rows are of one activation only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbackprop.activations import ACTIVATIONS, LEAK, SELU_ALPHA, SELU_SCALE, SHRINK, Activation
from jaxbackprop.auditing.layered import elementwise

Formula = Callable[[Array, Array], Array]

# f'(z) as the sentences write it; {z} is the z of a layer. An a^2 would be taken for the a of layer 2.
FORMULAS = {
    "sigmoid": "s (1 - s) with s = sigmoid({z})",
    "tanh": "1 - tanh({z})^2",
    "relu": "1 where {z} > 0, otherwise 0",
    "identity": "1",
    "leaky_relu": f"1 where {{z}} > 0, otherwise {LEAK}",
    "elu": "1 where {z} > 0, otherwise e^z",
    "selu": f"{SELU_SCALE:.4f} where {{z}} > 0, otherwise {SELU_SCALE * SELU_ALPHA:.4f} e^z",
    "softplus": "sigmoid({z})",
    "silu": "s + z s (1 - s) with z = {z} and s = sigmoid(z)",
    "gelu": "Phi(z) + z phi(z) with z = {z}",
    "mish": "t + z (1 - t^2) sigmoid(z) with z = {z} and t = tanh(log(1 + e^z))",
    "hardshrink": f"1 where |{{z}}| > {SHRINK}, otherwise 0",
}


class WrongSlope(NamedTuple):
    """A code, what is wrong (with {f}, {z}, {a}, {formula} to be filled in), and its values at z and a."""

    code: str
    sentence: str
    values: Float[np.ndarray, "units samples"]


ALWAYS_ONE = "the derivative of {f} is missing: what comes back through W has to be multiplied by {f}'({z}) = {formula}"
TAKEN_AT_A = "the derivative of {f} is taken at {a}, after the activation, and belongs at {z}: {f}'({z}) = {formula}"
FORMULA_OF_Z = (
    "the derivative of {f} is written in terms of {a} = {f}({z}), and {z} is put in for {a}: {f}'({z}) = {formula}"
)
IS_A = "{a} stands where {f}'({z}) belongs: {f}'({z}) = {formula}"
IS_1_MINUS_A = "1 - {a} stands where {f}'({z}) belongs: {f}'({z}) = {formula}"
TWICE = "the derivative of {f} is multiplied in twice: {f}'({z}) = {formula} belongs there once"
OF_ANOTHER = "the derivative of {other} is used: the activation is {f}, and {f}'({z}) = {formula}"

# Written for one activation by name; the rest is for all of them.
OF_ONE_ACTIVATION: dict[str, tuple[tuple[str, str, Formula], ...]] = {
    "tanh": (
        (
            "tanh_slope_cosh_2z",
            "tanh'({z}) is written 1/cosh(2z): it is 1/cosh(z)^2, the square of the cosh, which is 1 - tanh(z)^2",
            lambda z, a: 1 / jnp.cosh(2 * z),
        ),
        (
            "tanh_slope_of_z_squared",
            "tanh'({z}) is written 1 - tanh(z^2): it is 1 - tanh(z)^2, the square of the tanh, not of z",
            lambda z, a: 1 - jnp.tanh(z**2),
        ),
        (
            "tanh_slope_not_squared",
            "tanh'({z}) is written 1 - tanh(z): it is 1 - tanh(z)^2, the square is missing",
            lambda z, a: 1 - a,
        ),
        (
            "tanh_slope_not_squared",
            "tanh'({z}) is written 1/cosh(z): it is 1/cosh(z)^2, the square is missing",
            lambda z, a: 1 / jnp.cosh(z),
        ),
        (
            "tanh_slope_sign",
            "tanh'({z}) is written 1 + tanh(z)^2: it is 1 - tanh(z)^2, the quotient rule subtracts",
            lambda z, a: 1 + a * a,
        ),
        (
            "tanh_slope_sinh",
            "tanh'({z}) is written 1 - sinh(z)/(2 cosh(z)^2): it is 1 - sinh(z)^2/cosh(z)^2 = 1/cosh(z)^2",
            lambda z, a: 1 - jnp.sinh(z) / (2 * jnp.cosh(z) ** 2),
        ),
    ),
    "sigmoid": (
        (
            "sigmoid_slope_unfinished",
            "sigmoid'({z}) is written s: it is s (1 - s) with s = sigmoid({z}), the factor (1 - s) is missing",
            lambda z, a: a,
        ),
        (
            "sigmoid_slope_unfinished",
            "sigmoid'({z}) is written 1 - s: it is s (1 - s) with s = sigmoid({z}), the factor s is missing",
            lambda z, a: 1 - a,
        ),
        (
            "sigmoid_slope_sign",
            "sigmoid'({z}) is written s (1 + s): it is s (1 - s) with s = sigmoid({z})",
            lambda z, a: a * (1 + a),
        ),
        (
            "sigmoid_slope_1_minus_z",
            "sigmoid'({z}) is written sigmoid(z) sigmoid(1 - z): it is s (1 - s) with s = sigmoid({z}); 1 - s is "
            "sigmoid(-z), not sigmoid(1 - z)",
            lambda z, a: a / (1 + jnp.exp(z - 1)),
        ),
        (
            "sigmoid_slope_quotient",
            "sigmoid'({z}) is written e^-z/(1 + z^2)^2: the quotient rule gives e^-z/(1 + e^-z)^2, which is s (1 - s)",
            lambda z, a: jnp.exp(-z) / (1 + z**2) ** 2,
        ),
    ),
    "relu": (
        (
            "slope_missing",
            "the derivative of relu is 1 everywhere: it is missing, or its mask is made from what is never negative, "
            "and relu'({z}) = {formula}",
            lambda z, a: jnp.ones_like(z),
        ),
        (
            "relu_slope_clipped",
            "relu'({z}) is a clipped to between 0 and 1: it is a step, {formula}, whatever the size of z",
            lambda z, a: jnp.clip(a, 0, 1),
        ),
    ),
}


def wrong_slopes(activation: Activation, z: np.ndarray, a: np.ndarray) -> list[WrongSlope]:
    """What all the wrong derivatives give at z and a; earlier ones are preferred where two of them agree."""
    rows = [
        WrongSlope(code, sentence, elementwise(values, z, a))
        for code, sentence, values in OF_ONE_ACTIVATION.get(activation.name, ())
    ]
    right = elementwise(activation.slope, z, a)
    at_a = elementwise(activation.derivative, a)
    generic = [
        WrongSlope("slope_missing", ALWAYS_ONE, np.ones_like(z)),
        WrongSlope("slope_at_a", TAKEN_AT_A, at_a),
        WrongSlope("slope_formula_of_z", FORMULA_OF_Z, elementwise(activation.slope, z, z)),
    ]
    others = elementwise(_slopes_of_all, z, a)
    for (name, other), (formula_of_a, derivative) in zip(ACTIVATIONS.items(), others, strict=True):
        sentence = OF_ANOTHER.replace("{other}", name)
        if other != activation and name != "identity":  # whose derivative is 1, as if there were none
            generic.append(WrongSlope("slope_of_other", sentence, derivative))
            generic.append(WrongSlope("slope_of_other", sentence, formula_of_a))
    last = [
        WrongSlope("slope_is_a", IS_A, a),
        WrongSlope("slope_is_1_minus_a", IS_1_MINUS_A, 1 - a),
        WrongSlope("slope_twice", TWICE, right**2),
    ]
    first = [row for row in generic[:3] if row.code not in {own.code for own in rows}]
    return [*first, *rows, *generic[3:], *last]


def _slopes_of_all(z: Array, a: Array) -> Array:
    """Of every activation the formula in terms of a given this a, and the derivative at z."""
    return jnp.stack(
        [jnp.stack([activation.slope(z, a), activation.derivative(z)]) for activation in ACTIVATIONS.values()]
    )


def formula(activation: Activation, z: str) -> str:
    """f'(z) in words."""
    return FORMULAS.get(activation.name, f"the derivative of {activation.name} at {{z}}").format(z=z)
