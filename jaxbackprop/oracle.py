"""The witnesses: autodiff, and finite differences that know no autodiff, judge what `backprop` derives by hand.

Here the mathematics meets `jax.grad` and `jax.jacobian`; training never does. The second witness only evaluates a
function, always in float64:

    df/dp_k = (f(p + h e_k) - f(p - h e_k)) / 2h + O(h^2).

Cutting off the Taylor series costs h^2/6 f''', rounding f costs about eps f / h. The step h = eps^(1/3) max(1, |p_k|),
6e-6 for p_k near 1, balances the two at about 4e-11 f; so a derivative as large as a hundredth of f is right to about
eight digits. Closer to a kink of f than h the difference means nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxbackprop.activations import Activation, get_activation
from jaxbackprop.backprop import (
    delta,
    delta_hidden,
    loss_and_grad,
    objective_error,
    prediction_gradient,
    softmax_jacobian,
)
from jaxbackprop.devices import compiler_options, precision
from jaxbackprop.losses import Objective, mean_loss, softmax
from jaxbackprop.network import Params, Pass, affine, check_targets, forward, regularization

STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


def float64() -> AbstractContextManager:
    """Double precision inside a `with` block, in this thread only; arrays keep the type that they have."""
    return precision(np.float64)


def relative_error(got: ArrayLike, right: ArrayLike) -> float:
    """max |got - right| / max |right| over the entries of an array; 0 if both are zero everywhere.

    The largest entry sets the scale: one that is small because large terms cancel in it is not asked for digits that no
    floating-point sum has. If only `right` is zero everywhere the error is infinite.

    **Raises:** `ValueError` if the shapes differ.
    """
    got, right = np.asarray(got, np.float64), np.asarray(right, np.float64)
    if got.shape != right.shape:
        raise ValueError(f"got has shape {got.shape} and right {right.shape}; only arrays of one shape are compared")
    error, scale = np.max(np.abs(got - right), initial=0.0), np.max(np.abs(right), initial=0.0)
    if scale == 0:
        return 0.0 if error == 0 else np.inf
    return float(error / scale)


def autodiff_gradient(loss_fn: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """dL/dp for every leaf of `params`, by `jax.grad`."""
    return jax.grad(loss_fn)(params)


def finite_difference_gradient(loss_fn: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """dL/dp for every leaf of `params`, by central differences in float64, whatever the type of `params`.

    All the moved parameters are evaluated by one `jax.vmap`: this is for networks of hundreds of parameters.
    """
    return finite_difference_jacobian(loss_fn, params)


def finite_difference_jacobian(function: Callable[[PyTree], Array], point: PyTree) -> PyTree:
    """The derivative of each entry of `function(point)` by each entry of `point`, in the shapes of `jax.jacobian`."""
    with float64():
        point = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), point)
        # It runs but once.
        return jax.jit(partial(_differences, function), compiler_options=compiler_options(quick=True))(point)


def witnesses(function: Callable[[PyTree], Array], point: PyTree) -> tuple[PyTree, PyTree]:
    """The Jacobian of `function` by autodiff and by finite differences, compiled as one program."""
    return jax.jit(lambda point: (jax.jacobian(function)(point), _differences(function, point)))(point)


def _differences(function: Callable[[PyTree], Array], point: PyTree) -> PyTree:
    with float64():
        p, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), point))
        h = jnp.diag(STEP * jnp.maximum(1, jnp.abs(p)))
        moved = jnp.stack([p + h, p - h])
        ahead, behind = jax.vmap(jax.vmap(lambda q: function(unravel(q))))(moved)
        run = jnp.diagonal(moved[0] - moved[1])  # what rounding p + h and p - h has left of 2h
        slopes = (ahead - behind).reshape(p.size, -1) / run[:, None]
        rows = jax.vmap(unravel, in_axes=1)(slopes)  # one for each entry of the function's value
        return jax.tree.map(lambda leaf: leaf.reshape(ahead.shape[1:] + leaf.shape[1:]), rows)


@lru_cache(maxsize=256)
def check_slope(activation: Activation) -> None:
    """Hold an activation's hand-derived slope against autodiff, at points around zero that are none of its kinks.

    **Raises:** `ValueError` with the point and both values where they differ by more than 1e-5, or if the activation is
    not elementwise.
    """
    points = np.linspace(-8, 8, 257) + 1e-3 * np.sqrt(2)
    points = points[[all(abs(z - kink) > 1e-2 for kink in activation.kinks) for z in points]]

    def slopes(z: Array) -> tuple[Array, Array]:
        return activation.slope(z, activation.value(z)), jax.vmap(jax.grad(activation.value))(z)

    with float64():
        shape = jax.eval_shape(activation.value, points).shape
        if shape != points.shape:
            raise ValueError(
                f"activation {activation.name!r} turns shape {points.shape} into {shape}, elementwise it must be"
            )
        # As one program: one operation after another, each would be compiled by itself.
        got, right = map(np.asarray, jax.jit(slopes, compiler_options=compiler_options(quick=True))(points))
    wrong = ~(np.abs(np.broadcast_to(got, right.shape) - right) <= 1e-5 * np.maximum(1, np.abs(right)))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(
            f"activation {activation.name!r} has a wrong slope: at z={points[k]:.6g} it gives "
            f"{np.broadcast_to(got, right.shape)[k]:.6g}, autodiff of its value {right[k]:.6g}; if there is a kink, "
            "name it in kinks"
        )


def check_error(objective: Objective, targets: Float[np.ndarray, "classes samples"]) -> None:
    """Hold an objective's dL/dz, y-hat - y unless it brings its own, against autodiff of its loss, at some of the
    targets that it is to be trained for.

    **Raises:** `ValueError` with the logit, the target and both values where they differ by more than 1e-5.
    """
    with float64():
        generator = np.random.default_rng(0)
        y = np.asarray(targets[:, generator.permutation(targets.shape[1])[:64]], np.float64)
        z = generator.normal(size=y.shape)

        @partial(jax.jit, compiler_options=compiler_options(quick=True))
        def errors(z: Array, y: Array) -> tuple[Array, Array]:
            by_hand = objective_error(objective, z, objective.predict(z), y)
            return by_hand, jax.grad(lambda z: jnp.sum(objective.per_sample(z, y)))(z)

        got, right = map(np.asarray, errors(z, y))
    wrong = ~(np.abs(got - right) <= 1e-5 * np.maximum(1, np.abs(right)))
    if wrong.any():
        i, n = np.argwhere(wrong)[0]
        raise ValueError(
            f"objective {objective.name!r} has a wrong dL/dz: at z={float(z[i, n]):.6g}, y={float(y[i, n]):g} it gives "
            f"{got[i, n]:.6g}, autodiff of its loss {right[i, n]:.6g}; hand over error=, a function of z and y"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stage:
    """One derivative of part 1d, by the document's name, from three sources that have to agree."""

    name: str = field(metadata={"static": True})
    by_hand: Float[Array, "*shape"]
    autodiff: Float[Array, "*shape"]
    finite_difference: Float[Array, "*shape"]


