"""What goes wrong in the backward pass of pooling."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop.layers.contract import Derived, Mistake, Static
from jaxbackprop.layers.pooling import (
    Windows,
    average_backward,
    average_forward,
    max_backward,
    max_forward,
    read_options,
    to_all,
    winners,
)

Cache = tuple[Array, Array, Static]
Wrong = tuple[Array | None]


def _windows(cache: Cache) -> Windows:
    return cache[2].value


def _equal(cache: Cache) -> list[tuple[tuple[int, ...], Array]]:
    windows = _windows(cache)
    return [(place, windows.seen(cache[0], place, -np.inf) == cache[1]) for place in windows.places()]


def _gathered(windows: Windows, shares: list[tuple[tuple[int, ...], Array]]) -> Array:
    return sum(
        (windows.spread(share, place) for place, share in shares[1:]), windows.spread(shares[0][1], shares[0][0])
    )


def _tie_to_all(dout: Array, cache: Cache) -> Wrong:
    return (_gathered(_windows(cache), [(place, dout * equal) for place, equal in _equal(cache)]),)


def _tie_shared(dout: Array, cache: Cache) -> Wrong:
    rows = _equal(cache)
    ties = sum(equal.astype(dout.dtype) for _, equal in rows)
    return (_gathered(_windows(cache), [(place, dout * equal / ties) for place, equal in rows]),)


def _tie_to_last(dout: Array, cache: Cache) -> Wrong:
    taken, shares = jnp.zeros(dout.shape, bool), []
    for place, equal in reversed(_equal(cache)):
        shares.append((place, dout * (equal & ~taken)))
        taken = taken | equal
    return (_gathered(_windows(cache), shares),)


def _overwritten(dout: Array, cache: Cache, shares: list[tuple[tuple[int, ...], Array]], whole: bool) -> Wrong:
    """Window after window in reading order: a later one overwrites, the `whole` window or its winner alone."""
    windows, x = _windows(cache), cache[0]
    if all(s >= k for s, k in zip(windows.stride, windows.size, strict=True)):
        return (None,)
    dx = jnp.zeros(x.shape, dout.dtype)
    for number in np.ndindex(*windows.out):
        for place, share in shares:
            q = tuple(s * o + k - p for s, o, k, p in zip(windows.stride, number, place, windows.pad, strict=True))
            if all(0 <= i < size for i, size in zip(q, windows.space, strict=True)):
                value = share[:, *number]
                dx = dx.at[:, *q].set(value if whole else jnp.where(value != 0, value, dx[:, *q]))
    return (dx,)


def _winners_overwritten(dout: Array, cache: Cache) -> Wrong:
    return _overwritten(dout, cache, [(place, dout * largest) for place, largest in winners(cache)], whole=False)


def _average_overwritten(dout: Array, cache: Cache) -> Wrong:
    return _overwritten(dout, cache, [(place, dout / cache[1]) for place in _windows(cache).places()], whole=True)


def _other_windows(dout: Array, cache: Cache, average: bool, **changed: tuple[int, ...]) -> Wrong:
    """The right shares, put where windows of another stride or padding lie."""
    windows = _windows(cache)
    shares = (
        [(place, dout / cache[1]) for place in windows.places()]
        if average
        else [(place, dout * largest) for place, largest in winners(cache)]
    )
    return (_gathered(windows._replace(**changed), shares),)


def _stride_ignored(dout: Array, cache: Cache, average: bool) -> Wrong:
    stride = _windows(cache).stride
    return _other_windows(dout, cache, average, stride=(1,) * len(stride)) if max(stride) > 1 else (None,)


def _padding_not_cut(dout: Array, cache: Cache, average: bool) -> Wrong:
    pad = _windows(cache).pad
    return _other_windows(dout, cache, average, pad=(0,) * len(pad)) if max(pad) > 0 else (None,)


def _row_for_column(dout: Array, cache: Cache) -> Wrong:
    windows = _windows(cache)
    if len(set(windows.size)) > 1 or len(windows.size) == 1:
        return (None,)
    return (_gathered(windows, [(place[::-1], dout * largest) for place, largest in winners(cache)]),)


def _full_divisor(dout: Array, cache: Cache) -> Wrong:
    windows = _windows(cache)
    return (to_all(dout / np.prod(windows.size), windows),)


def _inside_divisor(dout: Array, cache: Cache) -> Wrong:
    windows = _windows(cache)
    inside = sum(windows.seen(jnp.ones_like(cache[0]), place, 0.0) for place in windows.places())
    return (to_all(dout / inside, windows),)


def _first_alone(dout: Array, cache: Cache) -> Wrong:
    windows = _windows(cache)
    return (windows.spread(dout, windows.places()[0]),)


def _centre_alone(dout: Array, cache: Cache) -> Wrong:
    windows = _windows(cache)
    return (windows.spread(dout, tuple(k // 2 for k in windows.size)),)


MAX_MISTAKES = (
    Mistake(
        "tie_to_all",
        "Where several entries are largest each has the whole error; one has it, the first.",
        _tie_to_all,
    ),
    Mistake(
        "tie_shared",
        "Where several entries are largest they share the error; one has it, the first.",
        _tie_shared,
    ),
    Mistake(
        "tie_to_last",
        "Where several entries are largest the last has the error; PyTorch and the forward's argmax take the first.",
        _tie_to_last,
    ),
    Mistake(
        "all_of_the_window",
        "Every entry of a window has the error; the largest alone has it.",
        lambda dout, cache: (to_all(dout, _windows(cache)),),
    ),
    Mistake(
        "averaged",
        "Every entry of a window has its share of the error, as in average pooling; the largest alone has it.",
        _full_divisor,
    ),
    Mistake(
        "winners_overwritten",
        "An entry that is largest in several windows has the last one's error alone; the errors add up.",
        _winners_overwritten,
    ),
    Mistake(
        "stride_ignored",
        "The windows were laid side by side with stride 1; window p starts at s p.",
        lambda dout, cache: _stride_ignored(dout, cache, average=False),
    ),
    Mistake(
        "padding_not_cut",
        "dL/dx starts in the padding; the padding in front has to be cut off.",
        lambda dout, cache: _padding_not_cut(dout, cache, average=False),
    ),
    Mistake(
        "row_for_column",
        "The place of the largest was read with row and column exchanged.",
        _row_for_column,
    ),
    Mistake(
        "value_for_error",
        "The largest entries hold their own values times dL/dout; the derivative of max is 1.",
        lambda dout, cache: max_backward(dout * cache[1], cache),
    ),
    Mistake(
        "error_forgotten",
        "dL/dx is 1 at the largest entries, without dL/dout.",
        lambda dout, cache: max_backward(jnp.ones_like(dout), cache),
    ),
)

AVERAGE_MISTAKES = (
    Mistake(
        "divisor_forgotten",
        "Every entry of a window has the whole error; each has 1 / M of it.",
        lambda dout, cache: (to_all(dout, _windows(cache)),),
    ),
    Mistake(
        "divisor_counts_all",
        "The error was divided by the window's full size; the forward counts fewer where the window sticks out.",
        _full_divisor,
    ),
    Mistake(
        "divisor_counts_inside",
        "The error was divided by the entries inside x; the forward counts the padding, too.",
        _inside_divisor,
    ),
    Mistake(
        "divisor_twice",
        "The error was divided by M twice.",
        lambda dout, cache: average_backward(dout / cache[1], cache),
    ),
    Mistake(
        "divisor_multiplied",
        "The error was multiplied by M; the forward divides by it.",
        lambda dout, cache: (to_all(dout * cache[1], _windows(cache)),),
    ),
    Mistake(
        "first_alone",
        "The first entry of each window has the whole error; all M share it.",
        _first_alone,
    ),
    Mistake(
        "centre_alone",
        "The middle entry of each window has the whole error; all M share it.",
        _centre_alone,
    ),
    Mistake(
        "overlaps_overwritten",
        "Where windows overlap dL/dx holds the last one's part alone; the parts add up.",
        _average_overwritten,
    ),
    Mistake(
        "stride_ignored",
        "The windows were laid side by side with stride 1; window p starts at s p.",
        lambda dout, cache: _stride_ignored(dout, cache, average=True),
    ),
    Mistake(
        "padding_not_cut",
        "dL/dx starts in the padding; the padding in front has to be cut off.",
        lambda dout, cache: _padding_not_cut(dout, cache, average=True),
    ),
)


def _layer(name: str, forward: Any, backward: Any, mistakes: tuple[Mistake, ...]) -> Derived:
    return Derived(
        name,
        forward,
        backward,
        ("x",),
        mistakes,
        samples_first=((1, 2, 3, 0),),
        out_samples_first=(1, 2, 3, 0),
        read_options=read_options,
    )


LAYERS = {
    "max_pool": _layer("max_pool", max_forward, max_backward, MAX_MISTAKES),
    "average_pool": _layer("average_pool", average_forward, average_backward, AVERAGE_MISTAKES),
}
