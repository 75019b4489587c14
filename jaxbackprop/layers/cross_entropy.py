"""Equations (4) and (5) in one layer: the mean cross-entropy of softmax(z)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Columns = Float[Array, "classes ..."]
Scalar = Float[Array, ""]
Cache = tuple[Array, Array, Array]


def as_columns(target: Any, z: Array) -> Array:
    """One column a sample: labels [samples] become one-hot, columns stay what they are."""
    target = jnp.asarray(target)
    return target.astype(z.dtype) if target.ndim == z.ndim else jax.nn.one_hot(target, len(z), axis=0, dtype=z.dtype)


def read_target(target: Any = None, *rest: Any) -> dict[str, Any]:
    """Labels [samples], or a share of each class [samples, classes]."""
    return {} if target is None else {"target": np.asarray(target)}


def forward(z: Columns, *, target: Any) -> tuple[Scalar, Cache]:
    """L = -(1/N) sum_n sum_i y_in log y-hat_in, with log y-hat_i = z_i - log sum_j e^z_j from the logits.

    N counts all columns, of every sample and time. The target may be labels, one-hot, or any share of each class.
    """
    y = as_columns(target, z)
    shifted = z - jnp.max(z, axis=0)
    e = jnp.exp(shifted)
    total = jnp.sum(e, axis=0)
    loss = -jnp.sum(y * (shifted - jnp.log(total))) / _columns(z)
    return loss, (z, e / total, y)


def backward(dout: Scalar, cache: Cache) -> tuple[Columns]:
    """dL/dz_i = sum_k dL/dy-hat_k dy-hat_k/dz_i = -(1/N) [y_i (1 - y-hat_i) - sum_{k != i} y_k y-hat_i]
                = (1/N) (y-hat_i sum_k y_k - y_i)

    With a one-hot y the sum is 1, which gives the document's delta = y-hat - y over N.
    """
    _, y_hat, y = cache
    return (dout * (y_hat * jnp.sum(y, axis=0) - y) / _columns(y),)


def _columns(z: Array) -> int:
    return z.size // len(z)


def _softmax_twice(dout: Array, cache: Cache) -> tuple[Array]:
    z, y_hat, y = cache
    return backward(dout, (z, jax.nn.softmax(y_hat, axis=0), y))


MISTAKES = (
    Mistake(
        "sum_dropped",
        "y-hat - y was taken for targets that do not sum to 1; it is y-hat sum_k y_k - y.",
        lambda dout, cache: (dout * (cache[1] - cache[2]) / _columns(cache[2]),),
    ),
    Mistake(
        "diagonal_alone",
        "Only dy-hat_i/dz_i was taken, which gives -y (1 - y-hat); every y-hat_k depends on z_i, too.",
        lambda dout, cache: (-dout * cache[2] * (1 - cache[1]) / _columns(cache[2]),),
    ),
    Mistake(
        "not_averaged",
        "The 1/N of the mean is missing.",
        lambda dout, cache: (backward(dout, cache)[0] * _columns(cache[2]),),
    ),
    Mistake(
        "averaged_twice",
        "dL/dz was divided by N twice.",
        lambda dout, cache: (backward(dout, cache)[0] / _columns(cache[2]),),
    ),
    Mistake(
        "averaged_over_entries",
        "dL/dz was divided by the number of all entries, N times C; the mean runs over the N samples.",
        lambda dout, cache: (backward(dout, cache)[0] / len(cache[2]),),
    ),
    Mistake(
        "sign_flipped",
        "y - y-hat was taken; the derivative of the loss is y-hat - y.",
        lambda dout, cache: (-backward(dout, cache)[0],),
    ),
    Mistake(
        "target_forgotten",
        "y was not subtracted: dL/dz is y-hat / N.",
        lambda dout, cache: (dout * cache[1] * jnp.sum(cache[2], axis=0) / _columns(cache[2]),),
    ),
    Mistake(
        "input_for_output",
        "z stands where y-hat belongs: z - y.",
        lambda dout, cache: backward(dout, (cache[0], cache[0], cache[2])),
    ),
    Mistake(
        "logarithm_for_output",
        "log y-hat stands where y-hat belongs.",
        lambda dout, cache: backward(dout, (cache[0], jnp.log(cache[1]), cache[2])),
    ),
    Mistake(
        "softmax_twice",
        "softmax was taken of y-hat, which is softmax(z) already.",
        _softmax_twice,
    ),
    Mistake(
        "prediction_gradient",
        "This is dL/dy-hat = -(1/N) y / y-hat; the softmax still lies between it and z.",
        lambda dout, cache: (-dout * cache[2] / cache[1] / _columns(cache[2]),),
    ),
)

LAYERS = {
    "softmax_cross_entropy": Derived(
        "softmax_cross_entropy",
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
