"""Training of one network: gradient descent on the hand-derived gradient, as one `lax.scan`.

Everything here is pure, so that `jax.vmap(fit, …)` trains as many networks at once as its arguments hold.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxbackprop._checks import check_finite, check_integer, is_concrete
from jaxbackprop.activations import Activation, OneOrEach, layer_activations
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.losses import Objective, get_objective
from jaxbackprop.network import Params, check_targets, loss
from jaxbackprop.optimizers import Hyperparameters, Optimizer, check_hyperparameters, get_optimizer

Batches = Int[Array, "steps batch_size"]
LossAndGrad = Callable[[PyTree, Array, Array, Array | None], tuple[Float[Array, ""], PyTree]]


class Fit(NamedTuple):
    """Trained parameters, and the loss on all samples at each of `recorded_steps(steps, record_every)`."""

    params: Params
    loss_curve: Float[Array, " records"]


class State(NamedTuple):
    """What one step of training hands to the next."""

    params: Params
    optimizer: Any


def recorded_steps(steps: int, record_every: int | None = None) -> list[int]:
    """After how many updates the loss is recorded: 0, record_every, 2 record_every, …, and always the last one.

    By default at most a hundred times and at least a hundred updates apart, so that recording costs little
    beside the training.
    """
    every = min(record_every or max(100, steps // 100), steps)
    return [*range(0, steps, every), steps]


def batch_order(key: Key[Array, ""], samples: int, batch_size: int, steps: int) -> Batches:
    """Which samples make up the batch of each step: a new permutation of all samples for every epoch.

    Where `batch_size` does not divide `samples` the last batch of an epoch is smaller; its empty slots hold -1.

    **Arguments:** `key`, from `jax.random.key(seed)`; `samples`, how many there are; `batch_size`; `steps`, how many
    batches.

    **Returns:** the numbers of the samples, [steps, batch_size].

    **Raises:** `ValueError` for a number below 1.
    """
    for argument, value in {"samples": samples, "batch_size": batch_size, "steps": steps}.items():
        check_integer(argument, value, 1)
    batches = -(-samples // batch_size)
    epochs = -(-steps // batches)
    keys = jax.random.split(key, epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys)
    padded = jnp.pad(order, ((0, 0), (0, batches * batch_size - samples)), constant_values=-1)
    return padded.reshape(epochs * batches, batch_size)[:steps]


def check_batches(batches: Batches, steps: int, samples: int) -> None:
    """Refuse an order that does not fit the steps, or names samples that are not there.

    **Raises:** `ValueError` that says what does not fit.
    """
    if batches.ndim != 2 or batches.shape[0] != steps or batches.size == 0:
        raise ValueError(f"batches must be [steps, batch_size] with steps={steps}, got shape {batches.shape}")
    if not jnp.issubdtype(batches.dtype, jnp.integer):
        raise ValueError(f"batches must hold the numbers of samples, got {batches.dtype}")
    if is_concrete(batches) and np.max(batches) >= samples:
        raise ValueError(f"batches names sample {np.max(batches)}, but x has {samples}, numbered from 0")


def take_batch(
    x: Shaped[Array, "*features samples"],
    y: Float[Array, "*classes samples"],
    weights: Float[Array, " samples"] | None,
    batch: Int[Array, " batch_size"],
) -> tuple[Array, Array, Array]:
    """The samples of one batch, with their weights; an empty slot (-1) is some sample with weight 0."""
    present = (batch >= 0).astype(y.dtype)
    index = jnp.maximum(batch, 0)
    return x[..., index], y[..., index], present if weights is None else present * weights[index]


def make_step(
    hyperparameters: Hyperparameters,
    *,
    activation: OneOrEach,
    optimizer: Optimizer,
    objective: str | Objective,
    project: Callable[[Params], Params] | None = None,
) -> Callable[[State, Array, Array, Array | None], tuple[State, Float[Array, ""]]]:
    """One update of the parameters, a function of the state and the samples of a batch: x, y, weights. Beside the new
    state it returns the loss before the update, which costs nothing where it is not used.

    The gradient goes through `project` first, if there is one.
    """

    def of_network(params: Params, x: Array, y: Array, weights: Array | None) -> tuple[Float[Array, ""], Params]:
        l2 = hyperparameters.l2
        value, gradient = loss_and_grad(
            params, x, y, activation=activation, l2=l2, weights=weights, objective=objective
        )
        return value, gradient if project is None else project(gradient)

    return step_along(of_network, hyperparameters, optimizer)


def step_along(
    loss_and_gradient: LossAndGrad, hyperparameters: Hyperparameters, optimizer: Optimizer
) -> Callable[[State, Array, Array, Array | None], tuple[State, Float[Array, ""]]]:
    """One update along whatever gradient a function of the parameters, x, y and weights gives."""

    def step(state: State, x: Array, y: Array, weights: Array | None) -> tuple[State, Float[Array, ""]]:
        value, gradient = loss_and_gradient(state.params, x, y, weights)
        return State(*optimizer.update(gradient, state.optimizer, state.params, hyperparameters)), value

    return step


def fit(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    hyperparameters: Hyperparameters,
    *,
    activation: OneOrEach,
    steps: int,
    optimizer: str | Optimizer = "sgd",
    objective: str | Objective = "softmax",
    batch_size: int | None = None,
    batches: Batches | None = None,
    record_every: int | None = None,
) -> Fit:
    """Train one network for `steps` updates.

    **Arguments:**
    - `params`: where to start, from `init_params`.
    - `x`, `y`: [features, samples] and [classes, samples], features first.
    - `hyperparameters`: traced; map over any of its fields with `jax.vmap`.
    - `activation`, `optimizer`, `objective`: names, or objects of one's own; a tuple of activations is one for each
      hidden layer.
    - `batch_size`: shuffled mini-batches in an order drawn from `hyperparameters.seed`; by default the full batch.
    - `batches`: the order itself, from `batch_order`, instead of `batch_size`. Networks that share it need no sort in
      their program, which then compiles in less time.
    - `record_every`: see `recorded_steps`.

    **Returns:** the trained parameters and the loss curve.

    **Raises:** `ValueError` for names that do not exist, shapes that do not fit, numbers out of range, data that are
    not finite, before anything compiles.
    """
    activation = layer_activations(activation, len(params) - 1)
    objective, optimizer = get_objective(objective), get_optimizer(optimizer)
    steps = check_integer("steps", steps, 1)
    if record_every is not None:
        record_every = check_integer("record_every", record_every, 1)
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_hyperparameters(hyperparameters)
    check_targets(params, x, y, hyperparameters.weights)
    check_finite("x", x)
    check_finite("y", y)
    batches = order_of(batch_size, batches, hyperparameters, x.shape[1], steps)
    return _trained(
        params,
        x,
        y,
        hyperparameters,
        batches,
        activation=activation,
        optimizer=optimizer,
        objective=objective,
        steps=steps,
        record_every=record_every,
    )


# As one program, which a second call with the same shapes finds compiled.
@partial(jax.jit, static_argnames=("activation", "optimizer", "objective", "steps", "record_every"))
def _trained(
    params: Params,
    x: Array,
    y: Array,
    hyperparameters: Hyperparameters,
    batches: Batches | None,
    *,
    activation: tuple[Activation, ...],
    optimizer: Optimizer,
    objective: Objective,
    steps: int,
    record_every: int | None,
) -> Fit:
    """`fit`, after its checks."""
    dtype = params[0].weight.dtype  # training has the precision of its parameters
    x, y = x.astype(dtype), y.astype(dtype)
    hyperparameters = in_precision(hyperparameters, dtype)
    step = make_step(hyperparameters, activation=activation, optimizer=optimizer, objective=objective)

    def full_loss(params: Params) -> Float[Array, ""]:
        l2, weights = hyperparameters.l2, hyperparameters.weights
        return loss(params, x, y, activation=activation, l2=l2, weights=weights, objective=objective)

    return descend(
        step,
        full_loss,
        State(params, optimizer.init(params)),
        (x, y, hyperparameters.weights),
        steps=steps,
        batches=batches,
        record_every=record_every,
    )


def in_precision(hyperparameters: Hyperparameters, dtype: Any) -> Hyperparameters:
    """The hyperparameters as arrays of the parameters' type; the seed stays what it is."""
    weights = hyperparameters.weights
    return hyperparameters._replace(
        learning_rate=jnp.asarray(hyperparameters.learning_rate, dtype),
        l2=jnp.asarray(hyperparameters.l2, dtype),
        momentum=jnp.asarray(hyperparameters.momentum, dtype),
        weight_decay=jnp.asarray(hyperparameters.weight_decay, dtype),
        beta_1=jnp.asarray(hyperparameters.beta_1, dtype),
        beta_2=jnp.asarray(hyperparameters.beta_2, dtype),
        epsilon=jnp.asarray(hyperparameters.epsilon, dtype),
        weights=None if weights is None else jnp.asarray(weights, dtype),
    )


