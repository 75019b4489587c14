"""The estimators keep scikit-learn's contract, and train as its multi-layer perceptron trains."""

import pickle
import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import estimator_checks

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor
from jaxbackprop.estimators.inference import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
DIABETES = load_diabetes(return_X_y=True)
TINY = {"hidden_layer_sizes": (5,), "max_iter": 30, "random_state": 0}
ROUNDING = "two orders of summation in float32 do not agree to 1e-7; the next test runs the check in float64"
EXPECTED = {f"check_sample_weight_equivalence_on_{kind}_data": ROUNDING for kind in ("dense", "sparse")}


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [BackpropClassifier(), BackpropRegressor()], ids=lambda e: type(e).__name__)
def test_scikit_learns_checks(estimator, as_users_run_it):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that skip themselves say so
        results = estimator_checks.check_estimator(estimator, expected_failed_checks=EXPECTED, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert failed == {}
    assert len(results) > 50
    # array libraries need an environment variable; there is no decision_function, as MLPClassifier has none
    assert all("array_api" in name or "decision_function" in name for name in skipped)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [BackpropClassifier(), BackpropRegressor()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("check", EXPECTED)
def test_sample_weights_are_repetitions(estimator, check, float64):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


PAIRS = [
    ({"activation": "tanh", "solver": "sgd", "learning_rate_init": 0.1}, 0),
    ({"activation": "logistic", "solver": "sgd", "nesterovs_momentum": False, "alpha": 3.0}, 0),
    ({"activation": "relu", "solver": "sgd", "momentum": 0.0, "batch_size": 40}, 0),
    ({"activation": "identity", "hidden_layer_sizes": (6, 4), "alpha": 1.0}, 1e-6),
]


@pytest.mark.parametrize(("settings", "atol"), PAIRS)
def test_training_is_that_of_scikit_learn(settings, atol, float64):
    """The same start, the same updates; adam differs in where it adds its epsilon of 1e-8."""
    settings = {"shuffle": False, "batch_size": 150, **TINY, **settings}
    ours, theirs = (kind(**settings).fit(X, Y) for kind in (BackpropClassifier, MLPClassifier))
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=atol)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=max(1e-9, atol))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_sample_weights_binary_labels_and_stopping_are_those_of_scikit_learn(float64):
    weights = np.random.default_rng(0).uniform(0.5, 2, 100)
    settings = dict(TINY, shuffle=False, solver="sgd", max_iter=500, tol=1e-3, alpha=0.1)
    ours, theirs = (
        kind(**settings).fit(X[:100], Y[:100], sample_weight=weights) for kind in (BackpropClassifier, MLPClassifier)
    )
    assert ours.n_iter_ == theirs.n_iter_ < 500
    assert [c.shape for c in ours.coefs_] == [c.shape for c in theirs.coefs_]
    np.testing.assert_allclose(ours.coefs_[1], theirs.coefs_[1], rtol=1e-9)
    assert (ours.n_outputs_, ours.out_activation_, ours.t_) == (1, "logistic", theirs.t_)


def test_regression_is_that_of_scikit_learn(float64):
    X, y = scale(DIABETES[0]), np.stack([DIABETES[1], DIABETES[0][:, 2]], axis=1) / 100
    settings = dict(TINY, shuffle=False, solver="sgd", batch_size=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # both clip the batch to the samples
        ours, theirs = (kind(**settings).fit(X, y) for kind in (BackpropRegressor, MLPRegressor))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))


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


def test_partial_fit_is_fit_epoch_by_epoch():
    """With full batches, which have no order, so many calls are so many epochs, the optimizer's state included."""
    whole = BackpropClassifier(**TINY).fit(X, Y)
    steps = BackpropClassifier(**TINY)
    for _ in range(30):
        steps.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(steps.coefs_[0], whole.coefs_[0], rtol=1e-6)
    np.testing.assert_allclose(steps.loss_curve_, whole.loss_curve_, rtol=1e-6)
    with pytest.raises(ValueError, match="`y` has classes not in"):
        steps.partial_fit(X, Y + 1)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        BackpropClassifier().partial_fit(X, Y)


def test_warm_start_goes_on():
    twice = BackpropClassifier(**dict(TINY, solver="sgd", momentum=0, warm_start=True)).fit(X, Y).fit(X, Y)
    once = BackpropClassifier(**dict(TINY, solver="sgd", momentum=0, max_iter=60)).fit(X, Y)
    np.testing.assert_allclose(twice.coefs_[0], once.coefs_[0], rtol=1e-5)
    assert len(twice.loss_curve_) == 60
    with pytest.raises(ValueError, match="same classes"):
        twice.fit(X[:100], Y[:100])


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
        BackpropClassifier(solver="lbfgs").fit(X, Y)
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0, got"):
        BackpropClassifier((5, 0)).fit(X, Y)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        BackpropRegressor(solver="sgd", learning_rate_init=1e6).fit(*DIABETES)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping"):
        BackpropClassifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="validation set is too small"):
        BackpropRegressor(early_stopping=True, validation_fraction=0.001).fit(*DIABETES)


def test_it_says_when_it_has_not_converged(capsys):
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        BackpropClassifier(**dict(TINY, max_iter=2), verbose=True).fit(X, Y)
    assert capsys.readouterr().out.startswith("Iteration 1, loss = ")
