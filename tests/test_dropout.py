"""`dropout` of the estimators: a plain loop of autodiff over the same masks ends with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV, load, save
from jaxbackprop.estimators.glorot import glorot_start
from jaxbackprop.thinned import draw_mask

X, LABELS = load_iris(return_X_y=True)
X, LABELS = X[::3] - X.mean(axis=0), LABELS[::3]
NUMBERS = X[:, 0] * X[:, 1]
RATE, STEP = 0.4, 0.05
SETTINGS = {"hidden_layer_sizes": (6, 5), "activation": "tanh", "solver": "sgd", "momentum": 0, "alpha": 0.0,
            "learning_rate_init": STEP, "n_iter_no_change": np.inf, "dropout": RATE, "dtype": "float64",
            "random_state": 3}  # fmt: skip
QUIET = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def plain_descent(params, seed, steps):
    """Full-batch gradient descent on half the mean squared error, by autodiff; samples stand last."""

    def loss(params, masks):
        h = jnp.asarray(X.T)
        for (weight, bias), mask in zip(params[:-1], masks, strict=True):
            h = jnp.tanh(weight @ h + bias[:, None]) * mask
        weight, bias = params[-1]
        return jnp.mean((weight @ h + bias[:, None] - NUMBERS) ** 2) / 2

    gradient = jax.jit(jax.grad(loss))
    for step in range(steps):
        masks = [draw_mask(seed, step, l, RATE, units, len(X), "float64") for l, units in enumerate((6, 5))]
        params = jax.tree.map(lambda p, g: p - STEP * g, params, gradient(params, masks))
    return params


def assert_weights(network, params):
    for coef, intercept, (weight, bias) in zip(network.coefs_, network.intercepts_, params, strict=True):
        np.testing.assert_allclose(coef, np.asarray(weight).T, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(intercept, bias, rtol=1e-9, atol=1e-12)


@QUIET
def test_fit_and_partial_fit_descend_as_a_plain_loop_does(float64):
    start = glorot_start(3, (4, 6, 5, 1), "tanh", np.float64)
    assert_weights(BackpropRegressor(**SETTINGS, max_iter=7).fit(X, NUMBERS), plain_descent(start, 3, 7))
    network = BackpropRegressor(**SETTINGS)
    once = plain_descent(start, 3, 1)
    assert_weights(network.partial_fit(X, NUMBERS), once)
    # What goes on draws other masks: by a seed that is as much larger as samples have been seen.
    assert_weights(network.partial_fit(X, NUMBERS), plain_descent(once, 3 + len(X), 1))


@QUIET
def test_a_search_over_dropout_is_a_loop_over_fits():
    network = BackpropClassifier((8,), max_iter=12, random_state=0, batch_size=16)
    grid = {"dropout": [0.0, 0.5], "alpha": [1e-4, 0.1]}
    ours, theirs = (kind(network, grid, cv=3).fit(X, LABELS) for kind in (SweepSearchCV, GridSearchCV))
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=1e-6)
    alone = [BackpropClassifier((8,), max_iter=12, random_state=0, dropout=rate).fit(X, LABELS) for rate in (0, 0.5)]
    assert np.abs(alone[0].coefs_[0] - alone[1].coefs_[0]).max() > 1e-3


@QUIET
def test_a_saved_network_keeps_its_rate(tmp_path):
    network = BackpropClassifier((4,), max_iter=3, dropout=0.2, random_state=0).fit(X, LABELS)
    again = load(save(network, tmp_path / "network.safetensors"))
    assert again.dropout == 0.2
    np.testing.assert_array_equal(again.predict_proba(X), network.predict_proba(X))


def test_bad_rates_are_refused():
    for rate in (-0.1, 1.0, "half"):
        with pytest.raises(ValueError, match="'dropout' parameter"):
            BackpropClassifier(dropout=rate).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"dropout=0\.5 goes with solver='sgd' or 'adam'"):
        BackpropClassifier(dropout=0.5, solver="lbfgs").fit(X, LABELS)
