"""Sweeps: every trial trains as it would alone, whatever stands beside it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from reference import QUICKLY
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import KFold, ParameterGrid

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps.host import epoch_order

MOONS = data.load("moons", samples=60)
HELD_OUT = data.load("moons", samples=40, seed=1)


def sweep(grid, *, epochs=30, X=MOONS.X, y=MOONS.y, validation=(HELD_OUT.X, HELD_OUT.y), **options):
    return jb.sweep(grid, X, y, epochs=epochs, validation=validation, progress=False, **options)


@functools.cache
def plain_step(activation):
    """One step and the loss of one network, samples first, with autodiff's gradient of a loss written anew."""
    f = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "elu": jax.nn.elu}[activation]

    def loss(params, X, y, l2):
        a = X
        for weight, bias in params[:-1]:
            a = f(a @ weight.T + bias)
        z = a @ params[-1].weight.T + params[-1].bias
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1)
        return -picked.mean() + l2 / 2 * sum((w**2).sum() for w, _ in params)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(params, X, y, learning_rate, l2):
        value, gradient = jax.value_and_grad(loss)(params, X, y, l2)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), value

    return step


def plain_training(trial, X, y, epochs, order=None):
    """A plain loop."""
    params = jb.init_params(jax.random.key(trial.seed), (X.shape[1], *trial.hidden, len(np.unique(y))))
    X, step = np.asarray(X, np.float32), plain_step(trial.activation)
    for epoch in range(epochs):
        for batch in [np.arange(len(X))] if order is None else order(epoch):
            batch = batch[batch >= 0]
            params, _ = step(params, X[batch], y[batch], trial.learning_rate, trial.l2)
    return params, float(step(params, X, y, trial.learning_rate, trial.l2)[1])


GRID = [
    {"activation": ["tanh", "relu"], "hidden": [(3,), (5,)], "learning_rate": [0.1, 0.5], "l2": [0.0, 0.01]},
    {"activation": ["elu", "sigmoid"], "hidden": [(4, 2), (), (2, 6)], "seed": [0, 7]},
]


def test_every_trial_equals_a_plain_loop():
    result = sweep(GRID)
    for number, trial in enumerate(result.trials):
        params, loss = plain_training(trial, MOONS.X, MOONS.y, 30)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), result.params(number), params)
        assert result.table["train_loss"][number] == pytest.approx(loss, abs=1e-5)


def test_mini_batches_equal_a_plain_loop_over_the_same_order():
    grid = {"hidden": [(3,), (6,)], "batch_size": [16, 60], "activation": ["tanh", "elu"], "l2": [0.001]}
    result = sweep(grid, epochs=4, shuffle_seed=5)
    for number, trial in enumerate(result.trials):
        order = lambda epoch, size=trial.batch_size: epoch_order(5, epoch, np.arange(60), size)  # noqa: E731
        params, _ = plain_training(trial, MOONS.X, MOONS.y, 4, order)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), result.params(number), params)


def test_an_epoch_visits_every_sample_once():
    order = epoch_order(3, 8, np.arange(50), 16)
    assert order.shape == (4, 16)
    assert sorted(order[order >= 0]) == list(range(50))
    assert (order[:3] >= 0).all()
    assert not np.array_equal(order, epoch_order(3, 9, np.arange(50), 16))


