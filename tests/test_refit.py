"""A search's refit runs in the program that trained the candidates where it fits in; what comes out is what `fit` alone
gives, which runs in a program of its own."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler, scale

from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV, reuse

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
BASE = BackpropClassifier((4,), max_iter=25, random_state=3, learning_rate_init=0.05, dtype="float64")
WIDTHS = {"hidden_layer_sizes": [(3,), (7,), (5,)], "activation": ["relu", "tanh"]}
ONE_SPLIT = [(np.flatnonzero(np.arange(150) % 3), np.arange(0, 150, 3))]  # all classes in both parts
NUMBERS = load_diabetes(return_X_y=True)
REGRESSOR = BackpropRegressor(
    hidden_layer_sizes=(4,), max_iter=25, random_state=0, learning_rate_init=0.05, dtype="float64"
)

SHARED = {
    "full batches": (BASE, WIDTHS, {}),
    "batches": (clone(BASE).set_params(batch_size=40), WIDTHS, {}),
    "stops": (clone(BASE).set_params(n_iter_no_change=2, tol=0.02), WIDTHS, {}),
    "adaptive": (
        clone(BASE).set_params(solver="sgd", learning_rate="adaptive", n_iter_no_change=1, tol=0.05),
        {"alpha": [0.0, 1.0]},
        {},
    ),
    "invscaling": (clone(BASE).set_params(solver="sgd", learning_rate="invscaling"), WIDTHS, {}),
    "dropout": (clone(BASE).set_params(dropout=0.2), WIDTHS, {}),
    "one split": (BASE, WIDTHS, {"cv": ONE_SPLIT}),
    "depths": (BASE, {"hidden_layer_sizes": [(4,), (3, 5), (4, 2, 3)], "activation": ["relu", "tanh"]}, {}),
    "pipeline": (Pipeline([("scaler", StandardScaler()), ("net", BASE)]), {"net__alpha": [0.1, 1.0]}, {}),
    "weights": (BASE, WIDTHS, {"sample_weight": np.random.default_rng(0).uniform(0.5, 2, 150)}),
    "numbers": (REGRESSOR, {"alpha": [0.1, 1.0], "hidden_layer_sizes": [(4,), (6, 3)]}, {}),
    "float32": (clone(BASE).set_params(dtype="float32"), WIDTHS, {}),
}
OWN = {
    "early stopping": (clone(BASE).set_params(early_stopping=True), {"alpha": [0.1, 1.0]}, {}),
    "a batch more": (
        clone(BASE).set_params(batch_size=100),
        {"alpha": [0.1]},
        {"cv": ONE_SPLIT},
    ),
    "no stop": (clone(BASE).set_params(n_iter_no_change=25), {"alpha": [0.1, 1.0]}, {}),
}


@pytest.mark.parametrize("case", [*SHARED, *OWN])
def test_the_refit_is_the_fit_alone(case, monkeypatch):
    estimator, grid, options = (SHARED | OWN)[case]
    options = dict(options)
    params = {"sample_weight": options.pop("sample_weight")} if "sample_weight" in options else {}
    data = NUMBERS if isinstance(estimator, BackpropRegressor) else (X, Y)
    taken, plain = [], reuse.reuse
    monkeypatch.setattr("jaxbackprop.estimators.trainer.reuse", lambda *a: taken.append(plain(*a)) or taken[-1])
    search = SweepSearchCV(estimator, grid, **{"cv": 3, **options}).fit(*data, **params)
    assert [t is not None for t in taken] == [case in SHARED]
    best = search.best_estimator_
    alone = clone(best).fit(*data, **params)
    ours, theirs = (e[-1] if isinstance(e, Pipeline) else e for e in (best, alone))
    close = {"rtol": 1e-4, "atol": 1e-5} if ours.dtype == "float32" else {"rtol": 1e-9, "atol": 1e-12}
    assert (ours.n_iter_, ours.t_, ours._no_improvement_count) == (
        theirs.n_iter_,
        theirs.t_,
        theirs._no_improvement_count,
    )
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, **close)
    for own, other in zip((*ours.coefs_, *ours.intercepts_), (*theirs.coefs_, *theirs.intercepts_), strict=True):
        np.testing.assert_allclose(own, other, **close)
    np.testing.assert_allclose(ours._optimizer.learning_rate, theirs._optimizer.learning_rate, **close)
    assert not vars(ours).get("_programs")
