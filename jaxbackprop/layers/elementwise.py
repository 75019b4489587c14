"""The twelve activations as layers: a = f(z), with f and f' from part 1b in `activations`."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.activations import ACTIVATIONS, Activation, relu_slope, tanh
from jaxbackprop.layers.contract import Derived, Mistake

Elementwise = Float[Array, "*shape"]
Cache = tuple[Array, Array]


def forward(activation: Activation, z: Elementwise) -> tuple[Elementwise, Cache]:
    """a = f(z), equation (2)."""
    a = activation.value(z)
    return a, (z, a)


def backward(activation: Activation, dout: Elementwise, cache: Cache) -> tuple[Elementwise]:
    """a_i depends on z_i alone, so dL/dz_i = dL/da_i da_i/dz_i = dL/da_i f'(z_i)."""
    z, a = cache
    return (dout * activation.slope(z, a),)


# What dL/dz became, from dL/da, z, a = f(z) and the activation.
Wrong = Callable[[Activation, Array, Array, Array], Array]

WRONG: dict[str, tuple[str, Wrong]] = {
    "slope_forgotten": (
        "dL/dz was taken as dL/da; the factor f'(z) is missing.",
        lambda f, da, z, a: da,
    ),
    "error_forgotten": (
        "dL/dz was taken as f'(z); the factor dL/da that comes from above is missing.",
        lambda f, da, z, a: f.slope(z, a),
    ),
    "slope_at_output": (
        "f' was taken at a = f(z); it belongs at z.",
        lambda f, da, z, a: da * f.derivative(a),
    ),
    "input_for_output": (
        "The formula of f' in terms of a was given z in its place.",
        lambda f, da, z, a: da * f.slope(z, z),
    ),
    "value_for_slope": (
        "dL/da was multiplied by f(z); the factor is f'(z).",
        lambda f, da, z, a: da * a,
    ),
    "slope_twice": (
        "f'(z) was multiplied in twice.",
        lambda f, da, z, a: da * f.slope(z, a) ** 2,
    ),
    "slope_inverted": (
        "dL/da was multiplied by 1 - f'(z): the mask is inverted.",
        lambda f, da, z, a: da * (1 - f.slope(z, a)),
    ),
    "mask_of_error": (
        "dL/dz was cut off by the sign of dL/da; f' depends on z alone.",
        lambda f, da, z, a: da * f.slope(z, a) * (da > 0),
    ),
    "sign_flipped": (
        "dL/dz has the wrong sign.",
        lambda f, da, z, a: -da * f.slope(z, a),
    ),
    "averaged": (
        "dL/dz was divided by N; the loss's 1/N is in dL/da already.",
        lambda f, da, z, a: da * f.slope(z, a) / da.shape[-1],
    ),
    "leak_forgotten": (
        "f' was taken as 0 where z < 0, which is relu's; the leak has a slope of its own.",
        lambda f, da, z, a: da * relu_slope(z, a),
    ),
    "second_term_forgotten": (
        "The product rule's second term, z times the derivative of the factor, is missing.",
        lambda f, da, z, a: da * a / jnp.where(z == 0, 1, z),
    ),
    "tanh_form": (
        "f' is that of the approximation by tanh; f here is the exact z Phi(z).",
        lambda f, da, z, a: da * _tanh_form_slope(z),
    ),
}


def _tanh_form_slope(z: Array) -> Array:
    """The derivative of z/2 (1 + tanh u) with u = sqrt(2/pi) (z + 0.044715 z^3)."""
    scale = jnp.sqrt(2 / jnp.pi).astype(z.dtype)
    t = tanh(scale * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * scale * (1 + 3 * 0.044715 * z * z)


# What is no mistake for some: f' is 0 or 1, or does not look at a.
NEVER = {
    "slope_forgotten": ("identity",),
    "slope_at_output": ("identity", "relu", "leaky_relu", "hardshrink"),
    "input_for_output": ("identity", "relu", "leaky_relu", "gelu", "mish", "hardshrink"),
    "slope_twice": ("identity", "relu", "hardshrink"),
}
ONLY = {
    "leak_forgotten": ("leaky_relu", "elu"),
    "second_term_forgotten": ("silu", "gelu", "mish"),
    "tanh_form": ("gelu",),
}


def mistakes_of(activation: Activation) -> tuple[Mistake, ...]:
    """The rows of the table that are mistakes for this activation."""

    def predict(wrong: Wrong, dout: Array, cache: Cache) -> tuple[Array]:
        return (wrong(activation, dout, *cache),)

    return tuple(
        Mistake(code, text, partial(predict, wrong))
        for code, (text, wrong) in WRONG.items()
        if activation.name not in NEVER.get(code, ()) and activation.name in ONLY.get(code, (activation.name,))
    )


LAYERS = {
    name: Derived(
        name,
        partial(forward, activation),
        partial(backward, activation),
        ("z",),
        mistakes_of(activation),
        samples_first=((1, 0),),
        out_samples_first=(1, 0),
    )
    for name, activation in ACTIVATIONS.items()
}