def test_the_table_has_the_grid_in_its_order_and_metrics_that_others_compute_too():
    result = sweep(GRID[0])
    for settings, (_, row) in zip(ParameterGrid(GRID[0]), result.table.iterrows(), strict=True):
        assert {key: row[key] for key in settings} == settings
    probabilities = result.predict_proba(3, HELD_OUT.X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    weights = sum((layer.weight**2).sum() for layer in result.params(3))
    expected = log_loss(HELD_OUT.y, probabilities) + result.trials[3].l2 / 2 * weights
    assert result.table["validation_loss"][3] == pytest.approx(expected, rel=1e-5)
    assert result.table["validation_accuracy"][3] == pytest.approx((result.predict(3, HELD_OUT.X) == HELD_OUT.y).mean())
    assert result.table["epochs"].eq(30).all()
    assert not result.table["diverged"].any()


def test_a_trial_does_not_depend_on_the_grid_around_it():
    alone = sweep({"activation": ["relu"], "hidden": [(5,)], "learning_rate": [0.5]}, epochs=200)
    among = sweep(
        [*GRID[1:], {"activation": ["tanh", "relu"], "hidden": [(5,), (9,)], "learning_rate": [0.5]}], epochs=200
    )
    number = next(k for k, trial in enumerate(among.trials) if (trial.activation, trial.hidden) == ("relu", (5,)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone.params(0), among.params(number))


def test_the_order_of_the_grid_changes_nothing():
    settings = {"activation": ["tanh", "sigmoid"], "hidden": [(2,), (4,)], "seed": [0, 1, 2], "batch_size": [20]}
    backwards = {key: values[::-1] for key, values in settings.items()}
    columns = ["activation", "hidden", "seed"]
    one, other = (sweep(grid).table.set_index(columns)["train_loss"].sort_index() for grid in (settings, backwards))
    pd.testing.assert_series_equal(one, other, rtol=1e-5)


def test_the_loss_curve_starts_before_training_and_ends_after_it():
    result = sweep({"hidden": [(3,)], "seed": [0, 1]}, epochs=25, record_every=10)
    assert result.epochs.tolist() == [0, 10, 20, 25]
    for number, trial in enumerate(result.trials):
        for k, epochs in enumerate(result.epochs):
            assert result.train_loss[number, 0, k] == pytest.approx(
                plain_training(trial, MOONS.X, MOONS.y, epochs)[1], abs=1e-5
            )
    np.testing.assert_array_equal(result.train_loss[:, 0, -1], result.table["train_loss"].astype(np.float32))


@pytest.mark.filterwarnings("error")
def test_a_diverging_trial_is_marked_and_harms_no_other():
    result = sweep({"activation": ["relu"], "hidden": [(4,)], "learning_rate": [0.1, 1e30]}, epochs=50)
    assert result.table["diverged"].tolist() == [False, True]
    alone = sweep({"activation": ["relu"], "hidden": [(4,)], "learning_rate": [0.1]}, epochs=50)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result.params(0), alone.params(0))
    assert result.best() == 0


def test_a_linear_network_finds_what_logistic_regression_finds():
    iris = data.load("iris")
    X = data.standardize(iris.X)[0]
    names = np.array(iris.class_names)[iris.y]
    result = sweep({"hidden": [()], "l2": [0.01], "learning_rate": [1.0]}, X=X, y=names, validation=None, epochs=3000)
    # scikit-learn adds half the squared weights to C times the sum of the losses
    witness = LogisticRegression(C=1 / (0.01 * len(X)), tol=1e-8, max_iter=1000).fit(X, names)
    np.testing.assert_allclose(result.predict_proba(0, X), witness.predict_proba(X), atol=1e-3)
    assert (result.predict(0, X) == witness.predict(X)).all()
    assert result.table["validation_loss"].isna().all()


def test_regression_and_several_labels():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(80, 3))
    numbers = np.stack([X[:, 0] - 2 * X[:, 1], X[:, 2] + 1], axis=1)
    result = sweep({"hidden": [()], "learning_rate": [0.3]}, X=X, y=numbers, validation=None, epochs=300)
    np.testing.assert_allclose(result.predict(0, X), numbers, atol=1e-3)
    assert result.table["train_r2"][0] == pytest.approx(r2_score(numbers, result.predict(0, X)), abs=1e-6)
    labels = (numbers > 0).astype(int)
    result = sweep({"hidden": [()], "learning_rate": [1.0]}, X=X, y=labels, validation=0.25, epochs=500)
    assert (result.predict(0, X) == labels).all(axis=1).mean() > 0.95
    assert result.objective == "sigmoid"


