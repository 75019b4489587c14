"""Dropout: its gradient is autodiff's for the same masks, and a trial's masks are its own, whatever is beside it."""

import functools
import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import QUICKLY

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps import host
from jaxbackprop.sweeps.host import epoch_order
from jaxbackprop.thinned import draw_mask, thinned_loss_and_grad

MOONS = data.load("moons", samples=60)


def sweep(grid, *, epochs=12, **options):
    return jb.sweep(grid, MOONS.X, MOONS.y, epochs=epochs, progress=False, **{"validation": None, **options})


def thinned_loss(params, masks, x, y, weights, l2, f, objective):
    """Written anew, samples last, for autodiff."""
    a = x
    for (weight, bias), mask in zip(params[:-1], masks, strict=True):
        a = f(weight @ a + bias[:, None]) * mask
    z = params[-1].weight @ a + params[-1].bias[:, None]
    each = (
        -(y * jax.nn.log_softmax(z, axis=0)).sum(axis=0) if objective == "softmax" else ((z - y) ** 2).sum(axis=0) / 2
    )
    return (weights * each).sum() / weights.sum() + l2 / 2 * sum((w**2).sum() for w, _ in params)


@pytest.mark.parametrize(("activation", "objective"), [("tanh", "softmax"), ("silu", "squared")])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 9)])
def test_the_gradient_is_autodiffs(activation, objective, hidden, float64):
    generator = np.random.default_rng(0)
    params = jb.init_params(jax.random.key(0), (4, *hidden, 3))
    x, weights = jnp.asarray(generator.normal(size=(4, 11))), jnp.asarray(generator.uniform(1, 2, 11))
    y = jnp.eye(3)[:, generator.integers(0, 3, 11)]
    masks = [jnp.asarray((generator.random((n, 11)) > 0.4) / 0.6) for n in hidden]
    value, gradient = thinned_loss_and_grad(
        params, x, y, masks, activation=activation, l2=0.1, weights=weights, objective=objective
    )
    f = {"tanh": jnp.tanh, "silu": jax.nn.silu}[activation]
    right, slope = jax.value_and_grad(thinned_loss)(params, masks, x, y, weights, 0.1, f, objective)
    assert value == pytest.approx(float(right), rel=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, slope)


