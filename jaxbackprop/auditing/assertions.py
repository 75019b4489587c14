"""A gradient in a test: `assert_gradient` on whatever tree the parameters of a library are kept in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.auditing.whole import audit


def assert_gradient(
    gradient_fn: Callable[..., Any], loss_fn: Callable[..., Any], params: Any, *args: Any, **options: Any
) -> None:
    """Assert that `gradient_fn(params, *args)` is the gradient of `loss_fn(params, *args)`.

    `params` is any pytree, as flax, equinox and optax have them. Leaves that are no floating-point arrays, as an
    activation function, a step counter or a string, stay what they are; what the gradient has in their place does not
    matter. `options` are those of `audit`.

    **Raises:** `AssertionError` with the report if the gradient is wrong; `ValueError` as `audit` does.
    """
    leaves, tree = jax.tree.flatten(params)
    moving = [n for n, leaf in enumerate(leaves) if is_float_array(leaf)]
    if len(moving) == len(leaves):
        audit(gradient_fn, loss_fn, params, *args, **options).raise_if_wrong()
        return
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(params)]

    def whole(part: dict[str, Any]) -> Any:
        filled = list(leaves)
        for n in moving:
            filled[n] = part[paths[n]]
        return jax.tree.unflatten(tree, filled)

    def gradient_of_part(part: dict[str, Any], *args: Any) -> dict[str, Any]:
        found = gradient_fn(whole(part), *args)
        flat = {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree.leaves_with_path(found)
        }
        missing = [paths[n] for n in moving if paths[n] not in flat]
        if missing:
            raise ValueError(f"gradient_fn must return a gradient of the structure of params, got none for {missing}")
        return {paths[n]: flat[paths[n]] for n in moving}

    part = {paths[n]: leaves[n] for n in moving}
    report = audit(gradient_of_part, lambda part, *args: loss_fn(whole(part), *args), part, *args, **options)
    report.raise_if_wrong()


def is_float_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or a number, that a gradient can be taken by."""
    if isinstance(leaf, float):
        return True
    is_array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
    return is_array and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