def stages(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    *,
    activation: str | Activation,
    l2: float | Float[Array, ""] = 0.0,
) -> list[Stage]:
    """Every derivative that part 1d names, for any depth, by hand and by both witnesses.

    **Arguments:** as `network.loss`; the objective is the document's, softmax cross-entropy.

    **Returns:** in the document's order the factors of the chain rule from x to y-hat, the errors from the loss back to
    x, and the gradients. A derivative of a column by the same sample's column is [rows, columns, samples].

    **Raises:** `ValueError` as `network.loss` does.
    """
    check_targets(params, x, y, None)
    act = get_activation(activation)

    @jax.jit  # as one program, which takes half the time
    def all_of(params: Params, x: Array, y: Array, l2: float | Array) -> list[Stage]:
        passed = forward(params, x, activation=act)
        return [*factors(params, x, y, passed, act), *errors_and_gradients(params, x, y, passed, act, l2)]

    with float64():
        return all_of(params, x, y, l2)


def factors(params: Params, x: Array, y: Array, passed: Pass, act: Activation) -> list[Stage]:
    """The factors of the chain rule: each layer's, both cases of the softmax Jacobian, and dL/dy-hat."""
    rows, a, depth = [], x, len(params)
    for l, (layer, z) in enumerate(zip(params, passed.pre_activations, strict=True), start=1):
        same = jnp.eye(len(layer.bias), dtype=z.dtype)
        (by_layer, by_a), (by_layer_too, by_a_too) = witnesses(lambda point: affine(*point), (layer, a))
        w = jnp.einsum("ij,kn->injk", same, a)  # z_i = sum_k W_ik a_k + b_i depends on row i of W alone
        rows.append(Stage(f"dz^{l}/dW^{l}", w, by_layer.weight, by_layer_too.weight))
        b = jnp.broadcast_to(same[:, None, :], (*z.shape, len(same)))
        rows.append(Stage(f"dz^{l}/db^{l}", b, by_layer.bias, by_layer_too.bias))
        if l > 1:
            w = jnp.broadcast_to(layer.weight[:, :, None], (*layer.weight.shape, x.shape[1]))
            rows.append(Stage(f"dz^{l}/da^{l - 1}", w, same_sample(by_a), same_sample(by_a_too)))
        a = passed.activations[l - 1]
        if l < depth:
            slope = same[:, :, None] * act.slope(z, a)
            rows.append(Stage(f"da^{l}/dz^{l}", slope, *map(same_sample, witnesses(act.value, z))))

    three = softmax_jacobian(a), *map(same_sample, witnesses(softmax, passed.pre_activations[-1]))
    same = jnp.eye(len(a), dtype=a.dtype)[:, :, None]
    rows.append(Stage(f"dy-hat_i/dz^{depth}_j, j = i", *(jacobian * same for jacobian in three)))
    rows.append(Stage(f"dy-hat_i/dz^{depth}_j, j != i", *(jacobian * (1 - same) for jacobian in three)))
    two = witnesses(lambda y_hat: -jnp.sum(y * jnp.log(y_hat)) / y.shape[1], a)  # equation (5) as it is written
    return [*rows, Stage("dL/dy-hat", prediction_gradient(a, y), *two)]


