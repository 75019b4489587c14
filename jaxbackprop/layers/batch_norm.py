"""Batch normalisation (Ioffe and Szegedy 2015): every feature over the samples; spatially over the places, too."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake, Static
from jaxbackprop.layers.normalization import Normalized, backward_by_parts, backward_short, normalize, table

Features = Float[Array, "features ..."]
PerFeature = Float[Array, " features"]
Cache = tuple[Static, Normalized]


def forward(
    x: Features,
    gamma: PerFeature,
    beta: PerFeature,
    *,
    training: bool = True,
    running_mean: PerFeature | None = None,
    running_var: PerFeature | None = None,
    eps: float | Float[Array, ""] = 1e-5,
) -> tuple[Features, Cache]:
    """out = gamma (x - mu) / sqrt(var + eps) + beta, with mu and var over all axes but the features'.

    At inference mu and var are the running ones, which `update_running` keeps; they are constants there.
    """
    shape = (len(x), *[1] * (x.ndim - 1))
    gamma, beta = gamma.reshape(shape), beta.reshape(shape)
    axes = tuple(range(1, x.ndim))
    if training:
        out, cache = normalize(x, gamma, beta, axes=axes, eps=eps)
        return out, (Static(True), cache)
    if running_mean is None or running_var is None:
        raise ValueError("batch normalisation at inference needs running_mean=… and running_var=…")
    mean, variance = running_mean.reshape(shape), running_var.reshape(shape)
    inverse_std = lax.rsqrt(variance + eps)
    x_hat = (x - mean) * inverse_std
    cache = Normalized(x, x_hat, inverse_std, mean, variance, gamma, jnp.asarray(eps, x.dtype), Static(axes))
    return gamma * x_hat + beta, (Static(False), cache)


def update_running(cache: Cache, mean: PerFeature, var: PerFeature, momentum: float = 0.9) -> tuple[Array, Array]:
    """The running mean and variance after one more batch: momentum of the old, 1 - momentum of the batch's."""
    seen = cache[1]
    mean = momentum * mean + (1 - momentum) * seen.mean.ravel()
    return mean, momentum * var + (1 - momentum) * seen.variance.ravel()


def backward(dout: Features, cache: Cache, *, short: bool = True) -> tuple[Features, PerFeature, PerFeature]:
    """In training mu and sigma move with every x_n of the batch. With g = dL/dx-hat = gamma dL/dout and means over it,

    dL/dx_n = (g_n - mean(g) - x-hat_n mean(g x-hat)) / sigma        direct, mean path, variance path

    which `normalization.backward_short` derives, and `normalization.backward_by_parts` has through dL/dvar and dL/dmu.
    At inference mu and sigma are constants: dL/dx_n = g_n / sigma. In both

    dL/dgamma = sum_n dL/dout_n x-hat_n,    dL/dbeta = sum_n dL/dout_n.
    """
    training, normalized = cache[0].value, cache[1]
    dx, dgamma, dbeta = (backward_short if short else backward_by_parts)(dout, normalized)
    if not training:
        dx = dout * normalized.gamma * normalized.inverse_std
    return dx, dgamma.ravel(), dbeta.ravel()


def read_options(bn_param: Mapping[str, Any] | None = None, *rest: Any) -> dict[str, Any]:
    """CS231n's `bn_param`."""
    read = dict(bn_param or {})
    options: dict[str, Any] = {"training": read.get("mode", "train") == "train"}
    if "eps" in read:
        options["eps"] = read["eps"]
    for name in ("running_mean", "running_var"):
        if name in read:
            options[name] = jnp.asarray(read[name])
    return options


def _flat(cache: Cache, wrong: tuple) -> tuple:
    """At inference there are no paths that could be wrong in dL/dx."""
    dx, *of_features = wrong
    dx = dx if cache[0].value else None
    return dx, *(None if g is None else g.ravel() for g in of_features)


def _as_in_training(dout: Array, cache: Cache) -> tuple:
    return (None, None, None) if cache[0].value else (backward_short(dout, cache[1])[0], None, None)


MISTAKES = (
    *table(_flat, lambda dout, cache: dout),
    Mistake(
        "as_in_training",
        "At inference mu and sigma are constants, but dL/dx has their paths.",
        _as_in_training,
    ),
)

LAYERS = {
    "batch_norm": Derived(
        "batch_norm",
        forward,
        backward,
        ("x", "gamma", "beta"),
        MISTAKES,
        samples_first=((1, 0), None, None),
        out_samples_first=(1, 0),
        read_options=read_options,
    ),
    "spatial_batch_norm": Derived(
        "spatial_batch_norm",
        forward,
        backward,
        ("x", "gamma", "beta"),
        MISTAKES,
        samples_first=((1, 2, 3, 0), None, None),
        out_samples_first=(1, 2, 3, 0),
        read_options=read_options,
    ),
}
