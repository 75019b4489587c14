"""A case of each layer, of random shapes and options: what tests and checks of gradients go through."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop._checks import choose
from jaxbackprop.layers import FILES


class Example(NamedTuple):
    """Arguments and keywords of a layer's `forward`."""

    arguments: tuple[Array, ...]
    options: dict[str, Any]


def example(name: str, rng: np.random.Generator, dtype: str = "float64") -> Example:
    """A case of the layer of that name; most sizes start at one, odd ones among them."""
    choose("layer", name, FILES)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    return CASES.get(name, _elementwise)(rng, normal)


Normal = Callable[..., Array]
Rng = np.random.Generator


def _size(rng: Rng, most: int = 6) -> int:
    return int(rng.integers(1, most))


def _sizes(rng: Rng, number: int, most: int = 6) -> tuple[int, ...]:
    return tuple(int(size) for size in rng.integers(1, most, number))


def _elementwise(rng: Rng, normal: Normal) -> Example:
    return Example((normal(*_sizes(rng, int(rng.integers(2, 5)))),), {})


def _affine(rng: Rng, normal: Normal) -> Example:
    d, m, n = _sizes(rng, 3)
    return Example((normal(d, n), normal(m, d), normal(m)), {})


def _cross_entropy(rng: Rng, normal: Normal) -> Example:
    c, n = 1 + _size(rng), _size(rng)
    target = rng.uniform(size=(c, n)) if rng.integers(2) else rng.integers(0, c, n)
    return Example((normal(c, n),), {"target": target})


def _hinge(rng: Rng, normal: Normal) -> Example:
    c, n = 1 + _size(rng), _size(rng)
    return Example((normal(c, n),), {"target": rng.integers(0, c, n)})


def _squared_error(rng: Rng, normal: Normal) -> Example:
    c, n = _sizes(rng, 2)
    return Example((normal(c, n),), {"target": normal(c, n)})


def _dropout(rng: Rng, normal: Normal) -> Example:
    shape = _sizes(rng, 2)
    return Example((normal(*shape),), {"rate": 0.3, "mask": jnp.asarray(rng.uniform(size=shape) > 0.3)})


def _embedding(rng: Rng, normal: Normal) -> Example:
    d, words, t, n = _sizes(rng, 4)
    return Example((normal(d, words),), {"index": jnp.asarray(rng.integers(0, words, (t, n)))})


def _batch_norm(rng: Rng, normal: Normal) -> Example:
    d, n = _size(rng), 2 + _size(rng)
    options: dict[str, Any] = {"eps": 1e-3}
    if rng.integers(4) == 0:
        options |= {"training": False, "running_mean": normal(d), "running_var": normal(d) ** 2 + 0.1}
    return Example((normal(d, n), normal(d), normal(d)), options)


def _spatial_batch_norm(rng: Rng, normal: Normal) -> Example:
    c, h, w, n = _sizes(rng, 4)
    return Example((normal(c, h, w, n + 1), normal(c), normal(c)), {"eps": 1e-3})


def _layer_norm(rng: Rng, normal: Normal) -> Example:
    d, h, n = 1 + _size(rng), _size(rng), _size(rng)
    if rng.integers(2):
        return Example((normal(d, n), normal(d), normal(d)), {"eps": 1e-3})
    return Example((normal(d, h, n), normal(d, h), normal(d, h)), {"eps": 1e-3, "axes": (0, 1)})


def _rms_norm(rng: Rng, normal: Normal) -> Example:
    d, n = 1 + _size(rng), _size(rng)
    return Example((normal(d, n), normal(d)), {"eps": 1e-3})


def _group_norm(rng: Rng, normal: Normal) -> Example:
    groups, inside, h, w, n = _sizes(rng, 5, 4)
    c = groups * inside
    return Example((normal(c, h, w + 1, n), normal(c), normal(c)), {"groups": groups, "eps": 1e-3})


