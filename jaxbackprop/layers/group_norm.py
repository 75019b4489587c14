"""Group normalisation (Wu and He 2018): every sample over a group of channels, with height and width."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Static
from jaxbackprop.layers.normalization import Normalized, backward_short, normalize, table

Channels = Float[Array, "channels ..."]
PerChannel = Float[Array, "..."]
Cache = tuple[Static, Normalized]


def forward(
    x: Channels, gamma: PerChannel, beta: PerChannel, *, groups: int, eps: float | Float[Array, ""] = 1e-5
) -> tuple[Channels, Cache]:
    """out = gamma (x - mu) / sqrt(var + eps) + beta, with mu and var over channels / groups channels of a sample.

    Channels are cut into groups in their order: x is seen as [groups, channels / groups, height, width, samples].
    """
    if len(x) % groups:
        raise ValueError(f"groups={groups} does not divide the {len(x)} channels of x")
    view = (groups, len(x) // groups, *x.shape[1:])
    shape = (*view[:2], *[1] * (x.ndim - 1))
    axes = tuple(range(1, x.ndim))
    out, cache = normalize(x.reshape(view), gamma.reshape(shape), beta.reshape(shape), axes=axes, eps=eps)
    return out.reshape(x.shape), (Static(gamma.shape), cache)


def backward(dout: Channels, cache: Cache) -> tuple[Channels, PerChannel, PerChannel]:
    """As every normalisation, with g = dL/dx-hat = gamma dL/dout and means over the group,

    dL/dx_i = (g_i - mean(g) - x-hat_i mean(g x-hat)) / sigma        direct, mean path, variance path

    (derived in `normalization.backward_short`); gamma and beta belong to a channel, over samples, height and width:

    dL/dgamma_c = sum dL/dout_c x-hat_c,    dL/dbeta_c = sum dL/dout_c.
    """
    return _shaped(cache, backward_short(_view(dout, cache), cache[1]))


def _view(dout: Array, cache: Cache) -> Array:
    return dout.reshape(cache[1].x.shape)


def _shaped(cache: Cache, gradients: tuple) -> tuple:
    dx, *of_channels = gradients
    groups, inside, *rest = cache[1].x.shape
    dx = None if dx is None else dx.reshape(groups * inside, *rest)
    return dx, *(None if g is None else g.reshape(cache[0].value) for g in of_channels)


def read_options(groups: int = 1, gn_param: Mapping[str, Any] | None = None, *rest: Any) -> dict[str, Any]:
    """CS231n's G and `gn_param`."""
    return {"groups": int(groups)} | ({"eps": gn_param["eps"]} if gn_param and "eps" in gn_param else {})


MISTAKES = table(_shaped, _view)

LAYERS = {
    "group_norm": Derived(
        "group_norm",
        forward,
        backward,
        ("x", "gamma", "beta"),
        MISTAKES,
        samples_first=((1, 2, 3, 0), None, None),
        out_samples_first=(1, 2, 3, 0),
        read_options=read_options,
    )
}
