"""What batch, layer and group normalisation share: x is centred and scaled over some axes, then by gamma and beta.

They differ in the axes that mu and sigma run over, and in the axes that gamma and beta live on; here both are given,
and gamma and beta have the rank of x, with 1 where they are repeated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Mistake, Static

Any_ = Float[Array, "..."]
Number = float | int
Gradients = tuple[Array, Array, Array]
Wrong = tuple[Array | None, Array | None, Array | None]


class Normalized(NamedTuple):
    """The cache: x, its normalised form and 1 / sigma; and what the mistakes look at."""

    x: Array
    x_hat: Array
    inverse_std: Array
    mean: Array
    variance: Array
    gamma: Array
    eps: Array
    axes: Static


def normalize(
    x: Any_, gamma: Any_, beta: Any_, *, axes: tuple[int, ...], eps: float | Float[Array, ""]
) -> tuple[Any_, Normalized]:
    """out = gamma x-hat + beta with x-hat = (x - mu) / sigma, sigma = sqrt(var + eps); var is the mean square, /M."""
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred * centred, axes, keepdims=True)
    inverse_std = lax.rsqrt(variance + eps)
    x_hat = centred * inverse_std
    cache = Normalized(x, x_hat, inverse_std, mean, variance, gamma, jnp.asarray(eps, x.dtype), Static(axes))
    return gamma * x_hat + beta, cache


def backward_short(dout: Any_, cache: Normalized) -> Gradients:
    """dL/dx in one line. With g = dL/dx-hat = gamma dL/dout, and means over the M entries that share mu and sigma,

    dL/dx_i = sum_j g_j dx-hat_j/dx_i,    dx-hat_j/dx_i = (1[i = j] - 1/M - x-hat_j x-hat_i / M) / sigma,

    the 1/M from mu, the last term from sigma: dsigma/dx_i = (x_i - mu) / (M sigma) = x-hat_i / M. Summed up:

    dL/dx_i = (g_i - mean(g) - x-hat_i mean(g x-hat)) / sigma
               direct  mean path  variance path
    dL/dgamma = sum dL/dout x-hat,  dL/dbeta = sum dL/dout,  over whatever shares the gamma and the beta.
    """
    axes, x_hat = cache.axes.value, cache.x_hat
    direct = dout * cache.gamma
    mean_path = jnp.mean(direct, axes, keepdims=True)
    variance_path = x_hat * jnp.mean(direct * x_hat, axes, keepdims=True)
    dx = (direct - mean_path - variance_path) * cache.inverse_std
    return dx, _per_gamma(dout * x_hat, cache), _per_gamma(dout, cache)


def backward_by_parts(dout: Any_, cache: Normalized) -> Gradients:
    """The same through each intermediate, as the paper of batch normalisation (Ioffe and Szegedy 2015) has it:

    dL/dvar = sum dL/dx-hat (x - mu) (-1/2) (var + eps)^(-3/2)
    dL/dmu  = -sum dL/dx-hat / sigma + dL/dvar mean(-2 (x - mu)),    where the second term is 0
    dL/dx   = dL/dx-hat / sigma + dL/dvar 2 (x - mu) / M + dL/dmu / M
    """
    axes = cache.axes.value
    centred, count = cache.x - cache.mean, _count(cache)
    dx_hat = dout * cache.gamma
    dvariance = jnp.sum(dx_hat * centred, axes, keepdims=True) * -0.5 * cache.inverse_std**3
    dmean = -jnp.sum(dx_hat, axes, keepdims=True) * cache.inverse_std
    dx = dx_hat * cache.inverse_std + dvariance * 2 * centred / count + dmean / count
    return dx, _per_gamma(dout * cache.x_hat, cache), _per_gamma(dout, cache)


def _per_gamma(terms: Array, cache: Normalized) -> Array:
    """Summed over the axes along which gamma is repeated."""
    axes = tuple(axis for axis, size in enumerate(cache.gamma.shape) if size == 1)
    return jnp.sum(terms, axes, keepdims=True)


def _count(cache: Normalized) -> int:
    """M, how many entries share mu and sigma."""
    count = 1
    for axis in cache.axes.value:
        count *= cache.x.shape[axis]
    return count


def _paths(
    dout: Array, cache: Normalized, *, mean: Number = 1, variance: Number = 1, gamma: Any = None, std: Any = None
) -> Wrong:
    """`backward_short` with each path counted so many times, and with another gamma or 1 / sigma."""
    axes = cache.axes.value
    inverse_std = cache.inverse_std if std is None else std
    x_hat = cache.x_hat if std is None else (cache.x - cache.mean) * inverse_std
    direct = dout * (cache.gamma if gamma is None else gamma)
    mean_path = jnp.mean(direct, axes, keepdims=True)
    variance_path = x_hat * jnp.mean(direct * x_hat, axes, keepdims=True)
    return (direct - mean * mean_path - variance * variance_path) * inverse_std, None, None


def _counted(dout: Array, cache: Normalized, count: int) -> Wrong:
    """Both means divide by another number."""
    share = _count(cache) / count
    return _paths(dout, cache, mean=share, variance=share)


def _unbiased(dout: Array, cache: Normalized) -> Wrong:
    count = _count(cache)
    return _paths(dout, cache, variance=count / (count - 1)) if count > 1 else (None, None, None)


def _eps_outside_root(dout: Array, cache: Normalized) -> Wrong:
    return _paths(dout, cache, std=1 / (jnp.sqrt(cache.variance) + cache.eps))


def _other_count(dout: Array, cache: Normalized) -> Wrong:
    return _counted(dout, cache, cache.x.size // _count(cache))


def _one_axis_counted(dout: Array, cache: Normalized) -> Wrong:
    axes = cache.axes.value
    return _counted(dout, cache, cache.x.shape[axes[-1]]) if len(axes) > 1 else (None, None, None)


def _gamma_on_wrong_axis(dout: Array, cache: Normalized) -> Wrong:
    """gamma repeated along its own axis, as where NumPy's broadcasting found another axis of the same length."""
    gamma, x = cache.gamma, cache.x
    if x.ndim != 2 or x.shape[0] != x.shape[1] or max(gamma.shape) == 1:
        return None, None, None
    return _paths(dout, cache, gamma=gamma.T)


