"""Who knows the right gradient: `jax.grad` of the loss where autodiff can follow it, else differences of the loss.

Autodiff is believed only after its slope along a random direction has been found by differences too: a loss that itself
contains a custom derivative, or stops a gradient, would otherwise confirm its own mistake.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.auditing.differences import Slope, differentiate
from jaxbackprop.auditing.points import Leaves, Structure, given_point, in_double, root_mean_square
from jaxbackprop.auditing.refusals import AuditError
from jaxbackprop.auditing.refusals import call as guarded
from jaxbackprop.devices import compiler_options
from jaxbackprop.oracle import float64

AUTODIFF = "jax.grad of the loss, in float64"
DIFFERENCES = "central differences of the loss, in float64"
NOT_THE_SLOPE = (
    "jax.grad of the loss is not the slope of the loss: the loss holds a custom derivative, stops a gradient, or "
    "jumps. Differences of its values judge instead."
)

ValueAndGrad = Callable[[Leaves], tuple[float, list[np.ndarray]]]


class Known(NamedTuple):
    """The right gradient at one point, a bound on its error, and slopes that check what was not looked at.

    An entry that is not known is NaN: it was not sampled, or the point lies on a kink along it. `along` has for each
    leaf a direction through the entries that were not sampled, and the slope of the loss along it.
    """

    gradient: list[np.ndarray]
    error: list[np.ndarray]
    along: list[tuple[np.ndarray, Slope] | None]


@dataclass(frozen=True)
class Witness:
    """The right gradient at a point, None where the loss is not finite; and, for autodiff, the same in a narrower type,
    which shows what rounding does."""

    name: str
    at: Callable[[Leaves], Known | None]
    rounded: Callable[[Leaves, Any], list[np.ndarray]] | None = None
    notes: tuple[str, ...] = ()


def autodiff(
    loss_fn: Callable[..., Any],
    structure: Structure,
    args: Sequence[Any],
    *,
    compiled: bool = True,
    slopes: bool = True,
) -> ValueAndGrad:
    """The loss and its `jax.grad` as a function of a point of NumPy arrays, whose types are kept.

    Without `slopes` the loss alone, which is compiled sooner.
    """
    leaves, args_tree = jax.tree.flatten(tuple(args))
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)]
    static = tuple(None if isinstance(leaf, jax.Array | np.ndarray) else leaf for leaf in leaves)
    parts = (loss_fn, structure.treedef, args_tree, static, compiled, slopes)
    once = compiled and hasattr(loss_fn, "lower") and all(isinstance(part, Hashable) for part in (loss_fn, *static))
    program = (compiled_once if once else make_program)(*parts)

    def at(point: Leaves) -> tuple[float, list[np.ndarray]]:
        with float64():
            value, gradient = program([jnp.asarray(leaf) for leaf in point], arrays)
            return float(value), [np.asarray(leaf, np.float64) for leaf in gradient]

    return at


def make_program(
    loss_fn: Callable, treedef: Any, args_tree: Any, static: tuple, compiled: bool, slopes: bool
) -> Callable:
    """`jax.value_and_grad` of the loss by the leaves of its parameters; `static` has None for its array arguments."""

    def whole(leaves: Sequence[Any], arrays: Sequence[Any]) -> jax.Array:
        rest = iter(arrays)
        args = jax.tree.unflatten(args_tree, [next(rest) if leaf is None else leaf for leaf in static])
        return loss_fn(jax.tree.unflatten(treedef, leaves), *args)

    program = jax.value_and_grad(whole) if slopes else lambda leaves, arrays: (whole(leaves, arrays), [])
    return jax.jit(program, compiler_options=compiler_options(quick=True)) if compiled else program


# A loss that is compiled already does not follow what it closes over; so neither need this.
compiled_once = lru_cache(maxsize=64)(make_program)


def plain_loss(loss_fn: Callable[..., Any], structure: Structure, args: Sequence[Any]) -> Callable[[Leaves], float]:
    """The loss as a function of a point, called as it is, in float64.

    **Raises:** `ValueError` if it does not return one number.
    """

    def at(point: Leaves) -> float:
        with float64():
            value = loss_fn(structure.like_the_users(point, double=True), *args)
        if np.size(value) != 1:
            raise AuditError(f"loss_fn must return one number, got an array of shape {np.shape(value)}")
        return float(np.asarray(value).reshape(()))

    return at


def own_pullback(
    function: Callable[..., Any], args: Sequence[Any], places: Sequence[int]
) -> Callable[[Sequence[Any], Any], tuple[Any, ...]]:
    """What `jax.vjp` makes of a cotangent by the function's own rule, for the arguments in the given places."""

    def pull(arrays: Sequence[Any], dout: Any) -> tuple[Any, ...]:
        def of(*arrays: Any) -> Any:
            whole = list(args)
            for place, array in zip(places, arrays, strict=False):
                whole[place] = array
            return function(*whole)

        out, back = jax.vjp(of, *map(jnp.asarray, arrays))
        return back(jax.tree.map(lambda d, o: jnp.asarray(d, o.dtype), dout, out))

    return pull


