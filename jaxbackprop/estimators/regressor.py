"""`BackpropRegressor`: `MLPRegressor`'s interface."""

from typing import Any

import numpy as np
from jaxtyping import Shaped
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.validation import column_or_1d

from jaxbackprop.estimators.base import BaseBackprop


class BackpropRegressor(RegressorMixin, BaseBackprop):
    """A neural network that predicts one or several numbers, with the parameters, attributes and meanings of
    scikit-learn's `MLPRegressor`.

    **Arguments:** as `BackpropClassifier`, but for `class_weight`. The score of early stopping is R^2.
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BackpropRegressor":
        """Train on X (n_samples, n_features) and y, (n_samples,) or (n_samples, n_outputs).

        **Raises:** `ValueError` as scikit-learn does, and if the training diverges.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BackpropRegressor":
        """Train for one epoch, from where the last call left off."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."]:
        """The predicted numbers."""
        y_hat = self._outputs(X)
        return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat

    def _objective(self) -> str:
        return "squared"

    def _check_targets(self, y: Any, *, restart: bool) -> Shaped[np.ndarray, "samples outputs"]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return y[:, None] if y.ndim == 1 else y
