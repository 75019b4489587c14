"""Part 1b: activation functions f and their derivatives f', derived by hand.

Each activation is a pair of functions. `f(z)` is its value; `f_slope(z, a)` is its derivative at z, where a = f(z) has
already been computed by the forward pass, so that the cheaper of the two can be used: 1 - a^2 needs no second tanh.
The derivation stands above the line that computes it.

A kink is a point where the left and the right derivative differ. There f' takes the value of the "otherwise" branch, as
the document does for relu: relu'(0) = 0. The kinks of each activation are listed in its `Activation`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import pi, sqrt

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop._checks import choose

Elementwise = Float[Array, "*shape"]


def sigmoid(z: Elementwise) -> Elementwise:
    """f(z) = 1 / (1 + e^-z)."""
    return lax.logistic(z)


def sigmoid_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = e^-z / (1 + e^-z)^2 = f (1 - f).

    d/dz (1 + e^-z)^-1 = (1 + e^-z)^-2 e^-z, and e^-z / (1 + e^-z) = ((1 + e^-z) - 1) / (1 + e^-z) = 1 - f(z).
    """
    return a * (1 - a)


def tanh(z: Elementwise) -> Elementwise:
    """f(z) = sinh(z) / cosh(z)."""
    return jnp.tanh(z)


def tanh_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1 - f^2.

    By the quotient rule (cosh cosh - sinh sinh) / cosh^2 = 1 - sinh^2 / cosh^2.
    """
    return 1 - a * a


def relu(z: Elementwise) -> Elementwise:
    """f(z) = max(0, z)."""
    # Not jnp.maximum: autodiff splits a tie there in halves, the document takes 0. And z <= 0 rather than z > 0, so
    # that NaN stays NaN: a network that diverged must not look finite.
    return jnp.where(z <= 0, 0, z)


def relu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1 where z > 0, otherwise 0; so f'(0) = 0. As a > 0 exactly where z > 0, a alone tells."""
    return jnp.where(a > 0, jnp.ones_like(a), 0)


def identity(z: Elementwise) -> Elementwise:
    """f(z) = z."""
    return z


def identity_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1."""
    return jnp.ones_like(a)


LEAK = 0.01


def leaky_relu(z: Elementwise) -> Elementwise:
    """f(z) = z where z > 0, otherwise 0.01 z (Maas, Hannun and Ng 2013)."""
    return jnp.where(z > 0, z, LEAK * z)


def leaky_relu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1 where z > 0, otherwise 0.01; a has the sign of z."""
    return jnp.where(a > 0, jnp.ones_like(a), LEAK)


def elu(z: Elementwise) -> Elementwise:
    """f(z) = z where z > 0, otherwise e^z - 1 (Clevert, Unterthiner and Hochreiter 2015, alpha = 1)."""
    # The inner `where` keeps e^z from overflowing in the branch that is not taken, which autodiff would turn into NaN.
    return jnp.where(z > 0, z, jnp.expm1(jnp.where(z > 0, 0, z)))


def elu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1 where z > 0, otherwise e^z = f + 1. Both are 1 at z = 0: no kink."""
    return jnp.where(a > 0, jnp.ones_like(a), a + 1)


# Klambauer, Unterthiner, Mayr and Hochreiter 2017: the fixed point of mean 0 and variance 1.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def selu(z: Elementwise) -> Elementwise:
    """f(z) = s z where z > 0, otherwise s alpha (e^z - 1), with s = 1.0507, alpha = 1.6733 (Klambauer et al. 2017)."""
    return SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * jnp.expm1(jnp.where(z > 0, 0, z)))


def selu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = s where z > 0, otherwise s alpha e^z = f + s alpha."""
    return jnp.where(a > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)


def softplus(z: Elementwise) -> Elementwise:
    """f(z) = log(1 + e^z) = max(0, z) + log(1 + e), with e = e^-|z|, which cannot overflow.

    The logarithm is 2 artanh(s) with s = e / (2 + e) <= 1/3, and that a short series, 2 (s + s^3/3 + s^5/5 + …): to the
    last bits in half the time that XLA's log1p takes.
    """
    e = jnp.exp(jnp.minimum(z, -z))  # autodiff finds 0 for the slope of -|z| at 0 by it
    s = e / (2 + e)
    terms = 8 if e.dtype == jnp.float32 else 17
    series = reduce(lambda higher, k: 1 / (2 * k + 1) + s * s * higher, reversed(range(terms)), jnp.zeros_like(s))
    return jnp.maximum(z, 0) + 2 * s * series


def softplus_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = e^z / (1 + e^z) = sigmoid(z) = 1 - e^-f, since e^f = 1 + e^z."""
    return -jnp.expm1(-a)


def silu(z: Elementwise) -> Elementwise:
    """f(z) = z s with s = sigmoid(z) (Elfwing, Uchibe and Doya 2017)."""
    return z * sigmoid(z)


def silu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = s + z s (1 - s) = s + f (1 - s)."""
    s = sigmoid(z)
    return s + a * (1 - s)