def test_folds_train_on_the_rest_and_are_judged_on_themselves():
    folds = list(KFold(4, shuffle=True, random_state=0).split(MOONS.X[:58]))  # folds of 14 and 15 samples
    grid = {"hidden": [(3,)], "seed": [0, 1], "batch_size": [None, 11]}
    X, y = MOONS.X[:58], MOONS.y[:58]
    result = sweep(grid, X=X, y=y, validation=None, folds=folds)
    for number, (split, (train, held_out)) in itertools.product(range(4), enumerate(folds)):
        trial = result.trials[number]
        alone = sweep(
            {key: [getattr(trial, key)] for key in grid}, X=X[train], y=y[train], validation=(X[held_out], y[held_out])
        )
        assert result.train_loss[number, split, -1] == pytest.approx(alone.train_loss[0, 0, -1], abs=1e-5)
        assert result.validation_loss[number, split, -1] == pytest.approx(alone.validation_loss[0, 0, -1], abs=1e-5)
    np.testing.assert_allclose(
        result.table["validation_loss"], result.validation_loss[:, :, -1].mean(axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("form", ["column", "frame", "one-hot", "floats"])
@pytest.mark.parametrize("options", [{"folds": 3}, {"validation": 0.25}], ids=str)
def test_classes_are_stratified_however_they_are_written(form, options):
    """Sorted by class: a fold without regard to them would hold out one class of which it has trained on nothing."""
    y = np.repeat([0, 1, 2], 20)
    forms = {"column": y[:, None], "frame": pd.DataFrame(y), "one-hot": np.eye(3)[y], "floats": y.astype(float)}
    options = {"validation": None, "epochs": 2, "objective": "softmax", **options}
    one, other = (sweep({"hidden": [(3,)]}, y=each, **options) for each in (y, forms[form]))
    np.testing.assert_array_equal(one.validation_loss, other.validation_loss)


def test_a_weight_of_zero_leaves_a_sample_out():
    weights = np.r_[np.ones(40), np.zeros(20)]
    weighted = sweep({"hidden": [(3,)]}, weights=weights)
    without = sweep({"hidden": [(3,)]}, X=MOONS.X[:40], y=MOONS.y[:40])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), weighted.params(0), without.params(0))


def test_half_precision_data_train_in_single_precision():
    half = MOONS.X.astype(np.float16)
    one, other = (sweep({"hidden": [(3,)]}, X=X, validation=None) for X in (half, half.astype(np.float32)))
    assert one.params(0)[0].weight.dtype == np.float32
    np.testing.assert_array_equal(one.train_loss, other.train_loss)


def test_folds_may_be_masks():
    mask = np.arange(60) % 3 == 0
    positions = [(np.flatnonzero(~mask), np.flatnonzero(mask))]
    one, other = (sweep({"hidden": [(3,)]}, validation=None, folds=f) for f in (positions, [(~mask, mask)]))
    np.testing.assert_array_equal(one.validation_loss, other.validation_loss)


@pytest.mark.parametrize("frequencies", [None, [[0.3, 0.7]]])
def test_other_features_than_those_trained_on_are_refused(frequencies, as_users_run_it):
    result = sweep({"hidden": [(3,)]}, epochs=1, frequencies=frequencies)
    for X in (HELD_OUT.X[:, :1], np.hstack([HELD_OUT.X] * 2)):
        for predict in (lambda X: result.predict(0, X), result.ensemble(bags=1).predict):
            message = rf"X must be \(n_samples, 2\), with the features that .*, got shape \(40, {X.shape[1]}\)"
            with pytest.raises(ValueError, match=message):
                predict(X)


