"""A search gives what scikit-learn's own search over the same estimators gives, only trained together."""

import numpy as np
import pytest
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler, scale
from sklearn.svm import SVC

from jaxbackprop.estimators import (
    BackpropClassifier,
    BackpropRegressor,
    SweepHalvingSearchCV,
    SweepRandomizedSearchCV,
    SweepSearchCV,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
BASE = BackpropClassifier((4,), max_iter=12, random_state=3, learning_rate_init=0.05)
PIPELINE = Pipeline([("scaler", StandardScaler()), ("net", clone(BASE))])
REGRESSOR = BackpropRegressor(hidden_layer_sizes=(4,), max_iter=12, random_state=0, learning_rate_init=0.05)
GRID = {"hidden_layer_sizes": [(3,), (5,)], "activation": ["relu", "tanh"], "alpha": [1e-4, 1.0]}


def assert_same_search(ours, theirs):
    """The same keys, the same candidates, the same scores up to a sample or so that rounding turns over."""
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    assert [str(p) for p in ours.cv_results_["params"]] == [str(p) for p in theirs.cv_results_["params"]]
    for key, value in theirs.cv_results_.items():
        if key.startswith("param_"):
            assert [str(v) for v in ours.cv_results_[key]] == [str(v) for v in value]
        elif "_test_" in key or "_train_" in key:
            np.testing.assert_allclose(ours.cv_results_[key], value, atol=1e-5, err_msg=key)
    assert ours.n_splits_ == theirs.n_splits_
    assert ours.multimetric_ == theirs.multimetric_


CASES = {
    "accuracy": (BASE, GRID, {}),
    "batches": (BASE, {"batch_size": [16, 50], "solver": ["sgd"]}, {}),
    "schedules": (BASE, {"max_iter": [3, 12], "tol": [1e-4, 0.5], "n_iter_no_change": [2], "random_state": [0, 1]}, {}),
    "early stopping": (BASE, {"early_stopping": [True, False], "validation_fraction": [0.2]}, {}),
    "several grids": (BASE, [{"alpha": [0.1]}, {"momentum": [0.5], "nesterovs_momentum": [True, False]}], {}),
    "class weight": (BASE, {"class_weight": [None, "balanced", {0: 1, 1: 3, 2: 1}]}, {}),
    "train scores": (BASE, {"alpha": [0.1, 1]}, {"return_train_score": True}),
    "splitter": (BASE, {"alpha": [0.1, 1]}, {"cv": ShuffleSplit(3, random_state=0)}),
    "absent classes": (BASE, {"alpha": [0.1, 1]}, {"cv": KFold(3)}),
    "named scorer": (BASE, {"alpha": [0.1, 1]}, {"scoring": "neg_log_loss"}),
    "callable": (BASE, {"alpha": [0.1, 1]}, {"scoring": make_scorer(f1_score, average="macro")}),
    "several scores": (BASE, GRID, {"scoring": ["accuracy", "roc_auc_ovr"], "refit": "roc_auc_ovr"}),
    "callable refit": (BASE, GRID, {"refit": lambda results: 3}),
    "pipeline": (PIPELINE, {"net__alpha": [0.1, 1], "net__hidden_layer_sizes": [3, (4, 2)]}, {}),
    "steps": (PIPELINE, {"net__alpha": [0.1, 1], "scaler": [StandardScaler(), MinMaxScaler(), "passthrough"]}, {}),
    "regression": (REGRESSOR, {"alpha": [0.1, 1], "activation": ["relu", "softplus"]}, {"return_train_score": True}),
    "regression errors": (REGRESSOR, {"alpha": [0.1, 1]}, {"scoring": ["r2", "neg_mean_squared_error"], "refit": "r2"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_is_grid_search(case):
    estimator, grid, options = CASES[case]
    data = load_diabetes(return_X_y=True) if estimator is REGRESSOR else (X, Y)
    data = (data[0][:150], data[1][:150] / (100 if estimator is REGRESSOR else 1))
    refit = case in ("pipeline", "regression")
    options = {"cv": 3, "refit": refit, **options}
    ours = SweepSearchCV(estimator, grid, **options).fit(*data)
    theirs = GridSearchCV(estimator, grid, **options).fit(*data)
    assert_same_search(ours, theirs)
    if refit or case == "callable refit":
        assert (ours.best_index_, str(ours.best_params_)) == (theirs.best_index_, str(theirs.best_params_))
        # The refit may run in the search's program, whose sums go another way: to the last digits of float32.
        np.testing.assert_allclose(ours.predict(data[0]), theirs.predict(data[0]), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.score(*data), theirs.score(*data), rtol=1e-6)


def test_it_is_randomized_search():
    space = {"alpha": loguniform(1e-4, 1), "learning_rate_init": loguniform(1e-3, 1e-1)}
    ours = SweepSearchCV(BASE, space, n_iter=4, random_state=7, cv=2).fit(X, Y)
    theirs = RandomizedSearchCV(BASE, space, n_iter=4, random_state=7, cv=2).fit(X, Y)
    assert_same_search(ours, theirs)


def test_groups_and_sample_weights():
    groups, weights = np.arange(150) % 4, np.random.default_rng(0).uniform(0.1, 3, 150)
    searches = [
        kind(BASE, {"alpha": [0.1, 1]}, cv=GroupKFold(2), refit=False).fit(X, Y, groups=groups, sample_weight=weights)
        for kind in (SweepSearchCV, GridSearchCV)
    ]
    assert_same_search(*searches)


def test_what_cannot_be_trained_together_is_trained_alone():
    grid = {"net": [clone(BASE), LogisticRegression(), SVC(C=0.1)]}
    with pytest.warns(UserWarning, match=r"'net' cannot be handed.*3 of 3 candidates") as caught:
        ours = SweepSearchCV(PIPELINE, grid, cv=2).fit(X, Y)
    assert ["handed" in str(w.message) for w in caught].count(True) == 1
    assert_same_search(ours, GridSearchCV(PIPELINE, grid, cv=2).fit(X, Y))


def test_a_candidate_that_diverges_is_named_and_the_search_goes_on():
    data = load_diabetes(return_X_y=True)
    regressor = BackpropRegressor(hidden_layer_sizes=(5,), solver="sgd", max_iter=20, random_state=0)
    grid = {"learning_rate_init": [1e-6, 1e6], "alpha": [0.1, -1.0]}
    with pytest.warns(FitFailedWarning, match=r"9 fits failed out of a total of 12(.|\n)*1000000.0.*diverged"):
        search = SweepSearchCV(regressor, grid, cv=3, error_score=-9).fit(*data)
    failed = [p["alpha"] < 0 or p["learning_rate_init"] > 1 for p in search.cv_results_["params"]]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"] == -9, failed)
    assert search.best_params_ == {"learning_rate_init": 1e-6, "alpha": 0.1}
    with pytest.raises(ValueError, match="diverged"):
        SweepSearchCV(regressor, {"learning_rate_init": [1e-6, 1e6]}, cv=3, error_score="raise").fit(*data)
    with pytest.raises(ValueError, match="All the 3 fits failed"):
        SweepSearchCV(regressor, {"learning_rate_init": [1e6]}, cv=3).fit(*data)


PROMISED = {
    f"{solver}, {'shuffled' if shuffle else 'in order'}{', stopped early' if early else ''}": {
        "solver": [solver],
        "shuffle": [shuffle],
        "early_stopping": [early],
        "hidden_layer_sizes": [(3,), (5,)],
        "alpha": [1e-4, 1.0],
        "batch_size": [40],
        "dtype": ["float64"],
    }
    for solver in ("sgd", "adam")
    for shuffle in (False, True)
    for early in (False, True)
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PROMISED)
def test_the_promise(case):
    """The very networks that `GridSearchCV` over the same estimator trains: their probabilities agree to 1e-9."""
    searches = [
        kind(BASE, PROMISED[case], cv=3, scoring="neg_log_loss").fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)
    ]
    ours, theirs = (np.stack([s.cv_results_[f"split{k}_test_score"] for k in range(3)]) for s in searches)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_array_equal(searches[0].predict_proba(X), searches[1].predict_proba(X))


def test_solvers_are_searched_side_by_side():
    """Each in programs of its own, and nothing is warned of."""
    grid = {"solver": ["lbfgs", "adam"]}
    assert_same_search(*(kind(BASE, grid, cv=2).fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)))


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_rates_that_fall_are_trained_together(early):
    """Each network's at its own time: by its own progress, and the samples of its own fold."""
    net = clone(BASE).set_params(solver="sgd", dtype="float64", max_iter=40, tol=0.02, n_iter_no_change=2)
    net.set_params(early_stopping=early, batch_size=40)
    grid = [
        {"learning_rate": ["constant", "adaptive"], "learning_rate_init": [0.1, 0.5], "alpha": [1e-4, 1.0]},
        {"learning_rate": ["invscaling"], "power_t": [0.2, 0.5], "hidden_layer_sizes": [(3,), (5,)], "alpha": [0.1]},
    ]
    pair = [
        kind(net, grid, cv=KFold(4, shuffle=True, random_state=0), scoring="neg_log_loss").fit(X, Y)
        for kind in (SweepSearchCV, GridSearchCV)
    ]
    ours, theirs = (np.stack([s.cv_results_[f"split{k}_test_score"] for k in range(4)]) for s in pair)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert pair[0].best_params_ == pair[1].best_params_


@pytest.mark.slow
def test_activations_of_each_layer_are_searched_together():
    grid = {"activation": ["relu", ("relu", "tanh"), ("tanh", "relu")], "hidden_layer_sizes": [(4, 3)]}
    assert_same_search(*(kind(BASE, grid, cv=2).fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)))


def test_memory_and_devices_are_the_searches_or_the_estimators(as_users_run_it):
    grid = {"alpha": [1e-4, 0.1, 1.0]}
    everywhere, alone = (SweepSearchCV(BASE, grid, cv=2, devices=n).fit(X, Y) for n in (None, 1))
    assert_same_search(everywhere, alone)
    with pytest.raises(ValueError, match="devices=99, but JAX has 8"):
        SweepSearchCV(BASE, grid, cv=2, devices=99).fit(X, Y)
    small = clone(BASE).set_params(memory_budget=1000)
    with pytest.raises(ValueError, match=r"memory_budget=0\.000954 MiB is too little"):
        SweepRandomizedSearchCV(small, grid, n_iter=2, cv=2).fit(X, Y)
    assert SweepSearchCV(small, grid, cv=2, memory_budget=2**30, refit=False).fit(X, Y).best_score_ > 0.5
    with pytest.raises(ValueError, match="'devices' parameter of SweepSearchCV must be an int in the range"):
        SweepSearchCV(BASE, grid, devices=0).fit(X, Y)


def test_moments_of_adam_share_a_program():
    grid = {"beta_1": [0.5, 0.9], "beta_2": [0.9, 0.999], "epsilon": [1e-8, 1e-2]}
    searches = [kind(BASE, grid, cv=2, refit=False).fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)]
    assert_same_search(*searches)


