"""The compiled program of a sweep: many networks of one padded shape, trained from one record to the next.

Networks are stacked twice, [chunks, networks of a chunk, …]. A chunk is small enough for the processor's cache and is
trained by `jax.vmap`; the chunks of one device follow one another in a loop; the chunk axis is spread over the devices
of a mesh. What varies between chunks but not inside one (activation, number of hidden layers, part of the data to train
on) is a scalar there, so that choosing among activations runs one of them and not all.

Lengths are traced: how many records, how many steps from one to the next, how many chunks to visit. One compilation
serves any number of epochs, the last short stretch, and a sweep most of whose trials have ended.
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
from jaxbackprop.losses import Objective
from jaxbackprop.optimizers import Hyperparameters, Optimizer
from jaxbackprop.selection import choose_activation
from jaxbackprop.sweeps.assessment import Metrics, evaluate
from jaxbackprop.sweeps.stopping import Fall, Kept, Stopping, lower_rates, running_loss, scaled_rate, stop_early
from jaxbackprop.sweeps.updates import clear_padding, make_update
from jaxbackprop.training import State, take_batch

GRID_AXIS = "grid"
LIVE = 128  # compiled programs, at most; each takes some 200 pieces of the memory map, of which Linux gives 65,530


class Batch(NamedTuple):
    """Samples that are trained on or evaluated together; `weights` is None if all of them count alike."""

    x: Float[Array, "*batches features samples"]
    y: Float[Array, "*batches classes samples"]
    weights: Float[Array, "*batches samples"] | None


class Data(NamedTuple):
    """All samples, once, and which of them each split trains on and holds out; -1 fills up the smaller splits.
    `frequency` is where those of an embedding start, see `embedded`; None without one."""

    x: Float[Array, "features samples"]
    y: Float[Array, "classes samples"]
    weights: Float[Array, " samples"] | None
    train: Int[Array, "splits train_samples"]
    validation: Int[Array, "splits validation_samples"]
    frequency: Float[Array, "embedded waves"] | None = None

    @property
    def inputs(self) -> int:
        """How many numbers the first layer is given: features, sines and cosines."""
        return len(self.x) + (0 if self.frequency is None else 2 * self.frequency.size)


class Carry(NamedTuple):
    """What one call hands to the next, for each network.

    `record` is the number of the last record while the network was trained, -1 before the first. `running` is the sum
    of the batches' losses since then and of what they count, where the recipe needs it; `kept` is there if it monitors
    something, and `rate`, the learning rate as it is now, if its rule lets it fall.
    """

    state: State
    metrics: Metrics
    record: Int[Array, "*networks"]
    running: tuple[Float[Array, "*networks"], Float[Array, "*networks"]] | None
    kept: Kept | None
    rate: Float[Array, "*networks"] | None


class Settings(NamedTuple):
    """What tells the networks of a program apart, for each network but for the last three, which are one a chunk.

    `widths` are the true widths of the hidden layers, which padding has raised to the program's; those of
    `placement.slot_widths`. `dropout` are the rates, None if all of them are 0; `depth` is how many hidden layers the
    networks have, None if as many as the program.
    """

    hyperparameters: Hyperparameters
    widths: Int[Array, "chunks networks hidden"]
    dropout: Float[Array, "chunks networks"] | None
    activation: Int[Array, " chunks"]
    depth: Int[Array, " chunks"] | None
    split: Int[Array, " chunks"]


class Recipe(NamedTuple):
    """What a program is compiled for, beside the shapes of its arrays.

    `activations` are the choices that a chunk has, each of them one for each hidden layer, of which every network has
    the first `sure`. `targets` says how y is to be read for the score, as the objective of that name reads it.
    `monitor` is what early stopping looks at, lower being better: "train", the mean loss of the batches since the last
    record; "validation", the loss on held-out samples; "score", their negative score; or None. With `shared_l2` l2 is
    divided by what the samples of a batch count together, which is what scikit-learn's alpha means. `batched` says
    whether there are mini-batches: a record's training loss is then the mean loss of those since the last record, and
    the training samples are evaluated where there were none. Without `assess` they are never evaluated, and held-out
    samples only where they are monitored. `records` is how many records of each network a call hands back, at most.
    `quick` is for a training so short that compiling it well would take longer. `rule` says how the learning rate falls
    at each record, of which there is one an epoch: "invscaling", "adaptive", or None for a constant one.
    """

    activations: tuple[tuple[Activation, ...], ...]
    optimizer: Optimizer
    objective: Objective
    targets: str
    padded: bool
    sure: int
    monitor: str | None = None
    shared_l2: bool = False
    assess: bool = True
    records: int = 0
    quick: bool = False
    rule: str | None = None
    batched: bool = False

    @property
    def runs(self) -> bool:
        """Whether the batches' losses are summed up."""
        return self.monitor == "train" or (self.records > 0 and (self.batched or not self.assess))


