"""Networks of several depths in one program: a hidden layer that a network does not have hands on what it is given.

A program has D slots for hidden layers. A network of d of them has these in the first d slots, and its output layer,
number L, behind the last:

    z^l = W^l h^(l-1) + b^l,    h^l = m^l * f(z^l)    for l <= d, with h^0 = x, and m^l = 1 without dropout
    h^l = h^(l-1)                                     for d < l <= D
    z^L = W^L h^D + b^L

What hands on has the derivative 1: dL/dh^(l-1) = dL/dh^l for l > d. W^l and b^l of these slots take no part: they are
zero, and so is their gradient, so that no optimizer, penalty or norm sees them.

The depth may be traced. The networks of a chunk share it, so that one branch runs and not both: a slot that no network
uses costs a copy of its input, and no arithmetic. The first `sure` slots are used by all networks and are no choice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.backprop import bias_gradient, objective_error, weight_gradient
from jaxbackprop.losses import Objective, mean_loss, sample_shares
from jaxbackprop.network import Layer, Params, affine, regularization

Hidden = Float[Array, "_ samples"]
Mask = Callable[[int], Hidden]


def hidden_layers(
    params: Params,
    x: Float[Array, "features samples"],
    depth: Int[Array, ""] | int,
    *,
    activation: Sequence[Activation],
    sure: int,
    mask: Mask | None = None,
    slopes: bool = True,
) -> tuple[list[Hidden], list[Any]]:
    """h^0 … h^D, and m^l f'(z^l) of each slot, which a slot that hands on has none of and holds 0 for; without
    `slopes` it is None.

    **Arguments:** `activation`, one for each slot; `mask`, from the number of a hidden layer, counted from 0, to m.
    """
    hs: list[Any] = [x]
    factors: list[Any] = []
    for l, (layer, f) in enumerate(zip(params[:-1], activation, strict=True)):

        def used(h: Array, l: int = l, layer: Layer = layer, f: Activation = f) -> Any:
            z = affine(layer, h)
            a, m = f.value(z), None if mask is None else mask(l)
            factor = None
            if slopes:
                factor = f.slope(z, a) if m is None else f.slope(z, a) * m
            return a if m is None else a * m, factor

        def unused(h: Array, units: int = len(layer.bias)) -> Any:
            h = fill_up(h, units)
            return h, jnp.zeros_like(h) if slopes else None

        h, factor = used(hs[-1]) if l < sure else lax.cond(l < depth, used, unused, hs[-1])
        hs.append(h)
        factors.append(factor)
    return hs, factors


def fill_up(h: Float[Array, "units samples"], units: int) -> Float[Array, "other samples"]:
    """The first units of a slot, or all of them and zeros: the next slot may be narrower or wider, but never narrower
    than the network itself is there."""
    return h[:units] if len(h) >= units else jnp.pad(h, ((0, units - len(h)), (0, 0)))


def loss_and_grad_in_slots(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    depth: Int[Array, ""] | int,
    *,
    activation: Sequence[Activation],
    sure: int,
    l2: float | Float[Array, ""],
    weights: Float[Array, " samples"] | None,
    objective: Objective,
    mask: Mask | None = None,
) -> tuple[Float[Array, ""], Params, Float[Array, "features samples"]]:
    """The loss and its gradient, by hand, of a network of `depth` hidden layers, in slots; with `mask`, of the network
    that masks thin. See `backprop.loss_and_grad` and `thinned.thinned_loss_and_grad`, which take each depth alone.
    Beside them dL/dx, which costs nothing where nobody uses it."""
    hs, factors = hidden_layers(params, x, depth, activation=activation, sure=sure, mask=mask)
    z = affine(params[-1], hs[-1])
    value = mean_loss(z, y, weights=weights, objective=objective) + regularization(params, l2)

    error = objective_error(objective, z, objective.predict(z), y) * sample_shares(x.shape[1], weights)  # dL/dz^L
    gradient = [layer_gradient(error, hs[-1], params[-1], l2)]
    pulled = params[-1].weight.T @ error  # dL/dh^D
    for l in reversed(range(len(params) - 1)):

        def used(pulled: Array, l: int = l) -> Any:
            error = pulled * factors[l]
            return layer_gradient(error, hs[l], params[l], l2), params[l].weight.T @ error

        def unused(pulled: Array, l: int = l) -> Any:
            return jax.tree.map(jnp.zeros_like, params[l]), fill_up(pulled, len(hs[l]))

        own, pulled = used(pulled) if l < sure else lax.cond(l < depth, used, unused, pulled)
        gradient.append(own)
    return value, tuple(reversed(gradient)), pulled


def layer_gradient(
    error: Float[Array, "out samples"], h: Float[Array, "in samples"], layer: Layer, l2: float | Float[Array, ""]
) -> Layer:
    """dL/dW^l, with that of the penalty, and dL/db^l."""
    return Layer(weight_gradient(error, h) + l2 * layer.weight, bias_gradient(error))


def logits_in_slots(
    params: Params,
    x: Float[Array, "features samples"],
    depth: Int[Array, ""] | int,
    *,
    activation: Sequence[Activation],
    sure: int,
) -> Float[Array, "classes samples"]:
    """z^L."""
    hs, _ = hidden_layers(params, x, depth, activation=activation, sure=sure, slopes=False)
    return affine(params[-1], hs[-1])
