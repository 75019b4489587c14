"""Part 1d: every quantity that the document names, and the gradient that they make."""

import ast
import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import jaxbackprop
from jaxbackprop import ACTIVATIONS, Activation, Hyperparameters, backprop, network, oracle
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.losses import OBJECTIVES, Objective, softmax

TOLERANCE = {jnp.float64: 1e-12, jnp.float32: 1e-5}
ALTERNATING = (2, 3, 2, 3, 2, 3)  # two shapes of a layer in any depth: what is compiled for one serves all


def error_between(got, right):
    """The largest relative error of any leaf."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, right)
    return max(jax.tree.leaves(jax.tree.map(oracle.relative_error, got, right)))


@pytest.mark.usefixtures("float64")
class Quantities(chex.TestCase):
    """Each named quantity by itself, with and without jit."""

    def setUp(self):
        super().setUp()
        self.params, self.x, self.y, _ = reference.draw_problem(5, (2, 3, 4), 6)
        self.zs, self.activations = network.forward(self.params, self.x, activation="tanh")
        self.y_hat = self.activations[-1]

    @chex.variants(with_jit=True, without_jit=True)
    def test_softmax_jacobian(self):
        """j = i: y-hat_i (1 - y-hat_i). j != i: -y-hat_i y-hat_j."""
        jacobian = self.variant(backprop.softmax_jacobian)(self.y_hat)
        chex.assert_shape(jacobian, (4, 4, 6))
        for n, y_hat in enumerate(np.asarray(self.y_hat).T):
            for i in range(4):
                for j in range(4):
                    right = y_hat[i] * (1 - y_hat[i]) if j == i else -y_hat[i] * y_hat[j]
                    assert jacobian[i, j, n] == pytest.approx(right, rel=1e-14)
        column = jax.vmap(jax.jacobian(lambda z: softmax(z[:, None])[:, 0]), in_axes=1, out_axes=2)
        assert oracle.relative_error(jacobian, column(self.zs[-1])) <= 1e-12
        np.testing.assert_allclose(jnp.sum(jacobian, axis=0), 0, atol=1e-16)  # y-hat sums to 1 whatever z

    @chex.variants(with_jit=True, without_jit=True)
    def test_prediction_gradient(self):
        """dL/dy-hat, of equation (5) as it is written."""
        got = self.variant(backprop.prediction_gradient)(self.y_hat, self.y)
        right = jax.grad(lambda y_hat: -jnp.mean(jnp.sum(self.y * jnp.log(y_hat), axis=0)))(self.y_hat)
        assert oracle.relative_error(got, right) <= 1e-12

    @chex.variants(with_jit=True, without_jit=True)
    def test_error_of_the_logits(self):
        """dL/dz^2 = delta^3 / N, which is the product of the two derivatives above."""
        got = self.variant(backprop.delta)(self.y_hat, self.y) / 6
        chain = np.einsum(
            "in,ijn->jn",
            backprop.prediction_gradient(self.y_hat, self.y),
            backprop.softmax_jacobian(self.y_hat),
        )
        assert oracle.relative_error(got, chain) <= 1e-12
        right = jax.grad(lambda z: -jnp.mean(jnp.sum(self.y * jnp.log(softmax(z)), axis=0)))(self.zs[-1])
        assert oracle.relative_error(got, right) <= 1e-12

    @chex.variants(with_jit=True, without_jit=True)
    def test_error_of_the_hidden_layer(self):
        """dL/dz^1 = delta^2 / N."""
        error, weight = backprop.delta(self.y_hat, self.y) / 6, self.params[1].weight
        got = self.variant(backprop.delta_hidden)(weight, error, 1 - self.activations[0] ** 2)
        right = jax.grad(lambda z: network.loss(self.params[1:], jnp.tanh(z), self.y, activation="tanh"))(self.zs[0])
        assert oracle.relative_error(got, right) <= 1e-12

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradients_of_a_layer(self):
        """dL/dW is the sum of the samples' outer products, dL/db the sum of their errors."""
        rng = np.random.default_rng(0)
        error, a = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))
        got = self.variant(lambda error, a: (backprop.weight_gradient(error, a), backprop.bias_gradient(error)))(
            jnp.asarray(error), jnp.asarray(a)
        )
        np.testing.assert_allclose(got[0], sum(np.outer(error[:, n], a[:, n]) for n in range(6)), rtol=1e-13)
        np.testing.assert_allclose(got[1], sum(error[:, n] for n in range(6)), rtol=1e-13)

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_four_gradients_of_the_document(self):
        """dL/dW^2 = delta^3 a^1T / N, dL/db^2 = sum_n delta^3 / N; for the first layer the same with delta^2 and x."""
        run = self.variant(functools.partial(loss_and_grad, activation="tanh"))
        value, ((dW1, db1), (dW2, db2)) = run(self.params, self.x, self.y)
        x, y, a1, y_hat = (np.asarray(array) for array in (self.x, self.y, *self.activations))
        delta3 = y_hat - y
        delta2 = np.asarray(self.params[1].weight).T @ delta3 * (1 - a1**2)
        np.testing.assert_allclose(dW2, delta3 @ a1.T / 6, rtol=1e-12)
        np.testing.assert_allclose(db2, delta3.sum(axis=1) / 6, rtol=1e-12)
        np.testing.assert_allclose(dW1, delta2 @ x.T / 6, rtol=1e-12)
        np.testing.assert_allclose(db1, delta2.sum(axis=1) / 6, rtol=1e-12)
        np.testing.assert_allclose(value, -np.sum(y * np.log(y_hat)) / 6, rtol=1e-13)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*OBJECTIVES)
    def test_gradient_against_a_loop_over_the_samples(self, objective):
        params, x, y, weights = reference.draw_problem(1, (2, 3, 4, 3), 6, objective=objective)
        run = functools.partial(loss_and_grad, activation="sigmoid", l2=0.1, objective=objective)
        got = self.variant(lambda params, x, y, weights: run(params, x, y, weights=weights))(params, x, y, weights)
        right = reference.loss_and_grad(params, x, y, "sigmoid", objective=objective, weights=weights, l2=0.1)
        chex.assert_trees_all_close(got, right, rtol=1e-11, atol=1e-14)


