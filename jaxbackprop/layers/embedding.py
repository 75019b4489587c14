"""Embedding: each index picks a column of W, one column a word."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxbackprop._checks import is_concrete
from jaxbackprop.layers.contract import Derived, Mistake

Cache = tuple[Array, Array]


def forward(
    weight: Float[Array, "features words"], *, index: Int[Array, "..."]
) -> tuple[Float[Array, "features ..."], Cache]:
    """out_dn = W_{d, i_n}: W times the one-hot column of i_n.

    **Raises:** `ValueError` for an index of no word, of which JAX would make the last one.
    """
    words = weight.shape[1]
    if is_concrete(index):
        i = np.asarray(index)
        beyond = i[(i < -words) | (i >= words)]
        if beyond.size:
            raise ValueError(f"index names word {beyond[0]}, but the embedding has {words}, numbered from 0")
    return weight[:, index], (weight, index)


def backward(dout: Float[Array, "features ..."], cache: Cache) -> tuple[Float[Array, "features words"]]:
    """dout_dn/dW_dv = 1[i_n = v], so dL/dW_dv = sum_n 1[i_n = v] dL/dout_dn: what picked the same column adds up."""
    weight, index = cache
    return (jnp.zeros_like(weight, dout.dtype).at[:, index].add(dout),)


def read_options(index: Any = None, *rest: Any) -> dict[str, Any]:
    """Indices [samples, time]."""
    return {} if index is None else {"index": index}


def _counts(index: Array, words: int, dtype: Any) -> Array:
    return jnp.zeros(words, dtype).at[index].add(1)


def _one_alone(dout: Array, cache: Cache, *, last: bool) -> tuple[Array]:
    """The last, or the first, of those that picked a word; in the order in which samples come one after another."""
    weight, index = cache
    flat = index.T.ravel()
    errors = dout.transpose(0, *range(dout.ndim - 1, 0, -1)).reshape(len(weight), -1)
    place = jnp.arange(flat.size)
    if last:
        picked = jnp.full(weight.shape[1], -1).at[flat].max(place)
    else:
        picked = jnp.full(weight.shape[1], flat.size).at[flat].min(place)
    used = _counts(index, weight.shape[1], dout.dtype) > 0
    return (jnp.where(used, errors[:, jnp.clip(picked, 0, flat.size - 1)], 0),)


def _averaged_over_repeats(dout: Array, cache: Cache) -> tuple[Array]:
    weight, index = cache
    return (backward(dout, cache)[0] / jnp.maximum(_counts(index, weight.shape[1], dout.dtype), 1),)


def _error_forgotten(dout: Array, cache: Cache) -> tuple[Array]:
    weight, index = cache
    return (jnp.broadcast_to(_counts(index, weight.shape[1], dout.dtype), weight.shape),)


MISTAKES = (
    Mistake(
        "repeats_overwritten",
        "dW[i] = dL/dout keeps the last use of a word alone; what picked the same column adds up.",
        lambda dout, cache: _one_alone(dout, cache, last=True),
    ),
    Mistake(
        "first_use_alone",
        "Each word has the gradient of its first use alone; what picked the same column adds up.",
        lambda dout, cache: _one_alone(dout, cache, last=False),
    ),
    Mistake(
        "repeats_averaged",
        "dL/dW was divided by how often a word was used; the uses add up.",
        _averaged_over_repeats,
    ),
    Mistake(
        "averaged",
        "dL/dW was divided by the number of samples; the loss's 1/N is in dL/dout already.",
        lambda dout, cache: (backward(dout, cache)[0] / dout.shape[-1],),
    ),
    Mistake(
        "started_at_weight",
        "The uses were added to W itself; dL/dW starts at 0.",
        lambda dout, cache: (cache[0] + backward(dout, cache)[0],),
    ),
    Mistake(
        "error_forgotten",
        "dL/dW counts the uses of each word, without dL/dout.",
        _error_forgotten,
    ),
    Mistake(
        "index_shifted",
        "Every column holds the gradient of the word before it, as where words were counted from 1.",
        lambda dout, cache: (jnp.roll(backward(dout, cache)[0], 1, axis=1),),
    ),
    Mistake(
        "sign_flipped",
        "dL/dW has the wrong sign.",
        lambda dout, cache: (-backward(dout, cache)[0],),
    ),
)

LAYERS = {
    "embedding": Derived(
        "embedding",
        forward,
        backward,
        ("weight",),
        MISTAKES,
        samples_first=((1, 0),),
        out_samples_first=(2, 1, 0),
        read_options=read_options,
        with_samples=("index",),
    )
}
