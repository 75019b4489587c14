"""The estimators keep scikit-learn's contract, and train as its multi-layer perceptron trains."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_multilabel_classification,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import estimator_checks

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, load, save
from jaxbackprop.inference import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
DIABETES = load_diabetes(return_X_y=True)
TINY = {"hidden_layer_sizes": (5,), "max_iter": 30, "random_state": 0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BackpropClassifier, BackpropRegressor])
def test_scikit_learns_checks(kind, as_users_run_it):
    """All of them, in the type of X as scikit-learn's own networks train."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that skip themselves say so
        results = estimator_checks.check_estimator(kind(dtype="input"), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert failed == {}
    assert len(results) > 50
    # array libraries need an environment variable; there is no decision_function, as MLPClassifier has none
    assert all("array_api" in name or "decision_function" in name for name in skipped)


PAIRS = [
    {"activation": "tanh", "solver": "sgd", "learning_rate_init": 0.1},
    {"activation": "logistic", "solver": "sgd", "nesterovs_momentum": False, "alpha": 3.0},
    {"activation": "relu", "solver": "sgd", "momentum": 0.0, "batch_size": 40},
    {"activation": "identity", "hidden_layer_sizes": (6, 4), "alpha": 1.0},
    {"activation": "tanh", "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3, "batch_size": 60},
    {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.3, "batch_size": 40},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.01, "n_iter_no_change": 2, "max_iter": 80},
    {"solver": "sgd", "learning_rate": "adaptive", "momentum": 0.0, "nesterovs_momentum": False, "tol": 0.1},
]


def assert_same_network(ours, theirs, rtol=1e-9):
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    assert (ours.n_iter_, ours.t_, ours.n_outputs_) == (theirs.n_iter_, theirs.t_, theirs.n_outputs_)
    assert ours.out_activation_ == theirs.out_activation_


@pytest.mark.parametrize("settings", PAIRS)
@pytest.mark.parametrize("dtype", ["float64", "input"])
def test_training_is_that_of_scikit_learn(settings, dtype):
    """The same start, the same updates, to nine digits, as long as the order of samples is not drawn."""
    settings = {"shuffle": False, "batch_size": 150, **TINY, **settings}
    ours, theirs = BackpropClassifier(**settings, dtype=dtype).fit(X, Y), MLPClassifier(**settings).fit(X, Y)
    assert_same_network(ours, theirs)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)
    assert ours._no_improvement_count == theirs._no_improvement_count
    np.testing.assert_allclose(ours._optimizer.learning_rate, theirs._optimizer.learning_rate)


@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive"])
def test_training_in_parts_is_that_of_scikit_learn(rate):
    """A rate that falls falls on from call to call: the samples seen and the epochs without progress count on."""
    settings = dict(TINY, shuffle=False, solver="sgd", learning_rate=rate, learning_rate_init=0.1, tol=0.05)
    settings |= {"n_iter_no_change": 2, "batch_size": 50, "max_iter": 9}
    pair = BackpropClassifier(**settings, dtype="float64"), MLPClassifier(**settings)
    rates = []
    for estimator in pair:
        for _ in range(25):
            estimator.partial_fit(X, Y, classes=[0, 1, 2])
        rates.append(estimator._optimizer.learning_rate)
    assert_same_network(*pair)
    assert rates[0] == pytest.approx(rates[1])
    assert (rates[0] < 0.1) == (rate != "constant")
    for estimator in pair:
        estimator.set_params(warm_start=True).fit(X, Y).fit(X, Y)
    assert_same_network(*pair)


