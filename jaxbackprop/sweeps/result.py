"""What a sweep hands back: a table, the parameters of every trial, the course of every training."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxbackprop._checks import check_integer
from jaxbackprop.activations import OneOrEach
from jaxbackprop.data import features_first
from jaxbackprop.embedded import Embedded, behind, features_of
from jaxbackprop.losses import OBJECTIVES, Objective
from jaxbackprop.network import forward
from jaxbackprop.sweeps.greedy import BAGS, LIBRARY, ROUNDS
from jaxbackprop.sweeps.grid import Trial, name_of
from jaxbackprop.sweeps.host import Job
from jaxbackprop.sweeps.mixing import mix
from jaxbackprop.sweeps.mixture import Mixture
from jaxbackprop.sweeps.planner import Plan
from jaxbackprop.sweeps.program import Metrics
from jaxbackprop.sweeps.splits import Splits, labels_of
from jaxbackprop.sweeps.state import COMPLETED, STOPPED, Book

if TYPE_CHECKING:
    import pandas as pd

SCORES = {"softmax": "accuracy", "sigmoid": "accuracy", "squared": "r2", "poisson": "r2"}


@partial(jax.jit, static_argnames=("activation", "objective"))
def _y_hat(params: Embedded, x: Array, activation: OneOrEach, objective: str | Objective) -> Array:
    return forward(*behind(params, x), activation=activation, objective=objective).activations[-1]


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The outcome of `sweep`.

    - `table`: one row a trial: its settings, train and validation loss and score (accuracy, or r2 for numbers; means
      over the folds, where there are any) of the parameters handed back, on all samples and without dropout, the epochs
      it was trained for, and whether it diverged.
    - `epochs`: when the curves were recorded.
    - `train_loss`, `validation_loss`: the curves, [trials, splits, records]; NaN where a trial was not trained. With
      mini-batches `train_loss` is the running loss, as scikit-learn's `loss_curve_` is: the mean loss of the batches
      since the record before, each before its step and with its dropout; the first point, before any training, is the
      loss of all training samples. So its last point is not the `train_loss` of the table. All losses include the
      penalty, l2/2 times the sum of the squared weights.
    - `finished`: which trials were trained to the end, by their epochs or by early stopping; not those that halving
      or pruning dropped or an interruption cut short.
    - `plan`: the programs that trained the trials.
    - `objective`: what they were trained for; `targets`: how y was read, as the objective of that name reads it.
    """

    table: "pd.DataFrame"
    trials: Sequence[Trial]
    epochs: Int[np.ndarray, " records"]
    train_loss: Float[np.ndarray, "trials splits records"]
    validation_loss: Float[np.ndarray, "trials splits records"]
    finished: Bool[np.ndarray, " trials"]
    plan: Plan
    objective: str | Objective
    targets: str
    classes: Shaped[np.ndarray, " classes"] | None
    _book: Book
    _splits: Splits

    def params(self, trial: SupportsIndex, split: SupportsIndex = 0) -> Embedded:
        """The trained parameters of one trial, as NumPy arrays; of a sweep with `frequencies` these come first, as
        `embedded.Waves`.

        **Raises:** `ValueError` if there is no such trial or split.
        """
        trial, split = check_integer("trial", trial, 0), check_integer("split", split, 0)
        if trial >= len(self.trials) or split >= self._book.splits:
            shape = (len(self.trials), self._book.splits)
            raise ValueError(f"trial={trial}, split={split} is none of {shape} trials and splits")
        return self._book.params(trial * self._book.splits + split)

    def split_metrics(self) -> Metrics:
        """Loss and score of every trial on every split, of what it trained on and of what was held out: [trials,
        splits] each."""
        shape = (len(self.trials), self._book.splits)
        return jax.tree.map(lambda values: np.array(values).reshape(shape), self._book.outcome())

    def best(self) -> int:
        """The trial with the lowest validation loss (training loss where nothing was held out) of those that were
        trained to the end. As the penalty is in the loss, trials of different l2 are better compared by their score.

        **Raises:** `ValueError` if there is none: all have diverged, or were interrupted before their end.
        """
        part = "validation" if self.table["validation_loss"].notna().any() else "train"
        losses = self.table[f"{part}_loss"].to_numpy(float)
        diverged = self.table["diverged"].to_numpy(bool)
        good = self.finished & ~diverged & np.isfinite(losses)
        if not good.any():
            raise ValueError(
                f"no trial can be the best: of {len(self.trials)} trials {int(self.finished.sum())} were trained to "
                f"the end, and {int(diverged.sum())} diverged; train on, or try lower learning rates"
            )
        return int(np.argmin(np.where(good, losses, np.inf)))

    def predict_proba(
        self, trial: SupportsIndex, X: Any, split: SupportsIndex = 0
    ) -> Float[np.ndarray, "samples classes"]:
        """y-hat of one trial for X (n_samples, n_features): a row for each sample, of probabilities, or of predicted
        numbers.

        **Raises:** `ValueError` if there is no such trial or split, or X does not fit.
        """
        params = self.params(trial, split)
        x = jax.numpy.asarray(features_first(X, features=features_of(params)), self._splits.dtype)
        return np.asarray(_y_hat(params, x, self.trials[operator.index(trial)].activation, self.objective)).T

    def predict(self, trial: SupportsIndex, X: Any, split: SupportsIndex = 0) -> Shaped[np.ndarray, "samples ..."]:
        """The labels that one trial predicts for X; 0 or 1 a label for several labels, numbers for numbers."""
        return labels_of(self.predict_proba(trial, X, split), self.targets, self.classes)

    def ensemble(self, *, rounds: int = ROUNDS, bags: int = BAGS, library: int = LIBRARY, seed: int = 0) -> Mixture:
        """The trials that predict best together, chosen with replacement on the samples that their networks were not
        trained on (Caruana et al. 2004), calibrated by one temperature; nothing is trained again. The networks of all
        splits predict.

        **Arguments:** `rounds`, how many are chosen in a bag at most; `bags`, of how many choices from random halves of
        the trials the mean is taken; `library`, how many trials to choose from, those best alone; `seed`, of the bags.

        **Raises:** `ValueError` if the sweep held nothing out, or no trial was trained to the end.
        """
        return mix(
            self.trials,
            self._book,
            self._splits,
            self.objective,
            rounds=rounds,
            bags=bags,
            library=library,
            seed=seed,
        )

    def save_html(self, path: str | Path, X: Any = None, y: Any = None) -> Path:
        """A page to look at, in one file: the trials as a table and as lines through their settings, their loss curves,
        and, where X (n_samples, 2) is given, the plane as the best of them see it, with the samples and their labels y.

        **Returns:** the path.

        **Raises:** `ValueError` if X and y do not belong together.
        """
        from jaxbackprop.sweeps.sweep_page import save_sweep

        return save_sweep(path, self, X, y)


