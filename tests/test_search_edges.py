"""Where a search leaves the common way: what cannot be scored, odd splits, sparse labels, and derived classes."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from test_search import BASE, PIPELINE, X, Y, assert_same_search

from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV

BOTH = (SweepSearchCV, GridSearchCV)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def refused():
    """A pipeline that refuses what the first fold holds out."""
    values = np.array(["a", "b", "c"])[np.arange(90) % 3][:, None].astype(object)
    values[0] = "z"
    pipeline = Pipeline([("codes", OneHotEncoder(sparse_output=False)), ("net", clone(BASE))])
    return pipeline, values, np.arange(90) % 2


@pytest.mark.filterwarnings("ignore:One or more of the:UserWarning")
@pytest.mark.parametrize("options", [{}, {"scoring": ["f1", "roc_auc"], "refit": "f1"}, {"return_train_score": True}])
def test_a_fold_that_cannot_be_scored_is_no_fit_that_failed(options):
    """A category, or a NaN, that only the samples held out have: scikit-learn warns, and goes on."""
    pipeline, codes, labels = refused()
    holes = X[:90].copy()
    holes[0, 0] = np.nan
    one_split = [(np.arange(30, 90), np.arange(30))]
    for estimator, inputs, grid in ((pipeline, codes, {"net__alpha": [0.1, 1]}), (BASE, holes, {"alpha": [0.1, 1]})):
        searches = []
        for kind in BOTH:
            search = kind(estimator, grid, cv=one_split, **{**options, "refit": False})
            with pytest.warns(UserWarning, match="Scoring failed") as caught:
                searches.append(search.fit(inputs, labels))
            assert not any(issubclass(w.category, FitFailedWarning) for w in caught)
        assert_same_search(*searches)
        with pytest.raises(ValueError, match=r"unknown categories|contains NaN"):
            SweepSearchCV(estimator, grid, cv=one_split, error_score="raise").fit(inputs, labels)


class Apart(StandardScaler):
    """What is trained on is not what the fitted step makes of the same samples, as with an encoder of targets."""

    def fit_transform(self, X, y=None):
        return 3 - super().fit_transform(X, y)


def test_training_scores_are_those_of_the_fitted_steps():
    pipeline = Pipeline([("apart", Apart()), ("net", clone(BASE))])
    options = {"cv": 2, "return_train_score": True, "refit": False}
    for scoring in (None, "neg_log_loss"):
        searches = (kind(pipeline, {"net__alpha": [0.1, 1]}, scoring=scoring, **options) for kind in BOTH)
        assert_same_search(*(search.fit(X, Y) for search in searches))


def steepness(estimator, X, y):
    """Of the data as a scorer is given them, by the steps that have been fitted on the fold."""
    return float(np.std(X[:, 0]) + estimator[0].transform(X)[0, 0] + len(estimator.steps))


def test_each_fold_has_steps_of_its_own():
    """Also where they are candidates: those of the grid stay as they were."""
    grid = {"scaler": [StandardScaler(), StandardScaler(with_std=False)]}
    searches = [kind(PIPELINE, grid, cv=3, scoring=steepness, refit=False).fit(X * 5 + 3, Y) for kind in BOTH]
    assert_same_search(*searches)
    assert not any(hasattr(step, "scale_") for step in grid["scaler"])


def test_callables_in_a_dict_see_the_whole_pipeline_too():
    options = {"scoring": {"own": steepness, "loss": "neg_log_loss"}, "return_train_score": True, "refit": False}
    searches = [kind(PIPELINE, {"net__alpha": [0.1, 1]}, cv=2, **options).fit(X * 5 + 3, Y) for kind in BOTH]
    assert_same_search(*searches)


def test_splits_may_be_masks_and_lists():
    mask = np.arange(150) % 3 == 0
    for split in ((~mask, mask), (np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist())):
        assert_same_search(*(kind(BASE, {"alpha": [0.1, 1]}, cv=[split]).fit(X, Y) for kind in BOTH))


def test_several_labels_may_be_sparse():
    labels = sparse.csr_array(np.stack([Y == 0, X[:, 0] > 0], axis=1).astype(int))
    ours, theirs = (kind(BASE, {"alpha": [0.1, 1]}, cv=2).fit(X, labels) for kind in BOTH)
    assert_same_search(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X).toarray(), theirs.predict(X).toarray())
    kept = SweepSearchCV(BASE, {"alpha": [0.1, 1]}, cv=2, keep_networks=True, refit=False)
    assert kept.fit(X, labels).ensemble().score == kept.fit(X, labels.toarray()).ensemble().score


class OnlyTheFirstClass(BackpropClassifier):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, (np.asarray(y) == 0).astype(int), sample_weight)


class AlwaysOne(BackpropRegressor):
    def predict(self, X):
        return np.ones(len(X))


class Boasting(Pipeline):
    def score(self, X, y=None, sample_weight=None):
        return 3.0


@pytest.mark.parametrize("kind", [OnlyTheFirstClass, AlwaysOne, Boasting])
def test_methods_of_a_derived_class_are_not_passed_by(kind):
    estimator = Boasting(PIPELINE.steps) if kind is Boasting else kind((4,), max_iter=5, random_state=0)
    if kind is AlwaysOne:
        estimator = kind(hidden_layer_sizes=(4,), max_iter=5, random_state=0)
    grid = {"net__alpha" if kind is Boasting else "alpha": [0.1, 1]}
    with pytest.warns(UserWarning, match=rf"method of a derived class, \w+\.{kind.__name__}\.\w+, cannot be"):
        ours = SweepSearchCV(estimator, grid, cv=2).fit(X, Y)
    assert_same_search(ours, GridSearchCV(estimator, grid, cv=2).fit(X, Y))


def test_a_derived_class_with_other_defaults_is_trained_together(recwarn):
    class Small(BackpropClassifier):
        """Only its name and its documentation are new."""

    SweepSearchCV(Small((4,), max_iter=5, random_state=0), {"alpha": [0.1, 1]}, cv=2, refit=False).fit(X, Y)
    assert not recwarn.list  # nothing is said of candidates that are trained one by one


def test_steps_as_a_whole_are_trained_alone():
    grid = {"steps": [PIPELINE.steps, [("pca", PCA(2)), ("net", clone(BASE))]]}
    with pytest.warns(UserWarning, match=r"'steps' cannot be handed.*2 of 2 candidates"):
        ours = SweepSearchCV(PIPELINE, grid, cv=2, refit=False).fit(X, Y)
    scores = [np.mean(cross_val_score(Pipeline(steps), X, Y, cv=2)) for steps in grid["steps"]]
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], scores)


def share(y, y_hat, importance):
    return float(np.average(y == y_hat, weights=importance))


def test_what_a_scorer_asks_for_reaches_candidates_that_are_trained_alone():
    importance = np.random.default_rng(0).uniform(0.1, 3, 150)
    grid = {"net": [clone(BASE).set_params(alpha=0.1), clone(BASE).set_params(alpha=1)]}
    with config_context(enable_metadata_routing=True):
        weighted = make_scorer(share).set_score_request(importance=True)
        for estimator, own in ((BASE, {"alpha": [0.1, 1]}), (PIPELINE, grid)):
            searches = [kind(estimator, own, cv=2, scoring=weighted, refit=False) for kind in BOTH]
            with pytest.warns(UserWarning, match=r"2 of 2 candidates are trained one by one"):
                searches[0].fit(X, Y, importance=importance)
            assert_same_search(searches[0], searches[1].fit(X, Y, importance=importance))


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True, "validation_fraction": 0.2}])
@pytest.mark.parametrize(
    ("labels", "first"),
    [("abc", "ab"), ("abcd", "abc"), ("abcd", "bcd"), ("abc", "ac"), ("ab", "b")],
    ids=["two of three", "three of four", "others of four", "outer two", "one of two"],
)
def test_a_training_part_that_lacks_a_class(labels, first, options):
    """Its network has outputs for the classes that it has seen, as `fit` on this part alone makes it."""
    part = np.arange(90) // 45  # the first half has some of the classes, the second all
    y = np.where(
        part == 0,
        np.array(list(first))[np.arange(90) % len(first)],
        np.array(list(labels))[np.arange(90) % len(labels)],
    )
    folds = [(np.flatnonzero(part == k), np.flatnonzero(part != k)) for k in range(2)]
    estimator = clone(BASE).set_params(**options)
    searches = [
        kind(estimator, {"alpha": [0.1, 1.0]}, cv=folds, refit=False, return_train_score=True).fit(X[:90], y)
        for kind in BOTH
    ]
    assert_same_search(*searches)