def errors_and_gradients(
    params: Params, x: Array, y: Array, passed: Pass, act: Activation, l2: float | Float[Array, ""]
) -> list[Stage]:
    """dL/dz^l and dL/da^l from the last layer to the first, then dL/dW^l and dL/db^l.

    The witnesses find the errors as the derivatives of L by a shift added to z^l or to a^l. dL/dz^l is the document's
    delta over N; the document counts x as layer 1, so its delta is numbered one above its z.
    """

    def shifted_loss(point: tuple[Params, tuple[Array, ...], tuple[Array, ...]]) -> Array:
        a = x
        for layer, z_shift, a_shift in zip(*point, strict=True):
            z = affine(layer, a) + z_shift
            a = act.value(z) + a_shift
        return mean_loss(z, y) + regularization(point[0], l2)

    unmoved = jax.tree.map(jnp.zeros_like, passed.pre_activations)
    (grad, z_grad, a_grad), (grad_too, z_grad_too, a_grad_too) = witnesses(shifted_loss, (params, unmoved, unmoved))

    rows, depth = [], len(params)
    error = delta(passed.activations[-1], y) / x.shape[1]
    rows.append(Stage(f"dL/dz^{depth} = delta^{depth + 1}/N", error, z_grad[-1], z_grad_too[-1]))
    for l in reversed(range(depth - 1)):
        z, a, weight = passed.pre_activations[l], passed.activations[l], params[l + 1].weight
        by_a = delta_hidden(weight, error, jnp.ones_like(a))
        rows.append(Stage(f"dL/da^{l + 1}", by_a, a_grad[l], a_grad_too[l]))
        error = delta_hidden(weight, error, act.slope(z, a))
        rows.append(Stage(f"dL/dz^{l + 1} = delta^{l + 2}/N", error, z_grad[l], z_grad_too[l]))

    _, by_hand = loss_and_grad(params, x, y, activation=act, l2=l2)
    for l in reversed(range(depth)):
        for name, *three in zip("Wb", by_hand[l], grad[l], grad_too[l], strict=True):
            rows.append(Stage(f"dL/d{name}^{l + 1}", *three))
    return rows


def same_sample(jacobian: Float[Array, "rows samples columns samples"]) -> Float[Array, "rows columns samples"]:
    """The entries of a Jacobian from columns to columns that stay within one sample."""
    return jnp.einsum("injn->ijn", jacobian)
