"""Chains: the document's recursion over any layers, so that a network of them trains without autodiff.

A `Part` is a layer with its parameters' beginning. A chain of parts is a part again, and so is a chain with a residual
connection around it; `fit_chain` trains it as `training.fit` trains the document's network, by the same loop.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from jaxbackprop._checks import check_finite, check_integer, choose, is_concrete
from jaxbackprop.backprop import objective_error
from jaxbackprop.layers import find_layer
from jaxbackprop.layers.contract import Static
from jaxbackprop.losses import Objective, get_objective, sample_shares
from jaxbackprop.network import check_sample_weights
from jaxbackprop.optimizers import Hyperparameters, Optimizer, check_hyperparameters, get_optimizer
from jaxbackprop.training import Batches, Fit, LossAndGrad, State, descend, in_precision, order_of, step_along


class Part(NamedTuple):
    """A piece of a network.

    - `init(key)`: its parameters.
    - `forward(params, x)`: out and the cache.
    - `backward(dout, cache)`: dL/dx, and the gradient, of the structure of the parameters.
    - `couples`: whether what comes out for a sample depends on the others, as it does in batch normalisation.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    forward: Callable[[PyTree, Array], tuple[Array, Any]]
    backward: Callable[[Array, Any], tuple[Array | None, PyTree]]
    couples: bool = False