def test_other_estimators_are_searched_as_scikit_learn_does():
    """Without a word, unless there is a network of ours inside, which trains alone."""
    assert_same_search(*(kind(SVC(), {"C": [0.1, 1]}, cv=2).fit(X, Y) for kind in (SweepSearchCV, GridSearchCV)))
    data = load_diabetes(return_X_y=True)
    inside = TransformedTargetRegressor(REGRESSOR, transformer=StandardScaler())
    with pytest.warns(UserWarning, match="a network inside a TransformedTargetRegressor cannot be trained together"):
        ours = SweepSearchCV(inside, {"regressor__alpha": [0.1, 1]}, cv=2).fit(*data)
    assert_same_search(ours, GridSearchCV(inside, {"regressor__alpha": [0.1, 1]}, cv=2).fit(*data))


@pytest.mark.slow
def test_it_is_randomized_search_too():
    space = {"alpha": loguniform(1e-4, 1), "hidden_layer_sizes": [(3,), (5,)]}
    pair = [
        kind(BASE, space, n_iter=4, random_state=7, cv=2).fit(X, Y)
        for kind in (SweepRandomizedSearchCV, RandomizedSearchCV)
    ]
    assert_same_search(*pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"min_resources": 40}, {"resource": "max_iter", "max_resources": 12, "min_resources": 3}]
)
def test_it_is_halving_search(options):
    grid = {"alpha": [1e-4, 1e-2, 1.0, 10.0], "activation": ["relu", "tanh"]}
    pair = [
        kind(BASE, grid, factor=2, random_state=0, cv=2, **options).fit(X, Y)
        for kind in (SweepHalvingSearchCV, HalvingGridSearchCV)
    ]
    assert_same_search(*pair)
    assert pair[0].n_candidates_ == pair[1].n_candidates_
    assert pair[0].best_params_ == pair[1].best_params_
    assert pair[0].best_score_ == pytest.approx(pair[1].best_score_)


