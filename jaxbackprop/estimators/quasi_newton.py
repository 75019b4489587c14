"""`solver="lbfgs"`: scipy's L-BFGS-B, as scikit-learn calls it, on the loss and the gradient derived by hand.

Line searches compare losses to the last digit, so they are computed in float64 whatever the network is trained in, and
what comes out is rounded to that.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxbackprop.activations import OneOrEach
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.devices import compiler_options, precision
from jaxbackprop.estimators.trainer import Watch
from jaxbackprop.losses import Objective
from jaxbackprop.network import Layer, Params
from jaxbackprop.sweeps.splits import Splits

Shapes = tuple[tuple[int, int], ...]


def minimize(
    start: Params,
    splits: Splits,
    *,
    activation: OneOrEach,
    alpha: float,
    max_iter: int,
    max_fun: int,
    tol: float,
    watch: Watch | None = None,
) -> tuple[Params, Any]:
    """The parameters at which L-BFGS ends, and scipy's `OptimizeResult`.

    **Arguments:** `alpha`, divided by the weight of all samples; `max_iter` steps and `max_fun` evaluations at most;
    `tol`, the largest entry of the gradient at which to stop; `watch`, called after each step as in
    `trainer.train_networks`, but that nobody knows yet whether another one follows.
    """
    shapes: Shapes = tuple((layer.weight.shape[0], layer.weight.shape[1]) for layer in start)
    dtype = splits.dtype
    with precision(np.float64):
        x, y = (jnp.asarray(a, jnp.float64) for a in (splits.data.x, splits.data.y))
        weights = splits.data.weights
        total = x.shape[1] if weights is None else float(np.sum(weights))
        weights = None if weights is None else jnp.asarray(weights, jnp.float64)
        function = _make_function(shapes, activation, splits.objective)
        l2 = np.float64(alpha / total if total > 0 else alpha)

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = function(flat, x, y, weights, l2)
            return float(value), np.asarray(gradient, np.float64)

        stopped = False

        def look(flat: np.ndarray) -> None:
            nonlocal stopped
            if watch is not None and watch(lambda: rounded(flat.copy()), True):
                stopped = True
                raise StopIteration

        def rounded(flat: np.ndarray) -> Params:
            return jax.tree.map(lambda a: np.asarray(a, dtype), _layers(flat, shapes))

        first = np.concatenate([np.asarray(a, np.float64).ravel() for layer in start for a in layer])
        options = {"maxfun": max_fun, "maxiter": max_iter, "gtol": tol}
        found = scipy.optimize.minimize(
            value_and_gradient, first, method="L-BFGS-B", jac=True, options=options, callback=look
        )
    if stopped:
        found.status = 0  # as it was told to, not for want of convergence
    return rounded(found.x), found


def _layers(flat: Any, shapes: Shapes) -> Params:
    layers, place = [], 0
    for m, n in shapes:
        weight: Any = flat[place : place + m * n].reshape(m, n)
        bias: Any = flat[place + m * n : place + m * n + m]
        layers.append(Layer(weight, bias))
        place += m * n + m
    return tuple(layers)


@functools.lru_cache(maxsize=64)
def _make_function(shapes: Shapes, activation: OneOrEach, objective: Objective) -> Any:
    """The compiled function of loss and gradient in flat parameters."""

    def function(flat: Any, x: Any, y: Any, weights: Any, l2: Any) -> Any:
        value, gradient = loss_and_grad(
            _layers(flat, shapes), x, y, activation=activation, l2=l2, weights=weights, objective=objective
        )
        return value, jnp.concatenate([a.reshape(-1) for layer in gradient for a in layer])

    return jax.jit(function, compiler_options=compiler_options())
