"""`BackpropRegressor`: `MLPRegressor`'s interface."""

from typing import Any

import numpy as np
from jaxtyping import Shaped
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d

from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.estimators.settings import MEMORY


class BackpropRegressor(RegressorMixin, BaseBackprop):
    """A neural network that predicts one or several numbers, with the parameters, attributes and meanings of
    scikit-learn's `MLPRegressor`.

    **Arguments:** as `BackpropClassifier`, but for `class_weight`; and `loss`, "squared_error", or "poisson" for
    counts, of which y-hat = e^z is the mean. (Its loss leaves out the terms of y alone.) The score of early stopping is
    R^2. Of several outputs the loss is the mean of their squared errors and the steps descend the sum, both as in
    `MLPRegressor`.
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's convention
        **BaseBackprop._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        dropout: Any = 0.0,
        dtype: Any = "float32",
        memory_budget: Any = MEMORY,
        devices: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
            dropout=dropout,
            dtype=dtype,
            memory_budget=memory_budget,
            devices=devices,
        )
        self.loss = loss

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BackpropRegressor":
        """Train on X (n_samples, n_features) and y, (n_samples,) or (n_samples, n_outputs).

        **Raises:** `ValueError` as scikit-learn does, and if the training diverges.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BackpropRegressor":
        """Train for one epoch, from where the last call left off."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."]:
        """The predicted numbers."""
        y_hat = self._outputs(X)
        return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat

    def _objective(self) -> str:
        return "poisson" if self.loss == "poisson" else "squared"

    def _check_targets(self, y: Any, *, restart: bool) -> Shaped[np.ndarray, "samples outputs"]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return y[:, None] if y.ndim == 1 else y
