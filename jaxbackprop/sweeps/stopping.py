"""What a record decides over each network: what to keep, whether to stop, how its learning rate falls.

A rule by which learning rates fall is scikit-learn's: by "invscaling" a rate is the first one divided by (samples seen
+ 1)^power; by "adaptive" it is a fifth of what it was where training would stop otherwise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxbackprop.embedded import Embedded
from jaxbackprop.sweeps.assessment import Metrics

SMALLEST = 1e-6  # an adaptive rate at or below it is not lowered any more
FACTOR = 5  # by which it is lowered


class Kept(NamedTuple):
    """Early stopping, for each network: the parameters to hand back, their metrics and the record they are of; the best
    monitored value so far, for how many records it has not been improved, and whether the training goes on."""

    params: Embedded
    metrics: Metrics
    record: Int[Array, "*networks"]
    best: Float[Array, "*networks"]
    stale: Int[Array, "*networks"]
    active: Bool[Array, "*networks"]


class Stopping(NamedTuple):
    """When early stopping stops: after `patience` records without progress.

    Progress is a monitored value of at most `best - tolerance`, and, if `strict`, below it.
    """

    patience: Int[Array, ""] | int
    tolerance: Float[Array, ""] | float = 0.0
    strict: Bool[Array, ""] | bool = True


class Fall(NamedTuple):
    """The numbers of a falling learning rate: the power of "invscaling", and the samples seen before this training."""

    power: Any = 0.0
    seen: Any = 0.0


def running_loss(running: tuple[Array, Array]) -> Float[Array, "*networks"]:
    """The mean loss of the batches since the last record; infinite where there was none."""
    total, count = running
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), jnp.inf)


def scaled_rate(
    first: Float[Array, "*networks"], samples: Int[Array, "*networks"], fall: Fall
) -> Float[Array, "*networks"]:
    """The learning rate by "invscaling" after so many samples of this training."""
    return first / (fall.seen + samples + 1) ** fall.power


def stop_early(
    kept: Kept,
    params: Embedded,
    metrics: Metrics,
    record: Int[Array, "*networks"],
    running: Any,
    stopping: Stopping,
    monitor: str,
) -> Kept:
    """At a record: keep the parameters of every network that still trains, if they are the best so far or (monitoring
    the training loss, which is better the later) in any case; and stop those that have made no progress for too long.
    """
    value = {
        "train": lambda: running_loss(running),
        "validation": lambda: metrics.validation_loss,
        "score": lambda: -metrics.validation_score,
    }[monitor]()
    better = value < kept.best
    goal = kept.best - stopping.tolerance
    # written so that NaN, which compares false, counts as no progress
    progress = (value < goal) | ((value == goal) & ~stopping.strict)
    stale = jnp.where(progress, 0, kept.stale + 1)
    keep = kept.active & (better if monitor != "train" else True)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim)), new, old)

    return Kept(
        params=jax.tree.map(choose, params, kept.params),
        metrics=jax.tree.map(choose, metrics, kept.metrics),
        record=choose(record, kept.record),
        best=jnp.where(kept.active & better, value, kept.best),
        stale=jnp.where(kept.active, stale, kept.stale),
        active=kept.active & (stale < stopping.patience),
    )


def lower_rates(before: Kept, after: Kept, rate: Float[Array, "*networks"]) -> tuple[Kept, Float[Array, "*networks"]]:
    """By "adaptive", networks that would stop at this record go on instead, more slowly."""
    lowered = before.active & ~after.active & (rate > SMALLEST)
    stale, active = jnp.where(lowered, 0, after.stale), after.active | lowered
    return after._replace(stale=stale, active=active), jnp.where(lowered, rate / FACTOR, rate)


@jax.jit
def adaptive_rates(
    values: Float[Array, " records"],
    best: Float[Array, ""],
    stale: Int[Array, ""],
    rate: Float[Array, ""],
    stopping: Stopping,
) -> tuple[Float[Array, ""], Int[Array, ""], Float[Array, " records"]]:
    """By the rules above, from the monitored values of one network alone: `best`, `stale` as they are after the last
    record, and the learning rate after each, for those who tell of a training what the program has done."""
    zero, start = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    metrics = Metrics(best, best, best, best)  # and no parameters: nothing is kept of them

    def record(carry: tuple[Kept, Array], value: Array) -> tuple[tuple[Kept, Array], Array]:
        kept, rate = carry
        after = stop_early(kept, (), metrics, zero, (value, jnp.ones_like(value)), stopping, "train")
        after, rate = lower_rates(kept, after, rate)
        return (after, rate), rate

    (kept, _), rates = lax.scan(record, (Kept((), metrics, zero, best, stale, start), rate), values)
    return kept.best, kept.stale, rates