def part(name: str, *shapes: tuple[int, ...], **options: Any) -> Part:
    """A layer by its name, with the shapes of its parameters and its options.

    A parameter called gamma starts at 1, a vector at 0, and any other normal with variance 2 / fan-in, as for relu
    (He et al. 2015); an embedding, which has no fan-in, with a standard deviation of 0.1.

    Example: `part("convolution", (8, 1, 3, 3), (8,), pad=1)`.
    """
    layer = find_layer(name)
    names = layer.arguments[-len(shapes) :] if shapes else ()
    lookup = "embedding" in name

    def init(key: Key[Array, ""]) -> tuple[Array, ...]:
        keys = jax.random.split(key, max(1, len(shapes)))
        return tuple(map(start, names, keys, shapes))

    def start(argument: str, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        if argument == "gamma":
            return jnp.ones(shape)
        if len(shape) == 1:
            return jnp.zeros(shape)
        scale = 0.1 if lookup else sqrt(2 / prod(shape[1:]))
        return scale * jax.random.normal(key, shape)

    def forward(params: PyTree, x: Array) -> tuple[Array, Any]:
        if name == "embedding":  # x is the index
            return layer.forward(*params, index=x, **options)
        return layer.forward(x, *params, **options)

    def backward(dout: Array, cache: Any) -> tuple[Array | None, PyTree]:
        gradients = layer.backward(dout, cache)
        return (None, gradients) if name == "embedding" else (gradients[0], gradients[1:])

    return Part(init, forward, backward, couples="batch_norm" in name and options.get("training", True))


def flatten() -> Part:
    """[channels, height, width, samples] as [features, samples]; the error is shaped back."""

    def forward(params: PyTree, x: Array) -> tuple[Array, Static]:
        return x.reshape(-1, x.shape[-1]), Static(x.shape)

    return Part(lambda key: (), forward, lambda dout, shape: (dout.reshape(shape.value), ()))


def chain(parts: Sequence[Part]) -> Part:
    """One part after the other; backward the document's recursion, from the last to the first."""

    @jax.jit  # one program for all parts
    def init(key: Key[Array, ""]) -> tuple[PyTree, ...]:
        return tuple(p.init(k) for p, k in zip(parts, jax.random.split(key, len(parts)), strict=True))

    def forward(params: PyTree, x: Array) -> tuple[Array, list]:
        caches = []
        for p, own in zip(parts, params, strict=True):
            x, cache = p.forward(own, x)
            caches.append(cache)
        return x, caches

    def backward(dout: Array, caches: list) -> tuple[Array | None, tuple[PyTree, ...]]:
        gradients = []
        error: Any = dout
        for p, cache in zip(reversed(parts), reversed(caches), strict=True):
            error, gradient = p.backward(error, cache)
            gradients.append(gradient)
        return error, tuple(reversed(gradients))

    return Part(init, forward, backward, couples=any(p.couples for p in parts))


def residual(parts: Sequence[Part]) -> Part:
    """out = x + F(x): dL/dx = dL/dout + (dF/dx)^T dL/dout, along the skip and through the branch."""
    branch = chain(parts)

    def forward(params: PyTree, x: Array) -> tuple[Array, Any]:
        out, cache = branch.forward(params, x)
        return x + out, cache

    def backward(dout: Array, cache: Any) -> tuple[Array, PyTree]:
        through, gradient = branch.backward(dout, cache)
        return (dout if through is None else dout + through), gradient

    return Part(branch.init, forward, backward, branch.couples)


def self_attention(features: int, heads: int, *, key_heads: int | None = None, causal: bool = True) -> Part:
    """Queries, keys and values from one affine layer, attention, and an affine layer of its outputs."""
    attention = find_layer("attention")
    shared = (key_heads or heads) * (features // heads)
    rows = features + 2 * shared
    before, after = (part("affine", (out, features), (out,)) for out in (rows, features))

    def init(key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        first, second = jax.random.split(key)
        return before.init(first), after.init(second)

    def forward(params: PyTree, x: Array) -> tuple[Array, Any]:
        mixed, seen = before.forward(params[0], x)
        query, key, value = jnp.split(mixed, (features, features + shared))
        out, cache = attention.forward(query, key, value, heads=heads, key_heads=key_heads, causal=causal)
        out, last = after.forward(params[1], out)
        return out, (seen, cache, last)

    def backward(dout: Array, cache: Any) -> tuple[Array | None, tuple[PyTree, PyTree]]:
        error, of_after = after.backward(dout, cache[2])
        error, of_before = before.backward(jnp.concatenate(attention.backward(error, cache[1])), cache[0])
        return error, (of_before, of_after)

    return Part(init, forward, backward)


def recurrent(name: str, features: int, units: int) -> Part:
    """ "rnn", "lstm" or "gru" from a state of zeros: [features, time, samples] to [units, time, samples].

    **Raises:** `ValueError` for another name.
    """
    gates = choose("name", name, {"rnn": 1, "lstm": 4, "gru": 3}) * units
    layer = find_layer(name)
    biases = ((gates,),) * (len(layer.arguments) - 4)
    shapes = ((gates, features), (gates, units), *biases)

    def init(key: Key[Array, ""]) -> tuple[Array, ...]:
        keys = jax.random.split(key, len(shapes))
        return tuple(
            jnp.zeros(shape) if len(shape) == 1 else jax.random.normal(k, shape) / sqrt(units)
            for k, shape in zip(keys, shapes, strict=True)
        )

    def forward(params: PyTree, x: Array) -> tuple[Array, Any]:
        return layer.forward(x, jnp.zeros((units, x.shape[-1]), x.dtype), *params)

    def backward(dout: Array, cache: Any) -> tuple[Array, PyTree]:
        dx, _, *gradients = layer.backward(dout, cache)
        return dx, tuple(gradients)

    return Part(init, forward, backward)


def chain_loss_and_grad(
    network: Part, *, objective: str | Objective = "softmax", l2: float | Float[Array, ""] = 0.0
) -> LossAndGrad:
    """A function of params, x, y and weights: the mean loss over samples (and times), and its gradient by hand.

    y is [classes, samples] or [classes, time, samples]. l2 counts for what is no vector, as in `network.loss`.
    """
    objective = get_objective(objective)

    def loss_and_grad(params: PyTree, x: Array, y: Array, weights: Array | None) -> tuple[Array, PyTree]:
        z, caches = network.forward(params, x)
        if y.shape != z.shape:
            raise ValueError(f"y must be what the network puts out, of shape {z.shape}, got shape {y.shape}")
        columns, targets = z.reshape(len(z), -1), y.reshape(len(y), -1)
        times = columns.shape[1] // z.shape[-1]
        shares = sample_shares(columns.shape[1], None if weights is None else jnp.tile(weights, times))
        value = jnp.sum(objective.per_sample(columns, targets) * shares)
        error = objective_error(objective, columns, objective.predict(columns), targets) * shares
        gradient = network.backward(error.reshape(z.shape), caches)[1]
        squares = sum(jnp.sum(p * p) for p in jax.tree.leaves(params) if p.ndim > 1)
        decayed = jax.tree.map(lambda g, p: g + l2 * p if p.ndim > 1 else g, gradient, params)
        return value + l2 / 2 * squares, decayed

    return loss_and_grad


def fit_chain(
    network: Part,
    params: PyTree,
    x: Array,
    y: Array,
    hyperparameters: Hyperparameters,
    *,
    steps: int,
    optimizer: str | Optimizer = "sgd",
    objective: str | Objective = "softmax",
    batch_size: int | None = None,
    batches: Batches | None = None,
    record_every: int | None = None,
) -> Fit:
    """Train a chain as `training.fit` trains a network; the samples are the last axis of x and of y.

    **Returns:** the trained parameters and the loss curve. **Raises:** `ValueError` as `training.fit` does, and for a
    batch with empty slots where the network has batch normalisation.
    """
    optimizer, steps = get_optimizer(optimizer), check_integer("steps", steps, 1)
    if record_every is not None:
        record_every = check_integer("record_every", record_every, 1)
    check_hyperparameters(hyperparameters)
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} samples and y has {y.shape[-1]}; both have them along the last axis")
    check_sample_weights(hyperparameters.weights, x.shape[-1])
    check_finite("x", x)
    check_finite("y", y)
    if not jnp.issubdtype(x.dtype, jnp.floating):  # indices, which are known here, and traced from here on
        jax.eval_shape(lambda params: network.forward(params, x)[0], params)
    batches = order_of(batch_size, batches, hyperparameters, x.shape[-1], steps)
    if network.couples and batches is not None:
        _check_full(batches, x.shape[-1], divided=batch_size is not None)
    return _trained(
        params,
        x,
        y,
        hyperparameters,
        batches,
        network=network,
        optimizer=optimizer,
        objective=get_objective(objective),
        steps=steps,
        record_every=record_every,
    )


# As one program, which a second call with the same shapes finds compiled.
@partial(jax.jit, static_argnames=("network", "optimizer", "objective", "steps", "record_every"))
def _trained(
    params: PyTree,
    x: Array,
    y: Array,
    hyperparameters: Hyperparameters,
    batches: Batches | None,
    *,
    network: Part,
    optimizer: Optimizer,
    objective: Objective,
    steps: int,
    record_every: int | None,
) -> Fit:
    """`fit_chain`, after its checks."""
    dtype = jax.tree.leaves(params)[0].dtype
    x = x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # indices stay integers
    hyperparameters = in_precision(hyperparameters, dtype)
    loss_and_grad = chain_loss_and_grad(network, objective=objective, l2=hyperparameters.l2)
    data = x, y.astype(dtype), hyperparameters.weights
    return descend(
        step_along(loss_and_grad, hyperparameters, optimizer),
        lambda params: loss_and_grad(params, *data)[0],
        State(params, optimizer.init(params)),
        data,
        steps=steps,
        batches=batches,
        record_every=record_every,
    )


def _check_full(batches: Batches, samples: int, *, divided: bool) -> None:
    """Refuse a batch with empty slots; of an order that is traced that can be told if it divides the samples evenly."""
    empty = np.min(batches) < 0 if is_concrete(batches) else divided and samples % batches.shape[1] > 0
    if empty:
        raise ValueError(
            f"batches of {batches.shape[1]} of {samples} samples leave slots empty, and what fills these would go into "
            "the means of batch normalisation: let batch_size divide the samples"
        )
