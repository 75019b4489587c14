"""The derivatives f'(z) that people write down in place of the right one.

A row is a formula of z and a = f(z), and the sentence that it stands for. Some rows are of one activation only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbackprop.activations import ACTIVATIONS, LEAK, SELU_ALPHA, SELU_SCALE, SHRINK, Activation
from jaxbackprop.audit.network import elementwise

Formula = Callable[[Array, Array], Array]

# f'(z) as the sentences write it.
FORMULAS = {
    "sigmoid": "a (1 - a)",
    "tanh": "1 - a^2",
    "relu": "1 where z > 0, otherwise 0",
    "identity": "1",
    "leaky_relu": f"1 where z > 0, otherwise {LEAK}",
    "elu": "1 where z > 0, otherwise a + 1",
    "selu": f"{SELU_SCALE:.4f} where z > 0, otherwise a + {SELU_SCALE * SELU_ALPHA:.4f}",
    "softplus": "sigmoid(z)",
    "silu": "s + a (1 - s) with s = sigmoid(z)",
    "gelu": "Phi(z) + z phi(z)",
    "mish": "t + z (1 - t^2) sigmoid(z) with t = tanh(log(1 + e^z))",
    "hardshrink": f"1 where |z| > {SHRINK}, otherwise 0",
}


class WrongSlope(NamedTuple):
    """A code, what is wrong (with {f}, {z}, {a}, {formula} to be filled in), and its values at z and a."""

    code: str
    sentence: str
    values: Float[np.ndarray, "units samples"]


ALWAYS_ONE = (
    "the derivative of {f} is missing: delta goes back through W and is not multiplied by {f}'({z}) = {formula}"
)
TAKEN_AT_A = "the derivative of {f} is taken at {a} where it belongs at {z}: {f}'({z}) = {formula}"
FORMULA_OF_Z = "the formula for {f}' in terms of a is given {z} where it wants {a}: {f}'({z}) = {formula} with a = {a}"
IS_A = "{a} itself stands in the place of {f}'({z}), which is {formula}"
IS_1_MINUS_A = "1 - {a} stands in the place of {f}'({z}), which is {formula}"
TWICE = "the derivative of {f} is multiplied in twice: {f}'({z}) = {formula} belongs there once"
OF_ANOTHER = "the derivative of {other} is used: the activation is {f}, and {f}'({z}) = {formula}"

# Written for one activation by name; the rest is for all of them.
OF_ONE_ACTIVATION: dict[str, tuple[tuple[str, str, Formula], ...]] = {
    "tanh": (
        (
            "tanh_slope_cosh_2z",
            "tanh' is written 1/cosh(2z), it is 1/cosh(z)^2 = 1 - a^2",
            lambda z, a: 1 / jnp.cosh(2 * z),
        ),
        (
            "tanh_slope_of_z_squared",
            "tanh' is written 1 - tanh(z^2), it is 1 - tanh(z)^2",
            lambda z, a: 1 - jnp.tanh(z**2),
        ),
        ("tanh_slope_not_squared", "tanh' is written 1 - tanh(z), it is 1 - tanh(z)^2", lambda z, a: 1 - a),
        ("tanh_slope_not_squared", "tanh' is written 1/cosh(z), it is 1/cosh(z)^2", lambda z, a: 1 / jnp.cosh(z)),
        ("tanh_slope_sign", "tanh' is written 1 + tanh(z)^2, it is 1 - tanh(z)^2", lambda z, a: 1 + a * a),
    ),
    "sigmoid": (
        (
            "sigmoid_slope_unfinished",
            "sigmoid' is written s, it is s (1 - s): the factor (1 - s) is missing",
            lambda z, a: a,
        ),
        (
            "sigmoid_slope_unfinished",
            "sigmoid' is written 1 - s, it is s (1 - s): the factor s is missing",
            lambda z, a: 1 - a,
        ),
        ("sigmoid_slope_sign", "sigmoid' is written s (1 + s), it is s (1 - s)", lambda z, a: a * (1 + a)),
    ),
}


def wrong_slopes(activation: Activation, z: np.ndarray, a: np.ndarray) -> list[WrongSlope]:
    """What all the wrong derivatives give at z and a; earlier ones are preferred where two of them agree."""
    rows = [
        WrongSlope(code, sentence, elementwise(values, z, a))
        for code, sentence, values in OF_ONE_ACTIVATION.get(activation.name, ())
    ]
    right = elementwise(activation.slope, z, a)
    at_a = elementwise(activation.slope, a, elementwise(activation.value, a))
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
    return [*generic[:3], *rows, *generic[3:], *last]


def _slopes_of_all(z: Array, a: Array) -> Array:
    """Of every activation the formula in terms of a given this a, and the derivative at z."""
    return jnp.stack(
        [jnp.stack([activation.slope(z, a), activation.derivative(z)]) for activation in ACTIVATIONS.values()]
    )


def formula(activation: Activation) -> str:
    """f'(z) in words."""
    return FORMULAS.get(activation.name, f"the derivative of {activation.name}")
