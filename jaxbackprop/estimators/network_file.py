"""What the file of a network holds, beside what `model_file` says of every file.

    coefs/0, intercepts/0, coefs/1, …   the parameters, scikit-learn's shapes
    optimizer/0, …                      the optimizer's state, for `partial_fit`

Of a network that is not trained there are none: a search's ensemble asks it what it is for.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from sklearn.preprocessing import LabelBinarizer

from jaxbackprop.estimators.base import BaseBackprop, Optimizing
from jaxbackprop.estimators.classifier import BackpropClassifier
from jaxbackprop.estimators.glorot import to_params
from jaxbackprop.estimators.plain_data import plain, plain_labels, restored, restored_labels
from jaxbackprop.estimators.regressor import BackpropRegressor
from jaxbackprop.optimizers import get_optimizer

NETWORKS: dict[str, type[BaseBackprop]] = {kind.__name__: kind for kind in (BackpropClassifier, BackpropRegressor)}
FITTED = (
    "n_iter_", "n_layers_", "n_outputs_", "out_activation_", "t_", "loss_", "best_loss_", "loss_curve_",
    "validation_scores_", "validation_loss_curve_", "_no_improvement_count", "best_validation_score_", "n_features_in_",
)  # fmt: skip


def network_contents(estimator: BaseBackprop) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a network, and what is to be said about them."""
    arrays = {f"coefs/{l}": a for l, a in enumerate(estimator.coefs_)}
    arrays |= {f"intercepts/{l}": a for l, a in enumerate(estimator.intercepts_)}
    state = jax.tree.leaves(getattr(estimator, "_optimizer_state", ()))
    arrays |= {f"optimizer/{i}": a for i, a in enumerate(state)}
    about: dict[str, Any] = {
        "settings": _settings(estimator),
        "optimizer": getattr(estimator, "_optimizer_name", "sgd"),
        "learning_rate": estimator._optimizer.learning_rate if hasattr(estimator, "_optimizer") else None,
        "fitted": {name: plain(name, getattr(estimator, name)) for name in FITTED if hasattr(estimator, name)},
    }
    if isinstance(estimator, BackpropClassifier):
        about["labels"] = _labels(estimator)
    return arrays, about


def rebuild_network(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BaseBackprop:
    """The inverse of `network_contents`."""
    estimator = _as_set(about)
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
        _label(estimator, about["labels"])
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


def untrained_contents(network: BaseBackprop) -> dict[str, Any]:
    """What is to be said about a network that has no parameters, but knows which features and classes it is for."""
    about = {"estimator": type(network).__name__, "settings": _settings(network), "features": network.n_features_in_}
    if hasattr(network, "feature_names_in_"):
        about["feature_names"] = list(network.feature_names_in_)
    if isinstance(network, BackpropClassifier):
        about["labels"] = _labels(network)
    return about


def rebuild_untrained(about: Mapping[str, Any]) -> BaseBackprop:
    """The inverse of `untrained_contents`."""
    network = _as_set(about)
    network.n_features_in_ = about["features"]
    if "feature_names" in about:
        network.feature_names_in_ = np.array(about["feature_names"], dtype=object)
    if isinstance(network, BackpropClassifier):
        _label(network, about["labels"])
    return network


def _settings(estimator: BaseBackprop) -> dict[str, Any]:
    return {name: plain(name, value) for name, value in estimator.get_params(deep=False).items()}


def _as_set(about: Mapping[str, Any]) -> BaseBackprop:
    settings = {name: restored(value) for name, value in about["settings"].items()}
    estimator = NETWORKS[about["estimator"]](**settings)
    estimator._validate_params()
    return estimator


def _labels(classifier: BackpropClassifier) -> dict[str, Any]:
    binarizer = classifier._label_binarizer
    return {
        **plain_labels(classifier.classes_),
        "y_type": binarizer.y_type_,
        "sparse": bool(binarizer.sparse_input_),
    }


def _label(classifier: BackpropClassifier, labels: Mapping[str, Any]) -> None:
    binarizer = LabelBinarizer()
    binarizer.classes_ = restored_labels(labels)
    binarizer.y_type_, binarizer.sparse_input_ = labels["y_type"], labels["sparse"]
    classifier._label_binarizer, classifier.classes_ = binarizer, binarizer.classes_