def loss_of_args(loss_fn: Callable[..., Any], structure: Structure) -> Callable[..., float]:
    """The loss at the user's own parameters as a function of its other arguments, compiled if it can be."""

    def of(*args: Any) -> float:
        wide = in_double(args)
        try:
            return autodiff(loss_fn, structure, wide, slopes=False)(given_point(structure))[0]
        except Exception:  # as in `make_witness`
            return plain_loss(loss_fn, structure, wide)(given_point(structure))

    return of


def make_witness(
    loss_fn: Callable[..., Any], structure: Structure, args: Sequence[Any], rng: np.random.Generator
) -> Witness:
    """The best witness there is for this loss.

    **Raises:** `ValueError` if the loss is no number, not finite at the user's own parameters, or not the same twice.
    """
    wide = in_double(args)
    center = given_point(structure)
    loss = plain_loss(loss_fn, structure, wide)
    seed = int(rng.integers(2**32))
    notes: tuple[str, ...] = ()
    for compiled in (True, False):
        derive = partial(autodiff, loss_fn, structure, compiled=compiled)
        value_and_grad = derive(wide)
        try:
            value, _ = value_and_grad(center)
        except Exception:  # whatever a loss does with a tracer that is written for NumPy, or asks for values
            continue
        check_value(value)
        if is_slope(value_and_grad, center, rng):
            return Witness(AUTODIFF, partial(by_autodiff, value_and_grad), rounded_autodiff(derive, args))
        loss = lambda point: value_and_grad(point)[0]  # noqa: B023, E731  it is compiled
        notes = (NOT_THE_SLOPE,)
        break
    check_value(guarded("loss_fn", loss, center))
    if loss(center) != loss(center):
        raise ValueError("loss_fn gave two values at the same params: fix its random numbers before it is audited")
    return Witness(DIFFERENCES, partial(by_differences, loss, seed=seed), notes=notes)


def check_value(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"loss_fn is {value} at params: audit it where it is finite")


def by_autodiff(value_and_grad: ValueAndGrad, point: Leaves) -> Known | None:
    """What `jax.grad` knows: everything, unless the loss is not finite here."""
    value, gradient = value_and_grad(point)
    if not (math.isfinite(value) and all(np.isfinite(leaf).all() for leaf in gradient)):
        return None
    return Known(gradient, [np.zeros_like(leaf) for leaf in gradient], [None] * len(gradient))


def rounded_autodiff(
    derive: Callable[[Sequence[Any]], ValueAndGrad], args: Sequence[Any]
) -> Callable[[Leaves, Any], list[np.ndarray]]:
    """`jax.grad` of the loss with everything in a narrower type."""
    programs = cache(lambda dtype: derive(in_type(args, dtype)))
    return lambda point, dtype: programs(dtype)([leaf.astype(dtype) for leaf in point])[1]


def in_type(args: Sequence[Any], dtype: Any) -> tuple[Any, ...]:
    """The arguments with every floating-point array in the given type."""

    def cast(leaf: Any) -> Any:
        is_array = isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if is_array else leaf

    return tuple(jax.tree.map(cast, args))


