"""The compiled program of a sweep: many networks of one padded shape, trained a stretch of steps at a time.

Networks are stacked twice, [chunks, networks of a chunk, …]. A chunk is small enough for the processor's cache and is
trained by `jax.vmap`; the chunks of one device follow one another in a loop; the chunk axis is spread over the devices
of a mesh. What varies between chunks but not inside one (the activation, the part of the data to train on) is a scalar
there, so that choosing among activations runs one of them and not all.

Lengths are traced: how many steps to take and how many chunks to visit. One compilation serves any number of epochs,
the last short stretch, and a sweep whose worst trials have been dropped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.devices import compiler_options
from jaxbackprop.losses import Objective, sample_shares
from jaxbackprop.network import Layer, Params, forward, regularization
from jaxbackprop.optimizers import Hyperparameters, Optimizer
from jaxbackprop.selection import choose_activation
from jaxbackprop.sweeps.planner import AHEAD
from jaxbackprop.training import State, make_step, take_batch

GRID_AXIS = "grid"


class Part(NamedTuple):
    """Samples, features first, one set for each split of the data: [splits, features, samples] and so on.

    `weights` is None if all samples count alike; a split with fewer samples than others is filled up with weight 0.
    """

    x: Float[Array, "splits features samples"]
    y: Float[Array, "splits classes samples"]
    weights: Float[Array, "splits samples"] | None


class Batches(NamedTuple):
    """Which samples make up each batch, and, unless that is too much, these samples themselves: taken out of the data
    once, they serve all chunks. Gathering them again for each chunk would take a twentieth of the time.

    The batches of all splits stand in one row; those to train on now begin at number `first`.
    """

    order: Int[Array, "batches batch_size"]
    ahead: Part | None
    first: Int[Array, ""] | int = 0


class Metrics(NamedTuple):
    """Of each network, on the samples it trains on and on those held out."""

    train_loss: Float[Array, "*networks"]
    train_score: Float[Array, "*networks"]
    validation_loss: Float[Array, "*networks"]
    validation_score: Float[Array, "*networks"]


class Kept(NamedTuple):
    """Early stopping, for each network: the parameters to keep, their metrics and when they were recorded; the best
    monitored value so far, for how many records it has not been improved, and whether the training goes on."""

    params: Params
    metrics: Metrics
    record: Int[Array, "*networks"]
    best: Float[Array, "*networks"]
    stale: Int[Array, "*networks"]
    active: Bool[Array, "*networks"]


class Carry(NamedTuple):
    """What one stretch hands to the next, for each network.

    `running` is the sum of the batches' losses since the last record and of what they count; it and `kept` are None
    unless the recipe monitors something.
    """

    state: State
    metrics: Metrics
    record: Int[Array, "*networks"]
    running: tuple[Float[Array, "*networks"], Float[Array, "*networks"]] | None
    kept: Kept | None


class Trials(NamedTuple):
    """What tells the networks of a program apart, for each network but for the last two, which are one a chunk.

    `widths` are the true widths of the hidden layers, which padding has raised to the program's.
    """

    hyperparameters: Hyperparameters
    widths: Int[Array, "chunks networks hidden"]
    activation: Int[Array, " chunks"]
    split: Int[Array, " chunks"]


class Recipe(NamedTuple):
    """What a program is compiled for, beside the shapes of its arrays.

    `monitor` is what early stopping looks at, lower being better: "train", the mean loss of the batches since the last
    record; "validation", the loss on held-out samples; "score", their negative score; or None. With `shared_l2` l2 is
    divided by what the samples of a batch count together, which is what scikit-learn's alpha means. Without `assess`
    a record evaluates held-out samples alone, and those only where they are monitored; the training loss is then the
    mean loss of the batches since the last record.
    """

    activations: tuple[str, ...]
    optimizer: Optimizer
    objective: Objective
    padded: bool
    monitor: str | None = None
    shared_l2: bool = False
    assess: bool = True


class Stopping(NamedTuple):
    """When early stopping stops: after `patience` records whose monitored value is not below the best one so far by
    `tolerance`."""

    patience: Int[Array, ""] | int
    tolerance: Float[Array, ""] | float


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


def mean_score(
    z: Float[Array, "classes samples"],
    y: Float[Array, "classes samples"],
    shares: Float[Array, " samples"] | float,
    objective: Objective,
) -> Float[Array, ""]:
    """Accuracy: the share of samples whose label is right ("sigmoid": all labels); for "squared" R^2, as scikit-learn
    averages it over the outputs."""
    if objective.name == "softmax":
        return jnp.sum((jnp.argmax(z, axis=0) == jnp.argmax(y, axis=0)) * shares)
    if objective.name == "sigmoid":
        return jnp.sum(jnp.all((z > 0) == (y > 0.5), axis=0) * shares)
    mean = jnp.sum(y * shares, axis=1, keepdims=True)
    residual, total = jnp.sum((z - y) ** 2 * shares, axis=1), jnp.sum((y - mean) ** 2 * shares, axis=1)
    # scikit-learn's convention for a constant output: 1 if it is met exactly, else 0.
    return jnp.mean(jnp.where(total > 0, 1 - residual / jnp.where(total > 0, total, 1), residual == 0))


def evaluate(
    params: Params, part: Part, l2: Float[Array, ""], *, activation: Activation, objective: Objective
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Loss and score of one network on the samples of one split; NaN where there are none."""
    if part.x.shape[-1] == 0:
        nan = jnp.full((), jnp.nan, part.x.dtype)
        return nan, nan
    z = forward(params, part.x, activation=activation, objective=objective).pre_activations[-1]
    shares = sample_shares(part.x.shape[-1], part.weights)
    value = jnp.sum(objective.per_sample(z, part.y) * shares) + regularization(params, l2)
    return value, mean_score(z, part.y, shares, objective).astype(value.dtype)


