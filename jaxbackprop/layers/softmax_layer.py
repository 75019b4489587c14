"""Equation (4) as a layer: y-hat = softmax(z), as it stands in the middle of a network."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Columns = Float[Array, "classes ..."]
Cache = tuple[Array, Array]


def forward(z: Columns) -> tuple[Columns, Cache]:
    """y-hat_i = e^z_i / sum_j e^z_j in every column. Subtracting max(z) changes nothing but keeps e^z finite."""
    e = jnp.exp(z - jnp.max(z, axis=0))
    y_hat = e / jnp.sum(e, axis=0)
    return y_hat, (z, y_hat)


def backward(dout: Columns, cache: Cache) -> tuple[Columns]:
    """With dy-hat_j/dz_i = y-hat_j (1[i = j] - y-hat_i), both cases of part 1d:

    dL/dz_i = sum_j dL/dy-hat_j dy-hat_j/dz_i = y-hat_i (dL/dy-hat_i - sum_j dL/dy-hat_j y-hat_j)

    The first summand is the diagonal's 1, the second the -y-hat_i y-hat_j of all j.
    """
    _, y_hat = cache
    weighted = jnp.sum(dout * y_hat, axis=0)
    return (y_hat * (dout - weighted),)


def _input_for_output(dout: Array, cache: Cache) -> tuple[Array]:
    return backward(dout, (cache[0], cache[0]))


MISTAKES = (
    Mistake(
        "diagonal_alone",
        "Only dy-hat_i/dz_i = y-hat_i (1 - y-hat_i) was taken; every y-hat_j depends on z_i, too.",
        lambda dout, cache: (dout * cache[1] * (1 - cache[1]),),
    ),
    Mistake(
        "input_for_output",
        "z stands where y-hat belongs: the Jacobian y-hat_j (1[i = j] - y-hat_i) is in terms of the output.",
        _input_for_output,
    ),
    Mistake(
        "sum_forgotten",
        "dL/dz was taken as y-hat dL/dy-hat; - y-hat_i sum_j dL/dy-hat_j y-hat_j is missing.",
        lambda dout, cache: (cache[1] * dout,),
    ),
    Mistake(
        "sum_unweighted",
        "The sum over j is of dL/dy-hat_j; it is of dL/dy-hat_j y-hat_j.",
        lambda dout, cache: (cache[1] * (dout - jnp.sum(dout, axis=0)),),
    ),
    Mistake(
        "sum_added",
        "sum_j dL/dy-hat_j y-hat_j was added; dy-hat_j/dz_i is -y-hat_i y-hat_j.",
        lambda dout, cache: (cache[1] * (dout + jnp.sum(dout * cache[1], axis=0)),),
    ),
    Mistake(
        "sum_over_samples",
        "sum_j dL/dy-hat_j y-hat_j was taken over the samples; it runs over the classes of one sample.",
        lambda dout, cache: (cache[1] * (dout - jnp.sum(dout * cache[1], axis=-1, keepdims=True)),),
    ),
    Mistake(
        "error_forgotten",
        "dL/dz is y-hat (1 - y-hat), without dL/dy-hat.",
        lambda dout, cache: (cache[1] * (1 - cache[1]),),
    ),
    Mistake(
        "sum_averaged",
        "The mean over the classes stands for the sum over j.",
        lambda dout, cache: (cache[1] * (dout - jnp.mean(dout * cache[1], axis=0)),),
    ),
)

LAYERS = {
    "softmax": Derived(
        "softmax", forward, backward, ("z",), MISTAKES, samples_first=((1, 0),), out_samples_first=(1, 0)
    )
}
