"""What the file of an ensemble holds, beside what `model_file` says of every file and `mixture_file` of its networks.

    center, scale                       the features' means and deviations; of a regressor the targets' too
    embedding/low, …                    the bins of the features' embedding, or where its frequencies start
    result/…                            numbers of `cv_results_`

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
from jaxbackprop.estimators.mixture_file import mixture_contents, rebuild_mixture
from jaxbackprop.estimators.numerical import EMBEDDINGS, WAVES, Periodic
from jaxbackprop.estimators.plain_data import plain, plain_labels, restored, restored_labels

ENSEMBLES: dict[str, type[BaseSweepEnsemble]] = {
    kind.__name__: kind for kind in (SweepEnsembleClassifier, SweepEnsembleRegressor)
}


def ensemble_contents(estimator: BaseSweepEnsemble) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a fitted ensemble, and what is to be said about them.

    **Raises:** `ValueError` for an activation of one's own, or a setting that JSON cannot hold.
    """
    arrays, of_mixture = mixture_contents(estimator.mixture_)
    arrays |= {
        "center": estimator.center_,
        "scale": estimator.scale_,
        **{f"result/{key}": a for key, a in estimator.cv_results_.items() if _is_numeric(a)},
    }
    embedding = estimator.embedding_
    if embedding is not None:
        arrays |= {f"embedding/{key}": a for key, a in embedding._asdict().items()}
    if isinstance(estimator, SweepEnsembleRegressor):
        arrays |= {"target_center": estimator.target_center_, "target_scale": estimator.target_scale_}
    about: dict[str, Any] = of_mixture | {
        "settings": {name: _setting(name, value) for name, value in estimator.get_params(deep=False).items()},
        "embedding": next((name for name, kind in EMBEDDINGS.items() if isinstance(embedding, kind)), None),
        "fitted": {name: int(getattr(estimator, name)) for name in ("n_features_in_", "n_iter_")},
        "results": {key: plain(key, _listed(a)) for key, a in estimator.cv_results_.items() if not _is_numeric(a)},
        "order": list(estimator.cv_results_),
    }
    if isinstance(estimator, SweepEnsembleClassifier):
        about["labels"] = plain_labels(estimator.classes_)
    if isinstance(estimator, SweepEnsembleRegressor):
        about["several"] = estimator._several
    return arrays, about


def rebuild_ensemble(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BaseSweepEnsemble:
    """The inverse of `ensemble_contents`."""
    estimator = ENSEMBLES[about["estimator"]](
        **{name: _restored_setting(value) for name, value in about["settings"].items()}
    )
    # Files of formats 1 and 2 know no embedding.
    kind = EMBEDDINGS[about["embedding"]] if about.get("embedding") is not None else None
    if kind is Periodic and about["format"] == 3:
        arrays = _with_waves(arrays, int(about["fitted"]["n_features_in_"]), len(about["layers"]))
    # The mixture numbers its classes, whose names the estimator knows.
    classifies = about["targets"] == "softmax"
    numbers = plain_labels(np.arange(len(about["labels"]["classes"]))) if classifies else None
    estimator._take(rebuild_mixture({**about, "labels": numbers}, arrays))
    estimator.center_, estimator.scale_ = arrays["center"], arrays["scale"]
    estimator.embedding_ = None if kind is None else kind(*(arrays[f"embedding/{key}"] for key in kind._fields))
    for name, value in about["fitted"].items():
        setattr(estimator, name, value)
    results = {key: restored(value) for key, value in about["results"].items()}
    results = {key: value if key == "params" else column_of(value) for key, value in results.items()}
    estimator.cv_results_ = {key: arrays[f"result/{key}"] if f"result/{key}" in arrays else results[key]
                             for key in about["order"]}  # fmt: skip
    if isinstance(estimator, SweepEnsembleClassifier):
        estimator.classes_ = restored_labels(about["labels"])
    if isinstance(estimator, SweepEnsembleRegressor):
        estimator._several = about["several"]
        estimator.target_center_, estimator.target_scale_ = arrays["target_center"], arrays["target_scale"]
    return estimator


def _with_waves(arrays: Mapping[str, np.ndarray], features: int, stacks: int) -> dict[str, np.ndarray]:
    """The arrays of a file of format 3, whose networks had frequencies in common, [features x waves], and saw all
    features before their sines and cosines, as if each network had trained its own to the same end."""
    column = arrays["embedding/column"]
    order = np.concatenate([column[::WAVES], np.setdiff1d(np.arange(features), column)])
    frequency = arrays["embedding/frequency"].reshape(-1, WAVES)
    own = {**arrays, "embedding/order": order, "embedding/frequency": frequency}
    for k in range(stacks if frequency.size else 0):
        weight = arrays[f"stack{k}/weight/0"]
        own[f"stack{k}/weight/0"] = np.concatenate([weight[..., order], weight[..., features:]], axis=-1)
        own[f"stack{k}/frequency"] = np.broadcast_to(frequency, (len(weight), *frequency.shape))
    return own


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
