"""Part 1d: the backward pass, in the document's order.

Every quantity that the document names is a function here; `loss_and_grad` is the recursion that they make. The document
numbers errors by counting the input as layer 1, so its delta^3 is the error of z^2 and its delta^2 that of z^1; with
any number of layers the code numbers an error like its z. The document's delta leaves out the 1/N of the mean and puts
it into each gradient; here the error of z carries it from the start, as dL/dz = delta / N, because with sample weights
it is w_n / sum(w), another number for every sample.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.activations import OneOrEach, layer_activations
from jaxbackprop.losses import Objective, get_objective, mean_loss, sample_shares
from jaxbackprop.network import FEW, Layer, Params, check_targets, forward, regularization


def softmax_jacobian(y_hat: Float[Array, "classes samples"]) -> Float[Array, "classes classes samples"]:
    """d y-hat_i / d z_j of each sample: y-hat_i (1 - y-hat_i) if j = i, -y-hat_i y-hat_j if j != i.

    Both cases in one line: y-hat_i (1[i = j] - y-hat_j). **Returns:** [i, j, samples].
    """
    same = jnp.eye(y_hat.shape[0], dtype=y_hat.dtype)[:, :, None]
    return y_hat[:, None, :] * (same - y_hat[None, :, :])


def prediction_gradient(
    y_hat: Float[Array, "classes samples"], y: Float[Array, "classes samples"]
) -> Float[Array, "classes samples"]:
    """dL/dy-hat = -(1/N) y / y-hat, from equation (5)."""
    return -y / y_hat / y.shape[1]


def delta(
    y_hat: Float[Array, "classes samples"], y: Float[Array, "classes samples"]
) -> Float[Array, "classes samples"]:
    """delta = y-hat - y, the document's delta^3; dL/dz^L is delta / N.

    dL/dz_i = sum_k dL/dy-hat_k dy-hat_k/dz_i = -(1/N) [y_i (1 - y-hat_i) - sum_{k != i} y_k y-hat_i]
            = (1/N) [y-hat_i sum_k y_k - y_i] = (1/N) (y-hat_i - y_i), since y is one-hot.

    The other objectives of `losses` give the same: sigmoid by the same steps, squared error at once.
    """
    return y_hat - y


def objective_error(
    objective: Objective,
    z: Float[Array, "classes samples"],
    y_hat: Float[Array, "classes samples"],
    y: Float[Array, "classes samples"],
) -> Float[Array, "classes samples"]:
    """`delta`, unless an objective of one's own brings another derivative of a sample's loss by z."""
    return delta(y_hat, y) if objective.error is None else objective.error(z, y)


def delta_hidden(
    weight: Float[Array, "out in"], delta_out: Float[Array, "out samples"], slope: Float[Array, "in samples"]
) -> Float[Array, "in samples"]:
    """delta^l = (W^(l+1))^T delta^(l+1) * f'(z^l), elementwise: the document's delta^2 = W^2T delta^3 f'(z^1)."""
    return weight.T @ delta_out * slope


def weight_gradient(error: Float[Array, "out samples"], a: Float[Array, "in samples"]) -> Float[Array, "out in"]:
    """dL/dW^l = dL/dz^l (a^(l-1))^T, with a^0 = x. The product of matrices sums over the samples."""
    if len(error) <= FEW and len(error) < len(a):
        return jnp.stack([a @ row for row in error])  # the same numbers, faster where the outputs are few
    return jnp.einsum("in,jn->ij", error, a)  # error @ a.T, of which XLA would copy the transpose


def bias_gradient(error: Float[Array, "out samples"]) -> Float[Array, " out"]:
    """dL/db^l = sum over the samples of dL/dz^l."""
    return jnp.sum(error, axis=1)


def loss_and_grad(
    params: Params,
    x: Float[Array, "features samples"],
    y: Float[Array, "classes samples"],
    *,
    activation: OneOrEach,
    l2: float | Float[Array, ""] = 0.0,
    weights: Float[Array, " samples"] | None = None,
    objective: str | Objective = "softmax",
) -> tuple[Float[Array, ""], Params]:
    """The loss (5) and its gradient with respect to every W^l and b^l, by hand.

    **Arguments:** as `network.loss`. **Returns:** the loss and a gradient of the same structure as `params`.

    **Raises:** `ValueError` as `network.loss` does.
    """
    check_targets(params, x, y, weights)
    f = layer_activations(activation, len(params) - 1)
    zs, activations = forward(params, x, activation=activation, objective=objective)
    value = mean_loss(zs[-1], y, weights=weights, objective=objective) + regularization(params, l2)

    inputs = (x, *activations[:-1])  # a^0 … a^(L-1): what each layer saw
    own = objective_error(get_objective(objective), zs[-1], activations[-1], y)
    error = own * sample_shares(x.shape[1], weights)  # dL/dz^L
    gradient = []
    for l in reversed(range(len(params))):
        weight = params[l].weight
        gradient.append(Layer(weight_gradient(error, inputs[l]) + l2 * weight, bias_gradient(error)))
        if l > 0:
            error = delta_hidden(weight, error, f[l - 1].slope(zs[l - 1], inputs[l]))
    return value, tuple(reversed(gradient))
