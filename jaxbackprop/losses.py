"""Equations (4) and (5): the output layer's prediction y-hat and the loss of a batch, from the logits z.

Arrays are features first: logits and targets are [classes, samples]. Every objective pairs a loss with the output
function for which dL/dz = (y-hat - y) / N, the result of the document's part 1d:

| objective | y-hat | loss of one sample | targets |
|---|---|---|---|
| softmax | softmax(z), equation (4) | -sum_i y_i log y-hat_i, equation (5) | one-hot: each column sums to 1 |
| sigmoid | sigmoid(z) | -sum_i y_i log y-hat_i + (1 - y_i) log(1 - y-hat_i) | 0 or 1 for each label |
| squared | z | 1/2 sum_i (y-hat_i - y_i)^2 | any real numbers |
| poisson | e^z | sum_i e^z_i - y_i z_i | counts, or other numbers of at least 0 |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop._checks import choose
from jaxbackprop.activations import identity, sigmoid

Logits = Float[Array, "classes samples"]
Targets = Float[Array, "classes samples"]
PerSample = Float[Array, " samples"]

FEW_CLASSES = 4


def _over_classes(combine: Callable, whole: Callable, z: Logits) -> PerSample:
    """Reduce over the classes. A few of them are written out, so that the compiler fuses the reduction with the
    elementwise work around it into one pass over contiguous rows, which makes a step of a small network faster."""
    return reduce(combine, tuple(z)) if z.shape[0] <= FEW_CLASSES else whole(z, axis=0)


def softmax(z: Logits) -> Logits:
    """Equation (4): y-hat_i = e^z_i / sum_j e^z_j. Subtracting max(z) changes nothing but keeps e^z finite."""
    e = jnp.exp(z - _over_classes(jnp.maximum, jnp.max, z))
    return e * (1 / _over_classes(jnp.add, jnp.sum, e))


def softmax_cross_entropy(z: Logits, y: Targets) -> PerSample:
    """Equation (5) for each sample: -sum_i y_i log y-hat_i = log sum_j e^z_j - sum_i y_i z_i.

    From the logits, not from y-hat: log y-hat_i = z_i - log sum_j e^z_j stays exact where y-hat_i underflows. As y is
    one-hot its entries sum to 1, which takes log sum_j e^z_j out of the sum.
    """
    shifted = z - _over_classes(jnp.maximum, jnp.max, z)
    return jnp.log(_over_classes(jnp.add, jnp.sum, jnp.exp(shifted))) - _over_classes(jnp.add, jnp.sum, y * shifted)


def sigmoid_cross_entropy(z: Logits, y: Targets) -> PerSample:
    """-sum_i y_i log s(z_i) + (1 - y_i) log(1 - s(z_i)) = sum_i log(1 + e^z_i) - y_i z_i, s the sigmoid."""
    return jnp.sum(jnp.logaddexp(z, 0) - y * z, axis=0)


def squared_error(z: Logits, y: Targets) -> PerSample:
    """1/2 sum_i (z_i - y_i)^2."""
    return 0.5 * jnp.sum((z - y) ** 2, axis=0)


def poisson_deviance(z: Logits, y: Targets) -> PerSample:
    """sum_i e^z_i - y_i z_i: half of the deviance of counts y with the means y-hat = e^z, without the terms of y alone.
    Its derivative is d/dz_i (e^z_i - y_i z_i) = e^z_i - y_i = y-hat_i - y_i, as for the others."""
    return jnp.sum(jnp.exp(z) - y * z, axis=0)


@dataclass(frozen=True)
class Objective:
    """What a network is trained for: its prediction y-hat from the logits, and the loss of each sample.

    - `name`: what messages call it.
    - `predict`: y-hat from the logits z, both [classes, samples].
    - `per_sample`: the loss of each sample, [samples], from z and the targets y, [classes, samples].
    - `error`: the derivative of a sample's loss by its logits, from z and y, [classes, samples]; None if it is
      y-hat - y.
    """

    name: str
    predict: Callable[[Logits], Logits]
    per_sample: Callable[[Logits, Targets], PerSample]
    error: Callable[[Logits, Targets], Logits] | None = None


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("softmax", softmax, softmax_cross_entropy),
        Objective("sigmoid", sigmoid, sigmoid_cross_entropy),
        Objective("squared", identity, squared_error),
        Objective("poisson", jnp.exp, poisson_deviance),
    )
}


def get_objective(objective: str | Objective) -> Objective:
    """The `Objective` of that name; an `Objective` is returned as it is.

    **Raises:** `ValueError` for an unknown name, with the nearest known one.
    """
    return objective if isinstance(objective, Objective) else choose("objective", objective, OBJECTIVES)


def sample_shares(samples: int, weights: PerSample | None) -> PerSample | float:
    """What each sample counts in the mean: 1/N, or w_n / sum(w) with weights; 0 everywhere if all weights are 0."""
    if weights is None:
        return 1 / samples
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)


def mean_loss(
    z: Logits, y: Targets, *, weights: PerSample | None = None, objective: str | Objective = "softmax"
) -> Float[Array, ""]:
    """Equation (5): the mean over the batch of each sample's loss; sum(w * loss) / sum(w) with weights."""
    per_sample = get_objective(objective).per_sample(z, y)
    return jnp.sum(per_sample * sample_shares(z.shape[1], weights))
