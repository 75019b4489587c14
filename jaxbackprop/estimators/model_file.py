"""Trained models in one `.safetensors` file: arrays that any tool can read, and the settings as JSON beside them.

    metadata["jaxbackprop"]     JSON: format, estimator, settings, fitted attributes, SHA-256 of it all

Which arrays there are is said in `network_file`, `mixture_file` and `ensemble_file`.

Nothing in the file is run: arrays are read as bytes, the rest as JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.estimators.ensemble import BaseSweepEnsemble
from jaxbackprop.estimators.ensemble_file import ENSEMBLES, ensemble_contents, rebuild_ensemble
from jaxbackprop.estimators.mixture_file import (
    mixture_contents,
    rebuild_mixture,
    rebuild_search_ensemble,
    search_ensemble_contents,
)
from jaxbackprop.estimators.network_file import NETWORKS, network_contents, rebuild_network
from jaxbackprop.estimators.search_ensemble import SearchEnsemble
from jaxbackprop.files import whole_file
from jaxbackprop.sweeps.mixture import Mixture

FORMAT = 4
KEY = "jaxbackprop"
Model = BaseBackprop | BaseSweepEnsemble | Mixture | SearchEnsemble
# Of every class whose objects have a file: the class, its contents, and their inverse.
KINDS: dict[str, tuple[type, Any, Any]] = {
    **{name: (kind, network_contents, rebuild_network) for name, kind in NETWORKS.items()},
    **{name: (kind, ensemble_contents, rebuild_ensemble) for name, kind in ENSEMBLES.items()},
    "Mixture": (Mixture, mixture_contents, rebuild_mixture),
    "SearchEnsemble": (SearchEnsemble, search_ensemble_contents, rebuild_search_ensemble),
}


def save(estimator: Model, path: str | Path) -> Path:
    """Write a trained model to one file, whole or not at all.

    **Arguments:** `estimator`, a fitted network or ensemble of this package, or what the `ensemble()` of a sweep or a
    search has made; `path`, ending in `.safetensors`.

    **Returns:** the path. Directories that do not exist are made.

    **Raises:** `NotFittedError`; `ValueError` for another kind of estimator, another ending, a setting that JSON cannot
    hold, or a step before a search's networks that is none of `mixture_file.STEPS`.
    """
    known = KINDS.get(type(estimator).__name__)
    if known is None or known[0] is not type(estimator):
        raise ValueError(f"estimator must be one of {', '.join(KINDS)}, got {type(estimator).__name__}")
    if isinstance(estimator, BaseEstimator):
        check_is_fitted(estimator)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r} must end in .safetensors")
    contents, about = known[1](estimator)
    arrays = {name: np.asarray(a, order="C") for name, a in contents.items()}
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


def load(path: str | Path) -> Model:
    """The model that `save` has written, bit for bit.

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
        estimator = KINDS[about["estimator"]][2](about, arrays)
        if "feature_names" in about:
            estimator.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        return estimator
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"path={str(path)!r} is damaged or not of this version: {reason}") from error


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of all arrays, and of what is said about them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
