"""Ensembles: calibration and prediction as written out, and the estimators' contract."""

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import estimator_checks

import jaxbackprop as jb
from jaxbackprop.estimators import (
    BackpropClassifier,
    BackpropRegressor,
    SweepEnsembleClassifier,
    SweepEnsembleRegressor,
    SweepSearchCV,
    numerical,
)
from jaxbackprop.estimators.space import DEFAULT_SPACE, draw_candidates
from jaxbackprop.sweeps.calibration import fit_temperature, reliability, soften
from jaxbackprop.sweeps.mixture import plot_members

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
LABELS = np.array(["setosa", "versicolor", "virginica"])
SPACE = {"hidden": [(8,), (5,)], "activation": ["tanh", "relu"], "dropout": [0.0]}
SMALL = {"n_candidates": 4, "space": SPACE, "cv": 3, "max_iter": 40, "batch_size": None, "bags": 3, "random_state": 0}
GRID = {"hidden": [(8,), (5,)], "activation": ["tanh", "relu"], "learning_rate": [0.02, 1e4], "optimizer": ["adamw"]}


@pytest.fixture(scope="module")
def model():
    return SweepEnsembleClassifier(**SMALL).fit(pd.DataFrame(X, columns=list("abcd")), LABELS[Y])


@pytest.fixture(scope="module")
def result():
    return jb.sweep(GRID, X, Y, epochs=40, folds=KFold(3, shuffle=True, random_state=0), progress=False)