def gelu(z: Elementwise) -> Elementwise:
    """f(z) = z Phi(z), Phi the normal distribution function (Hendrycks and Gimpel 2016; exact, not the tanh form)."""
    return z * 0.5 * (1 + lax.erf(z * sqrt(0.5)))


def gelu_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = Phi(z) + z phi(z), with the density phi(z) = e^(-z^2 / 2) / sqrt(2 pi) = Phi'(z)."""
    return 0.5 * (1 + lax.erf(z * sqrt(0.5))) + z * jnp.exp(-0.5 * z * z) / sqrt(2 * pi)


def mish(z: Elementwise) -> Elementwise:
    """f(z) = z t with t = tanh(log(1 + e^z)) (Misra 2019)."""
    return z * _mish_terms(z)[0]


def mish_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = t + z (1 - t^2) sigmoid(z): the product rule, with (log(1 + e^z))' = sigmoid(z)."""
    t, complement, s = _mish_terms(z)
    return t + z * complement * s


def _mish_terms(z: Elementwise) -> tuple[Elementwise, Elementwise, Elementwise]:
    """t = tanh(log(1 + e^z)), 1 - t^2 and sigmoid(z), from one exponential.

    With e = e^z and w = e (e + 2), tanh(log u) = (u^2 - 1) / (u^2 + 1) for u = 1 + e gives t = w / (w + 2), hence
    1 - t^2 = 4 (w + 1) / (w + 2)^2. Past z = 20 t is 1 to the last bit of a float64, so the exponential stops there.
    """
    e = jnp.exp(jnp.where(z > 20, 20, z))
    w = e * (e + 2)
    r = 1 / (w + 2)
    return w * r, 4 * (w + 1) * r * r, e / (1 + e)


SHRINK = 0.5


def hardshrink(z: Elementwise) -> Elementwise:
    """f(z) = z where |z| > 0.5, otherwise 0."""
    return jnp.where(jnp.abs(z) <= SHRINK, 0, z)


def hardshrink_slope(z: Elementwise, a: Elementwise) -> Elementwise:
    """f'(z) = 1 where |z| > 0.5, otherwise 0; f jumps at +-0.5, where f' takes the otherwise branch, 0."""
    return jnp.where(a != 0, jnp.ones_like(a), 0)


@dataclass(frozen=True)
class Activation:
    """An activation function, elementwise.

    - `name`: what tables show.
    - `value`: f(z), for z of any shape.
    - `slope`: f'(z), as a function of z and a = f(z), of the same shape.
    - `kinks`: the z where the left and the right derivative differ; there `slope` is not compared with autodiff.
    """

    name: str
    value: Callable[[Elementwise], Elementwise]
    slope: Callable[[Elementwise, Elementwise], Elementwise]
    kinks: tuple[float, ...] = ()

    def derivative(self, z: Elementwise) -> Elementwise:
        """f'(z)."""
        return self.slope(z, self.value(z))


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("sigmoid", sigmoid, sigmoid_slope),
        Activation("tanh", tanh, tanh_slope),
        Activation("relu", relu, relu_slope, kinks=(0.0,)),
        Activation("identity", identity, identity_slope),
        Activation("leaky_relu", leaky_relu, leaky_relu_slope, kinks=(0.0,)),
        Activation("elu", elu, elu_slope),
        Activation("selu", selu, selu_slope, kinks=(0.0,)),
        Activation("softplus", softplus, softplus_slope),
        Activation("silu", silu, silu_slope),
        Activation("gelu", gelu, gelu_slope),
        Activation("mish", mish, mish_slope),
        Activation("hardshrink", hardshrink, hardshrink_slope, kinks=(-SHRINK, SHRINK)),
    )
}
"""The activations that have a name, by it."""


def get_activation(activation: str | Activation) -> Activation:
    """The `Activation` of that name; an `Activation` is returned as it is.

    **Raises:** `ValueError` for an unknown name, with the nearest known one.
    """
    if isinstance(activation, Activation):
        return activation
    return choose("activation", activation, ACTIVATIONS)


OneOrEach = str | Activation | tuple[str | Activation, ...]  # for all hidden layers the same, or one for each of them


def layer_activations(activation: OneOrEach, hidden: int) -> tuple[Activation, ...]:
    """The `Activation` of each of so many hidden layers.

    **Raises:** `ValueError` for an unknown name, or for a tuple of another length.
    """
    if not isinstance(activation, tuple):
        return (get_activation(activation),) * hidden
    if len(activation) != hidden:
        raise ValueError(
            f"activation must be one for all hidden layers, or a tuple, one for each of {hidden}, got {len(activation)}"
        )
    return tuple(map(get_activation, activation))
