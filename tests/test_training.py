"""Training of one network, against loops in NumPy and optax's optimizers driven by `jax.grad`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import QUICKLY
from sklearn.datasets import make_moons

from jaxbackprop import Hyperparameters, batch_order, fit, init_params, network
from jaxbackprop.optimizers import OPTIMIZERS, Optimizer, get_optimizer, sgd_update
from jaxbackprop.training import recorded_steps

SIZES, SAMPLES = (2, 3, 2), 7


def descend(params, x, y, steps, rule, *, activation="tanh", objective="softmax", l2=0.0, weights=None, batches=None):
    """A loop in NumPy; `rule(p, g, t)` makes the update of one array at step t. Returns all parameters on the way."""
    trace = [jax.tree.map(np.asarray, params)]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    rules = [rule() for _ in leaves]
    for t in range(steps):
        batch = np.arange(x.shape[1]) if batches is None else np.asarray(batches[t])
        batch = batch[batch >= 0]
        w = None if weights is None else weights[batch]
        _, gradient = reference.loss_and_grad(
            trace[-1], x[:, batch], y[:, batch], activation, objective=objective, l2=l2, weights=w
        )
        leaves = [update(p, g, t + 1) for update, p, g in zip(rules, leaves, jax.tree.leaves(gradient), strict=True)]
        trace.append(jax.tree.unflatten(jax.tree.structure(params), leaves))
    return trace


def sgd(rate):
    return lambda: lambda p, g, t: p - rate * g


def momentum(rate, decay, nesterov):
    """Sutskever, Martens, Dahl and Hinton 2013."""

    def rule():
        velocity = 0

        def update(p, g, t):
            nonlocal velocity
            velocity = decay * velocity + g
            return p - rate * (g + decay * velocity if nesterov else velocity)

        return update

    return rule


def adam(rate, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma and Ba 2015, algorithm 1; the decoupled decay of Loshchilov and Hutter 2019."""

    def rule():
        m, v = 0, 0

        def update(p, g, t):
            nonlocal m, v
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            return p - rate * (direction + weight_decay * p)

        return update

    return rule


def adam_hat(rate, b1, b2, eps):
    """Kingma and Ba 2015, end of section 2: the biases corrected by the step size."""

    def rule():
        m, v = 0, 0

        def update(p, g, t):
            nonlocal m, v
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            return p - rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)

        return update

    return rule


def rmsprop(rate, decay=0.9, eps=1e-8):
    """Tieleman and Hinton 2012."""

    def rule():
        v = 0

        def update(p, g, t):
            nonlocal v
            v = decay * v + (1 - decay) * g**2
            return p - rate * g / np.sqrt(v + eps)

        return update

    return rule


def adagrad(rate, start=0.1, eps=1e-7):
    """Duchi, Hazan and Singer 2011."""

    def rule():
        total = start

        def update(p, g, t):
            nonlocal total
            total = total + g**2
            return p - rate * g / np.sqrt(total + eps)

        return update

    return rule


RULES = {
    "sgd": lambda h: sgd(h.learning_rate),
    "momentum": lambda h: momentum(h.learning_rate, h.momentum, nesterov=False),
    "nesterov": lambda h: momentum(h.learning_rate, h.momentum, nesterov=True),
    "adam": lambda h: adam(h.learning_rate, 0.0, h.beta_1, h.beta_2, h.epsilon),
    "adam_hat": lambda h: adam_hat(h.learning_rate, h.beta_1, h.beta_2, h.epsilon),
    "adamw": lambda h: adam(h.learning_rate, h.weight_decay, h.beta_1, h.beta_2, h.epsilon),
    "rmsprop": lambda h: rmsprop(h.learning_rate),
    "adagrad": lambda h: adagrad(h.learning_rate),
}
OPTAX = {
    "sgd": lambda h: optax.sgd(h.learning_rate),
    "momentum": lambda h: optax.sgd(h.learning_rate, momentum=h.momentum),
    "nesterov": lambda h: optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True),
    "adam": lambda h: optax.adam(h.learning_rate, h.beta_1, h.beta_2, h.epsilon),
    # where epsilon is next to nothing the two forms of adam are one
    "adam_hat": lambda h: optax.adam(h.learning_rate, h.beta_1, h.beta_2, h.epsilon),
    "adamw": lambda h: optax.adamw(h.learning_rate, h.beta_1, h.beta_2, h.epsilon, weight_decay=h.weight_decay),
    "rmsprop": lambda h: optax.rmsprop(h.learning_rate),
    "adagrad": lambda h: optax.adagrad(h.learning_rate),
}


