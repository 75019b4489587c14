"""The initial parameters of many networks at once, padded: for each seed those of `init_params`."""

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxbackprop.devices import compiler_options
from jaxbackprop.network import Layer, Params, columns_drawn, scale, standard_rows
from jaxbackprop.sweeps.grid import Trial

BLOCK = 1024  # rows drawn at a time: one compiled program serves any number of networks of any width


def _draw_block(
    seeds: Int[Array, " rows"], l: Int[Array, ""], rows: Int[Array, " rows"], *, columns: int, scheme: str, dtype: str
) -> Float[Array, "rows columns"]:
    def draw(seed: Array, row: Array) -> Array:
        return standard_rows(jax.random.key(seed), l[None], row[None], columns=columns, scheme=scheme, dtype=dtype)[0]

    return jax.vmap(draw)(seeds, rows)


@functools.cache
def _compiled() -> Any:
    """`_draw_block`, compiled in half the time, to the same numbers."""
    return jax.jit(
        _draw_block, static_argnames=("columns", "scheme", "dtype"), compiler_options=compiler_options(quick=True)
    )


def draw_members(members: Sequence[Trial], padded: tuple[int, ...], *, scheme: str, dtype: np.dtype) -> Params:
    """The starts of some trials, stacked and padded."""
    sizes = np.array([(padded[0], *trial.hidden, padded[-1]) for trial in members], np.int32)
    seeds = np.array([trial.seed for trial in members], np.int64)
    return draw_starts(seeds, sizes, padded, scheme=scheme, dtype=dtype)


def draw_starts(
    seeds: Int[np.ndarray, " networks"],
    sizes: Int[np.ndarray, "networks layers"],
    padded: tuple[int, ...],
    *,
    scheme: str,
    dtype: np.dtype,
) -> Params:
    """Parameters stacked over networks: network k starts as `init_params(key(seeds[k]), sizes[k], scheme=scheme)`, its
    units filled up with zeros to the widths of `padded`."""
    distinct, position = np.unique(seeds, return_inverse=True)
    params = []
    for l, (columns, rows) in enumerate(pairwise(padded)):
        width = columns_drawn(columns)
        grid = np.stack(np.meshgrid(distinct, np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int32)
        total = len(grid)
        grid = np.pad(grid, ((0, -total % BLOCK), (0, 0)))
        standard = np.empty((len(grid), columns), dtype)
        for start in range(0, len(grid), BLOCK):
            b = grid[start : start + BLOCK]
            drawn = _compiled()(b[:, 0], np.int32(l), b[:, 1], columns=width, scheme=scheme, dtype=str(dtype))
            standard[start : start + BLOCK] = np.asarray(drawn)[:, :columns]
        standard = standard[:total].reshape(len(distinct), rows, columns)
        fan_in, fan_out = sizes[:, l], sizes[:, l + 1]
        shapes, shape = np.unique(np.stack([fan_in, fan_out], axis=1), axis=0, return_inverse=True)
        scales = np.array([scale(scheme, int(i), int(o)) for i, o in shapes], dtype)[shape.reshape(-1)]
        present = (np.arange(rows) < fan_out[:, None])[:, :, None] & (np.arange(columns) < fan_in[:, None])[:, None, :]
        weight: Any = standard[position]  # a copy, worked on in place: these are the largest arrays of a sweep
        weight *= scales[:, None, None]
        weight *= present
        bias: Any = np.zeros((len(seeds), rows), dtype)
        params.append(Layer(weight, bias))
    return tuple(params)
