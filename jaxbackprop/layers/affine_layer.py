"""The document's layer, equations (1) and (3): z = W x + b."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Cache = tuple[Array, Array]


def forward(
    x: Float[Array, "in ..."], weight: Float[Array, "out in"], bias: Float[Array, " out"]
) -> tuple[Float[Array, "out ..."], Cache]:
    """z = W x + b for every sample; time or space may stand between the features and the samples."""
    z = jnp.tensordot(weight, x, 1) + bias.reshape(-1, *[1] * (x.ndim - 1))
    return z, (x, weight)


def backward(dout: Float[Array, "out ..."], cache: Cache) -> tuple[Array, Array, Array]:
    """z_in = sum_j W_ij x_jn + b_i. By the chain rule, with dout = dL/dz:

    dL/dx_jn = sum_i dL/dz_in dz_in/dx_jn = sum_i W_ij dL/dz_in      (the document's W^T delta)
    dL/dW_ij = sum_n dL/dz_in dz_in/dW_ij = sum_n dL/dz_in x_jn
    dL/db_i  = sum_n dL/dz_in dz_in/db_i  = sum_n dL/dz_in
    """
    x, weight = cache
    samples = tuple(range(1, dout.ndim))
    dx = jnp.tensordot(weight.T, dout, 1)
    dweight = jnp.tensordot(dout, x, (samples, samples))
    dbias = jnp.sum(dout, samples)
    return dx, dweight, dbias


def _samples(dout: Array) -> int:
    return dout.shape[-1]


def _weight_not_transposed(dout: Array, cache: Cache) -> tuple[Array | None, None, None]:
    weight = cache[1]
    return (jnp.tensordot(weight, dout, 1) if weight.shape[0] == weight.shape[1] else None), None, None


def _weight_transposed(dout: Array, cache: Cache) -> tuple[None, Array | None, None]:
    dweight = backward(dout, cache)[1]
    return None, (dweight.T if dweight.shape[0] == dweight.shape[1] else None), None


MISTAKES = (
    Mistake(
        "weight_not_transposed",
        "dL/dx was taken as W dL/dz; the sum runs over the outputs, dL/dx = W^T dL/dz.",
        _weight_not_transposed,
    ),
    Mistake(
        "weight_transposed",
        "dL/dW came out transposed, x (dL/dz)^T; entry ij belongs to W_ij, which is dL/dz x^T.",
        _weight_transposed,
    ),
    Mistake(
        "input_averaged",
        "dL/dx was divided by N; the loss's 1/N is in dL/dz already.",
        lambda dout, cache: (backward(dout, cache)[0] / _samples(dout), None, None),
    ),
    Mistake(
        "weight_averaged",
        "dL/dW was divided by N; it is a sum over the samples, the loss's 1/N is in dL/dz already.",
        lambda dout, cache: (None, backward(dout, cache)[1] / _samples(dout), None),
    ),
    Mistake(
        "bias_averaged",
        "dL/db was averaged over the samples; it is their sum, the loss's 1/N is in dL/dz already.",
        lambda dout, cache: (None, None, backward(dout, cache)[2] / _samples(dout)),
    ),
    Mistake(
        "weight_overwritten",
        "dL/dW holds the last sample's part alone, as where a loop assigns instead of adding; it is a sum over n.",
        lambda dout, cache: (None, backward(dout[..., -1:], (cache[0][..., -1:], cache[1]))[1], None),
    ),
    Mistake(
        "bias_overwritten",
        "dL/db holds the last sample's part alone, as where a loop assigns instead of adding; it is a sum over n.",
        lambda dout, cache: (None, None, backward(dout[..., -1:], (cache[0][..., -1:], cache[1]))[2]),
    ),
    Mistake(
        "bias_summed_over_outputs",
        "Every entry of dL/db is the sum over all of dL/dz; the sum runs over the samples, not over the outputs i.",
        lambda dout, cache: (None, None, jnp.full(dout.shape[0], jnp.sum(dout))),
    ),
)

LAYERS = {
    "affine": Derived(
        "affine",
        forward,
        backward,
        ("x", "weight", "bias"),
        MISTAKES,
        samples_first=((1, 0), (1, 0), None),
        out_samples_first=(1, 0),
    )
}