def take_samples(data: Data, index: Int[Array, " samples"]) -> Batch:
    """The samples of one split."""
    if data.weights is None:
        return Batch(data.x[:, index], data.y[:, index], None)
    return Batch(*take_batch(data.x, data.y, data.weights, index))


def total_weight(batch: Batch) -> Float[Array, ""]:
    """What the samples of a batch count together."""
    return jnp.asarray(batch.x.shape[-1], batch.x.dtype) if batch.weights is None else jnp.sum(batch.weights)


def share_l2(hyperparameters: Hyperparameters, count: Float[Array, ""]) -> Hyperparameters:
    """l2 / count."""
    return hyperparameters._replace(l2=hyperparameters.l2 / jnp.where(count > 0, count, 1))


def train_chunk(
    carry: Carry,
    settings: Settings,
    activation: tuple[Activation, ...],
    data: Data,
    train: Batch | None,
    validation: Batch,
    batch_of: Callable[[Array], Batch | None],
    first: Int[Array, ""],
    length: Int[Array, ""],
    measure: Bool[Array, ""],
    stopping: Stopping,
    fall: Fall,
    recipe: Recipe,
) -> Carry:
    """Train the networks of one chunk for `length` steps, the first of them number `first` of the training, and, if
    `measure`, evaluate them and decide which to stop.

    `batch_of` tells the samples of a step, counted from 0 in this call. `train` are those of the chunk's split, where
    they are the batch; None for mini-batches.
    """
    hyperparameters, widths, dropout = settings.hyperparameters, settings.widths, settings.dropout
    if carry.rate is not None:
        hyperparameters = hyperparameters._replace(learning_rate=carry.rate)

    def advance(
        state: State, hyperparameters: Hyperparameters, widths: Array, rate: Any, number: Array, batch: Batch
    ) -> tuple[State, Float[Array, ""]]:
        step = make_update(
            hyperparameters,
            rate,
            number,
            activation=activation,
            depth=settings.depth,
            sure=recipe.sure,
            optimizer=recipe.optimizer,
            objective=recipe.objective,
            project=(lambda gradient: clear_padding(gradient, widths)) if recipe.padded else None,
            start=data.frequency,
        )
        return step(state, *batch)

    def one_step(i: Array, now: tuple[State, Any]) -> tuple[State, Any]:
        state, running = now
        # All networks of a chunk see the same batch.
        batch = batch_of(i)
        assert batch is not None
        count = total_weight(batch)
        own = share_l2(hyperparameters, count) if recipe.shared_l2 else hyperparameters
        state, value = jax.vmap(advance, (0, 0, 0, 0, None, None))(state, own, widths, dropout, first + i, batch)
        if running is not None:
            running = (running[0] + value * count, running[1] + count)
        return state, running

    def assess(state: State, l2: Array, batch: Batch) -> tuple[Array, Array]:
        return evaluate(
            state.params,
            *batch,
            l2,
            activation=activation,
            depth=settings.depth,
            sure=recipe.sure,
            objective=recipe.objective,
            targets=recipe.targets,
            start=data.frequency,
        )

    state, running = lax.fori_loop(0, length, one_step, (carry.state, carry.running))

    def record() -> Carry:
        metrics, each = carry.metrics, jax.vmap(assess, in_axes=(0, 0, None))
        l2 = jnp.asarray(hyperparameters.l2)
        if recipe.assess:

            def whole() -> tuple[Array, Array]:
                # Taken out here and not before: most records don't need them.
                samples = take_samples(data, at(data.train, settings.split)) if train is None else train
                return each(state, l2, samples)

            def of_batches(running: tuple[Array, Array]) -> tuple[Array, Array]:
                return running_loss(running), jnp.full_like(metrics.train_score, jnp.nan)

            if running is None:
                loss, score = whole()
            else:
                loss, score = lax.cond(jnp.any(running[1] > 0), of_batches, lambda _: whole(), running)
            metrics = Metrics(loss, score, *each(state, l2, validation))
        else:
            loss = metrics.train_loss if running is None else running_loss(running)
            # What is shared among the samples of a batch is no part of a loss on others.
            own = jnp.zeros_like(l2) if recipe.shared_l2 else l2
            held_out = each(state, own, validation) if recipe.monitor in ("validation", "score") else metrics[2:]
            metrics = Metrics(loss, metrics.train_score, *held_out)
        number = carry.record + (1 if carry.kept is None else carry.kept.active)
        empty = None if running is None else jax.tree.map(jnp.zeros_like, running)
        kept, rate = carry.kept, carry.rate
        if recipe.rule == "invscaling":
            samples = jnp.sum(at(data.train, settings.split) >= 0)
            rate = scaled_rate(jnp.asarray(settings.hyperparameters.learning_rate), (number + 1) * samples, fall)
        if kept is not None and recipe.monitor is not None:
            after = stop_early(kept, state.params, metrics, number, running, stopping, recipe.monitor)
            if recipe.rule == "adaptive" and rate is not None:
                after, rate = lower_rates(kept, after, rate)
            kept = after
        return Carry(state, metrics, number, empty, kept, rate)

    return lax.cond(measure, record, lambda: carry._replace(state=state, running=running))