def is_slope(value_and_grad: ValueAndGrad, center: Leaves, rng: np.random.Generator) -> bool:
    """Whether <jax.grad, v> is the slope of the loss along a random v, at a random point next to the given one."""
    size = root_mean_square(center) or 1.0
    for _ in range(3):  # a kink on the way may spoil one direction
        point = [leaf + 0.01 * size * rng.normal(size=leaf.shape) for leaf in center]
        value, gradient = value_and_grad(point)
        if not (math.isfinite(value) and all(np.isfinite(leaf).all() for leaf in gradient)):
            size /= 16
            continue
        # Every leaf is to contribute, also one whose gradient is small beside another's.
        least = 1e-3 * root_mean_square(gradient) or 1.0
        steps = [rng.normal(size=leaf.shape) / max(root_mean_square([leaf]), least) for leaf in gradient]
        unit = size / max(float(np.max(np.abs(step), initial=0)) for step in steps)
        steps = [unit * step for step in steps]
        slope = along(lambda p: value_and_grad(p)[0], point, steps, value)
        parts = [float(np.sum(leaf * step)) for leaf, step in zip(gradient, steps, strict=True)]
        if abs(slope.value - sum(parts)) <= 1e-6 * sum(map(abs, parts)) + 10 * slope.error:
            return True
    return False


def along(loss: Callable[[Leaves], float], point: Leaves, steps: Leaves, middle: float) -> Slope:
    """The slope of the loss along a direction whose unit is as long as the parameters are large."""
    return differentiate(
        lambda t: loss([leaf + t * step for leaf, step in zip(point, steps, strict=True)]), 1e-3, middle
    )


def by_differences(loss: Callable[[Leaves], float], point: Leaves, *, seed: int) -> Known | None:
    """The gradient by differences: of every entry, or of a sample of them if there are many, another one at each point.

    Nothing is known where the loss is not finite.
    """
    middle = loss(point)
    if not math.isfinite(middle):
        return None
    seed += crc32(point[0].tobytes())
    size = sum(leaf.size for leaf in point)
    typical = root_mean_square(point) or 1.0
    budget = max(4, int(np.clip(5_000_000 // size, 48, 480)) // len(point))
    gradient, error = [], []
    checks: list[tuple[np.ndarray, Slope] | None] = []
    for i, leaf in enumerate(point):
        scale = root_mean_square([leaf]) or typical
        values, bounds = np.full(leaf.shape, np.nan), np.zeros(leaf.shape)
        sampled = sample_entries(leaf.shape, budget, seed)
        for entry in sampled:
            unit = max(abs(float(leaf[entry])), scale)

            def moved(t: float, i: int = i, entry: tuple = entry, unit: float = unit) -> float:
                copy = point[i].copy()
                copy[entry] += t * unit
                return loss([*point[:i], copy, *point[i + 1 :]])

            slope = differentiate(moved, 1e-3, middle)
            if not slope.kink:
                values[entry], bounds[entry] = slope.value / unit, slope.error / unit
        gradient.append(values)
        error.append(bounds)
        checks.append(None)
        if len(sampled) < leaf.size:
            step = scale * np.random.default_rng(seed).normal(size=leaf.shape)
            for entry in sampled:
                step[entry] = 0
            steps = [step if j == i else np.zeros_like(other) for j, other in enumerate(point)]
            checks[i] = (step, along(loss, point, steps, middle))
    # Differences that did not settle say nothing: a kink is closer than any step.
    for values, bounds in zip(gradient, error, strict=True):
        largest = np.nanmax(np.abs(values), initial=0.0)
        values[bounds > 1e-5 * largest + 1e-9 * abs(middle)] = np.nan
    return Known(gradient, error, checks)


def sample_entries(shape: tuple[int, ...], budget: int, seed: int) -> list[tuple[int, ...]]:
    """Indices into an array; of a square matrix always both (i, j) and (j, i), so that a transposed one shows."""
    size = math.prod(shape)
    if size <= budget:
        return list(np.ndindex(*shape))
    rng = np.random.default_rng(seed)
    flat = rng.choice(size, size=budget // 2 if len(shape) == 2 and shape[0] == shape[1] else budget, replace=False)
    entries = {tuple(int(i) for i in np.unravel_index(index, shape)) for index in flat}
    if len(shape) == 2 and shape[0] == shape[1]:
        entries |= {(j, i) for i, j in entries}
    return sorted(entries)
