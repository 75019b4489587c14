"""Parameter updates: gradient descent, with momentum too, written out, everything else from optax.

An `Optimizer` is a pair of pure functions, as in optax, but its update takes the hyperparameters as traced values, so
that one compiled program trains a whole grid of learning rates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxbackprop._checks import check_finite, check_integer, check_real, choose, is_concrete
from jaxbackprop.network import Layer, Params

BELOW_ONE = float(np.nextafter(1, 0))  # a decay of 1 would never forget the zeros that a moment starts from


class Hyperparameters(NamedTuple):
    """What can differ between the networks of one compiled program: every field can be traced and vmapped.

    - `learning_rate`: step size, above 0.
    - `l2`: weight of l2/2 * sum(W^2) in the loss.
    - `momentum`: decay of the velocity of "momentum" and "nesterov", from 0 to 1.
    - `weight_decay`: the decoupled decay of "adamw", per unit of learning rate.
    - `beta_1`, `beta_2`, `epsilon`: the decays of the two moments of "adam", "adamw" and "adam_hat", and what keeps
      their quotient finite.
    - `seed`: draws the order of mini-batches where `fit` is asked to shuffle.
    - `weights`: one weight a sample, or None for all equal.
    """

    learning_rate: float | Float[Array, ""]
    l2: float | Float[Array, ""] = 0.0
    momentum: float | Float[Array, ""] = 0.9
    weight_decay: float | Float[Array, ""] = 1e-4
    seed: int | Int[Array, ""] = 0
    weights: Float[Array, " samples"] | None = None
    beta_1: float | Float[Array, ""] = 0.9
    beta_2: float | Float[Array, ""] = 0.999
    epsilon: float | Float[Array, ""] = 1e-8


def check_hyperparameters(hyperparameters: Hyperparameters) -> None:
    """Refuse a value out of range; one that is traced, as under vmap, is left to its caller.

    **Raises:** `ValueError` that names the field.
    """
    if not isinstance(hyperparameters, Hyperparameters):
        raise ValueError(f"hyperparameters must be a Hyperparameters, got {type(hyperparameters).__name__}")
    for name in ("learning_rate", "l2", "momentum", "weight_decay", "beta_1", "beta_2", "epsilon"):
        value = getattr(hyperparameters, name)
        if is_concrete(value):
            most = {"momentum": 1, "beta_1": BELOW_ONE, "beta_2": BELOW_ONE}.get(name)
            check_real(name, _as_python(value), 0, most, exclusive=name in ("learning_rate", "epsilon"))
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
    """How parameters are updated along a gradient.

    - `name`: what tables show.
    - `init`: the state to begin with, from the parameters; any pytree of arrays.
    - `update`: from `(gradient, state, params, hyperparameters)` the new parameters and the new state. The gradient has
      the structure of the parameters; l2 is already in it.
    """

    name: str
    init: Callable[[PyTree], Any]
    update: Callable[[PyTree, Any, PyTree, Hyperparameters], tuple[PyTree, Any]]


def sgd_update(
    gradient: PyTree, state: tuple, params: PyTree, hyperparameters: Hyperparameters
) -> tuple[PyTree, tuple]:
    """Gradient descent: W <- W - learning_rate dL/dW, and the same for b."""
    return jax.tree.map(lambda p, g: p - hyperparameters.learning_rate * g, params, gradient), state


def momentum_update(
    gradient: PyTree, velocity: PyTree, params: PyTree, hyperparameters: Hyperparameters
) -> tuple[PyTree, PyTree]:
    """A velocity that the gradient accelerates: v <- momentum v - learning_rate dL/dW, and W <- W + v.

    Each gradient is in it at the rate at which it came, should the rate change."""
    velocity = _accelerate(gradient, velocity, hyperparameters)
    return jax.tree.map(jnp.add, params, velocity), velocity


def nesterov_update(
    gradient: PyTree, velocity: PyTree, params: PyTree, hyperparameters: Hyperparameters
) -> tuple[PyTree, PyTree]:
    """Nesterov's momentum: the velocity as before, and W <- W + momentum v - learning_rate dL/dW."""
    velocity = _accelerate(gradient, velocity, hyperparameters)
    return jax.tree.map(jnp.add, params, _accelerate(gradient, velocity, hyperparameters)), velocity


def _accelerate(gradient: PyTree, velocity: PyTree, hyperparameters: Hyperparameters) -> PyTree:
    momentum, rate = hyperparameters.momentum, hyperparameters.learning_rate
    return jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, gradient)


def _no_velocity(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, params)


class Moments(NamedTuple):
    """How many steps adam has taken, and its running means of the gradient and of its square."""

    steps: Int[Array, "*shape"]
    first: PyTree
    second: PyTree


def _no_moments(params: PyTree) -> Moments:
    return Moments(jnp.zeros((), jnp.int32), _no_velocity(params), _no_velocity(params))


