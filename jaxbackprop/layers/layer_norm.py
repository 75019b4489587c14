"""Layer normalisation (Ba, Kiros and Hinton 2016): every sample over its features."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Static
from jaxbackprop.layers.normalization import Normalized, backward_short, normalize, table

Features = Float[Array, "features ..."]
PerFeature = Float[Array, "..."]
Cache = tuple[Static, Normalized]


def forward(
    x: Features,
    gamma: PerFeature,
    beta: PerFeature,
    *,
    axes: tuple[int, ...] = (0,),
    eps: float | Float[Array, ""] = 1e-5,
) -> tuple[Features, Cache]:
    """out = gamma (x - mu) / sqrt(var + eps) + beta, with mu and var over the features of each sample, and time.

    `axes` are the features': (0,), or (0, 1, 2) for images. gamma and beta have x's lengths there.
    """
    shape = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
    out, cache = normalize(x, gamma.reshape(shape), beta.reshape(shape), axes=axes, eps=eps)
    return out, (Static(gamma.shape), cache)


def backward(dout: Features, cache: Cache) -> tuple[Features, PerFeature, PerFeature]:
    """mu and sigma belong to a sample, gamma and beta to the features. With g = dL/dx-hat = gamma dL/dout,

    dL/dx_i = (g_i - mean(g) - x-hat_i mean(g x-hat)) / sigma        direct, mean path, variance path

    with means over the features (derived in `normalization.backward_short`), while these sums run over the samples:

    dL/dgamma_i = sum_n dL/dout_in x-hat_in,    dL/dbeta_i = sum_n dL/dout_in.
    """
    return _shaped(cache, backward_short(dout, cache[1]))


def _shaped(cache: Cache, gradients: tuple) -> tuple:
    dx, *of_features = gradients
    return dx, *(None if g is None else g.reshape(cache[0].value) for g in of_features)


def read_options(*rest: Any) -> dict[str, Any]:
    """CS231n's `ln_param`, or PyTorch's normalized_shape, a tuple with the lengths of the last axes."""
    options: dict[str, Any] = {}
    for value in rest:
        if isinstance(value, Mapping) and "eps" in value:
            options["eps"] = value["eps"]
        if isinstance(value, tuple):
            options["axes"] = tuple(range(len(value)))
    return options


MISTAKES = table(_shaped, lambda dout, cache: dout)

LAYERS = {
    "layer_norm": Derived(
        "layer_norm",
        forward,
        backward,
        ("x", "gamma", "beta"),
        MISTAKES,
        samples_first=((1, 0), (0,), (0,)),
        out_samples_first=(1, 0),
        read_options=read_options,
    )
}
