"""What a sweep hands back: a table, the parameters of every trial, the course of every training."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import jax
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from jaxbackprop._checks import check_integer
from jaxbackprop.data import features_first
from jaxbackprop.losses import get_objective
from jaxbackprop.network import Layer, Params, forward
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.planner import Plan

SCORES = {"softmax": "accuracy", "sigmoid": "accuracy", "squared": "r2"}


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The outcome of `sweep`.

    - `table`: one row a trial: its settings, train and validation loss and score (accuracy, or r2 for numbers; means
      over the folds, where there are any), the epochs it was trained for, and whether it diverged.
    - `epochs`: when the curves were recorded.
    - `train_loss`, `validation_loss`: the curves, [trials, splits, records]; NaN where a trial was not trained.
    - `finished`: which trials were trained to the end, by their epochs or by early stopping; not those that successive
      halving dropped or an interruption cut short.
    - `plan`: the programs that trained the trials.
    """

    table: pd.DataFrame
    trials: Sequence[Trial]
    epochs: Int[np.ndarray, " records"]
    train_loss: Float[np.ndarray, "trials splits records"]
    validation_loss: Float[np.ndarray, "trials splits records"]
    finished: Bool[np.ndarray, " trials"]
    plan: Plan
    objective: str
    classes: Shaped[np.ndarray, " classes"] | None
    _stacked: Sequence[Params]  # of each program, [networks, …], padded
    _place: Int[np.ndarray, "trials splits 2"]  # program and position in it

    def params(self, trial: SupportsIndex, split: SupportsIndex = 0) -> Params:
        """The trained parameters of one trial, without padding, as NumPy arrays.

        **Raises:** `ValueError` if there is no such trial or split.
        """
        trial, split = check_integer("trial", trial, 0), check_integer("split", split, 0)
        if trial >= len(self.trials) or split >= self._place.shape[1]:
            raise ValueError(f"trial={trial}, split={split} is none of {self._place.shape[:2]} trials and splits")
        program, position = self._place[trial, split]
        stacked = self._stacked[program]
        widths = self.trials[trial].hidden
        rows = (*widths, stacked[-1].bias.shape[-1])
        columns = (stacked[0].weight.shape[-1], *widths)
        cut: Any = np.array  # a copy, so that the whole stack need not be kept for one network
        return tuple(
            Layer(cut(weight[position, :m, :n]), cut(bias[position, :m]))
            for (weight, bias), m, n in zip(stacked, rows, columns, strict=True)
        )

    def best(self) -> int:
        """The trial with the lowest validation loss (training loss where nothing was held out) of those that were
        trained to the end."""
        part = "validation" if self.table["validation_loss"].notna().any() else "train"
        losses = self.table[f"{part}_loss"].where(~self.table["diverged"] & self.finished, np.inf)
        return int(np.argmin(losses.fillna(np.inf)))

    def predict_proba(
        self, trial: SupportsIndex, X: Any, split: SupportsIndex = 0
    ) -> Float[np.ndarray, "samples classes"]:
        """y-hat of one trial for X (n_samples, n_features); for the objective "squared" the predicted numbers."""
        x = features_first(X)
        params = self.params(trial, split)
        y_hat = forward(
            jax.tree.map(jax.numpy.asarray, params),
            jax.numpy.asarray(x, params[0].weight.dtype),
            activation=self.trials[operator.index(trial)].activation,
            objective=get_objective(self.objective),
        ).activations[-1]
        return np.asarray(y_hat).T

    def predict(self, trial: SupportsIndex, X: Any, split: SupportsIndex = 0) -> Shaped[np.ndarray, "samples ..."]:
        """The labels that one trial predicts for X; 0 or 1 a label for "sigmoid", numbers for "squared"."""
        y_hat = self.predict_proba(trial, X, split)
        if self.objective == "softmax":
            classes = np.arange(y_hat.shape[1]) if self.classes is None else self.classes
            return classes[np.argmax(y_hat, axis=1)]
        if self.objective == "sigmoid":
            return (y_hat > 0.5).astype(int)
        return y_hat[:, 0] if y_hat.shape[1] == 1 else y_hat