def _gammas(dgamma: Array | None, dbeta: Array | None = None) -> Wrong:
    return None, dgamma, dbeta


Rule = Callable[[Array, Normalized], Wrong]

RULES: dict[str, tuple[str, Rule]] = {
    "mean_path_forgotten": (
        "dL/dx lacks the mean path, -mean(dL/dx-hat) / sigma: every x_i moves mu.",
        lambda dout, c: _paths(dout, c, mean=0),
    ),
    "mean_path_twice": (
        "dL/dx has the mean path twice; -mean(dL/dx-hat) / sigma belongs there once.",
        lambda dout, c: _paths(dout, c, mean=2),
    ),
    "variance_path_forgotten": (
        "dL/dx lacks the variance path, -x-hat mean(dL/dx-hat x-hat) / sigma: every x_i moves sigma.",
        lambda dout, c: _paths(dout, c, variance=0),
    ),
    "variance_path_twice": (
        "dL/dx has the variance path twice: the 2 of (x - mu)^2 is cancelled by the half of the square root.",
        lambda dout, c: _paths(dout, c, variance=2),
    ),
    "both_paths_forgotten": (
        "dL/dx is dL/dx-hat / sigma, as if mu and sigma were constants, which they are at inference alone.",
        lambda dout, c: _paths(dout, c, mean=0, variance=0),
    ),
    "variance_path_added": (
        "The variance path was added; (var + eps)^(-1/2) has a negative derivative.",
        lambda dout, c: _paths(dout, c, variance=-1),
    ),
    "sums_for_means": (
        "Sums stand where means over the M entries belong: the 1/M of mu and of var is missing.",
        lambda dout, c: _counted(dout, c, 1),
    ),
    "count_of_other_axes": (
        "The means divide by the number of entries along the other axes; M is how many share mu and sigma.",
        _other_count,
    ),
    "count_of_one_axis": (
        "The means divide by the length of one axis; mu and sigma run over several, M is their product.",
        _one_axis_counted,
    ),
    "unbiased": (
        "The variance path divides by M - 1; the forward's variance divides by M.",
        _unbiased,
    ),
    "eps_outside_root": (
        "sigma was taken as sqrt(var) + eps; it is sqrt(var + eps).",
        _eps_outside_root,
    ),
    "std_forgotten": (
        "The factor 1 / sigma of dx-hat/dx is missing.",
        lambda dout, c: (backward_short(dout, c)[0] / c.inverse_std, None, None),
    ),
    "gamma_forgotten": (
        "dL/dx was made from dL/dout; dL/dx-hat = gamma dL/dout.",
        lambda dout, c: _paths(dout, c, gamma=jnp.ones_like(c.gamma)),
    ),
    "gamma_on_wrong_axis": (
        "gamma was repeated along the wrong axis: it belongs to the features, not to the samples.",
        _gamma_on_wrong_axis,
    ),
    "input_for_normalized": (
        "dL/dgamma is sum dL/dout x; it is sum dL/dout x-hat.",
        lambda dout, c: _gammas(_per_gamma(dout * c.x, c)),
    ),
    "centred_for_normalized": (
        "dL/dgamma is sum dL/dout (x - mu), without the 1 / sigma of x-hat.",
        lambda dout, c: _gammas(_per_gamma(dout * (c.x - c.mean), c)),
    ),
    "gamma_averaged": (
        "dL/dgamma was averaged; it is a sum, the loss's 1/N is in dL/dout already.",
        lambda dout, c: _gammas(_per_gamma(dout * c.x_hat, c) * c.gamma.size / dout.size),
    ),
    "beta_averaged": (
        "dL/dbeta was averaged; it is a sum, the loss's 1/N is in dL/dout already.",
        lambda dout, c: _gammas(None, _per_gamma(dout, c) * c.gamma.size / dout.size),
    ),
    "beta_times_gamma": (
        "dL/dbeta is sum gamma dL/dout; beta is added after gamma, so it is sum dL/dout.",
        lambda dout, c: _gammas(None, _per_gamma(dout * c.gamma, c)),
    ),
    "gamma_and_beta_swapped": (
        "dL/dgamma and dL/dbeta were exchanged.",
        lambda dout, c: _gammas(_per_gamma(dout, c), _per_gamma(dout * c.x_hat, c)),
    ),
}


def table(reshape: Callable[[Any, Wrong], Wrong], look: Callable[[Array, Any], Array]) -> tuple[Mistake, ...]:
    """The mistakes of a layer whose cache is (shapes, Normalized): `look` turns dout as `normalize` sees it, and
    `reshape` turns the gradients back."""

    def predict(rule: Rule) -> Callable[[Array, Any], tuple]:
        return lambda dout, cache: reshape(cache, rule(look(dout, cache), cache[-1]))

    return tuple(Mistake(code, text, predict(rule)) for code, (text, rule) in RULES.items())