@functools.partial(jax.jit, compiler_options=reference.QUICKLY)
def by_hand_and_by_autodiff(params, x, y, weights, l2, activation, objective):
    """Loss and gradient from both sources. Activation and objective are numbers, so that one program serves all."""

    def numbered(number, functions):
        return lambda *arguments: jax.lax.switch(number, functions, *arguments)

    values, slopes = zip(*((a.value, a.slope) for a in ACTIVATIONS.values()), strict=True)
    predictions, losses = zip(*((o.predict, o.per_sample) for o in OBJECTIVES.values()), strict=True)
    settings = {
        "activation": Activation("numbered", numbered(activation, values), numbered(activation, slopes)),
        "objective": Objective("numbered", numbered(objective, predictions), numbered(objective, losses)),
        "weights": weights,
        "l2": l2,
    }
    loss = functools.partial(network.loss, x=x, y=y, **settings)
    return loss_and_grad(params, x, y, **settings), (loss(params), oracle.autodiff_gradient(loss, params))


def compare(problem, dtype, *, weights=None, l2=0.0, activation, objective):
    numbers = list(ACTIVATIONS).index(activation), list(OBJECTIVES).index(objective)
    by_hand, right = by_hand_and_by_autodiff(problem.params, problem.x, problem.y, weights, l2, *numbers)
    assert {leaf.dtype for leaf in jax.tree.leaves(by_hand)} == {jnp.dtype(dtype)}
    assert error_between(by_hand, right) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("depth", "dtype"),
    [
        *((depth, jnp.float64) for depth in (1, 2, 3)),
        (2, jnp.float32),
        pytest.param(5, jnp.float64, marks=pytest.mark.slow),
        *(pytest.param(depth, jnp.float32, marks=pytest.mark.slow) for depth in (1, 3, 5)),
    ],
)
def test_every_activation_and_objective_at_every_depth(float64, depth, dtype):
    for objective in OBJECTIVES:
        problem = reference.draw_problem(depth, ALTERNATING[: depth + 1], 7, objective=objective, dtype=dtype)
        for activation in ACTIVATIONS:
            compare(problem, dtype, activation=activation, objective=objective)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.sampled_from([(2, 1, 3), *(ALTERNATING[: depth + 1] for depth in (1, 3, 5))]),
    samples=st.sampled_from([1, 7]),
    activation=st.sampled_from(list(ACTIVATIONS)),
    objective=st.sampled_from(list(OBJECTIVES)),
    weighted=st.booleans(),
    l2=st.sampled_from([0.0, 1e-3, 2.0]),
)
def test_any_network_on_any_batch(float64, seed, sizes, samples, activation, objective, weighted, l2):
    problem = reference.draw_problem(seed, sizes, samples, objective=objective)
    weights = problem.weights if weighted else jnp.ones(samples)
    compare(problem, jnp.float64, activation=activation, objective=objective, l2=l2, weights=weights)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_batch_of_one_with_weights_and_l2(float64, dtype, objective):
    problem = reference.draw_problem(2, ALTERNATING[:4], 1, objective=objective, dtype=dtype)
    for activation in ACTIVATIONS:
        compare(problem, dtype, activation=activation, objective=objective, weights=problem.weights, l2=0.1)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), activation=st.sampled_from(list(ACTIVATIONS)), samples=st.sampled_from([1, 7]))
