"""Which networks can share a program, and where their layers stand in one that has room for more of them, see `depths`:
the hidden layers in the first slots, the output layer in the last."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxbackprop.devices import compiler_options
from jaxbackprop.embedded import Waves
from jaxbackprop.network import Layer, Params
from jaxbackprop.optimizers import Hyperparameters, Optimizer, get_optimizer, is_own
from jaxbackprop.sweeps.grid import Trial


class Family(NamedTuple):
    """What networks must have in common to share a program. `alike` is whether there is a hidden layer; their depth or
    their shape, if further layers or padding would disturb the optimizer."""

    alike: bool | int | tuple[int, ...]
    optimizer: Optimizer
    batch_size: int | None
    batches: int


def family_of(trial: Trial, batches: int) -> Family:
    """That of a trial on a split that makes so many batches."""
    optimizer, depth = get_optimizer(trial.optimizer), len(trial.hidden)
    alike: bool | int | tuple[int, ...] = depth > 0
    if not ignores_padding(optimizer):
        alike = trial.hidden
    elif not ignores_slots(optimizer):
        alike = depth
    return Family(alike, optimizer, trial.batch_size, batches)


def slot_widths(hidden: tuple[int, ...], slots: int) -> tuple[int, ...]:
    """The width of each slot: one that hands on is as wide as the last hidden layer."""
    return hidden + hidden[-1:] * (slots - len(hidden))


def own_layers(tree: Any, depth: int) -> Any:
    """Of the parameters in slots, and of whatever an optimizer holds for each of them, the layers that a network with
    `depth` hidden ones has."""

    def own(node: Any) -> Any:
        if not _is_params(node):
            return node
        return (*node[: depth + isinstance(node[0], Waves)], node[-1])

    return jax.tree.map(own, tree, is_leaf=_is_params)


def _is_params(node: Any) -> bool:
    return type(node) is tuple and len(node) > 0 and all(isinstance(own, Layer | Waves) for own in node)


def tried_out(optimizer: Optimizer, params: Params) -> tuple[Params, Any]:
    """Parameters and the optimizer's state, in NumPy, after a few updates along a gradient that is zero where they
    are."""

    def updated(params: Params) -> tuple[Params, Any]:
        def update(_: Array, now: tuple[Params, Any]) -> tuple[Params, Any]:
            params, state = now
            gradient = jax.tree.map(lambda p: 0.3 * p, params)
            return optimizer.update(gradient, state, params, Hyperparameters(0.1))

        return lax.fori_loop(0, 3, update, (params, optimizer.init(params)))

    # As one program: one operation after another, each would be compiled by itself, which takes seconds.
    return jax.tree.map(np.asarray, jax.jit(updated, compiler_options=compiler_options(quick=True))(params))


@lru_cache(maxsize=256)
def ignores_padding(optimizer: Optimizer) -> bool:
    """Whether units with zero parameters and zero gradients change nothing for the others, and stay zero, so that
    networks of several widths can share a program. All of `OPTIMIZERS` are so; one's own is tried out: an update that
    takes a mean over a layer, as adafactor's does, is not."""
    if not is_own(optimizer):
        return True
    generator = np.random.default_rng(0)
    make: Any = Layer
    small = tuple(make(generator.normal(size=(m, n)), generator.normal(size=m)) for n, m in ((3, 2), (2, 2)))
    padded = (
        make(np.pad(small[0].weight, ((0, 3), (0, 0))), np.pad(small[0].bias, (0, 3))),
        make(np.pad(small[1].weight, ((0, 0), (0, 3))), small[1].bias),
    )
    after = [tried_out(optimizer, params) for params in (small, padded)]
    structures: list[Any] = [jax.tree.structure(tree) for tree in after]
    if structures[0] != structures[1]:
        return False
    for own, wide in zip(jax.tree.leaves(after[0]), jax.tree.leaves(after[1]), strict=True):
        if own.ndim != wide.ndim or not np.allclose(own, wide[tuple(map(slice, own.shape))], rtol=1e-5, atol=1e-7):
            return False
    first, second = after[1][0]
    return not any(a.any() for a in (first.weight[2:], first.bias[2:], second.weight[:, 2:]))


@lru_cache(maxsize=256)
def ignores_slots(optimizer: Optimizer) -> bool:
    """Whether further layers of zero parameters and zero gradients change nothing for the others, and stay zero, so
    that networks of several depths can share a program. All of `OPTIMIZERS` are so; one's own is tried out: an update
    that counts the layers is not, nor one whose state does not keep them apart."""
    if not is_own(optimizer):
        return True
    if not ignores_padding(optimizer):
        return False
    generator = np.random.default_rng(0)
    make: Any = Layer
    first, last = (make(generator.normal(size=(2, n)), generator.normal(size=2)) for n in (3, 2))
    blank = make(np.zeros((2, 2)), np.zeros(2))
    after = [tried_out(optimizer, params) for params in ((first, last), (first, blank, blank, last))]
    apart = (after[0], own_layers(after[1], 1))
    structures: list[Any] = list(map(jax.tree.structure, apart))
    if structures[0] != structures[1]:
        return False
    pairs = zip(*map(jax.tree.leaves, apart), strict=True)
    same = all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)
    return same and not any(a.any() for layer in after[1][0][1:-1] for a in layer)
