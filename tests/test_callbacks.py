"""scikit-learn's callbacks are told of our trainings what they are told of its own, and may end them."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from jaxbackprop.estimators import BackpropClassifier, SweepRandomizedSearchCV, SweepSearchCV

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
BASE = BackpropClassifier((4,), max_iter=6, random_state=3, learning_rate_init=0.05)
GRID = {"alpha": [0.1, 1.0], "hidden_layer_sizes": [(3,), (4,)]}


class Recording:
    """What happened, in order: the hook, the task's place in the tree, and how well the network scored by then."""

    def __init__(self, stop_after=None):
        self.hooks, self.scores, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.hooks.append("setup")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.hooks.append(("begin", context.task_name, context.task_id, np.shape(X)))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.hooks.append(("end", context.task_name, context.task_id, np.shape(X)))
        if fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return context.parent is not None and context.task_id + 1 == self.stop_after

    def teardown(self, estimator, context):
        self.hooks.append("teardown")


class Propagated(Recording):
    max_propagation_depth = None


def epochs(count, name="epoch", shape=(150, 4)):
    """The hooks of a fit of so many epochs."""
    inner = [(when, name, k, shape) for k in range(count) for when in ("begin", "end")]
    return ["setup", ("begin", "fit", 0, shape), *inner, ("end", "fit", 0, shape), "teardown"]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 40, "early_stopping": True},
        *(pytest.param(s, marks=pytest.mark.slow) for s in ({}, {"solver": "sgd"})),
    ],
)
def test_every_epoch_is_told_with_the_network_as_it_is(settings):
    model, watch = clone(BASE).set_params(**settings), Recording()
    seen = clone(model).set_callbacks(watch).fit(X, Y)
    assert watch.hooks == epochs(6)
    np.testing.assert_allclose(seen.coefs_[0], model.fit(X, Y).coefs_[0], rtol=1e-5)
    shorter = [clone(model).set_params(max_iter=k).fit(X, Y).score(X, Y) for k in range(1, 7)]
    np.testing.assert_allclose(watch.scores, [*shorter, model.score(X, Y)])


def test_a_training_that_converges_begins_no_further_epoch():
    watch = Recording()
    model = clone(BASE).set_params(tol=1.0, n_iter_no_change=2, max_iter=50).set_callbacks(watch).fit(X, Y)
    assert model.n_iter_ < 10
    assert watch.hooks == epochs(model.n_iter_)


def test_a_callback_may_stop_the_training():
    watch = Recording(stop_after=3)
    model = clone(BASE).set_callbacks(watch).fit(X, Y)
    assert watch.hooks == epochs(3)
    np.testing.assert_array_equal(model.coefs_[0], clone(BASE).set_params(max_iter=3).fit(X, Y).coefs_[0])
    assert len(model.loss_curve_) == model.n_iter_ == 3


def test_lbfgs_tells_of_its_iterations(recwarn):
    watch = Recording(stop_after=4)
    model = clone(BASE).set_params(solver="lbfgs", max_iter=50).set_callbacks(watch).fit(X, Y)
    assert watch.hooks == epochs(4, "iteration")
    assert model.n_iter_ == 4
    assert not recwarn.list
    np.testing.assert_allclose(watch.scores[-1], model.score(X, Y))
    watch = Recording()
    whole = clone(BASE).set_params(solver="lbfgs", max_iter=5).set_callbacks(watch).fit(X, Y)
    assert watch.hooks.count("teardown") == 1
    assert len(watch.scores) == whole.n_iter_ + 1


def test_scikit_learns_own_callbacks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # of the terminal in which a bar is drawn
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = make_pipeline(StandardScaler(), clone(BASE).set_callbacks(monitor)).fit(X, Y)
    log = monitor.get_logs().data_as_pandas if hasattr(monitor.get_logs(), "data_as_pandas") else monitor.get_logs()
    scores = [row["accuracy"] for row in log.to_dict("records")]
    assert len(scores) == 7  # of each epoch, and of the whole
    assert scores[0] == scores[-1] == pytest.approx(model.score(X, Y))
    pytest.importorskip("rich")
    clone(BASE).set_callbacks(callback.ProgressBar()).fit(X, Y)
    assert "BackpropClassifier" in capsys.readouterr().out
    # A bar does not keep candidates from being trained together, which would be warned of.
    for kind, options in (
        (SweepSearchCV, {}),
        (SweepSearchCV, {"n_iter": 2}),
        (SweepRandomizedSearchCV, {"n_iter": 2}),
    ):
        kind(BASE, GRID, cv=2, **options).set_callbacks(callback.ProgressBar()).fit(X, Y)
        shown = capsys.readouterr().out
        assert f"{kind.__name__} - search" in shown
        assert "100%" in shown


@pytest.mark.parametrize("options", [{}, {"refit": False}])
def test_a_search_tells_of_its_candidates_and_trains_them_together(options):
    records = []
    for kind in (SweepSearchCV, GridSearchCV):
        watch = Recording()
        kind(BASE, GRID, cv=2, **options).set_callbacks(watch).fit(X, Y)  # nothing is warned of
        records.append(watch.hooks)
    for hooks in records:
        assert (hooks[0], hooks[-1]) == ("setup", "teardown")
    assert sorted(map(str, records[0])) == sorted(map(str, records[1]))


def test_what_looks_inside_candidates_has_them_trained_one_by_one():
    records = []
    for kind in (SweepSearchCV, GridSearchCV):
        watch = Propagated()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind(BASE, GRID, cv=2).set_callbacks(watch).fit(X, Y)
        assert any("a network with callbacks" in str(w.message) for w in caught) == (kind is SweepSearchCV)
        records.append([hook for hook in watch.hooks if "setup" not in hook])
    assert sorted(map(str, records[0])) == sorted(map(str, records[1]))
    own = Recording()
    with pytest.warns(UserWarning, match="a network with callbacks cannot be trained together"):
        SweepSearchCV(clone(BASE).set_callbacks(own), GRID, cv=2, refit=False).fit(X, Y)
    assert own.hooks.count("setup") == 8


def test_a_bar_under_verbose(capsys):
    SweepSearchCV(BASE, GRID, cv=2, verbose=1).fit(X, Y)
    out, shown = capsys.readouterr()
    assert out.startswith("Fitting 2 folds for each of 4 candidates, totalling 8 fits")
    assert "48.0/48.0" in shown
    assert "network-steps" in shown
    SweepSearchCV(BASE, GRID, cv=2).fit(X, Y)
    assert capsys.readouterr() == ("", "")
