"""A pytree as a list of named arrays, and the points at which a gradient is judged.

One point is not enough: a gradient that is right where it was looked at may be wrong everywhere else. The first
point is the user's own, the others scatter around it by a share of each leaf's typical size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop._checks import check_finite
from jaxbackprop.oracle import float64

Leaves = Sequence[np.ndarray]
Known = TypeVar("Known")

SPREAD = 0.3  # of a leaf's root mean square: far enough to be another point, near enough to be a usual one


@dataclass(frozen=True)
class Structure:
    """What the parameters are made of: the tree, and a name, a shape and a type for every leaf."""

    treedef: jax.tree_util.PyTreeDef
    paths: tuple[str, ...]
    originals: tuple[Any, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(np.shape(leaf) for leaf in self.originals)

    @property
    def dtypes(self) -> tuple[np.dtype, ...]:
        return tuple(np.dtype(getattr(leaf, "dtype", np.float64)) for leaf in self.originals)

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """The leaves as a pytree again, whatever they are: arrays, tracers."""
        return jax.tree.unflatten(self.treedef, list(leaves))

    def like_the_users(self, point: Leaves, *, double: bool = False) -> Any:
        """A copy of a point as the user's own kind of pytree: JAX arrays where they had JAX arrays, and so on.

        With `double` its floats are float64, whatever they were.
        """
        leaves = [
            _like(original, values, double=double) for original, values in zip(self.originals, point, strict=True)
        ]
        return self.rebuild(leaves)

    def take_apart(self, gradient: Any) -> list[np.ndarray]:
        """Copies of the leaves of a gradient, in the order of the parameters' leaves.

        **Raises:** `ValueError` if the gradient is not built like the parameters, or holds something else than numbers.
        """
        leaves = self._flatten(gradient)
        for path, leaf in zip(self.paths, leaves, strict=True):
            if leaf.dtype.kind not in "biuf" and not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(f"gradient_fn must return real numbers, got {leaf.dtype} for {path}")
        return leaves

    def _flatten(self, gradient: Any) -> list[np.ndarray]:
        try:
            return [np.array(leaf) for leaf in self.treedef.flatten_up_to(gradient)]
        except ValueError:
            pass
        # A list where the parameters have a tuple or a named tuple means the same.
        indices = _plain(self.rebuild(range(len(self.paths))))
        plain: Any = jax.tree.structure(indices)
        try:
            leaves = plain.flatten_up_to(_plain(gradient, depth=_depth(indices)))
            return [np.array(leaves[place]) for place in np.argsort(jax.tree.leaves(indices))]
        except ValueError:
            raise ValueError(
                "gradient_fn must return a gradient of the structure of params, which is "
                f"{self.treedef}; got {jax.tree.structure(gradient)}"
            ) from None


def describe(params: Any) -> Structure:
    """The structure of the parameters.

    **Raises:** `ValueError` if there is no leaf, or one that no gradient can be taken by.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not with_paths:
        raise ValueError("params has no leaf: there is nothing to take a gradient by")
    paths = tuple(jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path, _ in with_paths)
    originals = tuple(leaf for _, leaf in with_paths)
    for path, leaf in zip(paths, originals, strict=True):
        if not _is_float(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(
                f"params must hold floating-point arrays, got {kind} at {path}; convert it, or close over it"
            )
        check_finite(f"params at {path}", _double(leaf))
    return Structure(treedef, paths, originals)


def given_point(structure: Structure) -> list[np.ndarray]:
    """The user's own parameters, as float64."""
    return [_double(leaf) for leaf in structure.originals]


def draw_point(
    structure: Structure, rng: np.random.Generator, dtypes: Sequence[Any], know: Callable[[Leaves], Known | None]
) -> tuple[list[np.ndarray], Known] | None:
    """A random point around the user's, exact in the given types, and what `know` knows of it; None if there is none.

    Where the loss is not finite, as a logarithm of a negative number, nothing is known, and the next try stays closer.
    """
    center = given_point(structure)
    typical = root_mean_square(center) or 1.0
    noise = [rng.normal(size=leaf.shape) for leaf in center]
    for shrink in (1, 1 / 4, 1 / 16, 1 / 64, 1 / 256):
        point = [
            _double((leaf + shrink * SPREAD * (root_mean_square([leaf]) or typical) * step).astype(dtype))
            for leaf, step, dtype in zip(center, noise, dtypes, strict=True)
        ]
        known = know(point)
        if known is not None:
            return point, known
    return None


def root_mean_square(leaves: Leaves) -> float:
    """The typical size of an entry."""
    size = sum(leaf.size for leaf in leaves)
    return math.sqrt(sum(float(np.sum(leaf**2)) for leaf in leaves) / size) if size else 0.0


def in_double(args: Sequence[Any]) -> tuple[Any, ...]:
    """The loss's other arguments with float64 in place of any narrower floating-point array."""
    return tuple(jax.tree.map(lambda leaf: _like(leaf, _double(leaf), double=True) if _is_float(leaf) else leaf, args))


def copied(args: Sequence[Any]) -> tuple[Any, ...]:
    """The other arguments with copies of its NumPy arrays: a function under audit may write into what it gets."""
    return tuple(jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, args))


def batch_size(args: Sequence[Any]) -> int | None:
    """The number of samples, as far as the arguments tell: the axis length that all arrays among them share."""
    shapes = array_shapes(args)
    if not shapes:
        return None
    shared = [length for length in shapes[0] if all(length in shape for shape in shapes)]
    return (shared or shapes[0])[0]


def axis_lengths(args: Sequence[Any], samples: int | None) -> tuple[int, ...]:
    """What else a mean over the arguments may run over: their other axes, and these together with the samples."""
    others = sorted({length for shape in array_shapes(args) for length in shape} - {samples, 0, 1, 2})
    return (*others, *(length * samples for length in (2, *others) if samples))


def array_shapes(args: Sequence[Any]) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(args) if getattr(leaf, "ndim", 0)]


def _double(leaf: Any) -> np.ndarray:
    return np.array(leaf, dtype=np.float64)


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, float):
        return True
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and not isinstance(leaf, type) and jnp.issubdtype(dtype, jnp.floating)


def _like(original: Any, values: np.ndarray, *, double: bool) -> Any:
    if isinstance(original, jax.Array):
        with float64():
            return jnp.asarray(values, jnp.float64 if double else original.dtype)
    if isinstance(original, float) and not isinstance(original, np.generic):
        return float(values)
    return np.array(values, dtype=np.float64 if double else original.dtype)


def _plain(tree: Any, depth: int | None = None) -> Any:
    """The tree with tuples for lists and named tuples, down to where the leaves are."""
    if depth == 0:
        return tree
    below = None if depth is None else depth - 1
    if isinstance(tree, list | tuple):
        return tuple(_plain(branch, below) for branch in tree)
    if type(tree) is dict:
        return {key: _plain(branch, below) for key, branch in tree.items()}
    return tree


def _depth(tree: Any) -> int:
    branches = tree if isinstance(tree, tuple) else tree.values() if isinstance(tree, dict) else None
    return 0 if branches is None else 1 + max(map(_depth, branches), default=0)