def plain_mask(seed, step, layer, rate, units, samples):
    """In Python's whole numbers."""

    def scramble(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    key = 0
    for number in (seed, step, layer):
        key = scramble((key + number + 0x9E3779B9) % 2**32)
    columns = [scramble((n * 0x9E3779B9 + 1) % 2**32) for n in range(samples)]
    rows = [scramble((key + n * 0x9E3779B9) % 2**32) for n in range(units)]
    uniform = np.array([[scramble((r + c) % 2**32) >> 8 for c in columns] for r in rows]) / 2**24
    return np.where(uniform >= rate, 1 / (1 - rate), 0)


def test_masks_are_those_of_a_plain_loop_and_do_not_change_by_padding():
    own = draw_mask(2**31 - 1, 70000, 1, 0.3, 5, 9, "float32")
    np.testing.assert_allclose(own, plain_mask(2**31 - 1, 70000, 1, 0.3, 5, 9), rtol=1e-6)
    np.testing.assert_array_equal(own, draw_mask(2**31 - 1, 70000, 1, 0.3, 8, 20, "float32")[:5, :9])
    assert (np.asarray(draw_mask(0, 0, 0, 0.0, 40, 40, "float32")) == 1).all()


def test_masks_look_random():
    """Shares, and correlations between neighbours in every direction, within four standard errors."""
    draw = jax.jit(
        jax.vmap(jax.vmap(lambda seed, step: draw_mask(seed, step, 0, 0.4, 32, 64, "float32"), (None, 0)), (0, None))
    )
    kept = np.asarray(draw(jnp.arange(8), jnp.arange(40))) > 0  # seeds, steps, units, samples
    share = kept.mean()
    assert abs(share - 0.6) < 4 * np.sqrt(0.24 / kept.size)
    centred = (kept - share) / np.sqrt(share * (1 - share))
    for axis in range(4):
        for lag in (1, 2, 3):
            pairs = np.delete(centred, range(lag), axis) * np.delete(centred, range(-lag, 0), axis)
            assert abs(pairs.mean()) < 4 / np.sqrt(pairs.size)
    for axes in itertools.combinations(range(4), 2):
        means = centred.mean(axis=tuple(set(range(4)) - set(axes)))
        assert (means**2).mean() * kept.size / means.size == pytest.approx(1, abs=0.3)


@functools.cache
def plain_step(activation):
    f = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(params, masks, x, y, rate):
        gradient = jax.grad(thinned_loss)(params, masks, x, y, jnp.ones(x.shape[1]), 0.0, f, "softmax")
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

    return step


def plain_training(trial, epochs):
    params = jb.init_params(jax.random.key(trial.seed), (2, *trial.hidden, 2))
    x, y, number = MOONS.X.T.astype(np.float32), np.eye(2, dtype=np.float32)[:, MOONS.y], 0
    for epoch in range(epochs):
        size = trial.batch_size
        for batch in [np.arange(60)] if size is None else epoch_order(0, epoch, np.arange(60), size):
            masks = [
                draw_mask(trial.seed, number, l, trial.dropout, n, len(batch), "float32")
                for l, n in enumerate(trial.hidden)
            ]
            params = plain_step(trial.activation)(params, masks, x[:, batch], y[:, batch], trial.learning_rate)
            number += 1
    return params


GRID = {
    "activation": ["tanh", "relu"],
    "hidden": [(3,), (6,)],
    "dropout": [0.0, 0.2, 0.5],
    "seed": [0, 3],
    "batch_size": [None, 20],
}


@pytest.fixture(scope="module")
def whole():
    return sweep(GRID, shuffle_seed=0)


@pytest.mark.slow
def test_every_trial_equals_a_plain_loop(whole):
    for number, trial in enumerate(whole.trials):
        right = plain_training(trial, 12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole.params(number), right)


@pytest.mark.parametrize("number", [5, 18, 47])
def test_a_trial_is_the_same_alone(whole, number):
    trial = whole.trials[number]
    alone = sweep({name: [value] for name, value in trial._asdict().items()}, shuffle_seed=0, record_every=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole.params(number), alone.params(0))


def test_dropout_changes_a_training_and_none_of_it_costs_nothing(whole):
    by_rate = {t.dropout: whole.params(n)[0].weight for n, t in enumerate(whole.trials) if t[:2] == ("tanh", (3,))}
    assert len({weight.tobytes() for weight in by_rate.values()}) == 3
    assert all(program.dropout for program in whole.plan.programs)
    assert not any(p.dropout for p in sweep({**GRID, "dropout": [0.0], "seed": [0]}, epochs=1).plan.programs)


def test_an_interrupted_training_ends_with_the_same_numbers(whole, tmp_path, monkeypatch):
    call = host._call

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(host, "_call", call)  # a second signal would interrupt at once
        signal.raise_signal(signal.SIGINT)
        return call(*args, **kwargs)

    monkeypatch.setattr(host, "RECORDS", 3)
    options = {"shuffle_seed": 0, "checkpoint": tmp_path, "checkpoint_every": 0.0}
    for _ in range(2):
        monkeypatch.setattr(host, "_call", interrupted)
        assert not sweep(GRID, **options).finished.all()
    again = sweep(GRID, **options)
    assert again.finished.all()
    for number in range(len(whole.trials)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again.params(number), whole.params(number)
        )


@pytest.mark.slow
def test_several_devices_and_folds_draw_the_same_masks():
    """Folds of other sizes are filled up; each network is that of its fold alone."""
    folds = [(np.arange(40), np.arange(40, 60)), (np.arange(15, 60), np.arange(15))]
    grid = {"hidden": [(3,)], "dropout": [0.3], "seed": [0, 1, 2]}
    both = sweep(grid, folds=folds, validation=0.2)
    for k in range(2):
        alone = sweep(grid, folds=[folds[k]], validation=0.2, devices=1)
        for trial in range(3):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both.params(trial, k), alone.params(trial)
            )


def test_bad_input():
    with pytest.raises(ValueError, match=r"dropout=1\.0 must be of at least 0 and at most 0.99"):
        sweep({"dropout": [1.0]})
    params = jb.init_params(jax.random.key(0), (2, 3, 2))
    with pytest.raises(ValueError, match="masks must be one a hidden layer, 1 of them, got 0"):
        thinned_loss_and_grad(params, jnp.ones((2, 4)), jnp.ones((2, 4)), [], activation="tanh")
