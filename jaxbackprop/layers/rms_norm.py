"""Root-mean-square normalisation (Zhang and Sennrich 2019): layer normalisation without the mean."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Features = Float[Array, "features ..."]
PerFeature = Float[Array, " features"]
Wrong = tuple[Array | None, Array | None]


class Cache(NamedTuple):
    """x, x-hat = x / rms and 1 / rms; gamma as a column; mean square and eps for the mistakes."""

    x: Array
    x_hat: Array
    inverse_rms: Array
    gamma: Array
    square: Array
    eps: Array


def forward(x: Features, gamma: PerFeature, *, eps: float | Float[Array, ""] = 1e-5) -> tuple[Features, Cache]:
    """out = gamma x-hat with x-hat = x / rms, rms = sqrt(mean(x^2) + eps) over the features."""
    column = gamma.reshape(-1, *[1] * (x.ndim - 1))
    square = jnp.mean(x * x, axis=0, keepdims=True)
    inverse_rms = lax.rsqrt(square + eps)
    x_hat = x * inverse_rms
    return column * x_hat, Cache(x, x_hat, inverse_rms, column, square, jnp.asarray(eps, x.dtype))


def backward(dout: Features, cache: Cache) -> tuple[Features, PerFeature]:
    """With g = dL/dx-hat = gamma dL/dout, and drms/dx_i = x_i / (D rms) = x-hat_i / D,

    dL/dx_i = sum_j g_j dx-hat_j/dx_i = (g_i - x-hat_i mean(g x-hat)) / rms        direct, path of the root mean square
    dL/dgamma_i = sum_n dL/dout_in x-hat_in
    """
    x_hat = cache.x_hat
    direct = dout * cache.gamma
    rms_path = x_hat * jnp.mean(direct * x_hat, axis=0, keepdims=True)
    dx = (direct - rms_path) * cache.inverse_rms
    dgamma = jnp.sum(dout * x_hat, tuple(range(1, dout.ndim)))
    return dx, dgamma


def read_options(*rest: Any) -> dict[str, Any]:
    """eps, where it is a number."""
    return {"eps": rest[0]} if rest and isinstance(rest[0], float) else {}


def _path(dout: Array, cache: Cache, times: float | int = 1, gamma: Any = None, rms: Any = None) -> Wrong:
    """`backward` with its second path counted so many times, and with another gamma or 1 / rms."""
    inverse_rms = cache.inverse_rms if rms is None else rms
    x_hat = cache.x * inverse_rms
    direct = dout * (cache.gamma if gamma is None else gamma)
    path = x_hat * jnp.mean(direct * x_hat, axis=0, keepdims=True)
    return (direct - times * path) * inverse_rms, None


def _mean_path(dout: Array, cache: Cache) -> Wrong:
    direct = dout * cache.gamma
    return backward(dout, cache)[0] - jnp.mean(direct, axis=0, keepdims=True) * cache.inverse_rms, None


def _of_gamma(terms: Array) -> Wrong:
    return None, jnp.sum(terms, tuple(range(1, terms.ndim)))


MISTAKES = (
    Mistake(
        "rms_path_forgotten",
        "dL/dx is dL/dx-hat / rms, as if rms were a constant; every x_i moves it.",
        lambda dout, c: _path(dout, c, 0),
    ),
    Mistake(
        "rms_path_twice",
        "The path of rms was taken twice: the 2 of x^2 is cancelled by the half of the square root.",
        lambda dout, c: _path(dout, c, 2),
    ),
    Mistake(
        "rms_path_added",
        "The path of rms was added; 1 / rms has a negative derivative.",
        lambda dout, c: _path(dout, c, -1),
    ),
    Mistake(
        "sum_for_mean",
        "A sum stands where the mean over the D features belongs: the 1/D of the mean square is missing.",
        lambda dout, c: _path(dout, c, len(c.x)),
    ),
    Mistake(
        "count_of_samples",
        "The mean divides by the number of samples; it runs over the features.",
        lambda dout, c: _path(dout, c, len(c.x) * len(c.x) / c.x.size),
    ),
    Mistake(
        "mean_path_added",
        "dL/dx has layer normalisation's mean path; nothing is centred here.",
        _mean_path,
    ),
    Mistake(
        "gamma_forgotten",
        "dL/dx was made from dL/dout; dL/dx-hat = gamma dL/dout.",
        lambda dout, c: _path(dout, c, gamma=jnp.ones_like(c.gamma)),
    ),
    Mistake(
        "eps_outside_root",
        "rms was taken as sqrt(mean(x^2)) + eps; it is sqrt(mean(x^2) + eps).",
        lambda dout, c: _path(dout, c, rms=1 / (jnp.sqrt(c.square) + c.eps)),
    ),
    Mistake(
        "rms_forgotten",
        "The factor 1 / rms of dx-hat/dx is missing.",
        lambda dout, c: (backward(dout, c)[0] / c.inverse_rms, None),
    ),
    Mistake(
        "input_for_normalized",
        "dL/dgamma is sum dL/dout x; it is sum dL/dout x-hat.",
        lambda dout, c: _of_gamma(dout * c.x),
    ),
    Mistake(
        "gamma_averaged",
        "dL/dgamma was averaged over the samples; it is a sum, the loss's 1/N is in dL/dout already.",
        lambda dout, c: _of_gamma(dout * c.x_hat * len(c.x) / c.x.size),
    ),
)

LAYERS = {
    "rms_norm": Derived(
        "rms_norm",
        forward,
        backward,
        ("x", "gamma"),
        MISTAKES,
        samples_first=((1, 0), None),
        out_samples_first=(1, 0),
        read_options=read_options,
    )
}
