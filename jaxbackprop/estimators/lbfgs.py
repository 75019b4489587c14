"""L-BFGS of many networks at once: in each turn of one loop every network has its loss and its gradient evaluated once.

What a network makes of them, another step of its line search or the next direction, is its own affair; one that has
ended keeps what it has. The directions are those of L-BFGS-B without bounds, the rules for stopping and the numbers of
evaluations that a search may take are scipy's.

Sources: D. C. Liu and J. Nocedal, On the limited memory BFGS method for large scale optimization, Mathematical
Programming 45 (1989), 503-528; J. Nocedal and S. J. Wright, Numerical Optimization (2nd edition, 2006), algorithms 7.4
and 7.5; C. Zhu, R. H. Byrd, P. Lu and J. Nocedal, Algorithm 778: L-BFGS-B, ACM Transactions on Mathematical Software 23
(1997), 550-560.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.devices import compiler_options
from jaxbackprop.estimators.line_search import LONGEST, Line, Number, begin_search, go_on
from jaxbackprop.losses import Objective
from jaxbackprop.network import Layer, Params
from jaxbackprop.selection import choose_activation
from jaxbackprop.sweeps.program import GRID_AXIS, Data, at, take_samples

MEMORY = 10  # steps that a direction is made of
MOST = 20  # evaluations of a line search
REDUCTION = 1e7 * 2.0**-52  # of the loss, relative to it or to 1: a smaller one is none

# What has become of a network. Those from LIMIT_STEPS on are scipy's ways to end.
RUNNING, LIMIT_STEPS, LIMIT_EVALUATIONS, FLAT, NO_REDUCTION, FAILED, HALTED = range(7)

Flat = Float[Array, " parameters"]
Shapes = tuple[tuple[int, int], ...]


class Limits(NamedTuple):
    """Of each network: what its squared weights are multiplied by, the largest entry of the gradient at which to stop,
    and how many steps and evaluations it may take."""

    l2: Float[Array, "*seats"]
    tol: Float[Array, "*seats"]
    steps: Int[Array, "*seats"]
    evaluations: Int[Array, "*seats"]


class State(NamedTuple):
    """Of each network: where its last step has led, with loss and gradient there, the direction in which its line
    search goes on, and what the next directions are made of: the last steps and how the gradient changed by them, the
    latest last, `inverse` their inverse products, 0 where there is none yet, and `scale` of the first guess of the
    Hessian's inverse. `steps` taken, -1 before the first evaluation."""

    x: Float[Array, "*seats parameters"]
    value: Float[Array, "*seats"]
    gradient: Float[Array, "*seats parameters"]
    direction: Float[Array, "*seats parameters"]
    line: Line
    moves: Float[Array, "*seats memory parameters"]
    changes: Float[Array, "*seats memory parameters"]
    inverse: Float[Array, "*seats memory"]
    scale: Float[Array, "*seats"]
    steps: Int[Array, "*seats"]
    evaluations: Int[Array, "*seats"]
    status: Int[Array, "*seats"]


def begin(x: Flat) -> State:
    """A network before its first evaluation."""
    zero = jnp.zeros((), x.dtype)
    none = jnp.zeros((MEMORY, *x.shape), x.dtype)
    nowhere = jnp.zeros_like(x)
    count = jnp.zeros((), jnp.int32)
    line = begin_search(zero, zero, zero)
    return State(
        x, zero, nowhere, nowhere, line, none, none, jnp.zeros(MEMORY, x.dtype), zero + 1, count - 1, count, count
    )


def next_direction(state: State, gradient: Flat) -> Flat:
    """Algorithm 7.4 of Nocedal and Wright, the two loops: minus the guess of the Hessian's inverse times the
    gradient."""

    def back(k: Any, now: tuple[Flat, Float[Array, " memory"]]) -> tuple[Flat, Float[Array, " memory"]]:
        q, shares = now
        i = MEMORY - 1 - k
        share = state.inverse[i] * jnp.sum(state.moves[i] * q)
        return q - share * state.changes[i], shares.at[i].set(share)

    def forth(i: Any, r: Flat) -> Flat:
        return r + (shares[i] - state.inverse[i] * jnp.sum(state.changes[i] * r)) * state.moves[i]

    q, shares = lax.fori_loop(0, MEMORY, back, (gradient, jnp.zeros_like(state.inverse)))
    return -lax.fori_loop(0, MEMORY, forth, state.scale * q)


