"""Convolution over one or two dimensions, with stride, padding, dilation and groups; as everywhere in deep learning it
is a cross-correlation: the kernel is not flipped in the forward pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake, Static

Images = Float[Array, "channels ..."]
Kernels = Float[Array, "out in ..."]
Wrong = tuple[Array | None, Array | None, Array | None]
PerDimension = int | tuple[int, ...]


class Geometry(NamedTuple):
    """Stride, padding and dilation for each dimension of space, and the number of groups."""

    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


Cache = tuple[Array, Array, Static]


def each(number: PerDimension, dimensions: int) -> tuple[int, ...]:
    """One number for each dimension of space."""
    return (number,) * dimensions if isinstance(number, int) else tuple(number)


def forward(
    x: Images,
    weight: Kernels,
    bias: Float[Array, " out"],
    *,
    stride: PerDimension = 1,
    pad: PerDimension = 0,
    dilation: PerDimension = 1,
    groups: int = 1,
) -> tuple[Float[Array, "out ..."], Cache]:
    """z_op = sum_ck W_ock x_{c, s p + d k - pad} + b_o at each place p, over the channels c and the kernel's places k.

    x is [channels, height, width, samples] or [channels, length, samples], the kernel [out, channels / groups, height,
    width] or [out, channels / groups, length]. With groups, each part of the outputs sees its part of the channels.
    """
    space = x.ndim - 2
    geometry = Geometry(each(stride, space), each(pad, space), each(dilation, space), groups)
    z = _correlate(x, weight, geometry) + bias.reshape(-1, *[1] * (space + 1))
    return z, (x, weight, Static(geometry))


def _correlate(x: Array, weight: Array, geometry: Geometry) -> Array:
    places = "HW"[: x.ndim - 2]
    return lax.conv_general_dilated(
        x,
        weight,
        window_strides=geometry.stride,
        padding=[(pad, pad) for pad in geometry.pad],
        rhs_dilation=geometry.dilation,
        dimension_numbers=(f"C{places}N", f"OI{places}", f"C{places}N"),
        feature_group_count=geometry.groups,
    )


def backward(dout: Float[Array, "out ..."], cache: Cache) -> tuple[Images, Kernels, Float[Array, " out"]]:
    """Each x takes part in several z: x_{c, q} in those z_p with q = s p + d k - pad for some kernel place k. So

    dL/dx_cq  = sum_o sum_{p, k: s p + d k - pad = q} W_ock dL/dz_op    (input gradient: the kernel flipped)
    dL/dW_ock = sum_n sum_p dL/dz_op x_{c, s p + d k - pad}             (kernel gradient)
    dL/db_o   = sum_n sum_p dL/dz_op                                    (bias gradient)
    """
    x, weight, geometry = cache
    dx = input_gradient(dout, weight, x.shape, geometry.value)
    dweight = kernel_gradient(dout, x, weight.shape, geometry.value)
    dbias = jnp.sum(dout, tuple(range(1, dout.ndim)))
    return dx, dweight, dbias


def input_gradient(dout: Array, weight: Array, shape: tuple[int, ...], geometry: Geometry) -> Array:
    """dL/dx: with k' = K - 1 - k the place of dL/dz_p is s p = q + pad - d (K - 1) + d k'. That is a correlation of the
    flipped kernel with dL/dz, whose entries lie s apart with zeros between, padded by d (K - 1) - pad in front and by
    what makes it x's size behind. The kernel's outputs are summed over, its channels come out."""
    places, groups = "HW"[: dout.ndim - 2], geometry.groups
    flipped = jnp.flip(weight, tuple(range(2, weight.ndim)))
    flipped = _exchange_within_groups(flipped, groups)
    padding, cut = [], []
    for q, p, k, s, pad, d in zip(
        shape[1:-1], dout.shape[1:-1], weight.shape[2:], geometry.stride, geometry.pad, geometry.dilation, strict=True
    ):
        reach = d * (k - 1)
        front = reach - pad
        behind = q + reach - front - (s * (p - 1) + 1)
        # XLA's simplifier takes a kernel of 2 over entries 2 apart for groups if nothing is padded, and ends the
        # process. So one place more is padded there, and cut off again.
        more = int((k, s, d, front, behind) == (2, 2, 1, 0, 0))
        padding.append((front + more, behind))
        cut.append(slice(more, None))
    dx = lax.conv_general_dilated(
        dout,
        flipped,
        window_strides=(1,) * len(places),
        padding=padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        dimension_numbers=(f"C{places}N", f"OI{places}", f"C{places}N"),
        feature_group_count=groups,
    )
    return dx[:, *cut]


def _exchange_within_groups(weight: Array, groups: int) -> Array:
    """[groups out, in, …] as [groups in, out, …]: inputs and outputs change places, each group for itself."""
    out, inside, *places = weight.shape
    parts = weight.reshape(groups, out // groups, inside, *places)
    return jnp.swapaxes(parts, 1, 2).reshape(groups * inside, out // groups, *places)


def kernel_gradient(dout: Array, x: Array, shape: tuple[int, ...], geometry: Geometry) -> Array:
    """dL/dW: for each kernel place k a sum over p of dL/dz_p x_{s p + d k - pad}. That is a correlation again: dL/dz is
    the kernel, dilated by s, and moves over x in steps of d; the samples are summed over as channels were before."""
    places = "HW"[: dout.ndim - 2]
    padding = []
    for q, p, k, s, pad, d in zip(
        x.shape[1:-1], dout.shape[1:-1], shape[2:], geometry.stride, geometry.pad, geometry.dilation, strict=True
    ):
        padding.append((pad, d * (k - 1) + s * (p - 1) + 1 - q - pad))
    return lax.conv_general_dilated(
        x,
        dout,
        window_strides=geometry.dilation,
        padding=padding,
        rhs_dilation=geometry.stride,
        dimension_numbers=(f"N{places}C", f"O{places}I", f"CN{places}"),
        batch_group_count=geometry.groups,
    )


def read_options(conv_param: Mapping[str, Any] | None = None, *rest: Any) -> dict[str, Any]:
    """CS231n's `conv_param`, with PyTorch's names where it has more."""
    names = {"stride": "stride", "pad": "pad", "padding": "pad", "dilation": "dilation", "groups": "groups"}
    return {names[name]: value for name, value in (conv_param or {}).items() if name in names}


def _moved(dout: Array, cache: Cache, **changed: tuple[int, ...]) -> tuple[Array, Array]:
    """dL/dx and dL/dW with another stride, padding or dilation than the forward pass had."""
    x, weight, geometry = cache
    other = geometry.value._replace(**changed)
    return input_gradient(dout, weight, x.shape, other), kernel_gradient(dout, x, weight.shape, other)


def _kernel_not_flipped(dout: Array, cache: Cache) -> Wrong:
    x, weight, geometry = cache
    places = tuple(range(2, weight.ndim))
    return input_gradient(dout, jnp.flip(weight, places), x.shape, geometry.value), None, None


def _kernel_gradient_flipped(dout: Array, cache: Cache) -> Wrong:
    dweight = backward(dout, cache)[1]
    return None, jnp.flip(dweight, tuple(range(2, dweight.ndim))), None


def _channels_not_exchanged(dout: Array, cache: Cache) -> Wrong:
    x, weight, geometry = cache
    if geometry.value.groups > 1 or weight.shape[0] != weight.shape[1]:
        return None, None, None
    return input_gradient(dout, jnp.swapaxes(weight, 0, 1), x.shape, geometry.value), None, None


def _padding(dout: Array, cache: Cache, more: int) -> Wrong:
    pad = cache[2].value.pad
    if min(pad) < 1:
        return None, None, None
    return _moved(dout, cache, pad=tuple(p + more for p in pad))[0], None, None


def _ignored(dout: Array, cache: Cache, what: str) -> Wrong:
    numbers = getattr(cache[2].value, what)
    return (*_moved(dout, cache, **{what: (1,) * len(numbers)}), None) if max(numbers) > 1 else (None, None, None)


def _overlaps_overwritten(dout: Array, cache: Cache) -> Wrong:
    """Window after window in reading order: what a later one covers, an earlier one has lost."""
    x, weight, (stride, pad, dilation, groups) = cache[0], cache[1], cache[2].value
    if groups > 1:
        return None, None, None
    dx = jnp.zeros((len(x), *(q + 2 * p for q, p in zip(x.shape[1:-1], pad, strict=True)), x.shape[-1]), dout.dtype)
    for place in np.ndindex(dout.shape[1:-1]):
        window = tuple(
            slice(s * p, s * p + d * (k - 1) + 1, d)
            for s, p, d, k in zip(stride, place, dilation, weight.shape[2:], strict=True)
        )
        dx = dx.at[:, *window].set(jnp.tensordot(jnp.moveaxis(weight, 0, -1), dout[:, *place], 1))
    inside = tuple(slice(p, p + q) for p, q in zip(pad, x.shape[1:-1], strict=True))
    return dx[:, *inside], None, None


def _last_sample_alone(dout: Array, cache: Cache) -> Wrong:
    x, weight, geometry = cache
    return None, backward(dout[..., -1:], (x[..., -1:], weight, geometry))[1], None


MISTAKES = (
    Mistake(
        "kernel_not_flipped",
        "dL/dx correlates dL/dz with W as it is; x_q meets kernel place k at p = q - k, so W has to be flipped.",
        _kernel_not_flipped,
    ),
    Mistake(
        "kernel_gradient_flipped",
        "dL/dW came out reversed; entry k belongs to x_{s p + d k}, nothing is flipped there.",
        _kernel_gradient_flipped,
    ),
    Mistake(
        "channels_not_exchanged",
        "dL/dx sums over the channels c of W_oc; it sums over the outputs o.",
        _channels_not_exchanged,
    ),
    Mistake(
        "padding_too_small",
        "dL/dx was cut out of the padded one a place too early: x starts at pad, not at pad - 1.",
        lambda dout, cache: _padding(dout, cache, -1),
    ),
    Mistake(
        "padding_too_large",
        "dL/dx was cut out of the padded one a place too late: x starts at pad, not at pad + 1.",
        lambda dout, cache: _padding(dout, cache, 1),
    ),
    Mistake(
        "stride_ignored",
        "The backward pass moves by 1; z_p saw x from s p on.",
        lambda dout, cache: _ignored(dout, cache, "stride"),
    ),
    Mistake(
        "dilation_ignored",
        "The backward pass has the kernel's places side by side; they are d apart.",
        lambda dout, cache: _ignored(dout, cache, "dilation"),
    ),
    Mistake(
        "overlaps_overwritten",
        "Where windows overlap dL/dx holds the last one's part alone; each x adds up over all windows that it is in.",
        _overlaps_overwritten,
    ),
    Mistake(
        "kernel_averaged",
        "dL/dW was divided by N; it is a sum over the samples, the loss's 1/N is in dL/dz already.",
        lambda dout, cache: (None, backward(dout, cache)[1] / dout.shape[-1], None),
    ),
    Mistake(
        "last_sample_alone",
        "dL/dW holds the last sample's part alone, as where a loop assigns instead of adding.",
        _last_sample_alone,
    ),
    Mistake(
        "bias_averaged",
        "dL/db was divided by N; it is a sum over the samples, the loss's 1/N is in dL/dz already.",
        lambda dout, cache: (None, None, backward(dout, cache)[2] / dout.shape[-1]),
    ),
    Mistake(
        "bias_averaged_over_places",
        "dL/db was averaged over the places; b_o is added at every place, so it is their sum.",
        lambda dout, cache: (None, None, backward(dout, cache)[2] * len(dout) * dout.shape[-1] / dout.size),
    ),
)

LAYERS = {
    "convolution": Derived(
        "convolution",
        forward,
        backward,
        ("x", "weight", "bias"),
        MISTAKES,
        samples_first=((1, 2, 3, 0), None, None),
        out_samples_first=(1, 2, 3, 0),
        read_options=read_options,
    ),
    "convolution_1d": Derived(
        "convolution_1d",
        forward,
        backward,
        ("x", "weight", "bias"),
        MISTAKES,
        samples_first=((1, 2, 0), None, None),
        out_samples_first=(1, 2, 0),
        read_options=read_options,
    ),
}