def test_sample_weights_binary_labels_and_stopping_are_those_of_scikit_learn():
    weights = np.random.default_rng(0).uniform(0.5, 2, 100)
    settings = dict(TINY, shuffle=False, solver="sgd", max_iter=500, tol=1e-3, alpha=0.1)
    ours, theirs = (
        estimator.fit(X[:100], Y[:100], sample_weight=weights)
        for estimator in (BackpropClassifier(**settings, dtype="float64"), MLPClassifier(**settings))
    )
    assert ours.n_iter_ < 500
    assert_same_network(ours, theirs)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regression_is_that_of_scikit_learn(loss):
    X, y = scale(DIABETES[0]), np.stack([DIABETES[1], 100 + DIABETES[0][:, 2]], axis=1) / 100
    settings = dict(TINY, loss=loss, shuffle=False, solver="sgd", batch_size=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # both clip the batch to the samples
        ours, theirs = BackpropRegressor(**settings, dtype="input").fit(X, y), MLPRegressor(**settings).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    assert ours.out_activation_ == theirs.out_activation_


@pytest.mark.parametrize(
    "solver", [{"solver": "adam"}, {"solver": "sgd", "learning_rate": "adaptive"}, {"solver": "lbfgs", "max_iter": 40}]
)
def test_several_numbers_are_learned_for_as_long_as_by_scikit_learn(solver):
    """Its steps descend the sum of the squared errors, and it stops by their mean."""
    y = np.stack([X[:, 0] * X[:, 1], np.sin(X[:, 2]), X[:, 0]], axis=1)
    settings = {"hidden_layer_sizes": (7,), "learning_rate_init": 0.02, "tol": 2e-3, "n_iter_no_change": 3}
    settings |= {"max_iter": 300, "shuffle": False, "random_state": 3, **solver}
    ours, theirs = BackpropRegressor(**settings, dtype="float64").fit(X, y), MLPRegressor(**settings).fit(X, y)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-8)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("data", [load_iris, load_wine, load_breast_cancer, load_diabetes])
def test_lbfgs_ends_where_that_of_scikit_learn_ends(data):
    """In the mean over starts, at most 1 % above."""
    X, y = data(return_X_y=True)
    X = scale(X)
    pair = (BackpropRegressor, MLPRegressor) if data is load_diabetes else (BackpropClassifier, MLPClassifier)
    settings = {"solver": "lbfgs", "hidden_layer_sizes": (10,), "max_iter": 100}
    ours, theirs = (np.mean([k(**settings, random_state=s).fit(X, y).loss_ for s in range(20)]) for k in pair)
    assert ours < 1.01 * theirs


def test_lbfgs_and_scheduled_rates_train_in_the_type_that_is_asked_for():
    for settings in ({"solver": "lbfgs"}, {"solver": "sgd", "learning_rate": "adaptive"}):
        model = BackpropClassifier(**TINY, **settings)
        for dtype, right in (("float32", np.float32), ("float64", np.float64), ("input", np.float64)):
            assert model.set_params(dtype=dtype).fit(X, Y).coefs_[0].dtype == right
        assert model.fit(X.astype(np.float32), Y).coefs_[0].dtype == np.float32


@pytest.mark.parametrize("enabled", [False, True])
def test_the_type_is_the_estimators_whatever_jax_is_configured_for(enabled):
    with jax.enable_x64(enabled):
        single, double = (BackpropClassifier(**TINY, dtype=dtype).fit(X, Y) for dtype in ("float32", "float64"))
        assert jnp.ones(1).dtype == (np.float64 if enabled else np.float32)
    assert (single.coefs_[0].dtype, double.coefs_[0].dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single.coefs_[0], double.coefs_[0], atol=1e-4)


def test_a_schedule_without_effect_is_a_constant_rate():
    """Shuffled batches, early stopping and all."""
    settings = dict(TINY, solver="sgd", batch_size=40, early_stopping=True, dtype="float64", max_iter=60)
    constant = BackpropClassifier(**settings).fit(X, Y)
    scheduled = BackpropClassifier(**settings, learning_rate="invscaling", power_t=0.0).fit(X, Y)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_", "best_validation_score_"):
        np.testing.assert_allclose(getattr(constant, name), getattr(scheduled, name), rtol=1e-9)
    assert_same_network(scheduled, constant)


def test_few_samples_of_many_classes_can_be_held_out():
    """As scikit-learn does: what is held out of several classes is not stratified."""
    X, y = load_digits(return_X_y=True)
    settings = dict(TINY, early_stopping=True)
    for model in (BackpropClassifier(**settings).fit(X[:60], y[:60]), MLPClassifier(**settings).fit(X[:60], y[:60])):
        assert len(model.validation_scores_) == model.n_iter_


def test_multilabel():
    X, y = make_multilabel_classification(n_samples=60, n_classes=3, random_state=0)
    model = BackpropClassifier((10,), max_iter=200, random_state=0, learning_rate_init=0.02).fit(X, y)
    assert model.predict(X).shape == model.predict_proba(X).shape == y.shape
    assert model.score(X, y) > 0.8


def test_early_stopping_keeps_the_best():
    model = BackpropClassifier(**dict(TINY, max_iter=300), early_stopping=True, learning_rate_init=0.02).fit(X, Y)
    assert model.n_iter_ == len(model.validation_scores_) == len(model.loss_curve_) < 300
    best = int(np.argmax(model.validation_scores_))
    assert model.n_iter_ - 1 - best > model.n_iter_no_change
    # trained for just so long, without a look at the held-out samples after, the score is the kept one
    short = clone(model).set_params(max_iter=best + 1).fit(X, Y)
    np.testing.assert_array_equal(short.coefs_[0], model.coefs_[0])


