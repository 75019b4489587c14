"""Max and average pooling over one or two dimensions; each channel for itself."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Static

Images = Float[Array, "channels ..."]
PerDimension = int | tuple[int, ...]


class Windows(NamedTuple):
    """Where the windows lie, for each dimension of space: x's size, the windows' size, stride, padding and number."""

    space: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def behind(self) -> tuple[int, ...]:
        """How many places past x's end the last window reaches; fewer than 0 where it stops before."""
        rows = zip(self.space, self.size, self.stride, self.pad, self.out, strict=True)
        return tuple(s * (o - 1) + k - q - p for q, k, s, p, o in rows)

    def places(self) -> list[tuple[int, ...]]:
        """All places in a window, in reading order."""
        return list(np.ndindex(*self.size))

    def spread(self, values: Array, place: tuple[int, ...]) -> Array:
        """One value a window, put where that place of the window lies in x; zero elsewhere."""
        rows = zip(self.space, place, self.stride, self.pad, self.out, strict=True)
        config = [(k - p, q - (k - p) - (s * (o - 1) + 1), s - 1) for q, k, s, p, o in rows]
        return lax.pad(values, jnp.zeros((), values.dtype), [(0, 0, 0), *config, (0, 0, 0)])

    def seen(self, x: Array, place: tuple[int, ...], fill: float) -> Array:
        """What every window sees at that place."""
        rows = zip(self.pad, self.behind, strict=True)
        padded = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((p, b, 0) for p, b in rows), (0, 0, 0)])
        last = [k + s * (o - 1) + 1 for k, s, o in zip(place, self.stride, self.out, strict=True)]
        return lax.slice(padded, (0, *place, 0), (len(x), *last, x.shape[-1]), (1, *self.stride, 1))


def lay_windows(
    x: Array, size: PerDimension, stride: PerDimension | None, pad: PerDimension, sticking_out: bool
) -> Windows:
    """Windows of a size, as far as they fit; with `sticking_out` one more that starts in x but ends behind it.

    **Raises:** `ValueError` if the padding is more than half of the size.
    """
    space = x.shape[1:-1]

    def each(number: PerDimension) -> tuple[int, ...]:
        return (number,) * len(space) if isinstance(number, int) else tuple(number)

    sizes, pads = each(size), each(pad)
    strides = sizes if stride is None else each(stride)
    out = []
    for q, k, s, p in zip(space, sizes, strides, pads, strict=True):
        if 2 * p > k:
            raise ValueError(f"pad={p} is more than half of size={k}: a window would hold padding alone")
        room = q + 2 * p - k
        count = room // s + 1
        if sticking_out and room % s and count * s < q + p:
            count += 1
        out.append(count)
    return Windows(space, sizes, strides, pads, tuple(out))


def _reduce(x: Array, windows: Windows, start: float, operation: Any) -> Array:
    used = tuple(slice(q + min(behind, 0)) for q, behind in zip(windows.space, windows.behind, strict=True))
    padding = [(pad, max(behind, 0)) for pad, behind in zip(windows.pad, windows.behind, strict=True)]
    size, stride = (1, *windows.size, 1), (1, *windows.stride, 1)
    return lax.reduce_window(
        x[:, *used], np.asarray(start, x.dtype), operation, size, stride, [(0, 0), *padding, (0, 0)]
    )


def max_forward(
    x: Images,
    *,
    size: PerDimension,
    stride: PerDimension | None = None,
    pad: PerDimension = 0,
    sticking_out: bool = False,
) -> tuple[Images, tuple[Array, Array, Static]]:
    """out_p = max over k of x_{s p + k - pad}; the padding is -infinity. The stride is the size unless it is given."""
    windows = lay_windows(x, size, stride, pad, sticking_out)
    out = _reduce(x, windows, -np.inf, lax.max)
    return out, (x, out, Static(windows))


def max_backward(dout: Images, cache: tuple[Array, Array, Static]) -> tuple[Images]:
    """out_p is one of its x, so that alone has the error: dL/dx_q = sum_p 1[x_q is the largest of window p] dL/dout_p.

    Where several are largest the first in reading order has it, as in PyTorch.
    """
    windows = cache[2].value
    dx = jnp.zeros_like(cache[0], dout.dtype)
    for place, largest in winners(cache):
        dx = dx + windows.spread(jnp.where(largest, dout, 0), place)
    return (dx,)


def winners(cache: tuple[Array, Array, Static]) -> list[tuple[tuple[int, ...], Array]]:
    """For each place of a window where it is the first of the largest."""
    x, out, windows = cache[0], cache[1], cache[2].value
    taken = jnp.zeros(out.shape, bool)
    rows = []
    for place in windows.places():
        equal = windows.seen(x, place, -np.inf) == out
        rows.append((place, equal & ~taken))
        taken = taken | equal
    return rows


def average_forward(
    x: Images,
    *,
    size: PerDimension,
    stride: PerDimension | None = None,
    pad: PerDimension = 0,
    sticking_out: bool = False,
    count_padding: bool = True,
) -> tuple[Images, tuple[Array, Array, Static]]:
    """out_p = (1 / M_p) sum_k x_{s p + k - pad}; the padding is 0 and counts in M_p, unless `count_padding` is False.

    What sticks out behind the padding never counts.
    """
    windows = lay_windows(x, size, stride, pad, sticking_out)
    count = jnp.asarray(_counted(windows, count_padding), x.dtype)
    return _reduce(x, windows, 0.0, lax.add) / count, (x, count, Static(windows))


def _counted(windows: Windows, count_padding: bool) -> np.ndarray:
    """M_p for each window, [1, …, 1]."""
    count = np.ones((1,) * len(windows.space))
    for axis, (q, k, s, p, o) in enumerate(zip(*windows, strict=True)):
        first = s * np.arange(o) - p
        low, high = (-p, q + p) if count_padding else (0, q)
        length = np.minimum(first + k, high) - np.maximum(first, low)
        count = count * length.reshape([-1 if axis == a else 1 for a in range(len(windows.space))])
    return count[None, ..., None]


def average_backward(dout: Images, cache: tuple[Array, Array, Static]) -> tuple[Images]:
    """dout_p/dx_q = 1 / M_p for each window p that q lies in: dL/dx_q = sum_p 1[q in window p] dL/dout_p / M_p."""
    _, count, windows = cache
    share = dout / count
    return (to_all(share, windows.value),)


def to_all(share: Array, windows: Windows) -> Array:
    dx = windows.spread(share, windows.places()[0])
    for place in windows.places()[1:]:
        dx = dx + windows.spread(share, place)
    return dx


def read_options(pool_param: Mapping[str, Any] | None = None, *rest: Any) -> dict[str, Any]:
    """CS231n's `pool_param`, with PyTorch's names where it has more."""
    read = dict(pool_param or {})
    options: dict[str, Any] = {}
    if "pool_height" in read:
        options["size"] = (read["pool_height"], read["pool_width"])
    names = {"kernel_size": "size", "size": "size", "stride": "stride", "pad": "pad", "padding": "pad"}
    names |= {"ceil_mode": "sticking_out", "count_include_pad": "count_padding"}
    return options | {names[name]: value for name, value in read.items() if name in names}
