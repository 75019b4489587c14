"""The ensembles of the estimators in a file: they predict the same in another process, bit for bit."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import loguniform
from sklearn.base import clone
from test_ensemble import LABELS, SMALL, SPACE, X, Y

from jaxbackprop.embedded import Waves
from jaxbackprop.estimators import (
    SweepEnsembleClassifier,
    SweepEnsembleRegressor,
    ensemble_file,
    load,
    model_file,
    save,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from jaxbackprop.estimators import load
method, samples, *paths = sys.argv[1:]
X = np.load(samples)
np.savez(samples + ".npz", *(getattr(load(path), method)(X) for path in paths))
"""


def in_another_process(method, X, *paths):
    """What the model in each file predicts where nothing else is known of it."""
    samples = paths[0].with_name("samples.npy")
    np.save(samples, X)
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, method, samples, *paths], check=True, timeout=280)
    with np.load(f"{samples}.npz") as predictions:
        return [*predictions.values()]


@pytest.fixture(scope="module")
def model():
    return SweepEnsembleClassifier(**SMALL).fit(pd.DataFrame(X, columns=list("abcd")), LABELS[Y])


def test_a_table_of_activations_alone_and_by_layer(tmp_path):
    space = {"hidden": [(4, 3)], "activation": ["tanh", ("relu", "tanh")], "learning_rate": [0.01]}
    model = SweepEnsembleClassifier(**{**SMALL, "space": space, "max_iter": 2, "cv": np.int64(3)}).fit(X, Y)
    again = load(save(model, tmp_path / "ensemble.safetensors"))
    for one in (model, again):
        assert set(one.cv_results_["param_activation"]) == {"tanh", ("relu", "tanh")}
    assert again.cv == 3


@pytest.mark.parametrize("kind", [SweepEnsembleClassifier, SweepEnsembleRegressor])
def test_round_trip(kind, tmp_path):
    model = kind(**{**SMALL, "space": {**SPACE, "learning_rate": loguniform(1e-3, 0.1)}}).fit(X, Y)
    again = load(save(model, tmp_path / "ensemble.safetensors"))
    np.testing.assert_array_equal(model.predict(X), again.predict(X))
    assert again.oof_score_ == model.oof_score_
    assert list(again.cv_results_) == list(model.cv_results_)
    for name, column in model.cv_results_.items():
        np.testing.assert_array_equal(np.asarray(column, object), np.asarray(again.cv_results_[name], object))
    rate = again.space["learning_rate"]
    assert (rate.dist.name, rate.args) == ("loguniform", (1e-3, 0.1))
    again.fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), again.predict(X))


def test_a_file_keeps_names_and_labels(model, tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    again = load(save(model, tmp_path / "ensemble.safetensors"))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(again.feature_names_in_, list("abcd"))
    assert again.temperature_ == model.temperature_


@pytest.mark.parametrize(
    ("kind", "embedding"), [(SweepEnsembleRegressor, "piecewise_linear"), (SweepEnsembleClassifier, "periodic")]
)
def test_an_embedding_predicts_the_same_out_of_its_file(kind, embedding, tmp_path):
    model = clone(kind(**SMALL)).set_params(numerical_embedding=embedding).fit(X, Y)
    assert model.score(X, Y) > 0.9
    [again] = in_another_process("predict", X, save(model, tmp_path / "ensemble.safetensors"))
    np.testing.assert_array_equal(again, model.predict(X))
    model.set_params(numerical_embedding=None)  # says what the next fit does
    np.testing.assert_array_equal(again, model.predict(X))


def test_files_from_before_embeddings(model, tmp_path, monkeypatch):
    def before(estimator):
        arrays, about = ensemble_file.ensemble_contents(estimator)
        del about["embedding"], about["settings"]["numerical_embedding"]
        return arrays, about

    with monkeypatch.context() as earlier:
        earlier.setattr(model_file, "FORMAT", 2)
        earlier.setitem(model_file.KINDS, "SweepEnsembleClassifier", (SweepEnsembleClassifier, before, None))
        path = save(model, tmp_path / "ensemble.safetensors")
    frame = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_array_equal(load(path).predict_proba(frame), model.predict_proba(frame))


def test_files_from_when_frequencies_were_drawn_and_not_trained(tmp_path, monkeypatch):
    """Then all networks had the same, and saw the features in their order, and sines and cosines behind them."""
    inputs = np.c_[X[:, 0] > 0, X, X[:, 1] > 0][:, [0, 1, 5, 2, 3, 4]]  # features of two values among the others
    own = clone(SweepEnsembleClassifier(**SMALL)).set_params(numerical_embedding="periodic").fit(inputs, Y)
    waves, order = Waves(own.embedding_.frequency), own.embedding_.order
    common = [(Waves(np.stack([waves.frequency] * len(s.shares))), *s.params[1:]) for s in own.mixture_.stacks]
    stacks = tuple(s._replace(params=params) for s, params in zip(own.mixture_.stacks, common, strict=True))
    own._take(dataclasses.replace(own.mixture_, stacks=stacks))

    def before(estimator):
        arrays, about = ensemble_file.ensemble_contents(estimator)
        columns = np.r_[np.argsort(order), np.arange(len(order), len(order) + 2 * waves.frequency.size)]
        for k in range(len(stacks)):
            del arrays[f"stack{k}/frequency"]
            arrays[f"stack{k}/weight/0"] = np.ascontiguousarray(arrays[f"stack{k}/weight/0"][:, :, columns])
        del arrays["embedding/order"]
        embedded = np.sort(order[: len(waves.frequency)])
        arrays["embedding/column"] = np.repeat(embedded, waves.frequency.shape[1])
        arrays["embedding/frequency"] = waves.frequency.reshape(-1)
        return arrays, about

    with monkeypatch.context() as earlier:
        earlier.setattr(model_file, "FORMAT", 3)
        earlier.setitem(model_file.KINDS, "SweepEnsembleClassifier", (SweepEnsembleClassifier, before, None))
        path = save(own, tmp_path / "ensemble.safetensors")
    np.testing.assert_array_equal(load(path).predict_proba(inputs), own.predict_proba(inputs))
    again = load(save(load(path), tmp_path / "again.safetensors"))
    np.testing.assert_array_equal(again.predict_proba(inputs), own.predict_proba(inputs))