def train_chunk(
    carry: Carry,
    hyperparameters: Hyperparameters,
    widths: Int[Array, "networks hidden"],
    activation: Activation,
    train: Part,
    validation: Part,
    batches: Batches | None,
    length: Int[Array, ""] | int,
    measure: Bool[Array, ""],
    stopping: Stopping,
    recipe: Recipe,
) -> Carry:
    """Train the networks of one chunk for `length` steps and, if `measure`, evaluate them and decide which to stop."""
    objective = recipe.objective

    def advance(
        state: State, hyperparameters: Hyperparameters, widths: Array, batch: Part
    ) -> tuple[State, Float[Array, ""]]:
        step = make_step(
            hyperparameters,
            activation=activation,
            optimizer=recipe.optimizer,
            objective=objective,
            project=(lambda gradient: clear_padding(gradient, widths)) if recipe.padded else None,
        )
        return step(state, *batch)

    def one_step(i: Array, now: tuple[State, Any]) -> tuple[State, Any]:
        state, running = now
        # All networks of a chunk see the same batch.
        batch = train if batches is None else one_batch(train, batches, i)
        count = total_weight(batch)
        settings = share_l2(hyperparameters, count) if recipe.shared_l2 else hyperparameters
        state, value = jax.vmap(advance, in_axes=(0, 0, 0, None))(state, settings, widths, batch)
        if running is not None:
            running = (running[0] + value * count, running[1] + count)
        return state, running

    def assess(state: State, hyperparameters: Hyperparameters, part: Part) -> tuple[Array, Array]:
        l2 = jnp.asarray(hyperparameters.l2)
        return evaluate(state.params, part, l2, activation=activation, objective=objective)

    state, running = lax.fori_loop(0, length, one_step, (carry.state, carry.running))

    def record() -> Carry:
        settings = share_l2(hyperparameters, total_weight(train)) if recipe.shared_l2 else hyperparameters
        metrics, each = carry.metrics, jax.vmap(assess, in_axes=(0, 0, None))
        if recipe.assess:
            metrics = Metrics(*each(state, settings, train), *each(state, settings, validation))
        elif running is not None:
            held_out = metrics[2:] if recipe.monitor == "train" else each(state, settings, validation)
            metrics = Metrics(running_loss(running), metrics.train_score, *held_out)
        new = Carry(state, metrics, carry.record + 1, running, carry.kept)
        return new if recipe.monitor is None else stop_early(new, stopping, recipe.monitor)

    return lax.cond(measure, record, lambda: carry._replace(state=state, running=running))


def share_l2(hyperparameters: Hyperparameters, count: Float[Array, ""]) -> Hyperparameters:
    """l2 / count."""
    return hyperparameters._replace(l2=hyperparameters.l2 / jnp.where(count > 0, count, 1))


def total_weight(batch: Part) -> Float[Array, ""]:
    """What the samples of a batch count together."""
    return jnp.asarray(batch.x.shape[-1], batch.x.dtype) if batch.weights is None else jnp.sum(batch.weights)


def gathered_bytes(train: Part, samples: int) -> int:
    """What that many samples take, out of all splits together, with their targets and weights."""
    return samples * (train.x.shape[1] + train.y.shape[1] + 1) * train.x.dtype.itemsize


