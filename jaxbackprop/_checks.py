"""Checks of what a user handed in: each names the argument, what it got and what would be right."""

import difflib
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import jax
import numpy as np

Value = TypeVar("Value")


def choose(argument: str, name: Any, options: Mapping[str, Value]) -> Value:
    """`options[name]`, or a `ValueError` that names the nearest option and all of them."""
    if isinstance(name, str) and name in options:
        return options[name]
    near = difflib.get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument}={name!r} is unknown{hint} (known: {', '.join(options)})")


def is_concrete(*arrays: Any) -> bool:
    """Whether every value is known now, so that it can be checked: inside jit, vmap or grad it is not."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))


def check_integer(argument: str, value: Any, minimum: int) -> int:
    """`value` as an int of at least `minimum`; bools and floats are refused."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{argument}={value!r} must be an integer of at least {minimum}")
    return int(value)


def check_real(
    argument: str, value: Any, minimum: float | int, maximum: float | int | None = None, *, exclusive: bool = False
) -> float:
    """`value` as a finite float of at least `minimum` (above it if `exclusive`) and at most `maximum`."""
    bound = f"{'above' if exclusive else 'of at least'} {minimum:g}"
    bound += "" if maximum is None else f" and at most {maximum:g}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{argument}={value!r} must be a finite number {bound}")
    number = float(value)
    if number < minimum or (exclusive and number == minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{argument}={value!r} must be {bound}")
    return number


def check_finite(argument: str, array: Any) -> None:
    """Refuse NaN and infinity, and say how many there are and where the first one is. What is traced has no values."""
    if isinstance(array, jax.core.Tracer):
        return
    array = np.asarray(array)
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{argument} must be finite, got {int(bad.sum())} NaN or infinite values, the first at index {where}; "
            "impute or drop them first"
        )
