"""What the file of an ensemble holds, beside what `model_file` says of every file.

    stack0/weight/0, stack0/bias/0, …   networks of one depth and activation: [networks, out, in], [networks, out]
    stack0/shares                       what each of them counts in the mean
    center, scale                       the features' means and deviations; of a regressor the targets' too
    embedding/low, …                    the bins or frequencies of the features' embedding
    members, weights, curve/loss, …     the attributes of that name

Distributions of the space are kept by their names in `scipy.stats` and their numbers; a splitter is left out.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import scipy.stats

from jaxbackprop.estimators.ensemble import (
    BaseSweepEnsemble,
    SweepEnsembleClassifier,
    SweepEnsembleRegressor,
    column_of,
)
from jaxbackprop.estimators.numerical import EMBEDDINGS
from jaxbackprop.estimators.plain_data import plain, restored
from jaxbackprop.network import Layer
from jaxbackprop.sweeps.mixture import Mixture, Stack

ENSEMBLES: dict[str, type[BaseSweepEnsemble]] = {
    kind.__name__: kind for kind in (SweepEnsembleClassifier, SweepEnsembleRegressor)
}


def ensemble_contents(estimator: BaseSweepEnsemble) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a fitted ensemble, and what is to be said about them.

    **Raises:** `ValueError` for an activation of one's own, or a setting that JSON cannot hold.
    """
    mixture = estimator.mixture_
    arrays = {
        "center": estimator.center_,
        "scale": estimator.scale_,
        "members": mixture.members,
        "weights": mixture.weights,
        **{f"curve/{key}": line for key, line in mixture.curve.items()},
        **{f"result/{key}": a for key, a in estimator.cv_results_.items() if _is_numeric(a)},
    }
    embedding = estimator.embedding_
    if embedding is not None:
        arrays |= {f"embedding/{key}": a for key, a in embedding._asdict().items()}
    if isinstance(estimator, SweepEnsembleRegressor):
        arrays |= {"target_center": estimator.target_center_, "target_scale": estimator.target_scale_}
    for k, stack in enumerate(mixture.stacks):
        each = stack.activation if isinstance(stack.activation, tuple) else (stack.activation,)
        own = [activation.name for activation in each if not isinstance(activation, str)]
        if own:
            raise ValueError(f"estimator has the activation {own[0]!r}, a function that no file can hold")
        arrays[f"stack{k}/shares"] = stack.shares
        for l, layer in enumerate(stack.params):
            arrays |= {f"stack{k}/weight/{l}": np.asarray(layer.weight), f"stack{k}/bias/{l}": np.asarray(layer.bias)}
    about = {
        "settings": {name: _setting(name, value) for name, value in estimator.get_params(deep=False).items()},
        "embedding": next((name for name, kind in EMBEDDINGS.items() if isinstance(embedding, kind)), None),
        "activations": [stack.activation for stack in mixture.stacks],
        "layers": [len(stack.params) for stack in mixture.stacks],
        "objective": mixture.objective,
        "targets": mixture.targets,
        "temperature": mixture.temperature,
        "score": mixture.score,
        "loss": mixture.loss,
        "fitted": {name: int(getattr(estimator, name)) for name in ("n_features_in_", "n_iter_")},
        "results": {key: plain(key, _listed(a)) for key, a in estimator.cv_results_.items() if not _is_numeric(a)},
        "order": list(estimator.cv_results_),
    }
    if isinstance(estimator, SweepEnsembleClassifier):
        about["labels"] = {"classes": estimator.classes_.tolist(), "dtype": estimator.classes_.dtype.str}
    if isinstance(estimator, SweepEnsembleRegressor):
        about["several"] = estimator._several
    return {name: np.ascontiguousarray(a) for name, a in arrays.items()}, about


def rebuild_ensemble(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BaseSweepEnsemble:
    """The inverse of `ensemble_contents`."""
    estimator = ENSEMBLES[about["estimator"]](
        **{name: _restored_setting(value) for name, value in about["settings"].items()}
    )
    make: Any = Layer
    stacks = tuple(
        Stack(
            tuple(activation) if isinstance(activation, list) else activation,
            tuple(make(arrays[f"stack{k}/weight/{l}"], arrays[f"stack{k}/bias/{l}"]) for l in range(layers)),
            arrays[f"stack{k}/shares"],
        )
        for k, (activation, layers) in enumerate(zip(about["activations"], about["layers"], strict=True))
    )
    estimator._take(
        Mixture(
            arrays["members"],
            arrays["weights"],
            about["temperature"],
            about["score"],
            about["loss"],
            {key: arrays[f"curve/{key}"] for key in ("members", "loss", "score")},
            stacks,
            about["objective"],
            about["targets"],
            np.arange(stacks[0].params[-1].bias.shape[-1]) if about["targets"] == "softmax" else None,
        )
    )
    estimator.center_, estimator.scale_ = arrays["center"], arrays["scale"]
    # Files of formats 1 and 2 know no embedding.
    kind = EMBEDDINGS[about["embedding"]] if about.get("embedding") is not None else None
    estimator.embedding_ = None if kind is None else kind(*(arrays[f"embedding/{key}"] for key in kind._fields))
    for name, value in about["fitted"].items():
        setattr(estimator, name, value)
    results = {key: restored(value) for key, value in about["results"].items()}
    results = {key: value if key == "params" else column_of(value) for key, value in results.items()}
    estimator.cv_results_ = {key: arrays[f"result/{key}"] if f"result/{key}" in arrays else results[key]
                             for key in about["order"]}  # fmt: skip
    if isinstance(estimator, SweepEnsembleClassifier):
        estimator.classes_ = np.array(about["labels"]["classes"], dtype=np.dtype(about["labels"]["dtype"]))
    if isinstance(estimator, SweepEnsembleRegressor):
        estimator._several = about["several"]
        estimator.target_center_, estimator.target_scale_ = arrays["target_center"], arrays["target_scale"]
    return estimator


def _is_numeric(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind in "iuf"


def _listed(column: Any) -> Any:
    return list(column) if isinstance(column, np.ndarray) else column


def _setting(name: str, value: Any) -> Any:
    """A setting as JSON holds it: distributions by their names and numbers; a splitter, which is no part of what was
    trained, is left out."""
    if name == "cv" and not isinstance(value, Integral):
        return None
    if name == "space" and value is not None:
        return {"space": {key: _entry(key, entry) for key, entry in value.items()}}
    return plain(name, value)


def _entry(key: str, entry: Any) -> Any:
    if not hasattr(entry, "rvs"):
        return {"values": plain(key, list(entry))}
    name = getattr(getattr(entry, "dist", None), "name", None)
    if not isinstance(name, str) or not hasattr(scipy.stats, name):
        raise ValueError(f"space[{key!r}]={entry!r} is no distribution of scipy.stats, which a file could hold")
    return {"dist": name, "args": plain(key, list(entry.args)), "kwds": plain(key, dict(entry.kwds))}


def _restored_setting(value: Any) -> Any:
    if not isinstance(value, dict) or "space" not in value:
        return restored(value)
    return {key: _restored_entry(entry) for key, entry in value["space"].items()}


def _restored_entry(entry: Mapping[str, Any]) -> Any:
    if "values" in entry:
        return restored(entry["values"])
    kind = getattr(scipy.stats, entry["dist"])
    if not isinstance(kind, scipy.stats.rv_continuous | scipy.stats.rv_discrete):
        raise ValueError(f"{entry['dist']!r} is no distribution")
    return kind(*restored(entry["args"]), **restored(entry["kwds"]))
