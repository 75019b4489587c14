"""The ensembles of sweeps and searches in a file: they predict the same in another process, bit for bit."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    scale,
)
from test_ensemble_file import in_another_process

import jaxbackprop as jb
from jaxbackprop.activations import Activation
from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV, load, save

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
LABELS = np.array(["setosa", "versicolor", "virginica"])
NUMBERS = X[:, 0] + X[:, 1] ** 2
SMALL = {"hidden_layer_sizes": (4, 3), "max_iter": 10, "random_state": 3, "learning_rate_init": 0.05}
GRID = [
    {"hidden": [(4,), (5, 3)], "activation": ["tanh"], "optimizer": ["adamw"]},
    {"hidden": [(5, 3)], "activation": [("relu", "mish")], "optimizer": ["adamw"]},
]


def same(a, b):
    """All that an ensemble says of itself."""
    assert type(a) is type(b)
    for name in ("members", "weights", "classes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for key, line in a.curve.items():
        np.testing.assert_array_equal(line, b.curve[key])
    assert (a.temperature, a.score, a.loss, a.targets) == (b.temperature, b.score, b.loss, b.targets)


def searched(estimator, grid, inputs, y, folds=3):
    search = SweepSearchCV(estimator, grid, cv=KFold(folds, shuffle=True, random_state=0), refit=False,
                           keep_networks=True)  # fmt: skip
    return search.fit(inputs, y).ensemble(bags=2)


@pytest.mark.parametrize(
    ("y", "options"),
    [
        (LABELS[Y], {}),
        (NUMBERS, {}),
        (np.c_[Y == 0, X[:, 0] > 6].astype(int), {}),
        (Y, {"objective": "poisson"}),
        (Y, {"frequencies": np.array([[0.2, 0.5], [0.3, 1.0]])}),
    ],
    ids=["labels", "numbers", "several labels", "counts", "frequencies"],
)
def test_the_ensemble_of_a_sweep(y, options, tmp_path):
    grid = {"activation": ["tanh"], "hidden": [(5,)], "seed": [0, 1]} if options else GRID
    mixture = jb.sweep(grid, scale(X), y, epochs=5, folds=3, progress=False, **options).ensemble(bags=2)
    again = load(save(mixture, tmp_path / "ensemble.safetensors"))
    same(mixture, again)
    np.testing.assert_array_equal(again.predict_proba(scale(X)), mixture.predict_proba(scale(X)))
    np.testing.assert_array_equal(again.predict(scale(X)), mixture.predict(scale(X)))
    assert again.predict(scale(X)).dtype == mixture.predict(scale(X)).dtype
    assert again.plot().get_xlabel() == "members"


def test_the_ensembles_of_searches_in_another_process(tmp_path):
    made = {}
    for name, estimator, y in (
        ("labels", BackpropClassifier(**SMALL), LABELS[Y]),
        ("numbers", BackpropRegressor(**SMALL), NUMBERS),
        ("several labels", BackpropClassifier(**SMALL), np.c_[Y == 0, X[:, 0] > 6].astype(int)),
        ("counts", BackpropRegressor(**SMALL, loss="poisson", dtype="float64"), Y.astype(float)),
    ):
        found = searched(estimator, {"alpha": [1e-4, 1.0], "activation": ["tanh", ("relu", "elu")]}, X, y)
        path = save(found, tmp_path / f"{name}.safetensors")
        again = load(path)
        same(found, again)
        np.testing.assert_array_equal(again.predict(X), found.predict(X))
        assert again.predict(X).dtype == found.predict(X).dtype
        made[path] = found.predict_proba(X)
    for elsewhere, here in zip(in_another_process("predict_proba", X, *made), made.values(), strict=True):
        np.testing.assert_array_equal(elsewhere, here)


STEPS = [
    StandardScaler(),
    StandardScaler(with_std=False),
    MinMaxScaler((-1, 1)),
    MaxAbsScaler(),
    RobustScaler(),
    QuantileTransformer(n_quantiles=20, output_distribution="normal", random_state=0),
    PCA(3, whiten=True),
    "passthrough",
]


def test_steps_before_the_networks_come_along(tmp_path):
    """Each behind a scaler, in a search of its own."""
    pipeline = Pipeline([("first", StandardScaler()), ("step", None), ("net", BackpropClassifier(**SMALL))])
    frame = pd.DataFrame(X, columns=list("abcd"))
    for step in STEPS:
        found = searched(pipeline, {"step": [step], "net__alpha": [0.1]}, frame, LABELS[Y], folds=2)
        again = load(save(found, tmp_path / "ensemble.safetensors"))
        np.testing.assert_array_equal(again.predict_proba(frame), found.predict_proba(frame))
        with pytest.raises(ValueError, match="feature names"):
            again.predict(frame[list("badc")])


def test_names_of_features_are_checked_without_steps_too(tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    found = searched(BackpropClassifier(**SMALL), {"alpha": [0.1]}, frame, Y)
    again = load(save(found, tmp_path / "ensemble.safetensors"))
    np.testing.assert_array_equal(again.predict(frame), found.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[list("badc")])


def test_the_number_of_features_is_checked(tmp_path):
    again = load(save(searched(BackpropClassifier(**SMALL), {"alpha": [0.1]}, X, Y), tmp_path / "ensemble.safetensors"))
    with pytest.raises(ValueError, match="3 features"):
        again.predict(X[:, :3])


def test_a_class_that_a_fold_lacks(tmp_path):
    y = np.where(np.arange(150) < 75, Y, Y % 2)
    folds = [(np.arange(75, 150), np.arange(75)), (np.arange(75), np.arange(75, 150))]
    search = SweepSearchCV(BackpropClassifier(**SMALL), {"alpha": [0.1]}, cv=folds, refit=False, keep_networks=True)
    y[149] = 2  # in one training part alone
    found = search.fit(X, y).ensemble(bags=2)
    assert len({len(part.template.classes_) for part in found.parts}) == 2
    again = load(save(found, tmp_path / "ensemble.safetensors"))
    np.testing.assert_array_equal(again.predict_proba(X), found.predict_proba(X))


def test_what_no_file_can_hold_is_told_before_anything_is_written(tmp_path):
    path = tmp_path / "ensemble.safetensors"
    for step, name in ((SelectKBest(k=2), "SelectKBest"), (FunctionTransformer(np.log1p), "FunctionTransformer")):
        pipeline = Pipeline([("mine", step), ("net", BackpropClassifier(**SMALL))])
        found = searched(pipeline, {"net__alpha": [0.1]}, X, Y)
        with pytest.raises(ValueError, match=f"behind the step 'mine', a {name}"):
            save(found, path)
    own = Activation("mine", lambda z: 2 * z, lambda z, a: 2 + 0 * z)
    mixture = jb.sweep({"activation": [own], "hidden": [(3,)]}, X, Y, epochs=1, folds=2, progress=False).ensemble()
    with pytest.raises(ValueError, match="the activation 'mine'"):
        save(mixture, path)
    assert not list(tmp_path.iterdir())
