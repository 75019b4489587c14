"""The document's functions, compiled: what `jaxbackprop.forward`, `loss` and `loss_and_grad` are."""

import jax

from jaxbackprop import backprop, network

forward = jax.jit(network.forward, static_argnames=("activation", "objective"))
loss = jax.jit(network.loss, static_argnames=("activation", "objective"))
loss_and_grad = jax.jit(backprop.loss_and_grad, static_argnames=("activation", "objective"))