def test_steps_are_fitted_once_a_fold():
    class Counting(PCA):
        fits = 0

        def fit_transform(self, X, y=None):
            Counting.fits += 1
            return super().fit_transform(X, y)

    pipeline = Pipeline([("pca", Counting()), ("net", clone(BASE))])
    grid = {"net__alpha": [0.1, 1, 10], "pca__n_components": [2, 3]}
    SweepSearchCV(pipeline, grid, cv=2, refit=False).fit(X, Y)
    assert Counting.fits == 2 * 2


def test_the_example_of_scikit_learns_documentation():
    from sklearn import datasets

    iris = datasets.load_iris()
    parameters = {"activation": ("tanh", "relu"), "alpha": [1, 10]}
    net = BackpropClassifier(max_iter=20)
    clf = SweepSearchCV(net, parameters)
    clf.fit(iris.data, iris.target)
    assert sorted(clf.cv_results_.keys())[:4] == [
        "mean_fit_time",
        "mean_score_time",
        "mean_test_score",
        "param_activation",
    ]
    assert clf.predict(iris.data).shape == (150,)
    assert list(clf.classes_) == [0, 1, 2]
    assert clone(clf).get_params()["estimator__max_iter"] == 20


@pytest.mark.parametrize(
    ("grid", "kind"),
    [
        ({"alpha": [0.01, 0.1, 1]}, "curve"),
        ({"activation": ["relu", "tanh"]}, "curve"),
        ({"alpha": [0.1, 1], "hidden_layer_sizes": [(3,), (10,)]}, "heat map"),
        ({"alpha": [0.1, 1], "hidden_layer_sizes": [(3,), (5,)], "activation": ["relu", "tanh"]}, "lines"),
    ],
)
def test_plot(grid, kind):
    search = SweepSearchCV(BASE, grid, cv=2, refit=False).fit(X, Y)
    ax = search.plot()
    assert bool(ax.images) == (kind == "heat map")
    if kind == "heat map":
        shown = np.sort(np.asarray(ax.images[0].get_array()).ravel())
        np.testing.assert_allclose(shown, np.sort(search.cv_results_["mean_test_score"]))
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "1"]
    if kind == "lines":
        assert [t.get_text() for t in ax.get_xticklabels()] == ["activation", "alpha", "hidden_layer_sizes"]
        assert f"{search.best_score_:.3f}" in ax.get_legend().get_texts()[0].get_text()
    assert "accuracy" in ax.get_ylabel() + ax.figure.axes[-1].get_ylabel()
    with pytest.raises(ValueError, match="metric='acuracy' is unknown"):
        search.plot("acuracy")


