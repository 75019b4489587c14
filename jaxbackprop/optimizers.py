"""Parameter updates: plain gradient descent written out, everything else from optax.

An `Optimizer` is a pair of pure functions, as in optax, but its update takes the hyperparameters as traced values, so
that one compiled program trains a whole grid of learning rates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxbackprop._checks import check_finite, check_integer, check_real, choose, is_concrete


class Hyperparameters(NamedTuple):
    """What can differ between the networks of one compiled program: every field can be traced and vmapped.

    - `learning_rate`: step size, above 0.
    - `l2`: weight of l2/2 * sum(W^2) in the loss.
    - `momentum`: decay of the velocity of "momentum" and "nesterov".
    - `weight_decay`: the decoupled decay of "adamw", per unit of learning rate.
    - `seed`: draws the order of mini-batches where `fit` is asked to shuffle.
    - `weights`: one weight a sample, or None for all equal.
    """

    learning_rate: float | Float[Array, ""]
    l2: float | Float[Array, ""] = 0.0
    momentum: float | Float[Array, ""] = 0.9
    weight_decay: float | Float[Array, ""] = 1e-4
    seed: int | Int[Array, ""] = 0
    weights: Float[Array, " samples"] | None = None


def check_hyperparameters(hyperparameters: Hyperparameters) -> None:
    """Refuse a value out of range; one that is traced, as under vmap, is left to its caller."""
    if not isinstance(hyperparameters, Hyperparameters):
        raise ValueError(f"hyperparameters must be a Hyperparameters, got {type(hyperparameters).__name__}")
    for name in ("learning_rate", "l2", "momentum", "weight_decay"):
        value = getattr(hyperparameters, name)
        if is_concrete(value):
            check_real(name, _as_python(value), 0, exclusive=name == "learning_rate")
    if is_concrete(hyperparameters.seed):
        check_integer("seed", _as_python(hyperparameters.seed), 0)
    weights = hyperparameters.weights
    if weights is not None and is_concrete(weights):
        check_finite("weights", weights)
        if (np.asarray(weights) < 0).any():
            raise ValueError(f"weights must not be negative, the least is {np.min(weights):g}; 0 leaves a sample out")


def _as_python(value: Any) -> Any:
    """A number of Python from an array that holds one; anything else stays what it is, for the checks to refuse."""
    return np.asarray(value).item() if np.ndim(value) == 0 else value


@dataclass(frozen=True)
class Optimizer:
    """`init(params)` makes the state; `update(gradient, state, params, hyperparameters)` the new params and state."""

    name: str
    init: Callable[[PyTree], Any]
    update: Callable[[PyTree, Any, PyTree, Hyperparameters], tuple[PyTree, Any]]


def sgd_update(
    gradient: PyTree, state: tuple, params: PyTree, hyperparameters: Hyperparameters
) -> tuple[PyTree, tuple]:
    """Gradient descent: W <- W - learning_rate dL/dW, and the same for b."""
    return jax.tree.map(lambda p, g: p - hyperparameters.learning_rate * g, params, gradient), state


def from_optax(name: str, make: Callable[[Hyperparameters], optax.GradientTransformation]) -> Optimizer:
    """An optax optimizer, made anew from the traced hyperparameters at each use; its state does not depend on them."""

    def update(gradient: PyTree, state: Any, params: PyTree, hyperparameters: Hyperparameters) -> tuple[PyTree, Any]:
        updates, state = make(hyperparameters).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return Optimizer(name, make(Hyperparameters(1.0)).init, update)


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", lambda params: (), sgd_update),
        from_optax("momentum", lambda h: optax.sgd(h.learning_rate, momentum=h.momentum)),
        from_optax("nesterov", lambda h: optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True)),
        from_optax("adam", lambda h: optax.adam(h.learning_rate)),
        from_optax("adamw", lambda h: optax.adamw(h.learning_rate, weight_decay=h.weight_decay)),
        from_optax("rmsprop", lambda h: optax.rmsprop(h.learning_rate)),
        from_optax("adagrad", lambda h: optax.adagrad(h.learning_rate)),
    )
}


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The `Optimizer` of that name; an `Optimizer` is returned as it is.

    **Raises:** `ValueError` for an unknown name, with the nearest known one.
    """
    return optimizer if isinstance(optimizer, Optimizer) else choose("optimizer", optimizer, OPTIMIZERS)
