"""Loss and score of a network, as a sweep's records hold them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.embedded import Embedded, Frequencies, behind
from jaxbackprop.losses import OBJECTIVES, Objective, sample_shares
from jaxbackprop.network import forward, regularization
from jaxbackprop.sweeps.depths import logits_in_slots


class Metrics(NamedTuple):
    """Of each network, on the samples it trains on and on those held out."""

    train_loss: Float[Array, "*networks"]
    train_score: Float[Array, "*networks"]
    validation_loss: Float[Array, "*networks"]
    validation_score: Float[Array, "*networks"]


def mean_score(
    z: Float[Array, "classes samples"],
    y: Float[Array, "classes samples"],
    shares: Float[Array, " samples"] | float,
    targets: str,
    middle: float,
) -> Float[Array, ""]:
    """Accuracy: the share of samples whose label is right ("sigmoid": all labels); for "squared" R^2, as scikit-learn
    averages it over the outputs. `z` are predictions, or logits that say the same; `middle` is where they turn from one
    label to the other."""
    if targets == "softmax":
        return jnp.sum((jnp.argmax(z, axis=0) == jnp.argmax(y, axis=0)) * shares)
    if targets == "sigmoid":
        return jnp.sum(jnp.all((z > middle) == (y > 0.5), axis=0) * shares)
    mean = jnp.sum(y * shares, axis=1, keepdims=True)
    residual, total = jnp.sum((z - y) ** 2 * shares, axis=1), jnp.sum((y - mean) ** 2 * shares, axis=1)
    # scikit-learn's convention for a constant output: 1 if it is met exactly, else 0.
    return jnp.mean(jnp.where(total > 0, 1 - residual / jnp.where(total > 0, total, 1), residual == 0))


def evaluate(
    params: Embedded,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    weights: Float[Array, " samples"] | None,
    l2: Float[Array, ""],
    *,
    activation: tuple[Activation, ...],
    depth: Int[Array, ""] | None,
    sure: int,
    objective: Objective,
    targets: str,
    start: Frequencies | None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Loss and score of one network on some samples; NaN where there are none. `depth` is None where all networks have
    as many hidden layers as there are slots, and `start` where they stand behind no embedding."""
    if x.shape[-1] == 0:
        nan = jnp.full((), jnp.nan, x.dtype)
        return nan, nan
    layers, inputs = behind(params, x, start)
    if depth is None:
        z = forward(layers, inputs, activation=activation, objective=objective).pre_activations[-1]
    else:
        z = logits_in_slots(layers, inputs, depth, activation=activation, sure=sure)
    shares = sample_shares(x.shape[-1], weights)
    value = jnp.sum(objective.per_sample(z, y) * shares) + regularization(layers, l2)
    # By an objective of one's own the largest logit need not be the likeliest class, nor 0 the middle.
    by_logits = targets in ("softmax", "sigmoid") and OBJECTIVES.get(objective.name) is objective
    guess, middle = (z, 0.0) if by_logits else (objective.predict(z), 0.5)
    return value, mean_score(guess, y, shares, targets, middle).astype(value.dtype)