def test_a_plot_of_a_regressors_search_says_so():
    search = SweepSearchCV(REGRESSOR, {"alpha": [0.1, 1]}, cv=2, refit=False).fit(*load_diabetes(return_X_y=True))
    assert search.plot().get_ylabel().startswith("mean test R²")


def test_decision_boundary_display():
    from matplotlib.figure import Figure
    from sklearn.inspection import DecisionBoundaryDisplay

    search = SweepSearchCV(BASE, {"alpha": [0.1, 1]}, cv=2).fit(X[:, :2], Y)
    ax = Figure().subplots()
    for estimator in (search, search.best_estimator_):
        display = DecisionBoundaryDisplay.from_estimator(estimator, X[:, :2], response_method="predict", ax=ax)
        points = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
        np.testing.assert_array_equal(display.response.ravel(), estimator.predict(points))


def test_bad_input(as_users_run_it):
    with pytest.raises(ValueError, match="Invalid parameter 'alhpa'"):
        SweepSearchCV(BASE, {"alhpa": [1]}).fit(X, Y)
    with pytest.raises(ValueError, match="'n_iter' parameter of SweepSearchCV"):
        SweepSearchCV(BASE, {"alpha": [1]}, n_iter=0).fit(X, Y)
    with pytest.raises(ValueError, match="For multi-metric scoring, the parameter refit must be set"):
        SweepSearchCV(BASE, {"alpha": [1]}, scoring=["accuracy", "f1_macro"]).fit(X, Y)
    with pytest.raises(NotFittedError):
        SweepSearchCV(BASE, {"alpha": [1]}).predict(X)
    with pytest.raises(NotFittedError):
        SweepSearchCV(BASE, {"alpha": [1]}).plot()
    with pytest.raises(ValueError, match=r"All the 5 fits failed(.|\n)*contains NaN"):
        SweepSearchCV(BASE, {"alpha": [1]}).fit(np.where(X > 1, np.nan, X), Y)
