"""Dropout (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014): the loss and the gradient of a network
thinned by masks, one for each hidden layer.

    z^l = W^l h^(l-1) + b^l,    a^l = f(z^l),    h^l = m^l * a^l,    h^0 = x

A mask holds 0 where a unit is dropped for a sample, else 1 / (1 - rate), so that h has the mean of a ("inverted"
dropout): the whole network predicts without a mask. A mask is a constant of the backward pass, which gains one factor:
dL/da^l = (W^(l+1)T dL/dz^(l+1)) * m^l, and dL/dz^l = dL/da^l * f'(z^l).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from jaxbackprop.activations import Activation, get_activation
from jaxbackprop.backprop import bias_gradient, delta_hidden, objective_error, weight_gradient
from jaxbackprop.losses import Objective, get_objective, mean_loss, sample_shares
from jaxbackprop.network import Layer, Params, affine, check_targets, regularization

Masks = Sequence[Float[Array, "_ samples"]]

GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio: multiples of it are spread evenly


def thinned_loss_and_grad(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    masks: Masks,
    *,
    activation: str | Activation,
    l2: float | Float[Array, ""] = 0.0,
    weights: Float[Array, " samples"] | None = None,
    objective: str | Objective = "softmax",
) -> tuple[Float[Array, ""], Params]:
    """The loss and its gradient, by hand, as `backprop.loss_and_grad`, of the network that `masks` thin.

    **Arguments:** `masks`, [units, samples] of each hidden layer; the rest as `network.loss`.

    **Raises:** `ValueError` as `network.loss` does, and if there is not one mask a hidden layer.
    """
    check_targets(params, x, y, weights)
    if len(masks) != len(params) - 1:
        raise ValueError(f"masks must be one a hidden layer, {len(params) - 1} of them, got {len(masks)}")
    f, own = get_activation(activation), get_objective(objective)
    zs, values, inputs = [affine(params[0], x)], [], [x]
    for layer, mask in zip(params[1:], masks, strict=True):
        values.append(f.value(zs[-1]))
        inputs.append(values[-1] * mask)
        zs.append(affine(layer, inputs[-1]))
    value = mean_loss(zs[-1], y, weights=weights, objective=own) + regularization(params, l2)

    error = objective_error(own, zs[-1], own.predict(zs[-1]), y) * sample_shares(x.shape[1], weights)
    gradient = []
    for l in reversed(range(len(params))):
        weight = params[l].weight
        gradient.append(Layer(weight_gradient(error, inputs[l]) + l2 * weight, bias_gradient(error)))
        if l > 0:
            error = delta_hidden(weight, error, f.slope(zs[l - 1], values[l - 1]) * masks[l - 1])
    return value, tuple(reversed(gradient))


def draw_mask(
    seed: int | Int[Array, ""],
    step: int | Int[Array, ""],
    layer: int,
    rate: float | Float[Array, ""],
    units: int,
    samples: int,
    dtype: jnp.dtype | str,
) -> Float[Array, "units samples"]:
    """The mask of one layer in one step. Each entry is a function of the seed, the step, the layer, its unit and its
    sample's place alone: a layer that is padded, by units or samples, draws the same numbers in the same places.

    So the generator is counter-based (Salmon, Moraes, Dror and Shaw 2011): it has no state, an entry is its counters,
    scrambled. A few integer operations an entry are enough for a mask, where JAX's own generator takes a hundred.
    """
    key = jnp.uint32(0)
    for number in (seed, step, layer):
        key = scramble(key + jnp.asarray(number).astype(jnp.uint32) + jnp.uint32(GOLDEN))
    rows = scramble(key + jnp.arange(units, dtype=jnp.uint32) * jnp.uint32(GOLDEN))
    columns = scramble(jnp.arange(samples, dtype=jnp.uint32) * jnp.uint32(GOLDEN) + jnp.uint32(1))
    bits = scramble(rows[:, None] + columns)
    # That bits / 2^32 >= rate, to 24 bits, which a float32 holds: comparing whole numbers is faster.
    least = jnp.ceil(jnp.asarray(rate, jnp.float32) * 2**24).astype(jnp.int32)
    kept = jnp.asarray(1 - rate, dtype)
    return jnp.where((bits >> 8).astype(jnp.int32) >= least, 1 / kept, 0).astype(dtype)


def scramble(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A bijection of 32 bits in which each bit of x flips each bit of the outcome in half of all cases; the constants
    are those that Wellons (2018, "lowbias32") found by search."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