@pytest.mark.parametrize(
    "labels", [np.array(["b", "a", "c"]), np.array([30, 10, 20]), np.array(["b", "c", "a"], object)]
)
def test_labels_of_any_type(labels):
    labelled = labels[Y]
    model = BackpropClassifier(**dict(TINY, learning_rate_init=0.05)).fit(X, labelled)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert (model.predict(X) == labelled).mean() > 0.8
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-6)


def test_pandas_and_sparse_give_the_same_network():
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = BackpropClassifier(**TINY).fit(frame, pd.Series(Y))
    assert list(model.feature_names_in_) == list("abcd")
    dense, filled = BackpropClassifier(**TINY).fit(X, Y), BackpropClassifier(**TINY).fit(sparse.csr_matrix(X), Y)
    np.testing.assert_array_equal(model.coefs_[0], dense.coefs_[0])
    np.testing.assert_array_equal(filled.coefs_[0], dense.coefs_[0])
    np.testing.assert_array_equal(filled.predict(sparse.csc_matrix(X)), dense.predict(X))


def test_class_weight_is_a_sample_weight():
    by_class = BackpropClassifier(**TINY, class_weight={0: 1, 1: 5, 2: 2}).fit(X, Y)
    by_sample = BackpropClassifier(**TINY).fit(X, Y, sample_weight=np.array([1, 5, 2])[Y])
    np.testing.assert_array_equal(by_class.coefs_[0], by_sample.coefs_[0])


def test_ecosystem():
    pipeline = make_pipeline(StandardScaler(), BackpropClassifier(**TINY))
    assert len(cross_val_score(pipeline, X, Y, cv=3)) == 3
    search = GridSearchCV(BackpropClassifier(**TINY), {"alpha": [0.1, 1]}, cv=2).fit(X, Y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))
    again.partial_fit(X, Y)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_numpys_activations_are_the_documents(name):
    z = np.linspace(-30, 30, 601).astype(np.float32)
    np.testing.assert_allclose(FUNCTIONS[name](z), ACTIVATIONS[name].value(jnp.asarray(z)), rtol=2e-6, atol=2e-6)
    assert FUNCTIONS[name](z).dtype == np.float32


def test_each_layer_has_its_own_activation(tmp_path):
    model = BackpropClassifier((6, 4), ("relu", "logistic"), max_iter=30, random_state=0, dtype="float64").fit(X, Y)
    a = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
    a = 1 / (1 + np.exp(-(a @ model.coefs_[1] + model.intercepts_[1])))
    e = np.exp(a @ model.coefs_[2] + model.intercepts_[2])
    np.testing.assert_allclose(model.predict_proba(X), e / e.sum(axis=1, keepdims=True), rtol=1e-12)
    assert clone(model).get_params()["activation"] == ("relu", "logistic")
    again = load(save(model, tmp_path / "a.safetensors"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    alike = BackpropClassifier((6, 4), ("tanh", "tanh"), max_iter=30, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(alike.coefs_[1], clone(alike).set_params(activation="tanh").fit(X, Y).coefs_[1])
    with pytest.raises(ValueError, match=r"activation=\('relu', 'tanh'\) must be one for each hidden layer"):
        BackpropClassifier((5,), ("relu", "tanh")).fit(X, Y)
    with pytest.raises(ValueError, match="holds 'tahn', which is none of"):
        BackpropClassifier((5,), ("tahn",)).fit(X, Y)


def test_bad_input(as_users_run_it):
    model = BackpropClassifier(**TINY)
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.fit(X, Y)
    with pytest.raises(ValueError, match="X has 2 features, but BackpropClassifier is expecting 4"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(np.where(X > 2, np.nan, X), Y)
    with pytest.raises(ValueError, match="'solver' parameter of BackpropClassifier must be a str among"):
        BackpropClassifier(solver="newton").fit(X, Y)
    with pytest.raises(AttributeError, match="partial_fit"):
        BackpropClassifier(solver="lbfgs").partial_fit(X, Y)
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0, got"):
        BackpropClassifier((5, 0)).fit(X, Y)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        BackpropRegressor(solver="sgd", learning_rate_init=1e6).fit(*DIABETES)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping"):
        BackpropClassifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"memory_budget=0\.000954 MiB is too little"):
        BackpropClassifier(memory_budget=1000).fit(X, Y)
    with pytest.raises(ValueError, match="devices=99, but JAX has"):
        BackpropClassifier(devices=99).fit(X, Y)
    with pytest.raises(ValueError, match="validation set is too small"):
        BackpropRegressor(early_stopping=True, validation_fraction=0.001).fit(*DIABETES)


def test_it_says_when_it_has_not_converged(capsys):
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        BackpropClassifier(**dict(TINY, max_iter=2), verbose=True).fit(X, Y)
    assert capsys.readouterr().out.startswith("Iteration 1, loss = ")


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "adaptive"}])
def test_it_says_why_it_has_stopped(settings, capsys):
    settings = dict(TINY, max_iter=100, tol=0.5, n_iter_no_change=2, verbose=True, dtype="float64", **settings)
    said = []
    for kind in (BackpropClassifier, MLPClassifier):
        own = {key: value for key, value in settings.items() if kind is BackpropClassifier or key != "dtype"}
        kind(**own).fit(X, Y)
        said.append(capsys.readouterr().out.splitlines()[-1])
    assert said[0] == said[1]
    assert said[0].endswith("Stopping.")