def make_result(job: Job, book: Book) -> SweepResult:
    """What the book says, in the trials' order."""
    curves: Any = book.curves
    shape, own = (len(job.trials), book.splits), job.splits.objective
    return SweepResult(
        table=_make_table(job, book),
        trials=job.trials,
        epochs=job.marks,
        train_loss=curves.train_loss.T.reshape(*shape, -1),
        validation_loss=curves.validation_loss.T.reshape(*shape, -1),
        finished=np.asarray(np.isin(book.status, (STOPPED, COMPLETED)).reshape(shape).all(axis=1)),
        plan=job.plan,
        objective=name_of(own) if OBJECTIVES.get(own.name) is own else own,
        targets=job.splits.targets,
        classes=job.splits.classes,
        _book=book,
        _splits=job.splits,
    )


def _make_table(job: Job, book: Book) -> "pd.DataFrame":
    """One row a trial: its settings and what came of it, averaged over the splits."""
    import pandas as pd

    score = SCORES[job.splits.targets]
    table = pd.DataFrame([[name_of(value) for value in trial] for trial in job.trials], columns=Trial._fields)
    table.index.name = "trial"
    table["hidden"] = [trial.hidden for trial in job.trials]
    shape = (len(job.trials), book.splits)
    final = {name: values.reshape(shape) for name, values in book.outcome()._asdict().items()}
    table["train_loss"] = final["train_loss"].mean(axis=1)
    table["validation_loss"] = final["validation_loss"].mean(axis=1)
    table[f"train_{score}"] = final["train_score"].mean(axis=1)
    table[f"validation_{score}"] = final["validation_score"].mean(axis=1)
    if shape[1] > 1:
        table[f"validation_{score}_std"] = final["validation_score"].std(axis=1)
    epochs = book.epoch.reshape(shape).max(axis=1)
    table["epochs"] = epochs
    if book.monitored is not None:
        table["best_epoch"] = job.marks[np.maximum(book.monitored.record, 0)].reshape(shape).max(axis=1)
    # A trial that was never reached, because the sweep was interrupted before, has NaN but did not diverge.
    table["diverged"] = (epochs > 0) & ~np.isfinite(final["train_loss"]).all(axis=1)
    return table
