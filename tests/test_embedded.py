"""A periodic embedding whose frequencies are trained: its gradient is autodiff's, a training is optax's, and whatever
asks a network asks all of it. Beside all other features it stands in `test_combinations`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.embedded import Waves, behind, embed, frequency_gradient
from jaxbackprop.inference import with_waves

MOONS = data.load("moons", samples=60)
START = np.array([[0.3, 0.7, 0.1], [0.2, -0.4, 0.5]])


def seen(frequency, X):
    """Written anew, samples first, by Euler's formula."""
    turned = jnp.exp(2j * jnp.pi * X[:, : len(frequency), None] * frequency).reshape(len(X), -1)
    return jnp.hstack([X, turned.imag, turned.real])


def plain_loss(frequency, layers, X, y):
    a = seen(frequency, X)
    for weight, bias in layers[:-1]:
        a = jnp.tanh(a @ weight.T + bias)
    logits = a @ layers[-1].weight.T + layers[-1].bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@pytest.mark.parametrize("features", [2, 3])
def test_what_the_first_layer_is_given(features, float64):
    X = np.random.default_rng(0).normal(size=(9, features))
    right = seen(START, X)
    np.testing.assert_allclose(embed(jnp.asarray(START), jnp.asarray(X.T)).T, right, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(with_waves(X, START), right, rtol=1e-12, atol=1e-14)
    layers = (jb.Layer(jnp.ones((1, 1)), jnp.zeros(1)),)
    moved = behind((Waves(jnp.asarray(START) - 0.2), *layers), jnp.asarray(X.T), 0.2)
    assert moved[0] == layers
    np.testing.assert_allclose(moved[1].T, right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("features", [2, 4])
def test_the_gradient_by_the_frequencies_is_autodiffs(features, float64):
    generator = np.random.default_rng(1)
    x, c = jnp.asarray(generator.normal(size=(features, 7))), jnp.asarray(START)
    error = jnp.asarray(generator.normal(size=(features + 2 * START.size, 7)))
    right = jax.grad(lambda c: (seen(c, x.T).T * error).sum())(c)
    np.testing.assert_allclose(frequency_gradient(c, x, error), right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (4,), (3, 2)])
def test_adamw_draws_the_frequencies_back_to_where_they_started(hidden, float64):
    """As optax does it for what they have moved, which decays to 0."""
    settings = {"hidden": [hidden], "optimizer": ["adamw"], "learning_rate": [0.05], "weight_decay": [2.0]}
    result = jb.sweep(settings, MOONS.X, MOONS.y, epochs=30, validation=None, frequencies=START, progress=False)
    layers = jb.init_params(jax.random.key(0), (2 + 2 * START.size, *hidden, 2))
    params, optimizer = (jnp.zeros_like(START), layers), optax.adamw(0.05, weight_decay=2.0)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda own: plain_loss(START + own[0], own[1], MOONS.X, MOONS.y))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(30):
        params, state = step(params, state)
    waves, *layers = result.params(0)
    np.testing.assert_allclose(waves.frequency, START + params[0], rtol=1e-8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), tuple(layers), params[1])
    assert np.abs(waves.frequency - START).max() > 1e-3


def test_a_frequency_that_is_in_the_data_is_found():
    X = np.random.default_rng(2).uniform(-1, 1, (200, 1))
    y = 0.8 * np.sin(2 * np.pi * 1.1 * X[:, 0] + 0.4)
    grid = {"hidden": [()], "optimizer": ["adam"], "learning_rate": [0.03]}
    result = jb.sweep(grid, X, y, epochs=500, validation=None, frequencies=[[0.8]], progress=False)
    waves, layer = result.params(0)
    assert waves.frequency[0, 0] == pytest.approx(1.1, abs=1e-3)
    amplitudes = 0.8 * np.array([np.cos(0.4), np.sin(0.4)])
    np.testing.assert_allclose(layer.weight[0], [0, *amplitudes], atol=1e-2)


def test_whatever_asks_a_network_asks_all_of_it(tmp_path):
    grid = {"hidden": [(), (3,), (4, 2)], "optimizer": ["adam"], "learning_rate": [0.02, 0.05], "dropout": [0.0, 0.2]}
    options = {"folds": 3, "frequencies": START[:1], "progress": False, "patience": 5, "record_every": 1}
    result = jb.sweep(grid, MOONS.X, MOONS.y, epochs=40, **options)
    for trial in range(len(result.trials)):
        for split in range(3):
            waves, *layers = result.params(trial, split)
            a = np.asarray(seen(waves.frequency, MOONS.X))
            for weight, bias in layers[:-1]:
                a = np.tanh(a @ weight.T + bias)
            right = jax.nn.softmax(a @ layers[-1].weight.T + layers[-1].bias)
            np.testing.assert_allclose(result.predict_proba(trial, MOONS.X, split), right, rtol=1e-4, atol=1e-6)
    mixture = result.ensemble()
    shares = zip(mixture.members, mixture.weights, strict=True)
    mean = sum(w / 3 * result.predict_proba(int(m), MOONS.X, k) for m, w in shares for k in range(3))
    logits = np.log(mean) / mixture.temperature
    right = jax.nn.softmax(logits, axis=1)
    np.testing.assert_allclose(mixture.predict_proba(MOONS.X), right, rtol=1e-3, atol=1e-5)
    assert result.save_html(tmp_path / "page.html", MOONS.X, MOONS.y).stat().st_size > 10_000


def test_a_checkpoint_is_of_its_own_frequencies(tmp_path):
    grid = {"hidden": [(3,)]}
    train = lambda **own: jb.sweep(grid, MOONS.X, MOONS.y, epochs=4, checkpoint=tmp_path, progress=False, **own)  # noqa: E731
    train(frequencies=START)
    for other in (START + 0.1, None):
        with pytest.raises(ValueError, match=r"belongs to another sweep, which differs in frequencies;"):
            train(frequencies=other)


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        (
            [0.1, 0.2],
            r"frequencies must be \(embedded features, waves\), for at most the 2 features of X, got .*\(2,\)",
        ),
        (np.ones((3, 1)), r"at most the 2 features of X, got shape \(3, 1\)"),
        (np.ones((0, 4)), r"got shape \(0, 4\)"),
        ([[np.nan]], "frequencies"),
    ],
)
def test_bad_frequencies_are_refused(frequencies, message):
    with pytest.raises(ValueError, match=message):
        jb.sweep({"hidden": [(3,)]}, MOONS.X, MOONS.y, epochs=2, frequencies=frequencies, progress=False)