def order_of(
    batch_size: int | None, batches: Batches | None, hyperparameters: Hyperparameters, samples: int, steps: int
) -> Batches | None:
    """The order of the mini-batches that `fit` was asked for; None for the full batch.

    **Raises:** `ValueError` if both `batch_size` and `batches` are given, or one does not fit the samples.
    """
    if batch_size is not None:
        if batches is not None:
            raise ValueError("batch_size and batches were both given; batches already says which samples make a batch")
        batch_size = check_integer("batch_size", batch_size, 1)
        if batch_size > samples:
            raise ValueError(f"batch_size={batch_size} is larger than the data, which has {samples} samples")
        batches = batch_order(jax.random.key(hyperparameters.seed), samples, batch_size, steps)
    elif batches is not None:
        check_batches(batches, steps, samples)
    return batches


def descend(
    step: Callable[[State, Array, Array, Array | None], tuple[State, Float[Array, ""]]],
    full_loss: Callable[[PyTree], Float[Array, ""]],
    state: State,
    data: tuple[Array, Array, Array | None],
    *,
    steps: int,
    batches: Batches | None = None,
    record_every: int | None = None,
) -> Fit:
    """The loop of training: so many steps over `data`, which are x, y and the weights, and the loss on the way."""
    x, y, weights = data

    def next_state(state: State, batch: Int[Array, " batch_size"] | None) -> tuple[State, None]:
        chosen = data if batch is None else take_batch(x, y, weights, batch)
        return step(state, *chosen)[0], None

    def stretch(state: State, batches: Batches | None, length: int) -> tuple[State, Float[Array, ""]]:
        state, _ = jax.lax.scan(next_state, state, batches, length=length)
        return state, full_loss(state.params)

    marks = recorded_steps(steps, record_every)
    every, stretches = marks[1], (len(marks) - 1 if marks[-1] % marks[1] == 0 else len(marks) - 2)
    split = every * stretches
    whole = None if batches is None else batches[:split].reshape(stretches, every, -1)
    first = full_loss(state.params)
    state, curve = jax.lax.scan(lambda s, b: stretch(s, b, every), state, whole, length=stretches)
    curves = [first[None], curve]
    if split < steps:  # what is left when record_every does not divide steps
        state, last = stretch(state, None if batches is None else batches[split:], steps - split)
        curves.append(last[None])
    return Fit(state.params, jnp.concatenate(curves))
