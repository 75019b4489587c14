"""JAX functions of small arrays in NumPy: their operations one by one, so that nothing is compiled.

An audit calls many small functions once or twice each. Compiling one costs a hundred times what it computes.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.devices import compiler_options
from jaxbackprop.oracle import float64

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "sign": np.sign,
    "max": np.maximum, "min": np.minimum, "abs": np.abs, "exp": np.exp, "exp2": np.exp2, "log": np.log,
    "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh, "sin": np.sin,
    "cos": np.cos, "sqrt": np.sqrt, "square": np.square, "pow": np.power, "gt": np.greater, "lt": np.less,
    "ge": np.greater_equal, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and,
    "or": np.logical_or, "not": np.logical_not, "is_finite": np.isfinite, "stop_gradient": np.asarray,
    "copy": np.asarray, "logistic": lambda x: np.exp(-np.logaddexp(0, -x)),
}  # fmt: skip
REDUCTIONS: dict[str, Callable[..., Any]] = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min}
INNER = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


class Unknown(Exception):
    """An operation that is not known here."""


def evaluate(function: Callable[..., Any], *values: np.ndarray) -> Any:
    """`function(*values)` in float64, without compiling if all that it does is known here."""
    try:
        with float64(), np.errstate(all="ignore"):
            traced = _traced(function, tuple(value.shape for value in values))
            out = run(traced.jaxpr, traced.consts, values)
            return out[0] if len(out) == 1 else out
    except Unknown:
        with float64():
            return jax.tree.map(np.asarray, _compiled(function)(*map(jnp.asarray, values)))


def run(jaxpr: Any, constants: Sequence[Any], values: Sequence[Any]) -> list[np.ndarray]:
    """A function's list of operations.

    **Raises:** `Unknown` at the first that is not known here.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(np.asarray, constants), *values], strict=True))

    def read(variable: Any) -> Any:
        return np.asarray(variable.val) if hasattr(variable, "val") else known[variable]

    for step in jaxpr.eqns:
        inputs = [read(variable) for variable in step.invars]
        name = step.primitive.name
        if name in INNER:
            inner = step.params[INNER[name]]
            results = run(inner.jaxpr, inner.consts, inputs)
        else:
            result = operation(name, step.params, inputs)
            results = result if step.primitive.multiple_results else [result]
        for variable, result in zip(step.outvars, results, strict=True):
            known[variable] = np.asarray(result)
    return [read(variable) for variable in jaxpr.outvars]


def operation(name: str, params: dict[str, Any], inputs: Sequence[Any]) -> Any:
    """One operation by its name in JAX."""
    if name in ELEMENTWISE:
        return ELEMENTWISE[name](*inputs)
    if name == "integer_pow":
        return inputs[0] ** float(params["y"])
    if name == "convert_element_type":
        return inputs[0].astype(params["new_dtype"])
    if name == "select_n":
        return np.choose(inputs[0].astype(int), inputs[1:]) if len(inputs) > 3 else np.where(inputs[0], *inputs[:0:-1])
    if name == "clamp":
        return np.clip(inputs[1], inputs[0], inputs[2])
    if name == "broadcast_in_dim" and len(inputs) == 1:
        shape = [1] * len(params["shape"])
        for place, length in zip(params["broadcast_dimensions"], inputs[0].shape, strict=True):
            shape[place] = length
        return np.broadcast_to(inputs[0].reshape(shape), params["shape"])
    if name == "reshape" and params["dimensions"] is None and len(inputs) == 1:
        return inputs[0].reshape(params["new_sizes"])
    if name == "squeeze":
        return np.squeeze(inputs[0], axis=params["dimensions"])
    if name == "slice":
        steps = params["strides"] or [1] * inputs[0].ndim
        bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        return inputs[0][tuple(slice(*each) for each in bounds)]
    if name == "split":
        return np.split(inputs[0], np.cumsum(params["sizes"])[:-1], axis=params["axis"])
    if name in ("erf", "erfc"):
        return np.vectorize(getattr(math, name), otypes=[np.float64])(inputs[0])
    if name == "stack":
        return np.stack(inputs, axis=params["axis"])
    if name == "concatenate":
        return np.concatenate(inputs, axis=params["dimension"])
    if name in ("reduce_sum", "reduce_max", "reduce_min"):
        return REDUCTIONS[name](inputs[0], axis=params["axes"])
    raise Unknown(name)


@lru_cache(maxsize=256)
def _traced(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> Any:
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, np.float64) for shape in shapes))


@lru_cache(maxsize=64)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=compiler_options(quick=True))
