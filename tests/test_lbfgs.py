"""L-BFGS of many networks at once takes the steps that it takes for one, and those are scipy's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from jaxbackprop.estimators import (
    BackpropClassifier,
    BackpropRegressor,
    SweepHalvingSearchCV,
    SweepSearchCV,
    quasi_newton,
)
from jaxbackprop.estimators.lbfgs import FAILED, FLAT, RUNNING, Limits, begin, take_turn
from jaxbackprop.estimators.line_search import CURVATURE, DECREASE, LONGEST, NARROW, begin_search, go_on
from jaxbackprop.estimators.quasi_newton import Group, Stop, train_lbfgs
from jaxbackprop.estimators.samples import Samples, make_splits
from jaxbackprop.estimators.trainer import Machine
from jaxbackprop.optimizers import _state_shapes
from jaxbackprop.sweeps.grid import Trial

X, Y = load_iris(return_X_y=True)
X = scale(X)
BASE = BackpropClassifier((4,), solver="lbfgs", max_iter=12, random_state=3, dtype="float64")
MACHINE = Machine(2**30, None)
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Section 5 of Moré and Thuente: functions (5.1) to (5.3).
FUNCTIONS = {
    "5.1": lambda a: -a / (a**2 + 2),
    "5.2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "5.3": lambda a: (
        jnp.where(a <= 0.99, 1 - a, jnp.where(a >= 1.01, a - 1, (a - 1) ** 2 / 0.02 + 0.005))
        + 2 * 0.99 / (39 * jnp.pi) * jnp.sin(39 * jnp.pi / 2 * a)
    ),
}


def search(function, first):
    """The steps that a line search evaluates, where it has got with that, and whether it has ended."""
    line, accepted, steps = begin_search(*function(0.0), jnp.asarray(first)), False, []
    while not accepted and len(steps) < 20:
        steps.append(float(line.step))
        new, accepted = go_on(line, *function(line.step))
        line = line if accepted else new
    return steps, line, accepted


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("first", [1e-3, 1e-1, 10.0, 1e3])
def test_a_line_search_ends_with_a_step_that_fulfils_wolfes_conditions(name, first, float64):
    function = jax.value_and_grad(FUNCTIONS[name])
    (start, slope), (steps, line, accepted) = function(0.0), search(function, first)
    assert accepted
    value, at_end = function(steps[-1])
    assert value <= start + DECREASE * steps[-1] * slope
    flat = abs(at_end) <= CURVATURE * abs(slope)
    assert flat or line.high - line.low <= NARROW * line.high  # that is all there is to find


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("first", [1e-3, 1e-1, 10.0, 1e3])
def test_a_line_search_tries_the_steps_that_scipys_tries(name, first, float64):
    other = pytest.importorskip("scipy.optimize._dcsrch", reason="scipy's own copy, which is private")
    function = jax.value_and_grad(FUNCTIONS[name])
    tried = []

    def value(a):
        tried.append(float(a))
        return float(function(a)[0])

    theirs = other.DCSRCH(value, lambda a: float(function(a)[1]), DECREASE, CURVATURE, NARROW, 0.0, LONGEST)
    theirs(first, *map(float, function(0.0)), maxiter=20)
    np.testing.assert_allclose(search(function, first)[0], tried, rtol=1e-6)


def test_a_line_search_comes_back_from_where_there_is_no_loss(float64):
    """log(1 + e^-a) + a^2 that is infinite beyond 3."""
    function = jax.value_and_grad(lambda a: jnp.where(a > 3, jnp.inf, jnp.log1p(jnp.exp(-a)) + (a - 1) ** 2))
    steps, _, accepted = search(function, 50.0)
    assert accepted
    assert steps[0] == 50
    assert steps[-1] <= 3


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_without_hidden_layers_it_finds_the_minimum_of_ridge_regression(alpha):
    X, y = scale(load_diabetes().data), load_diabetes().target / 100
    ours = BackpropRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=alpha, dtype="float64", tol=1e-9).fit(X, y)
    exact = Ridge(alpha, solver="cholesky").fit(X, y)
    least = (np.sum((exact.predict(X) - y) ** 2) + alpha * np.sum(exact.coef_**2)) / 2 / len(y)
    assert least * (1 - 1e-12) <= ours.loss_ <= least * (1 + 1e-6)
    np.testing.assert_allclose(ours.predict(X), exact.predict(X), atol=2e-3)


def test_without_hidden_layers_it_finds_the_minimum_of_logistic_regression():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    ours = BackpropClassifier((), solver="lbfgs", alpha=2.0, dtype="float64", tol=1e-9, max_iter=500).fit(X, y)
    exact = LogisticRegression(C=1 / 2, solver="newton-cholesky", tol=1e-10).fit(X, y)
    least = log_loss(y, exact.predict_proba(X)) + 2.0 * np.sum(exact.coef_**2) / 2 / len(y)
    assert least * (1 - 1e-12) <= ours.loss_ <= least * (1 + 1e-6)


CASES = [
    (load_iris, {"activation": "tanh"}),
    (load_wine, {"activation": "relu", "hidden_layer_sizes": (6, 4)}),
    (load_breast_cancer, {"activation": "logistic"}),
    (load_diabetes, {"activation": "identity"}),
    (load_diabetes, {"activation": "tanh", "loss": "squared_error"}),
]


@unconverged
@pytest.mark.parametrize(("data", "settings"), CASES)
def test_the_steps_are_scipys(data, settings):
    """Until rounding errors have grown: the first ten."""
    X, y = data(return_X_y=True)
    y = y / 100 if data is load_diabetes else y
    pair = (BackpropRegressor, MLPRegressor) if data is load_diabetes else (BackpropClassifier, MLPClassifier)
    settings = {"hidden_layer_sizes": (5,), "solver": "lbfgs", "max_iter": 10, "random_state": 1, **settings}
    ours, theirs = (kind(**settings) for kind in pair)
    ours.set_params(dtype="float64").fit(scale(X), y), theirs.fit(scale(X), y)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)
    assert ours.n_iter_ == theirs.n_iter_ == 10
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"max_iter": 3}, {"max_fun": 6, "max_iter": 1000}, {"tol": 0.05}])
def test_it_ends_for_scipys_reasons_and_says_so_in_scikit_learns_words(settings):
    said = []
    for kind in (BackpropClassifier, MLPClassifier):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = kind((5,), solver="lbfgs", random_state=0, **settings).fit(X, Y)
        said.append((model.n_iter_, [str(w.message) for w in caught if w.category is ConvergenceWarning]))
    assert said[0] == said[1]
    assert len(said[0][1]) == (settings != {"tol": 0.05})


@pytest.mark.slow
@pytest.mark.parametrize("data", [load_iris, load_wine, load_breast_cancer, load_diabetes])
def test_twenty_starts_together_end_where_those_of_scikit_learn_end(data):
    """In the mean over starts, at most 1 % above."""
    X, y = data(return_X_y=True)
    X, number = scale(X), data is load_diabetes
    kind = MLPRegressor if number else MLPClassifier
    settings = {"solver": "lbfgs", "hidden_layer_sizes": (10,), "max_iter": 100}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = [kind(**settings, random_state=seed).fit(X, y).loss_ for seed in range(20)]
    trials = [Trial("relu", (10,), l2=1e-4, seed=seed) for seed in range(20)]
    ours = train_lbfgs(trials, [Stop(1e-4, 100, 15_000)] * 20, splits_of(X, y), MACHINE)
    assert ours.metrics.train_loss.mean() < 1.01 * np.mean(theirs)


def splits_of(X, y, folds=None):
    """All samples to train on, or the training parts of so many folds."""
    number = y.dtype.kind == "f"
    targets = y[:, None] if number or y.max() == 1 else np.eye(y.max() + 1)[y]
    objective = "squared" if number else "sigmoid" if y.max() == 1 else "softmax"
    every = [(np.arange(len(X)), np.arange(0))]
    parts = every if folds is None else list(StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y))
    return make_splits([Samples(X, targets.astype(X.dtype), None)], parts, objective)


def numbers(book, network):
    return np.concatenate([a.ravel() for a in jax.tree.leaves(book.params(network))])


def test_a_network_takes_the_same_steps_alone_and_among_others():
    splits = splits_of(X, Y, folds=2)
    trials = [Trial("tanh", (4,), l2=l2, seed=seed) for l2 in (1e-3, 1.0) for seed in (0, 1)]
    stops = [Stop(1e-4, 15, 15_000)] * len(trials)
    together = train_lbfgs(trials, stops, splits, MACHINE)
    for number, trial in enumerate(trials):
        alone = train_lbfgs([trial], stops[:1], splits, Machine(2**30, 1))
        for k in (0, 1):
            np.testing.assert_allclose(numbers(together, 2 * number + k), numbers(alone, k), rtol=1e-9, atol=1e-9)
            assert together.epoch[2 * number + k] == alone.epoch[k]


@pytest.mark.parametrize("penalty", [np.nan, np.inf, 1e300])
def test_a_network_that_breaks_down_leaves_the_others_as_they_are(penalty):
    splits = splits_of(X, Y)
    trials = [Trial("tanh", (4,), l2=1e-3, seed=seed) for seed in range(4)]
    stops = [Stop(1e-4, 15, 15_000)] * 4
    right = train_lbfgs(trials, stops, splits, MACHINE)
    trials[1] = trials[1]._replace(l2=penalty)
    broken = train_lbfgs(trials, stops, splits, MACHINE)
    for number in (0, 2, 3):
        np.testing.assert_array_equal(numbers(broken, number), numbers(right, number))
        assert broken.epoch[number] == right.epoch[number] == 15
    assert broken.epoch[1] < 15
    assert not np.isfinite(broken.metrics.train_loss[1]) or penalty == 1e300


def test_a_line_search_that_fails_stops_that_network_alone(float64):
    """One of two networks is told a gradient of the wrong sign: no step lowers its loss."""
    sign = jnp.array([1.0, -1.0])
    limits = Limits(*(jnp.full(2, value) for value in (0.0, 1e-6, 100, 1000)))
    state = jax.vmap(begin)(jnp.ones((2, 3)))
    turn = jax.jit(jax.vmap(take_turn))
    for _ in range(60):
        trial = state.x + state.line.step[:, None] * state.direction
        value, gradient = jax.vmap(jax.value_and_grad(lambda x: jnp.sum(jnp.arange(1, 4) * x**2)))(trial)
        new = turn(state, trial, value, sign[:, None] * gradient, limits)
        state = jax.tree.map(
            lambda a, b, go=state.status == RUNNING: jnp.where(go.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, state
        )
    assert state.status.tolist() == [FLAT, FAILED]
    np.testing.assert_allclose(state.x[0], 0, atol=1e-6)
    np.testing.assert_array_equal(state.x[1], 1)
    assert state.evaluations[1] == 21  # the first, and those of one search


def test_each_network_has_its_own_limits():
    splits = splits_of(X, Y)
    trials = [Trial("tanh", (4,), l2=1e-3, seed=0)] * 4
    stops = [Stop(1e-4, 20, 15_000), Stop(1e-4, 20, 8), Stop(1e-4, 5, 15_000), Stop(0.2, 20, 15_000)]
    book = train_lbfgs(trials, stops, splits, MACHINE)
    assert book.epoch[0] == 20
    assert book.epoch[1] < 9
    assert book.epoch[2] == 5
    assert book.epoch[3] < 5
    losses = book.metrics.train_loss[np.argsort(-book.epoch)]
    assert (np.diff(losses) > 0).all()  # each further on the same way


def test_networks_wait_for_seats():
    """Few seats, or many: the same networks. No more memory than allowed, or a word about it."""
    splits = splits_of(X, Y, folds=3)
    trials = [Trial("tanh", (4,), l2=l2, seed=seed) for l2 in (1e-3, 0.1) for seed in range(3)]
    stops = [Stop(1e-4, steps, 15_000) for steps in (15, 4, 9, 15, 2, 6)]
    plenty = train_lbfgs(trials, stops, splits, Machine(2**30, 1))
    scarce = train_lbfgs(trials, stops, splits, Machine(150_000, 1))
    group = Group(((None,),), (4, 4, 3), np.zeros((18, 35)), np.repeat(np.arange(3), 6), np.zeros(18, int), None)
    assert quasi_newton.count_seats(group, splits, 1, Machine(150_000, 1)) == 3
    assert quasi_newton.count_seats(group, splits, 1, Machine(2**30, 1)) == 6
    np.testing.assert_array_equal(plenty.epoch, np.repeat([stop.max_iter for stop in stops], 3))
    np.testing.assert_array_equal(scarce.epoch, plenty.epoch)
    for number in range(18):
        np.testing.assert_allclose(numbers(scarce, number), numbers(plenty, number), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"memory_budget=0\.00954 MiB is too little: L-BFGS needs at least"):
        train_lbfgs(trials, stops, splits, Machine(10_000, 1))


SEARCHES = {
    "grid": (BASE, {"alpha": [1e-3, 1.0], "random_state": [0, 1], "hidden_layer_sizes": [(4,)]}, {}),
    "limits": (BASE, {"max_iter": [3, 12], "max_fun": [5, 15_000], "tol": [1e-4, 0.1]}, {}),
    "pipeline": (make_pipeline(StandardScaler(), clone(BASE)), {"backpropclassifier__alpha": [1e-3, 1.0]}, {}),
    "absent classes": (BASE, {"alpha": [1e-3, 1.0]}, {"cv": KFold(3), "scoring": "accuracy"}),
    "class weight": (BASE, {"class_weight": [None, "balanced", {0: 1, 1: 3, 2: 1}]}, {"return_train_score": True}),
    "what other solvers heed": (BASE, {"early_stopping": [True, False], "batch_size": [7, 50]}, {}),
    "both kinds": (BASE, {"solver": ["lbfgs", "adam"], "alpha": [1e-3, 1.0]}, {}),
    "shapes": (BASE, {"hidden_layer_sizes": [(3,), (5,), (4, 3)], "activation": ["relu", "tanh"]}, {}),
}
QUICK = ("grid", "limits", "pipeline", "both kinds")


@unconverged
@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in SEARCHES]
)
def test_a_search_trains_the_very_networks_of_grid_search(case):
    estimator, grid, options = SEARCHES[case]
    options = {"cv": 2, "scoring": "neg_log_loss", "refit": False, **options}
    pair = [kind(estimator, grid, **options).fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)]
    for key, values in pair[1].cv_results_.items():
        if "_test_" in key or "_train_" in key:
            np.testing.assert_allclose(pair[0].cv_results_[key], values, rtol=1e-8, atol=1e-10, err_msg=key)


@unconverged
def test_a_search_of_regressors_with_weights_and_two_targets():
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X)[:120], np.stack([y, y[::-1]], axis=1)[:120] / 100
    net = BackpropRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=10, random_state=0, dtype="float64")
    weights = np.random.default_rng(0).uniform(0.1, 3, 120)
    pair = [
        kind(net, {"alpha": [1e-3, 1.0]}, cv=KFold(3, shuffle=True, random_state=0)).fit(X, y, sample_weight=weights)
        for kind in (SweepSearchCV, GridSearchCV)
    ]
    scores = [np.stack([s.cv_results_[f"split{k}_test_score"] for k in range(3)]) for s in pair]
    np.testing.assert_allclose(*scores, rtol=1e-8)
    np.testing.assert_array_equal(pair[0].predict(X), pair[1].predict(X))


@unconverged
def test_a_search_keeps_its_networks_and_halves():
    grid = {"alpha": [1e-3, 0.1, 1.0], "random_state": [0, 1]}
    search = SweepSearchCV(BASE, grid, cv=2, refit=False, keep_networks=True).fit(X, Y)
    assert search.ensemble(rounds=5).score > 0.9
    halving = SweepHalvingSearchCV(BASE, grid, cv=2, factor=3, resource="max_iter", max_resources=12, min_resources=4)
    halving.fit(X, Y)
    assert halving.n_candidates_ == [6, 2]
    assert halving.best_estimator_.n_iter_ == 12


@unconverged
def test_a_candidate_that_cannot_be_trained_is_named_and_the_search_goes_on():
    grid = {"dropout": [0.0, 0.5], "alpha": [1e-3]}
    with pytest.warns(FitFailedWarning, match=r"2 fits failed out of a total of 4(.|\n)*goes with solver='sgd'"):
        search = SweepSearchCV(BASE, grid, cv=2, error_score=-9, refit=False).fit(X, Y)
    assert search.cv_results_["mean_test_score"][1] == -9
    assert search.cv_results_["mean_test_score"][0] > 0.8


def test_numbers_without_a_loss_are_told_as_scikit_learn_tells_them():
    """Squared, these targets are beyond float64."""
    y = 1e200 * X[:, 0]
    for kind in (BackpropRegressor, MLPRegressor):
        model = kind(hidden_layer_sizes=(4,), solver="lbfgs", random_state=0)
        if kind is BackpropRegressor:
            model.set_params(dtype="float64")
        with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning, match=r"after 0 iteration\(s\) \(status=2\)"):
            model.fit(X, y)
        assert not np.isfinite(model.loss_)
        assert np.isfinite(model.coefs_[0]).all()
    with pytest.raises(ValueError, match="contains NaN"):
        clone(BASE).fit(np.where(X > 1, np.nan, X), Y)


@unconverged
def test_what_is_trained_after_it_is_trained_in_its_own_type():
    """A search in float64 leaves nothing behind that was made while JAX computed in float32."""
    _state_shapes.cache_clear()
    SweepSearchCV(BASE, {"alpha": [1e-3]}, cv=2, refit=False).fit(X, Y)
    model = clone(BASE).set_params(solver="sgd").fit(X, Y)
    assert {leaf.dtype for leaf in jax.tree.leaves(model._optimizer_state)} == {np.dtype("float64")}