@pytest.mark.parametrize("objective", ["softmax", "sigmoid", "squared", "poisson"])
def test_full_batch_is_the_loop_in_numpy(float64, objective):
    params, x, y, weights = reference.draw_problem(0, SIZES, SAMPLES, objective=objective)
    settings = {"activation": "tanh", "objective": objective}
    result = fit(params, x, y, Hyperparameters(0.2, l2=0.1, weights=weights), steps=20, record_every=8, **settings)
    trace = descend(params, x, y, 20, sgd(0.2), l2=0.1, weights=weights, **settings)
    chex.assert_trees_all_close(result.params, trace[-1], rtol=1e-10)
    losses = [reference.loss_and_grad(trace[t], x, y, l2=0.1, weights=weights, **settings)[0] for t in (0, 8, 16, 20)]
    np.testing.assert_allclose(result.loss_curve, losses, rtol=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_in_its_own_formula(float64, name):
    """On mini-batches, so that the gradients change from step to step."""
    params, x, y, _ = reference.draw_problem(1, SIZES, SAMPLES)
    settings = Hyperparameters(0.05, 0.01, 0.7, 0.3, beta_1=0.8, beta_2=0.99, epsilon=1e-3)
    batches = batch_order(jax.random.key(0), SAMPLES, 3, steps=8)
    got = fit(params, x, y, settings, activation="tanh", optimizer=name, steps=8, batches=batches).params
    right = descend(params, x, y, 8, RULES[name](settings), l2=0.01, batches=batches)[-1]
    chex.assert_trees_all_close(got, right, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_as_optax_driven_by_autodiff(float64, name):
    params, x, y, _ = reference.draw_problem(1, SIZES, SAMPLES)
    settings = Hyperparameters(0.05, 0.01, 0.7, 0.3, beta_1=0.8, beta_2=0.99, epsilon=1e-14)
    got = fit(params, x, y, settings, activation="tanh", optimizer=name, steps=5).params
    optimizer = OPTAX[name](settings)

    def step(state, _):
        params, state = state
        gradient = jax.grad(network.loss)(params, x, y, activation="tanh", l2=0.01)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    train = jax.jit(lambda start: jax.lax.scan(step, start, length=5)[0], compiler_options=QUICKLY)
    right, _ = train(start)
    chex.assert_trees_all_close(got, right, rtol=1e-10)


def test_optimizers_are_those_of_the_text():
    assert set(OPTIMIZERS) == set(RULES) == set(OPTAX)
    assert get_optimizer(OPTIMIZERS["adam"]) is OPTIMIZERS["adam"]


def test_an_optimizer_of_ones_own(float64):
    """Signs of the gradient instead of the gradient."""

    def update(gradient, state, params, h):
        return sgd_update(jax.tree.map(jnp.sign, gradient), state, params, h)

    params, x, y, _ = reference.draw_problem(2, SIZES, SAMPLES)
    own = Optimizer("sign", lambda params: (), update)
    got = fit(params, x, y, Hyperparameters(0.01), activation="tanh", steps=3, optimizer=own).params
    right = descend(params, x, y, 3, lambda: lambda p, g, t: p - 0.01 * np.sign(g))[-1]
    chex.assert_trees_all_close(got, right, rtol=1e-10)


@pytest.mark.parametrize(("samples", "batch_size", "steps"), [(7, 3, 9), (6, 3, 5), (5, 5, 3), (4, 1, 6), (1, 1, 2)])
@given(seed=st.integers(0, 2**31 - 1))
def test_every_epoch_is_a_permutation(samples, batch_size, steps, seed):
    """Of all samples; the last batch of an epoch takes what is left."""
    batches = np.asarray(batch_order(jax.random.key(seed), samples, batch_size, steps))
    chex.assert_shape(batches, (steps, batch_size))
    per_epoch = -(-samples // batch_size)
    for start in range(0, steps - per_epoch + 1, per_epoch):
        epoch = batches[start : start + per_epoch]
        sizes = np.sum(epoch >= 0, axis=1)
        assert (sizes[:-1] == batch_size).all()
        assert sizes[-1] == samples - (per_epoch - 1) * batch_size
        assert sorted(epoch[epoch >= 0]) == list(range(samples))
    rest = batches[steps // per_epoch * per_epoch :]
    assert len(np.unique(rest[rest >= 0])) == np.sum(rest >= 0)


def test_epochs_differ_and_seeds_differ():
    first, second = (np.asarray(batch_order(jax.random.key(seed), 50, 50, 3)) for seed in (0, 1))
    assert len({tuple(epoch) for epoch in (*first, *second)}) == 6


@pytest.mark.parametrize("weighted", [False, True])
def test_mini_batches_are_the_loop_in_numpy(float64, weighted):
    """7 samples in batches of 3: the third one holds a single sample, and steps end amid an epoch."""
    params, x, y, weights = reference.draw_problem(3, SIZES, SAMPLES)
    weights = weights if weighted else None
    settings = Hyperparameters(0.3, l2=0.05, seed=11, weights=weights)
    got = fit(params, x, y, settings, activation="sigmoid", steps=10, batch_size=3, record_every=4)
    batches = batch_order(jax.random.key(11), SAMPLES, 3, 10)
    trace = descend(params, x, y, 10, sgd(0.3), activation="sigmoid", l2=0.05, weights=weights, batches=batches)
    chex.assert_trees_all_close(got.params, trace[-1], rtol=1e-10)
    losses = [reference.loss_and_grad(trace[t], x, y, "sigmoid", l2=0.05, weights=weights)[0] for t in (0, 4, 8, 10)]
    np.testing.assert_allclose(got.loss_curve, losses, rtol=1e-10)
    given_order = fit(params, x, y, settings, activation="sigmoid", steps=10, batches=batches, record_every=4)
    chex.assert_trees_all_close(given_order, got, rtol=1e-12)


@given(steps=st.integers(1, 5000), every=st.one_of(st.none(), st.integers(1, 6000)))
def test_recorded_steps(steps, every):
    marks = recorded_steps(steps, every)
    assert marks[0] == 0
    assert marks[-1] == steps
    gaps = np.diff(marks)
    assert (gaps[:-1] == gaps[0]).all()
    assert 0 < gaps[-1] <= gaps[0]
    if every is None:
        assert len(marks) <= 102
        assert gaps[0] >= min(steps, 100)
    else:
        assert gaps[0] == min(every, steps)


@pytest.mark.parametrize(("steps", "every"), [(1, None), (5, 1), (6, 3), (7, 3), (3, 9), (250, None)])
def test_the_curve_has_the_loss_of_the_recorded_steps(float64, steps, every):
    params, x, y, _ = reference.draw_problem(4, SIZES, SAMPLES)
    curve = fit(params, x, y, Hyperparameters(0.5), activation="tanh", steps=steps, record_every=every).loss_curve
    trace = descend(params, x, y, steps, sgd(0.5))
    marks = recorded_steps(steps, every)
    chex.assert_shape(curve, (len(marks),))
    losses = [reference.loss_and_grad(trace[t], x, y, "tanh")[0] for t in marks]
    np.testing.assert_allclose(curve, losses, rtol=1e-9)


def test_vmap_over_everything_that_is_traced(float64):
    """Each of the networks trains as it would alone."""
    count = 3
    params = jax.vmap(lambda seed: init_params(jax.random.key(seed), SIZES))(jnp.arange(count))
    _, x, y, weights = reference.draw_problem(5, SIZES, SAMPLES)
    stacked = Hyperparameters(
        learning_rate=jnp.asarray([0.1, 0.2, 0.4]),
        l2=jnp.asarray([0.0, 0.1, 0.01]),
        momentum=jnp.asarray([0.5, 0.9, 0.0]),
        weight_decay=jnp.zeros(count),
        seed=jnp.asarray([0, 1, 2]),
        weights=jnp.stack([jnp.ones(SAMPLES), weights, weights[::-1]]),
        beta_1=jnp.asarray([0.9, 0.8, 0.7]),
        beta_2=jnp.asarray([0.999, 0.99, 0.9]),
        epsilon=jnp.asarray([1e-8, 1e-6, 1e-4]),
    )
    train = functools.partial(fit, activation="tanh", optimizer="momentum", steps=6, batch_size=3, record_every=2)
    together = jax.jit(jax.vmap(train, in_axes=(0, None, None, 0)))(params, x, y, stacked)
    chex.assert_shape(together.loss_curve, (count, 4))
    for k in range(count):
        alone = train(
            *jax.tree.map(lambda leaf, k=k: leaf[k], (params,)), x, y, jax.tree.map(lambda v, k=k: v[k], stacked)
        )
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, k=k: leaf[k], together), alone, rtol=1e-11)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_sample_of_weight_0_is_not_there(float64, batch_size):
    """What it holds changes nothing; a full batch trains as if it had been dropped."""
    params, x, y, _ = reference.draw_problem(6, SIZES, SAMPLES)
    weights = jnp.asarray([1.0, 0, 1, 1, 0, 1, 1])
    kept = np.flatnonzero(weights)
    train = functools.partial(fit, activation="tanh", steps=5, record_every=5)
    settings = Hyperparameters(0.5, l2=0.1, weights=weights)
    got = train(params, x, y, settings, batch_size=batch_size)
    other = train(params, jnp.where(weights > 0, x, 9.0), y, settings, batch_size=batch_size)
    chex.assert_trees_all_close(got, other, rtol=1e-13)
    if batch_size is None:
        dropped = train(params, x[:, kept], y[:, kept], Hyperparameters(0.5, l2=0.1))
        chex.assert_trees_all_close(got, dropped, rtol=1e-11)


def test_training_has_the_precision_of_the_parameters(float64):
    params, *_ = reference.draw_problem(8, SIZES, SAMPLES, dtype=np.float32)
    _, x, y, weights = reference.draw_problem(8, SIZES, SAMPLES)
    hyperparameters = Hyperparameters(np.float64(0.1), l2=np.float64(0.1), weights=weights)
    result = fit(params, x, y, hyperparameters, activation="tanh", steps=2)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {np.dtype(np.float32)}


def test_it_learns_the_moons():
    """All but a few of the course's points, as a network of 10 hidden units can."""
    X, labels = make_moons(200, noise=0.2, random_state=0)
    x, y = jnp.asarray(X.T, jnp.float32), jnp.asarray(np.eye(2)[:, labels], jnp.float32)
    params = init_params(jax.random.key(0), (2, 10, 2))
    result = fit(params, x, y, Hyperparameters(0.1), activation="tanh", optimizer="adam", steps=500)
    prediction = network.forward(result.params, x, activation="tanh").activations[-1].argmax(axis=0)
    assert np.mean(prediction == labels) > 0.97
    assert result.loss_curve[-1] < result.loss_curve[0] / 4


def test_divergence_is_a_result_and_not_an_error():
    """Values that are not finite come back as they are, for the caller to see."""
    params, x, y, _ = reference.draw_problem(0, SIZES, SAMPLES, objective="squared", dtype=np.float32)
    curve = fit(params, x, y, Hyperparameters(1e4), activation="relu", objective="squared", steps=60).loss_curve
    assert np.isfinite(curve[0])
    assert not np.isfinite(curve[-1])
