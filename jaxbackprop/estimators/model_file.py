"""Trained estimators in one `.safetensors` file: arrays that any tool can read, and the settings as JSON beside them.

    coefs/0, intercepts/0, coefs/1, …   the parameters, scikit-learn's shapes
    optimizer/0, …                      the optimizer's state, for `partial_fit`
    metadata["jaxbackprop"]             JSON: format, estimator, settings, fitted attributes, SHA-256 of it all

An ensemble's file is described in `ensemble_file`.

Nothing in the file is run: arrays are read as bytes, the rest as JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from jaxbackprop.estimators.base import BaseBackprop, Optimizing
from jaxbackprop.estimators.classifier import BackpropClassifier
from jaxbackprop.estimators.ensemble import BaseSweepEnsemble
from jaxbackprop.estimators.ensemble_file import ENSEMBLES, ensemble_contents, rebuild_ensemble
from jaxbackprop.estimators.glorot import to_params
from jaxbackprop.estimators.plain_data import plain, restored
from jaxbackprop.estimators.regressor import BackpropRegressor
from jaxbackprop.files import whole_file
from jaxbackprop.optimizers import get_optimizer

FORMAT = 3
KEY = "jaxbackprop"
ESTIMATORS: dict[str, type[BaseBackprop]] = {kind.__name__: kind for kind in (BackpropClassifier, BackpropRegressor)}
FITTED = (
    "n_iter_", "n_layers_", "n_outputs_", "out_activation_", "t_", "loss_", "best_loss_", "loss_curve_",
    "validation_scores_", "validation_loss_curve_", "_no_improvement_count", "best_validation_score_", "n_features_in_",
)  # fmt: skip


def save(estimator: BaseBackprop | BaseSweepEnsemble, path: str | Path) -> Path:
    """Write a trained estimator to one file, whole or not at all.

    **Arguments:** `estimator`, a fitted network or ensemble of this package; `path`, ending in `.safetensors`.

    **Returns:** the path. Directories that do not exist are made.

    **Raises:** `NotFittedError`; `ValueError` for another kind of estimator, another ending, or a setting that JSON
    cannot hold.
    """
    known: dict[str, type] = {**ESTIMATORS, **ENSEMBLES}
    if known.get(type(estimator).__name__) is not type(estimator):
        raise ValueError(f"estimator must be one of {', '.join(known)}, got {type(estimator).__name__}")
    check_is_fitted(estimator)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r} must end in .safetensors")
    arrays, about = _contents(estimator) if isinstance(estimator, BaseBackprop) else ensemble_contents(estimator)
    if hasattr(estimator, "feature_names_in_"):
        about["feature_names"] = list(estimator.feature_names_in_)
    about = {"format": FORMAT, "estimator": type(estimator).__name__, **about}
    try:
        text = json.dumps(about | {"sha256": _digest(arrays, about)})
    except (TypeError, ValueError) as error:
        raise ValueError(f"estimator has a class label or setting that JSON cannot hold: {error}") from error
    with whole_file(path) as partial:
        partial.write_bytes(to_bytes(arrays, metadata={KEY: text}))
    return path


def _contents(estimator: BaseBackprop) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a network, and what is to be said about them."""
    arrays = {f"coefs/{l}": np.ascontiguousarray(a) for l, a in enumerate(estimator.coefs_)}
    arrays |= {f"intercepts/{l}": np.ascontiguousarray(a) for l, a in enumerate(estimator.intercepts_)}
    state = jax.tree.leaves(getattr(estimator, "_optimizer_state", ()))
    arrays |= {f"optimizer/{i}": np.ascontiguousarray(a).reshape(np.shape(a)) for i, a in enumerate(state)}
    about: dict[str, Any] = {
        "settings": {name: plain(name, value) for name, value in estimator.get_params(deep=False).items()},
        "optimizer": getattr(estimator, "_optimizer_name", "sgd"),
        "learning_rate": estimator._optimizer.learning_rate if hasattr(estimator, "_optimizer") else None,
        "fitted": {name: plain(name, getattr(estimator, name)) for name in FITTED if hasattr(estimator, name)},
    }
    if isinstance(estimator, BackpropClassifier):
        binarizer = estimator._label_binarizer
        about["labels"] = {
            "classes": estimator.classes_.tolist(),
            "dtype": estimator.classes_.dtype.str,
            "y_type": binarizer.y_type_,
            "sparse": bool(binarizer.sparse_input_),
        }
    return arrays, about