def take_turn(state: State, trial: Flat, value: Number, gradient: Flat, limits: Limits) -> State:
    """What a network makes of loss and gradient at `trial`, the place that its line search has asked for."""
    first = state.steps < 0
    slope = jnp.sum(gradient * state.direction)
    line, accepted = go_on(state.line, value, slope)
    accepted = jnp.where(first, jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)), accepted)
    failed = ~accepted & (first | (line.evaluations >= MOST))
    moved = first | accepted
    evaluations = state.evaluations + 1
    steps = state.steps + moved
    status = jnp.select(
        [
            failed & ~jnp.any(state.inverse > 0),
            ~accepted,
            ~first & (steps >= limits.steps),
            ~first & (evaluations > limits.evaluations),
            jnp.max(jnp.abs(gradient)) <= limits.tol,
            ~first & (state.value - value <= REDUCTION * jnp.maximum(jnp.maximum(abs(value), abs(state.value)), 1)),
        ],
        [FAILED, RUNNING, LIMIT_STEPS, LIMIT_EVALUATIONS, FLAT, NO_REDUCTION],
        RUNNING,
    ).astype(state.status.dtype)

    # The product of step and change must be above 0, or the guess of the Hessian would not be positive.
    step, change = state.line.step, gradient - state.gradient
    product, least = (slope - state.line.start.slope) * step, -state.line.start.slope * step
    remembered = accepted & ~first & (product > jnp.finfo(value.dtype).eps * least)
    moves, changes, inverse = (
        jnp.where(remembered, jnp.concatenate([old[1:], new[None]]), old)
        for old, new in (
            (state.moves, step * state.direction),
            (state.changes, change),
            (state.inverse, 1 / product),
        )
    )
    scale = jnp.where(remembered, product / jnp.sum(change * change), state.scale)
    here = state._replace(
        x=jnp.where(moved, trial, state.x),
        value=jnp.where(moved, value, state.value),
        gradient=jnp.where(moved, gradient, state.gradient),
        moves=moves,
        changes=changes,
        # A search that has failed is begun anew, down the gradient; another failure is the end.
        inverse=jnp.where(failed, 0, inverse),
        scale=jnp.where(failed, 1, scale),
        steps=steps,
        evaluations=evaluations,
        status=status,
    )
    direction = next_direction(here, here.gradient)
    slope = jnp.sum(direction * here.gradient)
    descends = slope < 0
    direction = jnp.where(descends, direction, -here.gradient)
    slope = jnp.where(descends, slope, -jnp.sum(here.gradient * here.gradient))
    length = jnp.where(steps == 0, jnp.minimum(1 / jnp.sqrt(jnp.sum(direction * direction)), LONGEST), 1)
    turns = accepted | failed
    begun = begin_search(here.value, slope, length)
    return here._replace(
        direction=jnp.where(turns, direction, state.direction),
        line=jax.tree.map(lambda a, b: jnp.where(turns, a, b), begun, line),
        inverse=jnp.where(turns & ~descends, 0, here.inverse),
        scale=jnp.where(turns & ~descends, 1, here.scale),
    )


def layers(flat: Any, shapes: Shapes) -> Params:
    """The parameters out of one row of numbers, or of each row of many: `shapes` are those of the weights."""
    own, place = [], 0
    for m, n in shapes:
        weight: Any = flat[..., place : place + m * n].reshape(*flat.shape[:-1], m, n)
        bias: Any = flat[..., place + m * n : place + m * n + m]
        own.append(Layer(weight, bias))
        place += m * n + m
    return tuple(own)


@functools.lru_cache(maxsize=64)
def make_program(
    mesh: Mesh,
    shapes: Shapes,
    activations: tuple[tuple[Activation, ...], ...],
    objective: Objective,
    arguments: tuple[Any, ...],
) -> Any:
    """The compiled function

        (state, start, fresh, limits, split, choice, fewest, turns, data) -> state

    for state and data of some shapes (see `shapes_of`), of networks in seats, [devices, seats, …]. Where `fresh` a
    network begins at `start`, another goes on; all networks of a device are trained on the samples of `split` with the
    activations at place `choice`, one of each a device, for so many `turns`, or until no more than `fewest` of them are
    still running. The state is donated.
    """

    def run(
        state: State,
        start: Float[Array, "1 seats parameters"],
        fresh: Bool[Array, "1 seats"],
        limits: Limits,
        split: Int[Array, "1"],
        choice: Int[Array, "1"],
        fewest: Int[Array, "1"],
        turns: Int[Array, ""],
        data: Data,
    ) -> State:
        own, limits = jax.tree.map(lambda a: a[0], (state, limits))
        samples = take_samples(data, at(data.train, split[0]))
        activation = tuple(choose_activation(layer, choice[0]) for layer in zip(*activations, strict=True))

        def evaluate(flat: Flat, l2: Number) -> tuple[Number, Flat]:
            value, gradient = loss_and_grad(
                layers(flat, shapes),
                samples.x,
                samples.y,
                activation=activation,
                l2=l2,
                weights=samples.weights,
                objective=objective,
            )
            return value, jnp.concatenate([a.reshape(-1) for layer in gradient for a in layer])

        def chosen(which: Bool[Array, " seats"], new: State, old: State) -> State:
            return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

        def goes_on(now: tuple[Array, State]) -> Array:
            return (now[0] < turns) & (jnp.sum(now[1].status == RUNNING) > fewest[0])

        def once(now: tuple[Array, State]) -> tuple[Array, State]:
            state = now[1]
            trial = state.x + state.line.step[:, None] * state.direction
            value, gradient = jax.vmap(evaluate)(trial, limits.l2)
            new = jax.vmap(take_turn)(state, trial, value, gradient, limits)
            return now[0] + 1, chosen(state.status == RUNNING, new, state)

        own = chosen(fresh[0], jax.vmap(begin)(start[0]), own)
        own = lax.while_loop(goes_on, once, (jnp.int32(0), own))[1]
        return jax.tree.map(lambda a: a[None], own)

    spread, everywhere = PartitionSpec(GRID_AXIS), PartitionSpec()
    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(*[spread] * 7, *[everywhere] * 2),
        out_specs=spread,
        check_vma=False,  # the loop's length is each device's own: nothing is communicated
    )
    # Compiled well it would run hardly faster: most of the time goes to products of matrices, which come compiled.
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(quick=True))
