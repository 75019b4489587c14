"""Part 1c: a fully connected network, its parameters, its forward pass, and its loss.

Arrays are features first, as the document writes z = W x + b with x a column: x is [features, samples], a weight is
[out, in], a bias is [out]. The batch is the last, contiguous axis.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxbackprop._checks import check_integer, choose
from jaxbackprop.activations import OneOrEach, layer_activations
from jaxbackprop.losses import Objective, get_objective, mean_loss


class Layer(NamedTuple):
    """W^l and b^l of one layer; also the shape of their gradients."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]


Params = tuple[Layer, ...]
"""The parameters of a network: one `Layer` after another, a pytree."""

ROWS, COLUMNS = 64, 16  # of which a block of initial weights has a multiple, and at least so many
FEW = 4  # of so many numbers and fewer a sum is written out


class Pass(NamedTuple):
    """What one forward pass computes: z^1 … z^L and a^1 … a^L, each [units, samples]; a^L is y-hat."""

    pre_activations: tuple[Float[Array, "_ samples"], ...]
    activations: tuple[Float[Array, "_ samples"], ...]


# scheme -> (distribution, variance of a weight from fan_in and fan_out); both distributions have mean 0.
SCHEMES = {
    "course": ("normal", lambda fan_in, fan_out: 1 / fan_in),  # randn / sqrt(fan_in)
    "glorot": ("uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),  # Glorot and Bengio 2010, equation 16
    "he": ("normal", lambda fan_in, fan_out: 2 / fan_in),  # He, Zhang, Ren and Sun 2015, equation 10
    "lecun": ("uniform", lambda fan_in, fan_out: 1 / fan_in),  # LeCun, Bottou, Orr and Müller 1998, section 4.6
}


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """`sizes` as a tuple of widths.

    **Raises:** `ValueError` if there are fewer than two, or one is below 1.
    """
    if isinstance(sizes, str | int) or len(sizes) < 2:
        raise ValueError(f"sizes={sizes!r} must list at least two widths: features, hidden units …, outputs")
    return tuple(check_integer(f"sizes[{i}]", width, 1) for i, width in enumerate(sizes))


def init_params(
    key: Key[Array, ""], sizes: Sequence[int], *, scheme: str = "course", dtype: jax.typing.DTypeLike = float
) -> Params:
    """Draw the parameters of a network; biases start at zero.

    **Arguments:** `key`, from `jax.random.key(seed)`; `sizes`, (features, hidden units …, outputs); `scheme`, one of
    "course", "glorot", "he", "lecun"; `dtype`, float64 where JAX has it enabled, else float32.

    **Raises:** `ValueError` for a width below 1 or an unknown scheme.
    """
    sizes = check_sizes(sizes)
    choose("scheme", scheme, SCHEMES)
    # Random bits compile slowly: all layers are drawn at once, as a block of one of few sizes.
    layers = np.repeat(np.arange(len(sizes) - 1), sizes[1:])
    rows = np.concatenate([np.arange(fan_out) for fan_out in sizes[1:]])
    spare = -len(rows) % ROWS
    columns = columns_drawn(max(sizes[:-1]))
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    standard = standard_rows(
        key, np.pad(layers, (0, spare)), np.pad(rows, (0, spare)), columns=columns, scheme=scheme, dtype=dtype
    )
    return _scaled(standard, sizes=sizes, scheme=scheme)


@partial(jax.jit, static_argnames=("sizes", "scheme"))
def _scaled(standard: Float[Array, "rows columns"], *, sizes: tuple[int, ...], scheme: str) -> Params:
    """The weights out of the rows of all layers, and biases of zero."""
    first = np.cumsum(sizes[1:]) - sizes[1:]
    return tuple(
        Layer(
            weight=standard[start : start + fan_out, :fan_in] * scale(scheme, fan_in, fan_out),
            bias=jnp.zeros(fan_out, standard.dtype),
        )
        for start, (fan_in, fan_out) in zip(first.tolist(), pairwise(sizes), strict=True)
    )


def columns_drawn(fan_in: int) -> int:
    """How many columns a block of initial weights is drawn with: a power of two, so that few are compiled."""
    return max(COLUMNS, 1 << (fan_in - 1).bit_length())


def scale(scheme: str, fan_in: int, fan_out: int) -> float:
    """The standard deviation of a weight."""
    return SCHEMES[scheme][1](fan_in, fan_out) ** 0.5


@partial(jax.jit, static_argnames=("columns", "scheme", "dtype"))
def standard_rows(
    key: Key[Array, ""],
    layers: Int[Array, " rows"],
    rows: Int[Array, " rows"],
    *,
    columns: int,
    scheme: str,
    dtype: jax.typing.DTypeLike,
) -> Float[Array, "rows columns"]:
    """Some rows of the weight matrices of some layers, before they are scaled: mean 0, variance 1.

    Each row is drawn from a key of its own, element by element, so that a narrower draw is the left part of a wider
    one: a network padded with further units starts exactly as the network itself.
    """
    bound = 3**0.5  # the uniform distribution on [-sqrt(3), sqrt(3)] has variance 1

    def draw(l: Int[Array, ""], row: Int[Array, ""]) -> Float[Array, " columns"]:
        own = jax.random.fold_in(jax.random.fold_in(key, l), row)
        if SCHEMES[scheme][0] == "normal":
            return jax.random.normal(own, (columns,), dtype)
        return jax.random.uniform(own, (columns,), dtype, -bound, bound)

    return jax.vmap(draw)(layers, rows)


def affine(layer: Layer, a: Float[Array, "in samples"]) -> Float[Array, "out samples"]:
    """Equations (1) and (3): z = W a + b, a column for each sample."""
    return product(layer.weight, a) + layer.bias[:, None]


def product(weight: Float[Array, "out in"], a: Float[Array, "in samples"]) -> Float[Array, "out samples"]:
    """W a, written out as a sum over the units of a if they are few: for so few, calling a matrix product costs more
    than the arithmetic, and a sum is fused with what follows it."""
    if a.shape[0] > FEW:
        return weight @ a
    return reduce(jnp.add, [column[:, None] * row for column, row in zip(weight.T, a, strict=True)])


def forward(
    params: Params,
    x: Float[Array, "features samples"],
    *,
    activation: OneOrEach,
    objective: str | Objective = "softmax",
) -> Pass:
    """Equations (1) to (4) for any number of layers.

    z^1 = W^1 x + b^1, a^1 = f(z^1), z^2 = W^2 a^1 + b^2, …, and a^L = y-hat, the softmax of z^L (or the prediction of
    another objective). With a tuple of activations, one for each hidden layer, a^1 = f_1(z^1), a^2 = f_2(z^2), ….

    **Raises:** `ValueError` for an unknown activation or objective, or if the shapes of `params` and `x` do not chain.
    """
    f, predict = layer_activations(activation, len(params) - 1), get_objective(objective).predict
    check_shapes(params, x)
    a, zs, activations = x, [], []
    for l, layer in enumerate(params, start=1):
        z = affine(layer, a)
        a = f[l - 1].value(z) if l < len(params) else predict(z)
        zs.append(z)
        activations.append(a)
    return Pass(tuple(zs), tuple(activations))


def regularization(params: Params, l2: float | Float[Array, ""]) -> Float[Array, ""]:
    """l2/2 * sum of squared weights; biases are not regularised."""
    return 0.5 * l2 * reduce(jnp.add, [jnp.sum(layer.weight**2) for layer in params])


def loss(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    *,
    activation: OneOrEach,
    l2: float | Float[Array, ""] = 0.0,
    weights: Float[Array, " samples"] | None = None,
    objective: str | Objective = "softmax",
) -> Float[Array, ""]:
    """Equation (5) of the network's logits, plus l2/2 * sum(W^2).

    **Arguments:** `x`, [features, samples]; `y`, [classes, samples], one-hot for "softmax"; `activation`, a name, an
    `Activation`, or a tuple with one for each hidden layer; `l2`, at least 0; `weights`, one a sample: the mean becomes
    sum(w * loss) / sum(w); `objective`, a name or an `Objective`.

    **Returns:** the loss, one number.

    **Raises:** `ValueError` as `forward` does, and if `y` or `weights` do not fit.
    """
    check_targets(params, x, y, weights)
    z = forward(params, x, activation=activation, objective=objective).pre_activations
    return mean_loss(z[-1], y, weights=weights, objective=objective) + regularization(params, l2)


def check_shapes(params: Params, x: Float[Array, "features samples"]) -> None:
    """Refuse parameters and inputs whose shapes do not chain, before anything is computed.

    **Raises:** `ValueError` that names the layer and both shapes.
    """
    if len(params) == 0:
        raise ValueError("params=() has no layer; init_params(key, sizes) makes them")
    if x.ndim != 2:
        raise ValueError(f"x must be [features, samples], got shape {x.shape}")
    if x.shape[1] == 0:
        raise ValueError(f"x has no samples: its shape [features, samples] is {x.shape}")
    width, source = x.shape[0], f"x, which is [features, samples] = {x.shape},"
    for l, (weight, bias) in enumerate(params, start=1):
        if weight.ndim != 2 or weight.shape[1] != width:
            hint = "; was x handed over as (samples, features)?" if l == 1 and weight.shape[-1] == x.shape[1] else ""
            raise ValueError(f"W^{l} must be [out, {width}] to follow {source} got shape {weight.shape}{hint}")
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"b^{l} must have shape {weight.shape[:1]}, one a row of W^{l}, got {bias.shape}")
        width, source = weight.shape[0], f"W^{l}, which is {weight.shape},"


def check_targets(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    weights: Float[Array, " samples"] | None,
) -> None:
    """Refuse targets and sample weights that do not fit the network or the inputs.

    **Raises:** `ValueError` with the shape that was expected and the one that was given.
    """
    check_shapes(params, x)
    right = (params[-1].bias.shape[0], x.shape[1])
    if y.shape != right:
        raise ValueError(f"y must be [classes, samples] = {right}, got shape {y.shape}")
    check_sample_weights(weights, x.shape[1])


def check_sample_weights(weights: Float[Array, " samples"] | None, samples: int) -> None:
    """**Raises:** `ValueError` if they are not one a sample."""
    if weights is not None and weights.shape != (samples,):
        raise ValueError(f"weights must have shape {(samples,)}, one a sample, got {weights.shape}")