def _convolution(rng: Rng, normal: Normal, space: int = 2) -> Example:
    groups, inside, outs, n = _sizes(rng, 4, 4)
    kernel, stride, dilation = _sizes(rng, space, 4), _sizes(rng, space, 4), _sizes(rng, space, 3)
    pad = tuple(int(p) for p in rng.integers(0, 3, space))
    sizes = tuple(d * (k - 1) + 1 + int(rng.integers(0, 5)) for d, k in zip(dilation, kernel, strict=True))
    options = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}
    x, weight = normal(groups * inside, *sizes, n), normal(groups * outs, inside, *kernel)
    return Example((x, weight, normal(groups * outs)), options)


def _pool(rng: Rng, normal: Normal) -> Example:
    space = int(rng.integers(1, 3))
    size, stride = _sizes(rng, space, 4), _sizes(rng, space, 4)
    pad = tuple(int(rng.integers(0, k // 2 + 1)) for k in size)
    sizes = tuple(k + int(rng.integers(0, 5)) for k in size)
    x = normal(_size(rng, 4), *sizes, _size(rng, 4))
    return Example((x,), {"size": size, "stride": stride, "pad": pad, "sticking_out": bool(rng.integers(2))})


def _max_pool(rng: Rng, normal: Normal) -> Example:
    case = _pool(rng, normal)
    return Example((jnp.round(case.arguments[0]),), case.options) if rng.integers(2) else case  # rounding makes ties


def _average_pool(rng: Rng, normal: Normal) -> Example:
    case = _pool(rng, normal)
    return Example(case.arguments, case.options | {"count_padding": bool(rng.integers(2))})


def _rnn_step(rng: Rng, normal: Normal) -> Example:
    d, h, n = _sizes(rng, 3)
    return Example((normal(d, n), normal(h, n), normal(h, d), normal(h, h), normal(h)), {})


def _recurrent(gates: int, biases: int) -> Callable[[Rng, Normal], Example]:
    def case(rng: Rng, normal: Normal) -> Example:
        d, h, t, n = _sizes(rng, 4)
        weights = normal(gates * h, d), normal(gates * h, h)
        return Example((normal(d, t, n), normal(h, n), *weights, *(normal(gates * h) for _ in range(biases))), {})

    return case


def _attention(rng: Rng, normal: Normal) -> Example:
    groups, shared, d, e, queries, keys, n = _sizes(rng, 7, 4)
    queries, keys = 1 + queries, 1 + keys  # a single key gets all attention: dL/dq and dL/dk would be 0
    causal = bool(rng.integers(2))
    query, key = normal(groups * shared * d, queries, n), normal(groups * d, keys, n)
    options = {"heads": groups * shared, "key_heads": groups, "causal": causal}
    return Example((query, key, normal(groups * e, keys, n)), options)


def _positional(rng: Rng, normal: Normal) -> Example:
    d, t, n = _sizes(rng, 3)
    return Example((normal(d, t, n), normal(d, t + 1)), {})


def _periodic(rng: Rng, normal: Normal) -> Example:
    d, waves, n = _sizes(rng, 3)
    return Example((normal(d, n), normal(d, waves)), {})


def _residual(rng: Rng, normal: Normal) -> Example:
    shape = _sizes(rng, 2)
    return Example((normal(*shape), normal(*shape)), {})


CASES: dict[str, Callable[[Rng, Normal], Example]] = {
    "affine": _affine,
    "softmax_cross_entropy": _cross_entropy,
    "hinge": _hinge,
    "squared_error": _squared_error,
    "dropout": _dropout,
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    "spatial_batch_norm": _spatial_batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "convolution": _convolution,
    "convolution_1d": lambda rng, normal: _convolution(rng, normal, 1),
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "rnn_step": _rnn_step,
    "rnn": _recurrent(1, 1),
    "lstm": _recurrent(4, 1),
    "gru": _recurrent(3, 2),
    "attention": _attention,
    "positional_embedding": _positional,
    "periodic": _periodic,
    "residual": _residual,
}