def test_any_network_in_single_precision(float64, seed, activation, samples):
    """The terms of one leaf may cancel to less than float32 resolves, those of the whole gradient do not."""
    problem = reference.draw_problem(seed, ALTERNATING[:4], samples, dtype=jnp.float32)
    numbers = list(ACTIVATIONS).index(activation), list(OBJECTIVES).index("softmax")
    by_hand, right = by_hand_and_by_autodiff(*problem, 0.1, *numbers)
    assert oracle.relative_error(ravel_pytree(by_hand)[0], ravel_pytree(right)[0]) <= TOLERANCE[jnp.float32]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "mish"])
def test_finite_differences_agree(float64, activation, objective):
    """The witness that knows no autodiff; its own error sets the tolerance (see `oracle`)."""
    params, x, y, weights = reference.draw_problem(7, ALTERNATING[:4], 7, objective=objective)
    settings = {"activation": activation, "objective": objective, "weights": weights, "l2": 0.1}
    _, by_hand = loss_and_grad(params, x, y, **settings)
    right = oracle.finite_difference_gradient(lambda params: network.loss(params, x, y, **settings), params)
    assert error_between(by_hand, right) <= 1e-7


@given(copies=st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(any))
def test_a_weight_is_a_number_of_copies(float64, copies):
    params, x, y, _ = reference.draw_problem(3, (2, 3, 2), 7)
    got = loss_and_grad(params, x, y, activation="tanh", l2=0.1, weights=jnp.asarray(copies, float))
    repeated = np.repeat(np.arange(7), copies)
    right = reference.loss_and_grad(params, x[:, repeated], y[:, repeated], "tanh", l2=0.1)
    chex.assert_trees_all_close(got, right, rtol=1e-11, atol=1e-14)


def test_a_batch_that_counts_for_nothing_leaves_only_l2(float64):
    params, x, y, _ = reference.draw_problem(3, (2, 3, 2), 7)
    value, gradient = loss_and_grad(params, x, y, activation="tanh", l2=0.5, weights=jnp.zeros(7))
    chex.assert_trees_all_close(gradient, jax.tree.map(lambda p: 0.5 * p * (p.ndim == 2), params))
    assert float(value) == pytest.approx(0.25 * sum(np.sum(np.square(weight)) for weight, _ in params))


def test_vmap_over_networks_l2_and_weights_is_one_after_another(float64):
    problems = [reference.draw_problem(seed, (2, 3, 4, 3), 5) for seed in range(3)]
    params, x, y, weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    l2 = jnp.asarray([0.0, 0.1, 1.0])
    run = functools.partial(loss_and_grad, activation="elu")
    stacked = jax.jit(jax.vmap(lambda p, x, y, w, l2: run(p, x, y, weights=w, l2=l2)))(params, x, y, weights, l2)
    for k, problem in enumerate(problems):
        single = run(*problem[:3], weights=problem.weights, l2=l2[k])
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, k=k: leaf[k], stacked), single, rtol=1e-11, atol=1e-14)


def test_the_gradient_can_itself_be_differentiated(float64):
    """Its Jacobian is the Hessian of the loss."""
    params, x, y, _ = reference.draw_problem(0, (2, 2, 2), 5)
    settings = {"activation": "silu", "l2": 0.1}
    got = jax.jit(jax.jacfwd(lambda params: loss_and_grad(params, x, y, **settings)[1]))(params)
    right = jax.jit(jax.hessian(lambda params: network.loss(params, x, y, **settings)))(params)
    chex.assert_trees_all_close(got, right, rtol=1e-11, atol=1e-13)