def load(path: str | Path) -> BaseBackprop | BaseSweepEnsemble:
    """The estimator that `save` has written, bit for bit.

    **Raises:** `FileNotFoundError`; `ValueError` with the reason if the file is truncated, corrupt, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is no file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"path={str(path)!r} is no intact safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"path={str(path)!r} was not written by jaxbackprop: its metadata lack the key {KEY!r}")
    try:
        about = json.loads(metadata[KEY])
        if about["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"its format is {about['format']!r}, this version reads 1 to {FORMAT}")
        if about.pop("sha256") != _digest(arrays, about):
            raise ValueError("its contents are not those that were written")
        own: Any = rebuild_ensemble if about["estimator"] in ENSEMBLES else _rebuild
        estimator = own(about, arrays)
        if "feature_names" in about:
            estimator.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        return estimator
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"path={str(path)!r} is damaged or not of this version: {reason}") from error


def _rebuild(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BaseBackprop:
    kind = ESTIMATORS[about["estimator"]]
    settings = {name: restored(value) for name, value in about["settings"].items()}
    estimator = kind(**settings)
    estimator._validate_params()
    for name in FITTED:
        if name in about["fitted"]:
            setattr(estimator, name, about["fitted"][name])
    layers = estimator.n_layers_ - 1
    estimator.coefs_ = [np.array(arrays[f"coefs/{l}"]) for l in range(layers)]
    estimator.intercepts_ = [np.array(arrays[f"intercepts/{l}"]) for l in range(layers)]
    # The widths of the hidden layers may have been set anew after `fit`: the arrays are those that were trained.
    widths = [estimator.n_features_in_, *(len(bias) for bias in estimator.intercepts_[:-1]), estimator.n_outputs_]
    shapes = [(*coef.shape, *bias.shape) for coef, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    if shapes != [(n, m, m) for n, m in pairwise(widths)]:
        raise ValueError(f"its arrays have shapes {shapes}, which do not make the widths {widths}")
    if isinstance(estimator, BackpropClassifier):
        labels = about["labels"]
        binarizer = LabelBinarizer()
        binarizer.classes_ = np.array(labels["classes"], dtype=np.dtype(labels["dtype"]))
        binarizer.y_type_, binarizer.sparse_input_ = labels["y_type"], labels["sparse"]
        estimator._label_binarizer, estimator.classes_ = binarizer, binarizer.classes_
    # Files of earlier versions do not say which optimizer the state is of: that of the settings.
    name = about.get("optimizer", estimator._trial(0, 1).optimizer)
    state = _state(estimator, arrays, name)
    if about["format"] == 1 and name in ("momentum", "nesterov") and estimator.learning_rate == "constant":
        # Files of format 1 hold the sum of the gradients, from which the velocity follows.
        state = jax.tree.map(lambda a: (-estimator.learning_rate_init * a).astype(a.dtype), state)
    estimator._optimizer_state, estimator._optimizer_name = state, name
    if about.get("learning_rate") is not None:
        estimator._optimizer = Optimizing(about["learning_rate"])
    return estimator


def _state(estimator: BaseBackprop, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """The optimizer's state, whose structure follows from the optimizer and the parameters."""
    optimizer = get_optimizer(name)
    shapes = jax.eval_shape(optimizer.init, to_params(estimator.coefs_, estimator.intercepts_))
    leaves, structure = jax.tree.flatten(shapes)
    stored = [np.array(arrays[f"optimizer/{i}"]) for i in range(len(leaves))]
    if [a.shape for a in stored] != [a.shape for a in leaves]:
        raise ValueError("its optimizer's state does not fit its parameters")
    return jax.tree.unflatten(structure, stored)


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of all arrays, and of what is said about them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
