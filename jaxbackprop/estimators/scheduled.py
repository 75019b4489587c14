"""Gradient descent with a learning rate that changes from epoch to epoch: scikit-learn's "invscaling" and "adaptive".

What an epoch does decides over the rate of the next one, so the host looks at every epoch, of one network at a time.
The velocity holds the rate at which each of its gradients came:

    v <- momentum v - rate g,    p <- p + v,    with Nesterov's momentum p <- p + momentum v - rate g.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop.activations import get_activation
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.devices import compiler_options
from jaxbackprop.estimators.glorot import glorot_start
from jaxbackprop.estimators.trainer import Course, Report, Schedule, Warm
from jaxbackprop.losses import Objective
from jaxbackprop.network import Params
from jaxbackprop.sweeps.assessment import evaluate
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.host import epoch_order, interruptible
from jaxbackprop.sweeps.program import Batch, take_samples
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.training import take_batch

SMALLEST = 1e-6  # an adaptive rate at or below it is not lowered any more
FACTOR = 5  # by which it is lowered


class Rule(NamedTuple):
    """How the learning rate changes.

    "invscaling": the first one / (samples seen so far + 1)^power, "adaptive": a fifth of it where training would
    otherwise stop. `rate` is that of the first epoch, `seen` the samples of earlier calls.
    """

    name: str
    power: float
    rate: float
    seen: int


def train_scheduled(
    trial: Trial, splits: Splits, schedule: Schedule, rule: Rule, warm: Warm | None, report: Report
) -> Course:
    """Train a single network, as `trainer.train_one` does, by gradient descent with a rule for the learning rate."""
    data, dtype = jax.tree.map(jnp.asarray, splits.data), splits.dtype
    samples = np.asarray(splits.data.train[0])
    sizes = (len(data.x), *trial.hidden, len(data.y))
    start = glorot_start(trial.seed, sizes, str(trial.activation), dtype) if warm is None else warm.params
    params: Any = jax.tree.map(lambda a: jnp.asarray(a, dtype), start)
    velocity = jax.tree.map(jnp.zeros_like, params)
    if warm is not None and warm.optimizer:
        leaves, structure = jax.tree.flatten(params)
        stored = jax.tree.leaves(warm.optimizer)
        velocity = jax.tree.unflatten(structure, [jnp.asarray(a, p.dtype) for a, p in zip(stored, leaves, strict=True)])
    epoch = _make_epoch(str(trial.activation), trial.optimizer == "nesterov", splits.objective)
    held_out = take_samples(data, data.validation[0])
    look = _make_look(str(trial.activation), splits.objective, splits.targets)
    batch_size = len(samples) if trial.batch_size is None else trial.batch_size
    momentum = 0.0 if trial.optimizer == "sgd" else trial.momentum

    kept, best, stale, rate = params, np.inf if warm is None else warm.best, 0, rule.rate
    curve: list[tuple[float, float, float]] = []
    with interruptible() as interrupted:
        for number in range(schedule.epochs):
            order = epoch_order(schedule.seed, number, samples, batch_size)
            numbers = (np.asarray(n, dtype) for n in (rate, momentum, trial.l2))
            params, velocity, loss = epoch(params, velocity, data.x, data.y, data.weights, order, *numbers)
            validation_loss, score = look(params, held_out)
            curve.append((float(loss), float(score), float(validation_loss)))
            report(np.array(curve[-1:]).T)
            value = -curve[-1][1] if schedule.monitor == "score" else curve[-1][0]
            stale = 0 if value <= best - schedule.stopping.tolerance else stale + 1
            if value < best:
                best, kept = value, params
            if rule.name == "invscaling":
                rate = trial.learning_rate / (rule.seen + (number + 1) * len(samples) + 1) ** rule.power
            if stale >= schedule.stopping.patience:
                if rule.name != "adaptive" or rate <= SMALLEST:
                    break
                rate, stale = rate / FACTOR, 0
            if interrupted():
                break
        stopped = interrupted()
    final = kept if schedule.monitor == "score" else params
    state = () if trial.optimizer == "sgd" else jax.tree.map(np.array, velocity)
    return Course(jax.tree.map(np.array, final), np.array(curve).T, state, stale, rate, stopped)


@functools.lru_cache(maxsize=64)
def _make_epoch(activation: str, nesterov: bool, objective: Objective) -> Any:
    """The compiled function of all the updates of one epoch, with their mean loss."""

    def epoch(
        params: Any, velocity: Any, x: Any, y: Any, weights: Any, order: Any, rate: Any, momentum: Any, l2: Any
    ) -> Any:
        def one(now: Any, batch: Any) -> Any:
            params, velocity = now
            own = take_batch(x, y, weights, batch)
            count = jnp.sum(own[2])
            shared = l2 / jnp.where(count > 0, count, 1)
            value, gradient = loss_and_grad(
                params, *own[:2], activation=activation, l2=shared, weights=own[2], objective=objective
            )

            def fall(velocity: Any) -> Any:
                return jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, gradient)

            velocity = fall(velocity)
            move = fall(velocity) if nesterov else velocity
            return (jax.tree.map(jnp.add, params, move), velocity), (value * count, count)

        (params, velocity), (values, counts) = jax.lax.scan(one, (params, velocity), order)
        return params, velocity, jnp.sum(values) / jnp.sum(counts)

    return jax.jit(epoch, compiler_options=compiler_options())


@functools.lru_cache(maxsize=64)
def _make_look(activation: str, objective: Objective, targets: str) -> Any:
    """The compiled function of loss and score on held-out samples."""
    kind = get_activation(activation)

    def look(params: Params, batch: Batch) -> tuple[Array, Array]:
        none = jnp.zeros((), batch.x.dtype)
        return evaluate(params, *batch, none, activation=kind, objective=objective, targets=targets)

    return jax.jit(look)
