"""Inverted dropout (Srivastava et al. 2014): each unit is kept with probability 1 - rate, and scaled by its inverse."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxbackprop.layers.contract import Derived, Mistake

Elementwise = Float[Array, "..."]
Cache = tuple[Array, Array, Array]


def forward(
    x: Elementwise,
    *,
    key: Key[Array, ""] | None = None,
    rate: float | Float[Array, ""] = 0.5,
    mask: Bool[Array, "..."] | None = None,
    training: bool = True,
) -> tuple[Elementwise, Cache]:
    """out = x m / k with the kept share k = 1 - rate and a mask m of 0 and 1 that `key` draws, so that E[out] = x.

    A mask may be handed in instead of a key. Without training out = x.

    **Raises:** `ValueError` if there is neither a key nor a mask to train with.
    """
    keep = jnp.asarray(1 - rate if training else 1, x.dtype)
    if not training:
        mask = jnp.ones(x.shape, bool)
    elif mask is None:
        if key is None:
            raise ValueError("dropout draws its mask from key=jax.random.key(…); a mask=… may be given instead")
        mask = jax.random.bernoulli(key, keep, x.shape)
    return x * mask / keep, (x, mask, keep)


def backward(dout: Elementwise, cache: Cache) -> tuple[Elementwise]:
    """m and k are constants: dL/dx_i = dL/dout_i dout_i/dx_i = dL/dout_i m_i / k."""
    _, mask, keep = cache
    return (dout * mask / keep,)


def read_options(dropout_param: Mapping[str, Any] | None = None, *rest: Any) -> dict[str, Any]:
    """CS231n's `dropout_param`, whose p is the share that is kept, with the mask that NumPy draws after its seed."""
    read = dict(dropout_param or {})
    keep = read.get("p", 0.5)
    options = {"rate": 1 - keep, "training": read.get("mode", "train") == "train"}
    if "mask" in read:
        return options | {"mask": np.asarray(read["mask"]) > 0}
    if "seed" in read:
        return options | {"mask": lambda shape: np.random.RandomState(read["seed"]).rand(*shape) < keep}
    return options


MISTAKES = (
    Mistake(
        "mask_forgotten",
        "dL/dx is dL/dout / k; what was dropped has no gradient, the mask m is missing.",
        lambda dout, cache: (dout / cache[2],),
    ),
    Mistake(
        "scale_forgotten",
        "dL/dx is m dL/dout; the forward's 1 / k is missing.",
        lambda dout, cache: (dout * cache[1],),
    ),
    Mistake(
        "dropout_forgotten",
        "dL/dx was taken as dL/dout; both the mask and its scale are missing.",
        lambda dout, cache: (dout,),
    ),
    Mistake(
        "scale_inverted",
        "dL/dx was multiplied by k; the forward divides by it.",
        lambda dout, cache: (dout * cache[1] * cache[2],),
    ),
    Mistake(
        "scale_twice",
        "dL/dx was divided by k twice.",
        lambda dout, cache: (dout * cache[1] / cache[2] ** 2,),
    ),
    Mistake(
        "mask_inverted",
        "dL/dx is kept where the unit was dropped, and the other way round.",
        lambda dout, cache: (dout * ~cache[1] / cache[2],),
    ),
    Mistake(
        "scale_of_dropped_share",
        "dL/dx was divided by the share that is dropped; the forward divides by the share that is kept.",
        lambda dout, cache: (dout * cache[1] / (1 - cache[2]),),
    ),
    Mistake(
        "error_forgotten",
        "dL/dx is m / k, without dL/dout.",
        lambda dout, cache: (jnp.broadcast_to(cache[1] / cache[2], dout.shape),),
    ),
)

LAYERS = {
    "dropout": Derived(
        "dropout",
        forward,
        backward,
        ("x",),
        MISTAKES,
        samples_first=((1, 0),),
        out_samples_first=(1, 0),
        read_options=read_options,
        with_samples=("mask",),
    )
}
