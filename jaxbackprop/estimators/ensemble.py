"""`SweepEnsembleClassifier`, `SweepEnsembleRegressor`: many networks, trained at once, that predict together."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context, is_classifier
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.preprocessing import LabelEncoder
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from jaxbackprop.devices import precision
from jaxbackprop.estimators.base import draw_seed
from jaxbackprop.estimators.numerical import EMBEDDINGS, Bins, Periodic, embed, fit_embedding, frequencies
from jaxbackprop.estimators.samples import positions
from jaxbackprop.estimators.settings import MEMORY
from jaxbackprop.estimators.space import draw_candidates
from jaxbackprop.sweeps.greedy import BAGS, ROUNDS
from jaxbackprop.sweeps.grid import name_of
from jaxbackprop.sweeps.interface import sweep
from jaxbackprop.sweeps.mixture import Mixture, plot_members
from jaxbackprop.sweeps.result import SweepResult

BATCH = 256  # samples, at most, where the estimator chooses
STEPS = 8  # of an epoch, at least, where the samples are enough for batches of FEWEST
FEWEST = 16
LOOKS = 4  # records in the epochs that early stopping waits


class BaseSweepEnsemble(BaseEstimator):
    """What the two ensembles share."""

    members_: np.ndarray
    weights_: np.ndarray
    oof_score_: float
    oof_loss_: float
    oof_curve_: dict[str, np.ndarray]
    cv_results_: dict[str, Any]
    n_iter_: int
    mixture_: Mixture
    center_: np.ndarray
    scale_: np.ndarray
    embedding_: Bins | Periodic | None

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's convention
        "n_candidates": [Interval(Integral, 1, None, closed="left")],
        "space": [dict, None],
        "cv": ["cv_object"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), None],
        "numerical_embedding": [StrOptions(set(EMBEDDINGS)), None],
        "rounds": [Interval(Integral, 1, None, closed="left")],
        "bags": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "dtype": [StrOptions({"float32", "float64", "input"})],
        "memory_budget": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_candidates: Any = 64,
        *,
        space: Any = None,
        cv: Any = 5,
        max_iter: Any = 200,
        n_iter_no_change: Any = 20,
        batch_size: Any = "auto",
        numerical_embedding: Any = None,
        rounds: Any = ROUNDS,
        bags: Any = BAGS,
        random_state: Any = None,
        dtype: Any = "float32",
        memory_budget: Any = MEMORY,
        verbose: Any = False,
    ) -> None:
        self.n_candidates = n_candidates
        self.space = space
        self.cv = cv
        self.max_iter = max_iter
        self.n_iter_no_change = n_iter_no_change
        self.batch_size = batch_size
        self.numerical_embedding = numerical_embedding
        self.rounds = rounds
        self.bags = bags
        self.random_state = random_state
        self.dtype = dtype
        self.memory_budget = memory_budget
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train all candidates on all folds, and choose from them.

        **Arguments:** `X`, (n_samples, n_features); `y`, labels, or numbers to predict, (n_samples,) or for a regressor
        (n_samples, n_outputs); `sample_weight`, one a sample.

        **Raises:** `ValueError` as scikit-learn does, and if every candidate diverges.
        """
        types: Any = (np.float64, np.float32) if self.dtype == "input" else np.dtype(self.dtype)
        X, y = validate_data(self, X, y, dtype=types, multi_output=True, y_numeric=not is_classifier(self))
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=X.dtype)
        targets = self._encode(y, weights)
        seed = draw_seed(self.random_state)
        folds = list(self._folds(seed).split(X, targets))
        batch = self._batch([len(positions(train)) for train, _ in folds])
        grid = draw_candidates(self.space, self.n_candidates, seed, optimizer="adamw", batch_size=batch)
        self.center_, self.scale_ = moments(X, weights)
        kind, self.embedding_ = self.numerical_embedding, None
        if kind is not None:
            self.embedding_ = fit_embedding(kind, self._inputs(X), weights, seed)
        every = max(1, self.n_iter_no_change // LOOKS)
        with precision(X.dtype):
            result = sweep(
                grid,
                self._inputs(X),
                targets,
                epochs=int(self.max_iter),
                folds=folds,
                weights=weights,
                objective="softmax" if is_classifier(self) else "squared",
                scheme="he",
                record_every=every,
                shuffle_seed=seed,
                patience=max(1, self.n_iter_no_change // every),
                frequencies=frequencies(self.embedding_),
                memory_budget=self.memory_budget,
                progress=bool(self.verbose),
            )
            self._take(result.ensemble(rounds=self.rounds, bags=self.bags, seed=seed))
        self.cv_results_ = results_of(result, self.mixture_)
        self.n_iter_ = int(self.cv_results_["epochs"].max())
        return self

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Loss and score out of fold, against the number of members.

        **Arguments:** `ax`, where to draw. **Raises:** `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        return plot_members(self.oof_curve_, self.mixture_.targets, ax=ax)

    def _take(self, mixture: Mixture) -> None:
        """The attributes that come with an ensemble."""
        self.mixture_ = mixture
        self.members_, self.weights_ = mixture.members, mixture.weights
        self.oof_score_, self.oof_loss_, self.oof_curve_ = mixture.score, mixture.loss, mixture.curve

    def _encode(self, y: Any, weights: Any) -> Shaped[np.ndarray, "samples ..."]:
        """Checked y as the engine takes it."""
        raise NotImplementedError

    def _folds(self, seed: int) -> Any:
        """A number of folds is drawn at random, stratified for a classifier."""
        if isinstance(self.cv, Integral):
            kind = StratifiedKFold if is_classifier(self) else KFold
            return kind(int(self.cv), shuffle=True, random_state=seed)
        return check_cv(self.cv)

    def _batch(self, samples: Sequence[int]) -> int | None:
        """The size of batches, for folds of so many samples; None for all samples at once."""
        fewest = min(samples)
        size = self.batch_size
        if size == "auto":
            least = min(BATCH, max(FEWEST, 1 << (max(1, fewest // STEPS).bit_length() - 1)))
            # Folds whose epochs differ by a step need programs of their own: one size for all, where it is not far.
            even = (s for s in range(least, 2 * least) if len({-(-n // s) for n in samples}) == 1)
            size = next(even, least)
        return None if size is None or size >= fewest else int(size)

    def _inputs(self, X: Float[np.ndarray, "samples features"]) -> Float[np.ndarray, "samples inputs"]:
        """What the networks see of checked X."""
        standard = (X - self.center_) / self.scale_
        return standard if self.embedding_ is None else embed(self.embedding_, standard)

    def _mean(self, X: Any) -> Float[np.ndarray, "samples outputs"]:
        """What the ensemble predicts, in the engine's units."""
        check_is_fitted(self)
        dtype = self.mixture_.stacks[0].shares.dtype
        X = validate_data(self, X, dtype=dtype, reset=False)
        with precision(dtype):
            return self.mixture_.predict_proba(self._inputs(X))


class SweepEnsembleClassifier(ClassifierMixin, BaseSweepEnsemble):
    """An ensemble of networks that differ in size, activation, step size and start, calibrated.

    Candidates are drawn from a space of settings and trained on all folds of a cross-validation at once, by AdamW, each
    until its fold's held-out loss has not fallen for a while. Members are chosen from them greedily, with replacement,
    by the log loss of their mean on the samples that they were not trained on (Caruana, Niculescu-Mizil, Crew and
    Ksikes 2004), from random halves of the candidates in turn; one temperature calibrates what they say together (Guo,
    Pleiss, Sun and Weinberger 2017). The members' networks of all folds predict: nothing is trained again. Features are
    brought to mean 0 and variance 1 inside. Call `jaxbackprop.use_all_cores()` first to spread the work over all cores.

    **Arguments:**
    - `n_candidates`: how many settings to draw.
    - `space`: a dict of scipy distributions or lists, whose entries take the place of `estimators.space.DEFAULT_SPACE`:
      `width` and `depth` of the hidden layers (or `hidden`, tuples of widths), `activation`, `learning_rate`,
      `weight_decay`, `dropout`, `seed`; and any other key of a sweep's grid, such as `l2`, `beta_1`, `optimizer`.
    - `cv`: a number of folds, drawn at random, stratified; or a splitter, or pairs of index arrays.
    - `max_iter`: passes over the samples, at most; `n_iter_no_change`: early stopping after so many without progress.
    - `batch_size`: "auto" is a power of two up to 256, so that an epoch has 8 steps and more; None is all samples.
    - `numerical_embedding`: None; "piecewise_linear", where a feature becomes up to 16, its places in the bins between
      quantiles of all samples; or "periodic", where sin(2 pi c x) and cos(2 pi c x) of 8 frequencies c stand beside it,
      which every network trains from where they were drawn (Gorishniy, Rubachev and Babenko 2022). Features of at most
      two distinct values, as of categories, stay as they are. The first layers have up to 16 or 17 times the work; bins
      take as many times the memory of the samples.
    - `rounds`, `bags`: how many members a selection takes at most, and of how many selections the mean is taken.
    - `random_state`: of the candidates, the folds, the order of samples and the selection.
    - `dtype`: "float32", "float64", or "input" for that of X.
    - `memory_budget`: bytes that the training may take. `verbose`: whether to show its progress.

    **Attributes:**
    - `members_`, `weights_`: rows of `cv_results_` by falling weight, and what each counts, in sum 1.
    - `temperature_`: above 1 it makes the ensemble less sure, below 1 surer.
    - `oof_score_`, `oof_loss_`: accuracy and log loss out of fold. The same samples stopped the training and chose the
      members, so that both flatter a little.
    - `oof_curve_`: "loss" and "score" of the first 1, 2, … "members", before the temperature.
    - `cv_results_`: of all candidates, by scikit-learn's names, and their "weight".
    - `embedding_`: bins of the embedding, or where its frequencies start, for features of mean 0 and variance 1; None
      without one.
    - `n_iter_`: epochs of the candidate that was trained longest.
    - `classes_`, `n_features_in_`, `feature_names_in_`.
    """

    temperature_: float
    classes_: np.ndarray

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """The calibrated probability of each class, in the order of `classes_`."""
        return self._mean(X)

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """Logarithms of the probabilities."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Shaped[np.ndarray, " samples"]:
        """The most probable label."""
        best = np.argmax(self._mean(X), axis=1)
        return self.classes_[best]

    def _take(self, mixture: Mixture) -> None:
        super()._take(mixture)
        self.temperature_ = mixture.temperature

    def _encode(self, y: Any, weights: Any) -> Shaped[np.ndarray, " samples"]:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        if len(encoder.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class, {encoder.classes_[0]!r}")
        self.classes_ = encoder.classes_
        return encoder.transform(y)


class SweepEnsembleRegressor(RegressorMixin, BaseSweepEnsemble):
    """An ensemble of networks that predicts one or several numbers: as `SweepEnsembleClassifier`, chosen by the mean
    squared error, and without a temperature.

    Targets are brought to mean 0 and variance 1 inside. `oof_score_` is R^2; `oof_loss_` and the curve's "loss" are
    mean squared errors in units of the targets' variance, summed over the outputs.
    """

    target_center_: np.ndarray
    target_scale_: np.ndarray

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."]:
        """The predicted numbers."""
        standard = self._mean(X)
        y_hat = standard * self.target_scale_ + self.target_center_
        return y_hat if self._several else y_hat[:, 0]

    def _encode(self, y: Any, weights: Any) -> Shaped[np.ndarray, "samples outputs"]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._several = y.ndim == 2
        columns = np.asarray(y, float).reshape(len(y), -1)
        self.target_center_, self.target_scale_ = moments(columns, weights)
        standard = (columns - self.target_center_) / self.target_scale_
        return standard if self.dtype == "input" else standard.astype(self.dtype)


def moments(
    X: Float[np.ndarray, "samples features"], weights: Float[np.ndarray, " samples"] | None
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Mean and standard deviation of each column, taken in double precision; 1 for the deviation of a constant one."""
    center, spread = np.zeros((2, X.shape[1]))
    for j, column in enumerate(X.T):  # one by one, as a copy of X in double precision would take its memory twice
        center[j] = np.average(column.astype(float), weights=weights)
        apart = column - center[j]
        largest = max(np.abs(apart).max(), np.finfo(float).tiny)  # of which the square can be taken
        spread[j] = largest * np.sqrt(np.average((apart / largest) ** 2, weights=weights))
    constant = spread <= np.maximum(10 * np.finfo(X.dtype).eps * np.abs(center), np.finfo(X.dtype).tiny)
    return center.astype(X.dtype), np.where(constant, 1, spread).astype(X.dtype)


def column_of(values: list[Any]) -> np.ndarray:
    """Settings as an array: tuples stay what they are."""
    own = np.empty(len(values), object)
    own[:] = values
    return own if any(isinstance(value, tuple) for value in values) else np.array(values)


def results_of(result: SweepResult, mixture: Mixture) -> dict[str, Any]:
    """`cv_results_` by scikit-learn's names: losses and scores of every candidate on the samples held out."""
    names = [name for name in result.trials[0]._fields if len({getattr(t, name) for t in result.trials}) > 1]
    held_out = result.split_metrics()
    losses, scores = np.asarray(held_out.validation_loss), np.asarray(held_out.validation_score)
    mean = scores.mean(axis=1)
    order = np.where(np.isfinite(losses.mean(axis=1)), losses.mean(axis=1), np.inf)
    weight = np.zeros(len(mean))
    weight[mixture.members] = mixture.weights
    return {
        **{f"param_{name}": column_of([name_of(getattr(t, name)) for t in result.trials]) for name in names},
        "params": [{name: name_of(getattr(t, name)) for name in names} for t in result.trials],
        **{f"split{k}_test_score": line for k, line in enumerate(scores.T)},
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=1),
        "mean_test_loss": losses.mean(axis=1),
        "rank_test_loss": np.argsort(np.argsort(order, kind="stable")).astype(np.int32) + 1,
        "epochs": result.table["epochs"].to_numpy(),
        "weight": weight,
    }
