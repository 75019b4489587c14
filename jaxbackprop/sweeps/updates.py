"""One update of one network of a program: what padding and dropout add to a plain step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbackprop.activations import OneOrEach
from jaxbackprop.losses import Objective
from jaxbackprop.network import Layer, Params
from jaxbackprop.optimizers import Hyperparameters, Optimizer
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
    activation: OneOrEach,
    optimizer: Optimizer,
    objective: Objective,
    project: Callable[[Params], Params] | None,
) -> Any:
    """`training.make_step`; with a dropout rate the network is thinned by masks that follow from its seed and from
    `step`, the number of the step in the whole training."""
    if rate is None:
        return make_step(
            hyperparameters, activation=activation, optimizer=optimizer, objective=objective, project=project
        )

    def of_network(params: Params, x: Array, y: Array, weights: Array | None) -> tuple[Float[Array, ""], Params]:
        masks = [
            draw_mask(hyperparameters.seed, step, l, rate, len(layer.bias), x.shape[1], x.dtype)
            for l, layer in enumerate(params[:-1])
        ]
        value, gradient = thinned_loss_and_grad(
            params, x, y, masks, activation=activation, l2=hyperparameters.l2, weights=weights, objective=objective
        )
        return value, gradient if project is None else project(gradient)

    return step_along(of_network, hyperparameters, optimizer)
