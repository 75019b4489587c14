"""Trained models in a file: bit for bit, readable by others, refused when damaged."""

import copy
import json
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError

from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV, load, model_file, save

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
SMALL = {"hidden_layer_sizes": (4, 3), "max_iter": 5, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame(X, columns=list("abcd"))
        return BackpropClassifier(**SMALL, class_weight={"x": 1, "y": 2.5, "z": 1}).fit(frame, np.array(list("xyz"))[Y])


def same(a, b):
    assert type(a) is type(b)
    for name, value in vars(a).items():
        if name in ("coefs_", "intercepts_"):
            assert all(p.tobytes() == q.tobytes() for p, q in zip(value, getattr(b, name), strict=True))
            assert all(p.dtype == q.dtype for p, q in zip(value, getattr(b, name), strict=True))
        elif name in ("classes_", "feature_names_in_"):
            np.testing.assert_array_equal(value, getattr(b, name))
        elif name not in ("_label_binarizer", "_optimizer_state"):
            assert value == getattr(b, name), name


def test_round_trip(model, tmp_path):
    again = load(save(model, tmp_path / "new" / "model.safetensors"))
    same(model, again)
    frame = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    assert again.predict(frame).dtype == model.predict(frame).dtype
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_training_goes_on_where_it_was_left(tmp_path):
    model = BackpropRegressor(**SMALL).fit(X, Y.astype(float))
    again = load(save(model, tmp_path / "a.safetensors"))
    same(model.partial_fit(X, Y.astype(float)), again.partial_fit(X, Y.astype(float)))


@pytest.mark.parametrize("kind", ["binary", "multilabel", "outputs"])
def test_other_targets(kind, tmp_path):
    inputs, y = make_multilabel_classification(n_samples=20, n_classes=3, random_state=0)
    y = {"binary": y[:, 0] > 0, "multilabel": y, "outputs": y / 3}[kind]
    estimator = (BackpropRegressor if kind == "outputs" else BackpropClassifier)(**SMALL).fit(inputs, y)
    again = load(save(estimator, tmp_path / "a.safetensors"))
    same(estimator, again)
    np.testing.assert_array_equal(estimator.predict(inputs), again.predict(inputs))


@pytest.mark.parametrize("before", [{"solver": "adam"}, {"solver": "sgd"}, {"solver": "lbfgs"}])
@pytest.mark.parametrize("after", [{"solver": "adam"}, {"solver": "sgd", "learning_rate": "adaptive"}])
def test_settings_changed_after_fit(before, after, tmp_path):
    """The state in the file is of the optimizer that has trained, whichever is to go on."""
    model = BackpropClassifier(**SMALL, **before).fit(X, Y).set_params(**after)
    again = load(save(model, tmp_path / "model.safetensors"))
    same(model, again)
    for estimator in (model, again):
        for _ in range(2):
            estimator.partial_fit(X, Y)
    same(model, again)


def test_another_tool_reads_the_weights(model, tmp_path):
    arrays = load_file(save(model, tmp_path / "a.safetensors"))
    a = np.maximum(X @ arrays["coefs/0"] + arrays["intercepts/0"], 0)
    a = np.maximum(a @ arrays["coefs/1"] + arrays["intercepts/1"], 0)
    z = a @ arrays["coefs/2"] + arrays["intercepts/2"]
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(pd.DataFrame(X, columns=list("abcd"))), expected, rtol=1e-5)


def test_every_damage_is_refused(model, tmp_path):
    path = save(model, tmp_path / "a.safetensors")
    content = path.read_bytes()
    for end in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="is no intact safetensors file"):
            load(path)
    for place in np.random.default_rng(0).integers(0, len(content), 40):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            load(path)


def test_settings_may_have_changed_since_the_fit(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    model = BackpropClassifier((4, 3), max_iter=5, random_state=0).fit(X, y)
    model.set_params(solver="sgd", hidden_layer_sizes=(7,), batch_size=10)
    again = load(save(model, tmp_path / "a.safetensors"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.fit(X, y).coefs_[0].shape == (3, 7)


def test_the_velocity_of_older_files_is_understood(tmp_path, monkeypatch):
    """Those of format 1 hold the sum of the gradients in its place: the velocity over minus the learning rate."""
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    model = BackpropClassifier((4,), solver="sgd", max_iter=5, random_state=0, dtype="float64", learning_rate_init=0.1)
    model.partial_fit(X, y, classes=[0, 1]).partial_fit(X, y)
    older = copy.deepcopy(model)
    older._optimizer_state = jax.tree.map(lambda v: v / -0.1, model._optimizer_state)
    with monkeypatch.context() as earlier:
        earlier.setattr(model_file, "FORMAT", 1)
        path = save(older, tmp_path / "a.safetensors")
    np.testing.assert_allclose(load(path).partial_fit(X, y).coefs_[0], model.partial_fit(X, y).coefs_[0], rtol=1e-12)


def test_foreign_files_are_refused(model, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("not at all")
    with pytest.raises(ValueError, match="is no intact safetensors file"):
        load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="was not written by jaxbackprop"):
        load(path)
    save_file({"weight": np.zeros(3)}, path, metadata={"jaxbackprop": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match="its format is 99"):
        load(path)
    save_file({"weight": np.zeros(3)}, path, metadata={"jaxbackprop": "[}"})
    with pytest.raises(ValueError, match="is damaged"):
        load(path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load(tmp_path / "none.safetensors")


def test_what_cannot_be_saved_is_refused(model, tmp_path):
    with pytest.raises(NotFittedError):
        save(BackpropClassifier(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save(model, tmp_path / "model.pkl")


def test_only_networks_are_saved(tmp_path, as_users_run_it):
    with pytest.raises(ValueError, match=r"must be one of BackpropClassifier, .*, got SweepSearchCV"):
        save(SweepSearchCV(BackpropClassifier(), {}), tmp_path / "a.safetensors")


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = save(model, tmp_path / "a.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