BAD = [
    ({"grid": {"learning_rat": [0.1]}}, "grid key='learning_rat' is unknown; did you mean 'learning_rate'"),
    ({"grid": {"activation": ["tahn"]}}, "did you mean 'tanh'"),
    ({"grid": {"optimizer": ["adm"]}}, "did you mean 'adam'"),
    ({"grid": {"learning_rate": [0.1, -1]}}, "learning_rate=-1 must be above 0"),
    ({"grid": {"learning_rate": []}}, r"grid\['learning_rate'\] is empty"),
    ({"grid": {"learning_rate": 0.1}}, r"grid\['learning_rate'\]=0.1 must be a list"),
    ({"grid": {"learning_rate": ["fast"]}}, "learning_rate='fast' must be a finite number"),
    ({"grid": {"hidden": [3]}}, r"hidden=3 must be a tuple of widths"),
    ({"grid": {"hidden": [(3, 0)]}}, r"hidden\[1\]=0 must be an integer of at least 1"),
    ({"grid": {"seed": [0.5]}}, "seed=0.5 must be an integer"),
    ({"grid": {"batch_size": [61]}}, "batch_size=61 is larger than the data, which has 60"),
    ({"grid": "tanh"}, "grid must be a dict of lists"),
    ({"grid": []}, "grid must be a dict of lists"),
    ({"epochs": 0}, "epochs=0 must be an integer of at least 1"),
    ({"X": MOONS.X[:59]}, "X and y must have one row a sample"),
    ({"X": np.where(MOONS.X > 1, np.nan, MOONS.X)}, "X must be finite, got"),
    ({"X": np.empty((0, 2)), "y": []}, "X is empty"),
    ({"y": np.zeros(60, int)}, "y holds one class only"),
    ({"y": np.linspace(0, 1, 60), "objective": "softmax"}, "where a class label belongs"),
    ({"objective": "softmx"}, "did you mean 'softmax'"),
    ({"validation": 1.5}, "validation"),
    ({"validation": (HELD_OUT.X[:, :1], HELD_OUT.y)}, "has 1 features, X has 2"),
    ({"validation": [HELD_OUT.X, HELD_OUT.y]}, r"validation must be a share .* a pair \(X, y\) as a tuple"),
    ({"weights": np.ones(3)}, r"weights must have shape \(60,\)"),
    ({"weights": -np.ones(60)}, "weights must be at least 0"),
    ({"folds": 100}, "folds=100 does not split the data"),
    ({"folds": 3}, "validation=.X, y. and folds were both given"),
    ({"devices": 99}, "devices=99, but JAX has"),
    ({"memory_budget": 1000}, "memory_budget"),
    ({"scheme": "glorott"}, "did you mean 'glorot'"),
    ({"grid": {"momentum": [2]}}, "momentum=2 must be of at least 0 and at most 1"),
    ({"X": np.where(MOONS.X > 1, 1e39, MOONS.X)}, r"X holds 1e\+39, beyond the range of float32"),
    ({"X": np.where(MOONS.X > 1, 1e300, MOONS.X)}, r"X holds 1e\+300, beyond the range of float32"),
    ({"y": np.where(MOONS.y == 0, 1.0, 2.0)}, "y holds floats that are all whole numbers, such as"),
    (
        {"folds": [(np.arange(40), np.arange(40, 61))]},
        r"folds\[0\]: its validation samples name position 60, but the data",
    ),
    ({"folds": [(np.arange(40), [-1])]}, r"folds\[0\]: its validation samples name position -1"),
    ({"folds": [(np.arange(40), [])]}, r"folds\[0\]: its validation samples must be .* at least one position"),
    ({"folds": [(np.arange(40), [0.5])]}, r"folds\[0\]: its validation samples must be positions, integers"),
    (
        {"folds": [(np.arange(30, 60), np.arange(30))], "weights": np.r_[np.zeros(30), np.ones(30)]},
        "weights are all 0 for the 30 validation samples of split 0",
    ),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_refused_before_anything_compiles(change, message):
    arguments = {"grid": {"hidden": [(3,)]}} | change
    if "folds" in change and change["folds"] != 3:
        arguments["validation"] = None
    with jax.no_tracing(), pytest.raises(ValueError, match=message):
        sweep(**arguments)
