"""Positional embedding: each place in time adds its own column of W."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Sequence = Float[Array, "features time samples"]
Places = Float[Array, "features places"]
Cache = tuple[Array, Array]


def forward(x: Sequence, weight: Places) -> tuple[Sequence, Cache]:
    """out_dtn = x_dtn + W_dt; W may have places for longer sequences."""
    if x.shape[1] > weight.shape[1]:
        raise ValueError(f"x has {x.shape[1]} steps, but the embedding has {weight.shape[1]} places")
    return x + weight[:, : x.shape[1], None], (x, weight)


def backward(dout: Sequence, cache: Cache) -> tuple[Sequence, Places]:
    """dL/dx = dL/dout; every sample adds W_dt, so dL/dW_dt = sum_n dL/dout_dtn, and 0 at places that were not used."""
    return dout, _places(jnp.sum(dout, axis=2), cache)


def _places(used: Array, cache: Cache) -> Array:
    return jnp.pad(used, ((0, 0), (0, cache[1].shape[1] - used.shape[1])))


MISTAKES = (
    Mistake(
        "averaged",
        "dL/dW was averaged over the samples; it is their sum, the loss's 1/N is in dL/dout already.",
        lambda dout, c: (None, _places(jnp.mean(dout, axis=2), c)),
    ),
    Mistake(
        "last_sample_alone",
        "dL/dW holds the last sample's part alone, as where a loop assigns instead of adding.",
        lambda dout, c: (None, _places(dout[..., -1], c)),
    ),
    Mistake(
        "summed_over_time",
        "Every place has the sum over all times; W_dt belongs to one.",
        lambda dout, c: (None, jnp.broadcast_to(jnp.sum(dout, (1, 2))[:, None], c[1].shape)),
    ),
    Mistake(
        "time_reversed",
        "dL/dW runs backwards in time.",
        lambda dout, c: (None, _places(jnp.sum(dout, axis=2)[:, ::-1], c)),
    ),
    Mistake(
        "started_at_weight",
        "The samples were added to W itself; dL/dW starts at 0.",
        lambda dout, c: (None, c[1] + _places(jnp.sum(dout, axis=2), c)),
    ),
    Mistake(
        "input_forgotten",
        "Nothing goes back to x; dout/dx = 1.",
        lambda dout, c: (jnp.zeros_like(dout), None),
    ),
)

LAYERS = {
    "positional_embedding": Derived(
        "positional_embedding",
        forward,
        backward,
        ("x", "weight"),
        MISTAKES,
        samples_first=((2, 1, 0), (1, 0)),
        out_samples_first=(2, 1, 0),
    )
}
