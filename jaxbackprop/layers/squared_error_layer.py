"""The squared error of a regression, 1/2 sum_i (z_i - y_i)^2, in the mean over the samples."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake
from jaxbackprop.layers.cross_entropy import read_target

Columns = Float[Array, "outputs ..."]
Scalar = Float[Array, ""]
Cache = tuple[Array, Array]


def forward(z: Columns, *, target: Any) -> tuple[Scalar, Cache]:
    """L = (1/N) sum_n 1/2 sum_i (z_in - y_in)^2; N counts all columns."""
    y = jnp.asarray(target, z.dtype)
    return 0.5 * jnp.sum((z - y) ** 2) / _columns(z), (z, y)


def backward(dout: Scalar, cache: Cache) -> tuple[Columns]:
    """dL/dz_in = (1/N) 1/2 2 (z_in - y_in) = (1/N) (z_in - y_in)."""
    z, y = cache
    return (dout * (z - y) / _columns(z),)


def _columns(z: Array) -> int:
    return z.size // len(z)


MISTAKES = (
    Mistake(
        "half_forgotten",
        "dL/dz is 2 (z - y) / N; the loss has a half, which the square's 2 cancels.",
        lambda dout, cache: (2 * backward(dout, cache)[0],),
    ),
    Mistake(
        "halved",
        "dL/dz is (z - y) / 2N; the square's 2 is missing.",
        lambda dout, cache: (backward(dout, cache)[0] / 2,),
    ),
    Mistake(
        "not_averaged",
        "The 1/N of the mean is missing.",
        lambda dout, cache: (backward(dout, cache)[0] * _columns(cache[0]),),
    ),
    Mistake(
        "averaged_twice",
        "dL/dz was divided by N twice.",
        lambda dout, cache: (backward(dout, cache)[0] / _columns(cache[0]),),
    ),
    Mistake(
        "averaged_over_entries",
        "dL/dz was divided by the number of all entries; the mean runs over the samples, the outputs are summed.",
        lambda dout, cache: (backward(dout, cache)[0] / len(cache[0]),),
    ),
    Mistake(
        "sign_flipped",
        "y - z was taken; the derivative of (z - y)^2 / 2 by z is z - y.",
        lambda dout, cache: (-backward(dout, cache)[0],),
    ),
    Mistake(
        "target_forgotten",
        "y was not subtracted.",
        lambda dout, cache: (dout * cache[0] / _columns(cache[0]),),
    ),
    Mistake(
        "absolute_error",
        "The sign of z - y stands where z - y belongs, as for the absolute error.",
        lambda dout, cache: (dout * jnp.sign(cache[0] - cache[1]) / _columns(cache[0]),),
    ),
)

LAYERS = {
    "squared_error": Derived(
        "squared_error",
        forward,
        backward,
        ("z",),
        MISTAKES,
        samples_first=((1, 0),),
        out_samples_first=None,
        read_options=read_target,
        with_samples=("target",),
    )
}