def adam_hat_update(
    gradient: PyTree, state: Moments, params: PyTree, hyperparameters: Hyperparameters
) -> tuple[PyTree, Moments]:
    """Adam in the order of computation of Kingma and Ba, end of section 2: the bias of both moments is corrected by the
    step size, and so epsilon-hat is added to the root of the uncorrected second moment. scikit-learn's adam is so.
    """
    beta_1, beta_2, count = hyperparameters.beta_1, hyperparameters.beta_2, state.steps + 1
    first = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, state.first, gradient)
    second = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * g**2, state.second, gradient)
    steps = count.astype(jax.tree.leaves(params)[0].dtype)
    rate = hyperparameters.learning_rate * jnp.sqrt(1 - beta_2**steps) / (1 - beta_1**steps)
    new = jax.tree.map(
        lambda p, m, v: (p - rate * m / (jnp.sqrt(v) + hyperparameters.epsilon)).astype(p.dtype), params, first, second
    )
    return new, Moments(count, first, second)


def from_optax(name: str, make: Callable[[Hyperparameters], Any] | Any) -> Optimizer:
    """An optimizer from any `optax.GradientTransformation`.

    **Arguments:** `make`, a function that makes the transformation from the hyperparameters, which are traced: it is
    called anew at each use, and its state must not depend on them; or a transformation as it is, which then goes by its
    own numbers.

    **Returns:** an `Optimizer` of that name.

        from_optax("clipped", lambda h: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(h.learning_rate)))
    """

    def transformation(hyperparameters: Hyperparameters) -> Any:
        return make if hasattr(make, "update") else make(hyperparameters)

    def update(gradient: PyTree, state: Any, params: PyTree, hyperparameters: Hyperparameters) -> tuple[PyTree, Any]:
        updates, state = transformation(hyperparameters).update(gradient, state, params)
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates), state

    return Optimizer(name, lambda params: transformation(Hyperparameters(1.0)).init(params), update)


def _optax() -> Any:
    """optax, loaded where an optimizer is first used."""
    import optax

    return optax


def _betas(hyperparameters: Hyperparameters) -> dict[str, Any]:
    return {"b1": hyperparameters.beta_1, "b2": hyperparameters.beta_2, "eps": hyperparameters.epsilon}


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", lambda params: (), sgd_update),
        Optimizer("momentum", _no_velocity, momentum_update),
        Optimizer("nesterov", _no_velocity, nesterov_update),
        from_optax("adam", lambda h: _optax().adam(h.learning_rate, **_betas(h))),
        Optimizer("adam_hat", _no_moments, adam_hat_update),
        from_optax("adamw", lambda h: _optax().adamw(h.learning_rate, weight_decay=h.weight_decay, **_betas(h))),
        from_optax("rmsprop", lambda h: _optax().rmsprop(h.learning_rate)),
        from_optax("adagrad", lambda h: _optax().adagrad(h.learning_rate)),
    )
}


STATE_STARTS = {"adagrad": 0.1}  # what the numbers of a state start from, where that is not 0


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The `Optimizer` of that name; an `Optimizer` is returned as it is.

    **Raises:** `ValueError` for an unknown name, with the nearest known one.
    """
    return optimizer if isinstance(optimizer, Optimizer) else choose("optimizer", optimizer, OPTIMIZERS)


def is_own(optimizer: Optimizer) -> bool:
    """Whether an optimizer is none of `OPTIMIZERS`."""
    return OPTIMIZERS.get(optimizer.name) is not optimizer


# Stand for the sizes of a network's layers: numbers that no optimizer has of its own.
STAND_INS = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097)


def state_shapes(optimizer: Optimizer, sizes: tuple[int, ...], dtype: str, front: tuple = ()) -> Any:
    """The shapes and types of an optimizer's state for one network of these layer sizes; computes nothing. `front` are
    those of the parameters that stand before the layers."""
    if is_own(optimizer) or len(sizes) > len(STAND_INS) or front:
        return jax.eval_shape(optimizer.init, front + layer_shapes(sizes, dtype))
    # Tracing takes a millisecond: once for all networks of a depth, and their sizes put in.
    own = dict(zip(STAND_INS, sizes, strict=False))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(own.get(n, n) for n in leaf.shape), leaf.dtype),
        _state_shapes(optimizer, len(sizes), dtype),
    )


@lru_cache(maxsize=256)
def _state_shapes(optimizer: Optimizer, layers: int, dtype: str) -> Any:
    return jax.eval_shape(optimizer.init, layer_shapes(STAND_INS[:layers], dtype))


def layer_shapes(sizes: tuple[int, ...], dtype: str) -> Params:
    """The shapes and types of the parameters of one network: (features, hidden units …, outputs)."""
    shape: Any = jax.ShapeDtypeStruct
    return tuple(Layer(shape((m, n), dtype), shape((m,), dtype)) for n, m in pairwise(sizes))