def at(tree: Any, index: Array) -> Any:
    """The entry of every array of a pytree at one place of its first axis."""
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), tree)


def shapes_of(arguments: Any) -> tuple[Any, ...]:
    """What a program is compiled for, of its arguments: each has a place of its own among the LIVE."""
    return tuple((leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(arguments))


@functools.lru_cache(maxsize=LIVE)
def make_program(mesh: Mesh, recipe: Recipe, shapes: tuple[Any, ...]) -> Any:
    """The compiled function

        (carry, settings, data, batches, first, length, times, chunks, measure, stopping, fall) -> carry, curves

    for arguments of some shapes (see `shapes_of`). It takes `times` times `length` steps, from number `first` of the
    training on, each time with a record if `measure`. `batches` is [splits, steps, batch_size], for all the steps of a
    call, or None for full batches; `chunks` is how many chunks of each device to visit. A chunk whose networks have all
    stopped is left. `curves` are metrics [chunks, networks, records], NaN where nothing was trained; None for no
    records. The carry is donated.
    """

    def run(
        carry: Carry,
        settings: Settings,
        data: Data,
        batches: Int[Array, "splits steps batch_size"] | None,
        first: Int[Array, ""],
        length: Int[Array, ""],
        times: Int[Array, ""],
        chunks: Int[Array, ""],
        measure: Bool[Array, ""],
        stopping: Stopping,
        fall: Fall,
    ) -> tuple[Carry, Metrics | None]:
        shape = (*carry.record.shape, recipe.records)
        blank = Metrics(*[jnp.full(shape, jnp.nan, data.x.dtype)] * 4) if recipe.records else None

        def visit(c: Array, done: tuple[Carry, Metrics | None]) -> tuple[Carry, Metrics | None]:
            own, split = at(settings, c), settings.split[c]
            activation = tuple(
                choose_activation(layer, own.activation) for layer in zip(*recipe.activations, strict=True)
            )
            train = take_samples(data, at(data.train, split)) if batches is None else None
            order = None if batches is None else at(batches, split)
            validation = take_samples(data, at(data.validation, split))

            def goes_on(now: tuple[Array, Carry, Any]) -> Array:
                k, carry, _ = now
                return (k < times) & (True if carry.kept is None else jnp.any(carry.kept.active))

            def once(now: tuple[Array, Carry, Any]) -> tuple[Array, Carry, Any]:
                k, carry, curves = now

                def batch(i: Array) -> Batch | None:
                    if order is None:
                        return train
                    # Taken out of the data where it is used: that is faster than beforehand, for all chunks together.
                    return Batch(*take_batch(data.x, data.y, data.weights, at(order, k * length + i)))

                new = train_chunk(
                    carry, own, activation, data, train, validation, batch, first + k * length, length, measure,
                    stopping, fall, recipe,
                )  # fmt: skip
                if curves is not None:
                    trained = True if carry.kept is None else carry.kept.active
                    point = jax.tree.map(lambda m: jnp.where(trained, m, jnp.nan), new.metrics)
                    curves = jax.tree.map(
                        lambda line, p: lax.dynamic_update_index_in_dim(line, p, k, axis=1), curves, point
                    )
                return k + 1, new, curves

            new = lax.while_loop(goes_on, once, (jnp.int32(0), at(done[0], c), at(done[1], c)))[1:]
            return jax.tree.map(lambda old, new: lax.dynamic_update_index_in_dim(old, new, c, 0), done, new)

        return lax.fori_loop(0, chunks, visit, (carry, blank))

    spread, everywhere = PartitionSpec(GRID_AXIS), PartitionSpec()
    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(spread, spread, *[everywhere] * 9),
        out_specs=spread,
        check_vma=False,  # the loops' lengths are traced: nothing is communicated, so there is nothing to check
    )
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(quick=recipe.quick))