@pytest.mark.parametrize("incremental", [False, True])
def test_it_says_where_an_adaptive_rate_falls(incremental, capsys):
    settings = dict(TINY, solver="sgd", learning_rate="adaptive", shuffle=False, verbose=True)
    settings |= {"max_iter": 60, "tol": 5e-2, "n_iter_no_change": 3, "learning_rate_init": 0.1}
    said = []
    for model in (BackpropClassifier(**settings, dtype="float64"), MLPClassifier(**settings)):
        if incremental:
            for _ in range(30):
                model.partial_fit(X, Y, classes=np.unique(Y))
        else:
            model.fit(X, Y)
        lines = capsys.readouterr().out.splitlines()
        said.append([line if "rate" in line else line.partition(",")[2] for line in lines])
    assert said[0] == said[1]
    assert sum("Setting learning rate to" in line for line in said[0]) > 1


def test_it_says_where_a_rate_falls_by_validation_scores(capsys):
    settings = dict(TINY, solver="sgd", learning_rate="adaptive", early_stopping=True, max_iter=40, verbose=True)
    model = BackpropClassifier(**settings, n_iter_no_change=3, tol=1e-2, learning_rate_init=0.1).fit(X, Y)
    rate, best, stale, falls = 0.1, -np.inf, 0, []
    for epoch, score in enumerate(model.validation_scores_, start=1):
        stale = 0 if score >= best + 1e-2 else stale + 1
        best = max(best, score)
        if stale > 3 and rate > 1e-6:
            rate, stale = rate / 5, 0
            falls.append((epoch, f"Setting learning rate to {rate:f}"))
    said, epoch = [], 0
    for line in capsys.readouterr().out.splitlines():
        epoch += line.startswith("Iteration")
        if "Setting" in line:
            assert line.startswith("Validation score did not improve more than tol=0.010000 for 3 consecutive epochs.")
            said.append((epoch, line[line.index("Setting") :]))
    assert said == falls
    assert len(falls) > 2
    assert model._optimizer.learning_rate == pytest.approx(rate)


def test_the_largest_seed_is_one():
    settings = dict(TINY, random_state=2**32 - 1, solver="sgd", shuffle=False)
    assert_same_network(BackpropClassifier(**settings, dtype="float64").fit(X, Y), MLPClassifier(**settings).fit(X, Y))


def test_parameters_may_be_numpys_numbers():
    """As they come out of a table or a distribution: what is reckoned with them does not overflow."""
    small = {"hidden_layer_sizes": np.array([4], np.int8), "max_iter": np.int16(3), "n_iter_no_change": np.int8(127)}
    plain = {"hidden_layer_sizes": (4,), "max_iter": 3, "n_iter_no_change": 127}
    ours, theirs = (BackpropRegressor(**settings, random_state=0).fit(*DIABETES) for settings in (small, plain))
    np.testing.assert_array_equal(ours.coefs_[0], theirs.coefs_[0])


def test_a_loss_that_is_set_after_fit_changes_no_prediction():
    before = (model := BackpropRegressor(**TINY).fit(*DIABETES)).predict(DIABETES[0])
    np.testing.assert_array_equal(model.set_params(loss="poisson").predict(DIABETES[0]), before)