def make_batches(train: Part, order: Int[Array, "splits *steps batch_size"]) -> Batches:
    """The batches of all splits, taken out of the data if they are few enough."""
    flat = order.reshape(-1, order.shape[-1])
    if gathered_bytes(train, order.size) > AHEAD:
        return Batches(flat, None)
    take = jax.vmap(jax.vmap(take_batch, in_axes=(None, None, None, 0)))
    ahead = take(*train, order.reshape(len(order), -1, order.shape[-1]))
    return Batches(flat, Part(*jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), ahead)))


def one_batch(train: Part, batches: Batches, i: Int[Array, ""]) -> Part:
    """The samples of the i-th batch to train on; `train` is the split that it is of."""
    number = batches.first + i
    if batches.ahead is not None:
        return at(batches.ahead, number)
    return Part(*take_batch(*train, at(batches.order, number)))


def running_loss(running: tuple[Array, Array]) -> Float[Array, "*networks"]:
    """The mean loss of the batches since the last record; infinite where there was none."""
    total, count = running
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), jnp.inf)


def stop_early(carry: Carry, stopping: Stopping, monitor: str) -> Carry:
    """At a record: keep the parameters of every network that still trains, if they are the best so far or (monitoring
    the training loss, which is better the later) in any case; and stop those that have not improved for too long."""
    assert carry.kept is not None
    assert carry.running is not None
    kept, (total, count) = carry.kept, carry.running
    value = {
        "train": running_loss(carry.running),
        "validation": carry.metrics.validation_loss,
        "score": -carry.metrics.validation_score,
    }[monitor]
    better = value < kept.best
    # written so that NaN, which compares false, counts as stale
    stale = jnp.where(value <= kept.best - stopping.tolerance, 0, kept.stale + (carry.record > 0))
    keep = kept.active & (better if monitor != "train" else True)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim)), new, old)

    return carry._replace(
        running=(jnp.zeros_like(total), jnp.zeros_like(count)),
        kept=Kept(
            params=jax.tree.map(choose, carry.state.params, kept.params),
            metrics=jax.tree.map(choose, carry.metrics, kept.metrics),
            record=choose(carry.record, kept.record),
            best=jnp.where(kept.active & better, value, kept.best),
            stale=jnp.where(kept.active, stale, kept.stale),
            active=kept.active & (stale < stopping.patience),
        ),
    )


def at(tree: Any, index: Array) -> Any:
    """The entry of every array of a pytree at one place of its first axis."""
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), tree)


@functools.lru_cache(maxsize=256)
def stretch_program(mesh: Mesh, recipe: Recipe) -> Any:
    """The compiled function (carry, trials, train, validation, batches, length, chunks, measure, stopping) -> carry.

    `batches` is [splits, steps, batch_size] or None for full batches, `chunks` how many chunks of each device to visit.
    """

    def stretch(
        carry: Carry,
        trials: Trials,
        train: Part,
        validation: Part,
        batches: Int[Array, "splits steps batch_size"] | None,
        length: Int[Array, ""],
        chunks: Int[Array, ""],
        measure: Bool[Array, ""],
        stopping: Stopping,
    ) -> Carry:
        gathered = None if batches is None else make_batches(train, batches)
        steps = 0 if batches is None else batches.shape[1]

        def visit(c: Array, carry: Carry) -> Carry:
            split = trials.split[c]
            new = train_chunk(
                at(carry, c),
                at(trials.hyperparameters, c),
                trials.widths[c],
                choose_activation(recipe.activations, trials.activation[c]),
                at(train, split),
                at(validation, split),
                None if gathered is None else gathered._replace(first=split * steps),
                length,
                measure,
                stopping,
                recipe,
            )
            return jax.tree.map(lambda old, new: lax.dynamic_update_index_in_dim(old, new, c, 0), carry, new)

        return lax.fori_loop(0, chunks, visit, carry)

    return spread_grid(stretch, mesh, whole=7)


def spread_grid(run: Callable[..., Any], mesh: Mesh, *, whole: int) -> Any:
    """Compile a function of the carry and the trials, each device working on its share of the chunks, and of `whole`
    further arguments, of which every device has all. The carry is donated."""
    spread = PartitionSpec(GRID_AXIS)
    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(spread, spread, *[PartitionSpec()] * whole),
        out_specs=spread,
        check_vma=False,  # the loops' lengths are traced: nothing is communicated, so there is nothing to check
    )
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options())