def test_public_functions_are_the_same_compiled(float64):
    params, x, y, _ = reference.draw_problem(0, (2, 3, 3), 5)
    for public, plain in ((jaxbackprop.loss, network.loss), (jaxbackprop.loss_and_grad, loss_and_grad)):
        got, right = (function(params, x, y, activation="tanh", l2=0.1) for function in (public, plain))
        chex.assert_trees_all_close(got, right, rtol=1e-13)
    got, right = (f(params, x, activation="tanh") for f in (jaxbackprop.forward, network.forward))
    chex.assert_trees_all_close(got, right, rtol=1e-13)


@pytest.mark.usefixtures("as_users_run_it")
def test_misfits_are_refused():
    """By the checks of the forward pass, whose cases `test_network` goes through."""
    params, x, y, _ = reference.draw_problem(0, (2, 3, 3), 5, dtype=np.float32)
    with pytest.raises(ValueError, match=r"y must be \[classes, samples\] = \(3, 5\), got shape \(5, 3\)"):
        loss_and_grad(params, x, y.T, activation="tanh")
    with pytest.raises(ValueError, match="was x handed over as"):
        jaxbackprop.loss_and_grad(params, x.T, y, activation="tanh")
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        jaxbackprop.loss_and_grad(params, x, y, activation="tan")


# Autodiff judges the gradient and must not compute it.
AUTODIFF = {"grad", "value_and_grad", "vjp", "jvp", "linearize", "jacobian", "jacfwd", "jacrev", "hessian"}


def test_autodiff_is_named_by_the_witnesses_alone():
    folder = Path(jaxbackprop.__file__).parent
    users = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
                names = {alias.name for alias in node.names}
            if names & AUTODIFF:
                users.add(path.relative_to(folder).parts[0])
    assert "oracle.py" in users
    assert all(name.startswith(("oracle", "audit")) for name in users), users


def test_training_never_differentiates(float64):
    """An activation that cannot be differentiated trains all the same."""

    @jax.custom_jvp
    def value(z):
        return jnp.tanh(z)

    @value.defjvp
    def refuse(primals, tangents):
        raise AssertionError("differentiated")

    guarded = Activation("guarded tanh", value, lambda z, a: 1 - a * a)
    params, x, y, _ = reference.draw_problem(5, (2, 3, 4), 6)
    with pytest.raises(AssertionError, match="differentiated"):
        jax.grad(network.loss)(params, x, y, activation=guarded)
    got, right = (loss_and_grad(params, x, y, activation=activation) for activation in (guarded, "tanh"))
    chex.assert_trees_all_equal(got, right)
    settings = {"steps": 3, "optimizer": "adam", "batch_size": 4}
    got, right = (
        jaxbackprop.fit(params, x, y, Hyperparameters(0.1), activation=activation, **settings)
        for activation in (guarded, "tanh")
    )
    chex.assert_trees_all_close(got, right, rtol=1e-13)


def test_each_layer_has_its_own_activation(float64):
    params = network.init_params(jax.random.key(3), (4, 5, 3, 6, 2), scheme="he")
    x, y = jnp.asarray(np.random.default_rng(4).normal(size=(4, 30))), jnp.asarray(np.eye(2)[np.arange(30) % 2].T)
    each = ("tanh", "relu", ACTIVATIONS["mish"])

    def by_hand(x):
        a = x
        for (weight, bias), f in zip(params, (jnp.tanh, jax.nn.relu, jax.nn.mish, None), strict=True):
            z = weight @ a + bias[:, None]
            a = z if f is None else f(z)
        return a

    np.testing.assert_allclose(network.forward(params, x, activation=each).pre_activations[-1], by_hand(x), rtol=1e-12)

    @functools.partial(jax.jit, compiler_options=reference.QUICKLY)
    def both(params):
        by_autodiff = jax.value_and_grad(lambda p: network.loss(p, x, y, activation=each, l2=0.1))(params)
        alike = [loss_and_grad(params, x, y, activation=tanh) for tanh in ("tanh", ("tanh",) * 3)]
        return loss_and_grad(params, x, y, activation=each, l2=0.1), by_autodiff, alike

    by_hand, right, alike = both(params)
    chex.assert_trees_all_close(by_hand, right, rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_close(*alike, rtol=1e-14)
    with pytest.raises(ValueError, match="a tuple, one for each of 3, got 2"):
        network.forward(params, x, activation=each[:2])
    with pytest.raises(ValueError, match="tahn"):
        network.forward(params, x, activation=("relu", "relu", "tahn"))
