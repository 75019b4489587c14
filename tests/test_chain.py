"""Chains of layers: their gradient against autodiff, and their training."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import QUICKLY

from jaxbackprop import Hyperparameters, Objective, batch_order
from jaxbackprop.layers.chain import (
    chain,
    chain_loss_and_grad,
    fit_chain,
    flatten,
    part,
    recurrent,
    residual,
    self_attention,
)


def small_convolutional():
    network = chain(
        [
            part("convolution", (4, 1, 3, 3), (4,), pad=1),
            part("batch_norm", (4,), (4,)),
            part("relu"),
            part("max_pool", size=2),
            part("convolution", (6, 4, 3, 3), (6,)),
            part("tanh"),
            part("average_pool", size=2),
            flatten(),
            part("affine", (3, 6), (3,)),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 8, 8, 6)), np.eye(3)[:, rng.integers(0, 3, 6)]
    return network, jnp.asarray(x), jnp.asarray(y)


def transformer():
    block = [
        residual([part("layer_norm", (8,), (8,)), self_attention(8, 4, key_heads=2)]),
        residual([part("rms_norm", (8,)), part("affine", (16, 8), (16,)), part("gelu"), part("affine", (8, 16), (8,))]),
    ]
    network = chain(
        [part("embedding", (8, 5)), part("positional_embedding", (8, 7)), *block, part("affine", (5, 8), (5,))]
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (6, 9))
    return network, jnp.asarray(x), jnp.moveaxis(jax.nn.one_hot(jnp.asarray(np.roll(x, -1, 0)), 5), -1, 0)


def lstm():
    network = chain([recurrent("lstm", 3, 4), part("affine", (2, 4), (2,))])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 6))
    return network, jnp.asarray(x), jax.nn.one_hot(jnp.asarray(x[0] > 0, int), 2, axis=0)


@pytest.mark.parametrize("make", [pytest.param(transformer, marks=pytest.mark.slow), small_convolutional, lstm])
def test_gradient_against_autodiff(make, float64):
    network, x, y = make()
    params = jax.tree.map(lambda p: p.astype("float64"), network.init(jax.random.key(0)))
    weights = jnp.linspace(0.5, 2, x.shape[-1])
    by_hand = chain_loss_and_grad(network, l2=0.01)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def both(params):
        return by_hand(params, x, y, weights), jax.grad(lambda p: by_hand(p, x, y, weights)[0])(params)

    (value, got), right = both(params)
    assert np.isfinite(value)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    scale = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(right))
    for g, r in zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True):
        assert np.max(np.abs(g - r)) <= 1e-12 * scale


def test_an_objective_of_ones_own_goes_by_its_own_error(float64):
    huber = Objective(
        "huber",
        predict=lambda z: z,
        per_sample=lambda z, y: jnp.sum(jnp.sqrt(1 + (z - y) ** 2) - 1, axis=0),
        error=lambda z, y: (z - y) / jnp.sqrt(1 + (z - y) ** 2),
    )
    network, rng = part("affine", (2, 3), (2,)), np.random.default_rng(0)
    x, y = (jnp.asarray(3 * rng.normal(size=(rows, 5))) for rows in (3, 2))
    params = jax.tree.map(lambda p: p.astype("float64"), network.init(jax.random.key(0)))
    by_hand = chain_loss_and_grad(network, objective=huber)
    right = jax.grad(lambda p: by_hand(p, x, y, None)[0])(params)
    for g, r in zip(by_hand(params, x, y, None)[1], right, strict=True):
        np.testing.assert_allclose(g, r, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(small_convolutional, marks=pytest.mark.slow),
        pytest.param(transformer, marks=pytest.mark.slow),
        lstm,
    ],
)
def test_training_lowers_the_loss(make):
    network, x, y = make()
    params = network.init(jax.random.key(0))
    result = jax.jit(
        lambda p: fit_chain(network, p, x, y, Hyperparameters(0.01), steps=60, optimizer="adam", batch_size=3)
    )(params)
    assert result.loss_curve[-1] < 0.7 * result.loss_curve[0]


def test_another_number_of_samples_is_refused():
    network, x, y = small_convolutional()
    with pytest.raises(ValueError, match="last axis"):
        fit_chain(network, network.init(jax.random.key(0)), x, y[:, :2], Hyperparameters(0.1), steps=1)


def test_a_layer_that_is_not_recurrent_is_refused():
    with pytest.raises(ValueError, match=r"name='affine' is unknown .known: rnn, lstm, gru"):
        recurrent("affine", 3, 4)


def test_an_index_of_no_word_is_refused():
    network = chain([part("embedding", (3, 5)), part("affine", (2, 3), (2,))])
    params, y = network.init(jax.random.key(0)), jnp.eye(2)[:, jnp.array([0, 1, 0, 1])]
    with pytest.raises(ValueError, match="index names word 5, but the embedding has 5, numbered from 0"):
        fit_chain(network, params, jnp.array([0, 4, 5, 2]), y, Hyperparameters(0.1), steps=1)


@pytest.mark.parametrize("compiled", [False, True])
def test_empty_slots_stay_out_of_batch_normalisation(compiled):
    """They are filled with some sample of weight 0, which would count in its means."""
    block = residual([part("batch_norm", (3,), (3,)), part("tanh")])
    network = chain([block, part("affine", (2, 3), (2,))])
    params, rng = network.init(jax.random.key(0)), np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(3, 6)), "float32"), jnp.eye(2)[:, np.arange(6) % 2]
    train = functools.partial(fit_chain, network, x=x, y=y, hyperparameters=Hyperparameters(0.1), steps=4)

    def trained(**options):
        run = functools.partial(train, **options)
        return jax.jit(run)(params) if compiled else run(params)

    with pytest.raises(ValueError, match="batches of 4 of 6 samples leave slots empty"):
        trained(batch_size=4)
    if not compiled:
        with pytest.raises(ValueError, match="batches of 4 of 6 samples leave slots empty"):
            trained(batches=jnp.array([[0, 1, 2, 3], [4, 5, -1, -1]] * 2))
    order, by_hand, right = batch_order(jax.random.key(0), 6, 3, 4), chain_loss_and_grad(network), params
    for batch in order:
        gradient = by_hand(right, x[:, batch], y[:, batch], None)[1]
        right = jax.tree.map(lambda p, g: p - 0.1 * g, right, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained(batch_size=3).params, right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record_every": 0}, "record_every=0 must be an integer of at least 1"),
        ({"x": jnp.full((3, 4), jnp.nan)}, "x must be finite, got 12 NaN"),
        ({"y": jnp.ones((1, 4))}, r"y must be what the network puts out, of shape \(2, 4\), got shape \(1, 4\)"),
        ({"hyperparameters": Hyperparameters(0.1, weights=jnp.ones(3))}, r"weights must have shape \(4,\)"),
    ],
)
def test_what_fit_refuses_a_chain_refuses(change, message):
    network = part("affine", (2, 3), (2,))
    arguments = {"x": jnp.ones((3, 4)), "y": jnp.ones((2, 4)), "hyperparameters": Hyperparameters(0.1), "steps": 2}
    with pytest.raises(ValueError, match=message):
        fit_chain(network, network.init(jax.random.key(0)), **arguments | change)


@pytest.mark.parametrize("make", [pytest.param(transformer, marks=pytest.mark.slow), small_convolutional, lstm])
def test_by_hand_needs_no_more_memory_than_autodiff(make):
    network, x, y = make()
    params, by_hand = network.init(jax.random.key(0)), chain_loss_and_grad(network)
    hand = jax.jit(lambda p: by_hand(p, x, y, None))
    auto = jax.jit(jax.value_and_grad(lambda p: by_hand(p, x, y, None)[0]))
    needed = [f.lower(params).compile().memory_analysis().temp_size_in_bytes for f in (hand, auto)]
    assert needed[0] <= 1.05 * needed[1]


def images(rng):
    network = chain(
        [
            part("convolution", (8, 1, 3, 3), (8,), pad=1),
            part("relu"),
            part("convolution", (16, 8, 3, 3), (16,), pad=1),
            part("relu"),
            part("max_pool", size=2),
            flatten(),
            part("affine", (10, 256), (10,)),
        ]
    )
    return network, rng.normal(size=(1, 8, 8, 100)), rng.integers(0, 10, 100)


def text(rng):
    block = [
        residual([part("layer_norm", (32,), (32,)), self_attention(32, 4)]),
        residual(
            [
                part("layer_norm", (32,), (32,)),
                part("affine", (64, 32), (64,)),
                part("gelu"),
                part("affine", (32, 64), (32,)),
            ]
        ),
    ]
    network = chain(
        [part("embedding", (32, 20)), part("positional_embedding", (32, 32)), *block, part("affine", (20, 32), (20,))]
    )
    x = rng.integers(0, 20, (32, 32))
    return network, x, np.roll(x, -1, 0)


def signals(rng):
    network = chain([recurrent("lstm", 8, 32), part("affine", (5, 32), (5,))])
    return network, rng.normal(size=(8, 20, 64)), rng.integers(0, 5, (20, 64))


NOISE = 0.05  # of a step's time, which the best of many rounds may still differ by when others use the machine, too


@pytest.mark.slow
@pytest.mark.parametrize("make", [images, text, signals])
def test_a_step_by_hand_takes_no_longer_than_by_autodiff(make):
    network, x, labels = make(np.random.default_rng(0))
    x = jnp.asarray(x, "int32" if x.dtype == int else "float32")
    params = network.init(jax.random.key(0))
    classes = network.forward(params, x)[0].shape[0]
    y = jax.nn.one_hot(jnp.asarray(labels), classes, axis=0)
    by_hand = chain_loss_and_grad(network)
    by_autodiff = jax.value_and_grad(lambda p, x, y: by_hand(p, x, y, None)[0])

    def step_of(loss_and_grad):
        def step(params, x, y):
            value, gradient = loss_and_grad(params, x, y)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), value

        return jax.jit(step)

    hand, auto = step_of(lambda p, x, y: by_hand(p, x, y, None)), step_of(by_autodiff)

    def seconds(step):
        start = time.perf_counter()
        jax.block_until_ready(step(params, x, y))
        return time.perf_counter() - start

    seconds(hand), seconds(auto)
    rounds = [(seconds(hand), seconds(auto)) for _ in range(300)]
    of_hand, of_auto = np.min(rounds, axis=0)
    told = f"{1e3 * of_hand:.2f} ms by hand, {1e3 * of_auto:.2f} ms by autodiff: {of_auto / of_hand:.2f}"
    print(make.__name__, told)
    assert of_auto / of_hand >= 1 - NOISE, told
