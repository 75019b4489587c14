"""One update of one network of a program: what padding, dropout, further slots and an embedding add to a plain step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.embedded import Embedded, Frequencies, Waves, behind, frequency_gradient
from jaxbackprop.losses import Objective
from jaxbackprop.network import Layer, Params
from jaxbackprop.optimizers import Hyperparameters, Optimizer
from jaxbackprop.sweeps.depths import loss_and_grad_in_slots
from jaxbackprop.thinned import draw_mask, thinned_loss_and_grad
from jaxbackprop.training import make_step, step_along


def clear_padding(gradient: Params, widths: Int[Array, " hidden"]) -> Params:
    """Set the gradient of weights out of padded units to zero.

    A padded unit starts with zero weights, into it and out of it. As nothing flows back out of it, the gradient of its
    own weights is zero already; but its activation f(0) need not be zero, so that the next layer would learn from it.
    """
    return (
        gradient[0],
        *(
            Layer(weight * (jnp.arange(weight.shape[1]) < width), bias)
            for (weight, bias), width in zip(gradient[1:], widths, strict=True)
        ),
    )


def make_update(
    hyperparameters: Hyperparameters,
    rate: Float[Array, ""] | None,
    step: Int[Array, ""],
    *,
    activation: tuple[Activation, ...],
    depth: Int[Array, ""] | None,
    sure: int,
    optimizer: Optimizer,
    objective: Objective,
    project: Callable[[Params], Params] | None,
    start: Frequencies | None,
) -> Any:
    """`training.make_step`; with a dropout rate the network is thinned by masks that follow from its seed and from
    `step`, the number of the step in the whole training; with a depth it stands in slots, see `depths`; with the
    `start` of frequencies it stands behind an embedding, see `embedded`."""
    if rate is None and depth is None and start is None:
        return make_step(
            hyperparameters, activation=activation, optimizer=optimizer, objective=objective, project=project
        )

    def of_network(params: Embedded, x: Array, y: Array, weights: Array | None) -> tuple[Float[Array, ""], Embedded]:
        layers, inputs = behind(params, x, start)

        def mask(l: int, rate: Any = rate) -> Float[Array, "units samples"]:
            return draw_mask(hyperparameters.seed, step, l, rate, len(layers[l].bias), x.shape[1], x.dtype)

        same: Any = {"activation": activation, "l2": hyperparameters.l2, "weights": weights, "objective": objective}
        if depth is None and start is None:
            value, gradient = thinned_loss_and_grad(layers, inputs, y, list(map(mask, range(len(layers) - 1))), **same)
            return value, gradient if project is None else project(gradient)
        slots = len(layers) - 1 if depth is None else depth
        masks = None if rate is None else mask
        value, gradient, error = loss_and_grad_in_slots(layers, inputs, y, slots, sure=sure, mask=masks, **same)
        gradient = gradient if project is None else project(gradient)
        if start is None:
            return value, gradient
        return value, (Waves(frequency_gradient(start + params[0].frequency, x, error)), *gradient)

    return step_along(of_network, hyperparameters, optimizer)
