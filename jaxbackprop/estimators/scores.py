"""Scores of many trained networks: all at once where the score is the usual one, else one after another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.base import is_regressor
from sklearn.utils.multiclass import type_of_target

from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.inference import outputs

BLOCK = 16_000_000  # activations of a layer to hold at once


def usual(scoring: Any, network: BaseBackprop) -> bool:
    """Whether a score is accuracy (for a regressor R^2), which needs no scorer."""
    return scoring is None or scoring == ("r2" if is_regressor(network) else "accuracy")


def encode(network: BaseBackprop, y: Any) -> Shaped[np.ndarray, "samples ..."] | None:
    """y as `hits` compares it: the number of each label's class, -1 for a label that was not trained on; None if only
    scikit-learn's own score will do."""
    if is_regressor(network):
        y = np.asarray(y, float)
        return y[:, None] if y.ndim == 1 else y
    # A network that knows a single class predicts that, whatever its output.
    if type_of_target(y) not in ("binary", "multiclass") or len(network.classes_) == 1:
        return None
    y, classes = np.asarray(y).ravel(), network.classes_
    place = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    return np.where(classes[place] == y, place, -1)


def usual_scores(
    X: Float[np.ndarray, "samples features"],
    y: Shaped[np.ndarray, "samples ..."],
    coefs: Sequence[Float[np.ndarray, "networks _ _"]],
    intercepts: Sequence[Float[np.ndarray, "networks _"]],
    activation: str | tuple[str, ...],
    objective: str,
) -> Float[np.ndarray, " networks"]:
    """Accuracy or R^2 of stacked networks; `y` is from `encode`."""
    total = len(intercepts[0])
    block = max(1, BLOCK // (len(X) * max(b.shape[1] for b in intercepts)))
    scores = []
    for start in range(0, total, block):
        part = slice(start, start + block)
        y_hat = outputs(X, [c[part] for c in coefs], [b[part] for b in intercepts], activation, objective)
        scores.append(_r2(y_hat, y) if objective in ("squared", "poisson") else _hits(y_hat, y).mean(axis=1))
    return np.concatenate(scores)


def _hits(
    y_hat: Float[np.ndarray, "networks samples outputs"], y: Int[np.ndarray, " samples"]
) -> Bool[np.ndarray, "networks samples"]:
    return ((y_hat[..., 0] > 0.5) if y_hat.shape[-1] == 1 else np.argmax(y_hat, axis=-1)) == y


def _r2(
    y_hat: Float[np.ndarray, "networks samples outputs"], y: Float[np.ndarray, "samples outputs"]
) -> Float[np.ndarray, " networks"]:
    """As `sklearn.metrics.r2_score`, averaged over the outputs."""
    if len(y) < 2:
        return np.full(len(y_hat), np.nan)
    residual, total = ((y_hat - y) ** 2).sum(axis=1), ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    constant = np.where(residual == 0, 1.0, 0.0)
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), constant).mean(axis=1)