def test_the_temperature_makes_the_log_loss_least():
    """Labels drawn from softmax(z / 2.5) and a network that says softmax(z)."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(5000, 4)) * 4
    p = np.exp(log_softmax(z, axis=1))
    truth = np.array([generator.choice(4, p=q) for q in np.exp(log_softmax(z / 2.5, axis=1))])
    temperature = fit_temperature(p, np.eye(4)[truth], np.ones(5000))
    found = minimize(lambda t: log_loss(truth, np.exp(log_softmax(z / t[0], axis=1))), [1.0], method="Nelder-Mead").x[0]
    assert temperature == pytest.approx(found, rel=2e-3)
    assert temperature == pytest.approx(2.5, rel=0.1)
    np.testing.assert_allclose(soften(p, temperature), np.exp(log_softmax(z / temperature, axis=1)), rtol=1e-9)
    assert (soften(p, temperature).argmax(axis=1) == p.argmax(axis=1)).all()
    before, after = (reliability(q.max(axis=1), q.argmax(axis=1) == truth).error for q in (p, soften(p, temperature)))
    assert after < before / 3


def test_several_labels_have_a_temperature_each_by_itself():
    p = np.array([[0.9, 0.2], [0.6, 0.5]])
    odds = (p / (1 - p)) ** 0.5
    np.testing.assert_allclose(soften(p, 2.0, exclusive=False), odds / (1 + odds))


def test_a_sweeps_ensemble_is_the_weighted_mean_of_its_networks(result):
    mixture = result.ensemble(bags=3)
    assert mixture.weights.sum() == pytest.approx(1)
    assert not result.table["diverged"][mixture.members].any()
    mean = sum(
        weight * result.predict_proba(int(member), X, split) / 3
        for member, weight in zip(mixture.members, mixture.weights, strict=True)
        for split in range(3)
    )
    z = np.log(mean) / mixture.temperature
    np.testing.assert_allclose(mixture.predict_proba(X), np.exp(log_softmax(z, axis=1)), atol=1e-5)


def test_an_ensembles_loss_and_score_are_those_out_of_fold(result):
    mixture = result.ensemble(bags=3)
    mean = np.zeros((150, 3))
    for split, (_, test) in enumerate(KFold(3, shuffle=True, random_state=0).split(X)):
        for member, weight in zip(mixture.members, mixture.weights, strict=True):
            mean[test] += weight * result.predict_proba(int(member), X[test], split)
    mean /= mean.sum(axis=1, keepdims=True)
    assert mixture.curve["loss"][-1] == pytest.approx(log_loss(Y, mean), rel=1e-4)
    assert mixture.curve["score"][-1] == pytest.approx(accuracy_score(Y, mean.argmax(axis=1)))
    assert mixture.loss == pytest.approx(log_loss(Y, soften(mean, mixture.temperature)), rel=1e-4)
    good = ~result.table["diverged"].to_numpy()
    assert mixture.curve["loss"][-1] < result.table["validation_loss"][good].min() + 1e-6


@pytest.mark.parametrize("kind", ["numbers", "labels", "counts"])
def test_other_targets(kind):
    inputs, y = make_multilabel_classification(n_samples=40, n_classes=2, n_features=4, random_state=0)
    y = {"numbers": inputs[:, 0] / 7.3, "labels": y, "counts": inputs[:, 1].astype(int)}[kind]
    objective = {"numbers": None, "labels": None, "counts": "poisson"}[kind]
    grid = {"hidden": [(8,)], "activation": ["tanh"], "seed": [0, 1], "optimizer": ["adamw"]}
    result = jb.sweep(grid, scale(inputs), y, epochs=20, objective=objective, progress=False)
    mixture = result.ensemble(bags=2)
    mean = sum(
        w * result.predict_proba(int(m), scale(inputs)) for m, w in zip(mixture.members, mixture.weights, strict=True)
    )
    right = soften(mean, mixture.temperature, exclusive=False) if kind == "labels" else mean
    np.testing.assert_allclose(mixture.predict_proba(scale(inputs)), right, atol=1e-5)
    assert mixture.predict(scale(inputs)).shape == y.shape
    assert np.isfinite([mixture.score, mixture.loss]).all()


def test_a_sweep_that_held_nothing_out_has_no_ensemble():
    result = jb.sweep({"hidden": [(5,)]}, X, Y, epochs=1, validation=None, progress=False)
    with pytest.raises(ValueError, match="this sweep held out none"):
        result.ensemble()


def test_the_classifier(model):
    frame = pd.DataFrame(X, columns=list("abcd"))
    assert model.score(frame, LABELS[Y]) > 0.9
    assert list(model.classes_) == list(LABELS)
    np.testing.assert_allclose(model.predict_proba(frame).sum(axis=1), 1, rtol=1e-5)
    assert model.weights_.sum() == pytest.approx(1)
    assert (np.diff(model.weights_) <= 0).all()
    np.testing.assert_array_equal(np.sort(model.members_), np.flatnonzero(model.cv_results_["weight"]))
    assert model.oof_score_ > 0.8
    assert list(model.oof_curve_["members"]) == list(range(1, 1 + len(model.members_)))
    assert len(model.cv_results_["params"]) == len(model.cv_results_["mean_test_score"]) == 4
    assert model.cv_results_["rank_test_loss"].min() == 1
    again = clone(model).fit(frame, LABELS[Y])
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))


@pytest.mark.slow
def test_the_regressor():
    data = load_diabetes(return_X_y=True)
    model = SweepEnsembleRegressor(**SMALL).fit(*data)
    assert model.score(*data) == pytest.approx(r2_score(data[1], model.predict(data[0])))
    assert model.score(*data) > 0.3
    both = SweepEnsembleRegressor(**SMALL).fit(data[0], np.stack([data[1], -data[1]], axis=1))
    assert both.predict(data[0]).shape == (442, 2)
    assert both.oof_score_ > 0.2


def test_weights_of_samples_count():
    """Samples of another truth, but of no weight."""
    weights = np.r_[np.ones(150), np.zeros(150)]
    twice, wrong = np.r_[X, X], np.r_[Y, (Y + 1) % 3]
    model = SweepEnsembleClassifier(**{**SMALL, "max_iter": 80}).fit(twice, wrong, sample_weight=weights)
    assert model.score(X, Y) > 0.9
    assert model.oof_score_ > 0.9


def test_bins_are_the_papers_and_end_at_quantiles():
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=60), generator.integers(0, 3, 60)
    inputs = np.stack([x, generator.integers(0, 2, 60), np.ones(60), x**3], axis=1)
    bins = numerical.fit_embedding("piecewise_linear", inputs, weights.astype(float), 0)
    new = np.r_[inputs, 10 * inputs, -10 * inputs]
    columns = [new[:, 1], new[:, 2]]
    for j in (0, 3):
        shares = np.linspace(0, 1, numerical.BINS + 1)
        edges = np.unique(np.quantile(np.repeat(inputs[:, j], weights), shares, method="inverted_cdf"))
        for t in range(1, len(edges)):
            low, high = edges[t - 1], edges[t]
            part = [(value - low) / (high - low) for value in new[:, j]]
            if t > 1:
                part = [max(value, 0) for value in part]
            if t < len(edges) - 1:
                part = [min(value, 1) for value in part]
            columns.append(part)
    np.testing.assert_allclose(numerical.embed(bins, new), np.stack(columns, axis=1), rtol=1e-12, atol=1e-15)


def test_features_of_two_values_have_no_frequencies():
    inputs = np.stack([np.arange(9) % 2, np.linspace(-2, 2, 9), np.ones(9), np.arange(9) ** 2], axis=1)
    periodic = numerical.fit_embedding("periodic", inputs, None, 0)
    assert periodic.frequency.shape == (2, numerical.WAVES)
    np.testing.assert_array_equal(numerical.embed(periodic, inputs), inputs[:, [1, 3, 0, 2]])
    only_two_values = numerical.fit_embedding("periodic", inputs[:, [0, 2]], None, 0)
    assert numerical.frequencies(only_two_values) is None


def test_plot(model):
    ax = model.plot()
    np.testing.assert_array_equal(
        ax.lines[0].get_xydata(), np.stack([model.oof_curve_["members"], model.oof_curve_["loss"]]).T
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("members", "log loss, out of fold")


def test_the_plot_of_one_member():
    """Its number is whole, and its score's mark does not hide its loss's, which stands at the same place."""
    ax = plot_members({"members": np.array([1]), "loss": np.array([0.3]), "score": np.array([0.9])}, "softmax")
    ticks = ax.get_xticks()
    assert 1 in ticks
    assert np.array_equal(ticks, np.round(ticks))
    ax.figure.set_dpi(200)
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    x, y = np.round(ax.transData.transform((1, 0.3))).astype(int)
    middle = np.asarray(canvas.buffer_rgba())[-y, x, :3] / 255
    np.testing.assert_allclose(middle, to_rgb(ax.lines[0].get_color()), atol=0.02)


@pytest.mark.parametrize("labels", [np.array([0, 1, 1]), LABELS])
def test_a_searchs_ensemble_is_the_weighted_mean_behind_each_folds_steps(labels):
    y, folds = labels[Y], list(KFold(3, shuffle=True, random_state=0).split(X))
    net = BackpropClassifier((4,), max_iter=20, random_state=3, learning_rate_init=0.05)
    pipeline = Pipeline([("pca", PCA()), ("net", net)])
    grid = {"net__activation": ["tanh", "relu"], "pca__n_components": [2, 3]}
    search = SweepSearchCV(pipeline, grid, cv=folds, refit=False, keep_networks=True).fit(X, y)
    found = search.ensemble(bags=3)
    out_of_fold, mean = (np.zeros((150, len(np.unique(labels)))) for _ in range(2))
    for train, test in folds:
        for member, weight in zip(found.members, found.weights, strict=True):
            own = clone(pipeline).set_params(**search.cv_results_["params"][member]).fit(X[train], y[train])
            out_of_fold[test] += weight * own.predict_proba(X[test])
            mean += weight / 3 * own.predict_proba(X)
    np.testing.assert_allclose(found.predict_proba(X), soften(mean, found.temperature), atol=1e-4)
    out_of_fold /= out_of_fold.sum(axis=1, keepdims=True)
    assert found.curve["loss"][-1] == pytest.approx(log_loss(y, out_of_fold), rel=1e-3)
    assert (found.predict(X) == y).mean() > 0.8
    assert found.plot().get_xlabel() == "members"


def test_a_search_of_numbers_has_an_ensemble_too():
    net = BackpropRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=3, learning_rate_init=0.05)
    y = X[:, 0] + X[:, 1] ** 2
    search = SweepSearchCV(net, {"alpha": [1e-4, 1e-2]}, cv=3, keep_networks=True).fit(X, y)
    found = search.ensemble()
    assert found.predict(X).shape == (150,)
    assert np.isfinite([found.score, found.loss]).all()


def test_a_searchs_ensemble_holds_networks_with_an_activation_a_layer():
    """A single member: the ensemble is the mean of its networks of all folds, each fitted alone."""
    net = BackpropClassifier((4, 3), max_iter=20, random_state=3, learning_rate_init=0.05)
    folds = list(KFold(3, shuffle=True, random_state=0).split(X))
    search = SweepSearchCV(net, {"activation": [("relu", "tanh"), "tanh"]}, cv=folds, refit=False, keep_networks=True)
    found = search.fit(X, Y).ensemble(rounds=1, bags=1)
    own = [clone(net).set_params(**search.cv_results_["params"][found.members[0]]) for _ in folds]
    mean = sum(n.fit(X[train], Y[train]).predict_proba(X) for n, (train, _) in zip(own, folds, strict=True)) / 3
    np.testing.assert_allclose(found.predict_proba(X), soften(mean, found.temperature), atol=1e-4)


def test_a_search_says_what_keeps_its_networks():
    search = SweepSearchCV(BackpropClassifier((4,), max_iter=2), {"alpha": [0.1]}, cv=2, refit=False)
    with pytest.raises(NotFittedError):
        search.ensemble()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    with pytest.raises(ValueError, match="keep_networks=True"):
        search.ensemble()


def test_the_space():
    grid = draw_candidates(None, 30, 0, optimizer="adamw")
    assert grid == draw_candidates(None, 30, 0, optimizer="adamw")
    assert {len(one["hidden"][0]) for one in grid} == {1, 2, 3}
    assert {one["activation"][0] for one in grid} == set(DEFAULT_SPACE["activation"])
    assert all(16 <= width <= 128 for one in grid for width in one["hidden"][0])
    own = draw_candidates({"hidden": [(3, 4)], "optimizer": ["sgd"]}, 2, 0, optimizer="adamw")
    assert all(one["hidden"] == [(3, 4)] and one["optimizer"] == ["sgd"] for one in own)


def test_it_stands_in_pipelines():
    pipeline = make_pipeline(StandardScaler(), SweepEnsembleClassifier(**SMALL))
    assert cross_val_score(pipeline, X, Y, cv=2).mean() > 0.8


def test_bad_input(as_users_run_it, tmp_path):
    with pytest.raises(NotFittedError):
        SweepEnsembleClassifier().predict(X)
    with pytest.raises(NotFittedError):
        SweepEnsembleClassifier().plot()
    with pytest.raises(ValueError, match="space key='learning_rat' is unknown; did you mean 'learning_rate'"):
        SweepEnsembleClassifier(**{**SMALL, "space": {"learning_rat": [1]}}).fit(X, Y)
    with pytest.raises(ValueError, match=r"space\['l2'\]=0.1 must be a scipy distribution, or a list such as \[0.1\]"):
        SweepEnsembleClassifier(**{**SMALL, "space": {"l2": 0.1}}).fit(X, Y)
    with pytest.raises(ValueError, match="'n_candidates' parameter of SweepEnsembleClassifier must be an int"):
        SweepEnsembleClassifier(n_candidates=0).fit(X, Y)
    with pytest.raises(ValueError, match=r"'numerical_embedding' parameter of .* must be a str among"):
        SweepEnsembleClassifier(numerical_embedding="linear").fit(X, Y)
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        SweepEnsembleClassifier(**SMALL).fit(X, np.zeros(150, int))
    with pytest.raises(ValueError, match="batch_size=1000 is larger"):
        jb.sweep({"batch_size": [1000]}, X, Y, epochs=1, folds=3, progress=False).ensemble(rounds=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "embedding"), [
    (SweepEnsembleClassifier, None), (SweepEnsembleRegressor, None),
    (SweepEnsembleClassifier, "periodic"), (SweepEnsembleRegressor, "piecewise_linear"),
])  # fmt: skip
def test_scikit_learns_checks(kind, embedding, as_users_run_it):
    # A mask goes by a sample's place: with dropout a sample twice is not one that counts twice.
    space = {"hidden": [(8,)], "activation": ["tanh"], "dropout": [0.0]}
    small = {"n_candidates": 2, "space": space, "cv": 2, "bags": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that skip themselves say so
        checked = kind(**small, max_iter=60, batch_size=None, dtype="input", numerical_embedding=embedding)
        results = estimator_checks.check_estimator(checked, on_fail=None)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"} == {}
    assert len(results) > 50
