"""What the classifier and the regressor share: from checked arrays to a trained network, and back to predictions."""

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.devices import precision
from jaxbackprop.estimators.callbacks import AfterEpoch, watched
from jaxbackprop.estimators.glorot import glorot_start, refuse_other_layers, to_params
from jaxbackprop.estimators.quasi_newton import Stop, minimize, refuse_dropout
from jaxbackprop.estimators.reuse import Reusable
from jaxbackprop.estimators.samples import Samples, make_splits
from jaxbackprop.estimators.settings import ALIASES, Settings
from jaxbackprop.estimators.trainer import Course, Machine, Schedule, Warm, Watch, train_one
from jaxbackprop.inference import outputs
from jaxbackprop.network import Params
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.splits import Index
from jaxbackprop.sweeps.stopping import Stopping, adaptive_rates

OUTPUT_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "logistic", "squared": "identity", "poisson": "exp"}
SEEDS = 2**31 - 1
PATIENT = 2**30  # epochs without improvement: as good as infinitely many


class Optimizing(NamedTuple):
    """What can be asked of the optimizer after `fit`, by scikit-learn's name: its last step size."""

    learning_rate: float


class BaseBackprop(Settings):
    """A network trained by backpropagation, with `MLPClassifier`'s parameters."""

    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    best_validation_score_: float | None
    best_loss_: float | None
    t_: int
    _programs: Sequence[Reusable] = ()  # that a search has had compiled, during its refit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _objective(self) -> str:
        """The objective that the targets call for, once they are known."""
        raise NotImplementedError

    def _check_targets(self, y: Any, *, restart: bool) -> Shaped[np.ndarray, "samples outputs"]:
        """Targets as numbers, from checked y."""
        raise NotImplementedError

    def _reweigh(self, y: Any, weights: Any) -> Any:
        """Sample weights, changed by what the estimator itself wants to weigh."""
        return weights

    def _check_solver(self) -> bool:
        """Refuses, as scikit-learn does, what only steps from batch to batch can do."""
        if self.solver == "lbfgs":
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def _check_samples(self, X: Any, y: Any, sample_weight: Any, *, restart: bool) -> Samples:
        """scikit-learn's checks of X, y and the weights; sparse X is filled in: the compiled programs are dense."""
        types: Any = (np.float64, np.float32) if self.dtype == "input" else np.dtype(self.dtype)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=not is_classifier(self),
            dtype=types,
            reset=restart,
        )
        dtype = X.dtype
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=dtype)
        targets = self._check_targets(y, restart=restart).astype(dtype)
        weights = self._reweigh(y, weights)
        dense = X.toarray() if sparse.issparse(X) else X
        return Samples(dense, targets, None if weights is None else np.asarray(weights, dtype))

    def _hidden(self) -> tuple[int, ...]:
        """The widths of the hidden layers."""
        sizes = self.hidden_layer_sizes
        widths = tuple(sizes) if hasattr(sizes, "__iter__") else (sizes,)
        if any(isinstance(w, bool) or not isinstance(w, Integral) or w < 1 for w in widths):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {list(widths)}; each is a number of units")
        return tuple(int(w) for w in widths)

    def _activation(self) -> str | tuple[str, ...]:
        """The activation of the hidden layers, or of each of them, by the document's names."""
        name: Any = self.activation
        if not isinstance(name, tuple):
            return ALIASES.get(name, name)
        unknown = [name for name in self.activation if name not in (*ALIASES, *ACTIVATIONS)]
        if unknown:
            raise ValueError(f"activation={self.activation} holds {unknown[0]!r}, which is none of {[*ACTIVATIONS]}")
        if len(self.activation) != len(self._hidden()):
            raise ValueError(
                f"activation={self.activation} must be one for each hidden layer of hidden_layer_sizes={self._hidden()}"
            )
        return tuple(ALIASES.get(name, name) for name in self.activation)

    def _trial(self, seed: int, samples: int) -> Trial:
        """The engine's settings; a batch of all samples needs no order."""
        momentum = "nesterov" if self.nesterovs_momentum else "momentum"
        plain = "sgd" if self.momentum == 0 else momentum
        batch = min(200, samples) if self.batch_size == "auto" else int(self.batch_size)
        return Trial(
            activation=self._activation(),
            hidden=self._hidden(),
            learning_rate=float(self.learning_rate_init),
            l2=float(self.alpha),
            momentum=float(self.momentum),
            seed=seed,
            beta_1=float(self.beta_1),
            beta_2=float(self.beta_2),
            epsilon=float(self.epsilon),
            dropout=float(self.dropout),
            optimizer="adam_hat" if self.solver == "adam" else plain,
            batch_size=None if batch >= samples else batch,
        )

    def _schedule(self, seed: int, epochs: int) -> Schedule:
        """scikit-learn counts epochs without improvement and stops at more than `n_iter_no_change` of them."""
        patience = int(min(self.n_iter_no_change, PATIENT)) + 1
        return Schedule(
            epochs,
            "score" if self.early_stopping else "train",
            Stopping(patience, float(self.tol), strict=False),
            seed if self.shuffle else None,
            # scikit-learn's adam ignores it
            self.learning_rate if self.solver == "sgd" and self.learning_rate != "constant" else None,
            float(self.power_t),
        )

    def _stop(self) -> Stop:
        """When "lbfgs" stops."""
        return Stop(float(self.tol), int(self.max_iter), int(self.max_fun))

    def _machine(self) -> Machine:
        return Machine(int(self.memory_budget), self.devices)

    def _hold_out(self, samples: Samples, seed: int) -> tuple[Index, Index]:
        """Which samples to train on, and which early stopping looks at."""
        y, every = samples.y, np.arange(len(samples.X))
        if not self.early_stopping or self.solver == "lbfgs":
            return every, every[:0]
        # As scikit-learn does: binary labels are stratified, a row of several numbers is not.
        stratify = y.astype(bool) if is_classifier(self) and y.shape[1] == 1 else None
        train, held_out = train_test_split(
            every, random_state=seed, test_size=self.validation_fraction, stratify=stratify
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return train, held_out

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> Any:
        restart = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        self._activation(), self._hidden()  # refused before the data are looked at
        samples = self._check_samples(X, y, sample_weight, restart=restart)
        if not restart:
            refuse_other_layers(self.coefs_, (samples.X.shape[1], *self._hidden(), samples.y.shape[1]))
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        seed = draw_seed(self.random_state)
        if self.solver == "lbfgs":
            refuse_dropout(self.dropout)
            with watched(self, X, y, sample_weight, self.max_iter + 1, "iteration") as after:
                return self._fit_lbfgs(samples, seed, restart, after and self._watch(after))
        train, held_out = self._hold_out(samples, seed)
        if not isinstance(self.batch_size, str) and self.batch_size > len(train):
            warnings.warn("Got `batch_size` larger than sample size. It is going to be clipped", stacklevel=3)
        epochs = 1 if incremental else int(self.max_iter)
        # A seed gives the start, and masks by the number of the step: what goes on must not draw the first ones again.
        trial = self._trial(seed if restart else (seed + self.t_) % 2**32, len(train))
        warm = None if restart else self._warm(trial, incremental)
        splits = make_splits([samples], [(train, held_out)], self._objective())
        schedule = self._schedule(seed, epochs)
        report = self._report(schedule, warm)
        with precision(samples.X.dtype), watched(self, X, y, sample_weight, epochs, "epoch") as after:
            watch = after and self._watch(after)
            course = train_one(trial, splits, schedule, self._machine(), warm, report, watch, self._programs)
            self._take(course, trial, len(train), restart)
        if self.verbose and course.stale >= schedule.stopping.patience:
            print(self._why_it_stopped())
        if course.interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        elif self.n_iter_ == epochs and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({epochs}) reached and the optimization hasn't converged "
                "yet.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _warm(self, trial: Trial, incremental: bool) -> Warm:
        """Where training goes on; with the optimizer's state, if the same optimizer goes on by a single epoch."""
        best = min(getattr(self, "loss_curve_", None) or [np.inf])
        if self.early_stopping:
            scores = [score for score in getattr(self, "validation_scores_", None) or [] if np.isfinite(score)]
            best = -max(scores, default=-np.inf)
        goes_on = incremental and getattr(self, "_optimizer_name", None) == trial.optimizer
        return Warm(
            to_params(self.coefs_, self.intercepts_),
            self._optimizer_state if goes_on else None,
            best,
            getattr(self, "_no_improvement_count", 0),
            self._optimizer.learning_rate if incremental and hasattr(self, "_optimizer") else trial.learning_rate,
            self.t_,
        )

    def _fit_lbfgs(self, samples: Samples, seed: int, restart: bool, watch: Watch | None) -> Any:
        every = np.arange(len(samples.X))
        trial = self._trial(seed, len(every))
        sizes = (samples.X.shape[1], *trial.hidden, samples.y.shape[1])
        start = to_params(self.coefs_, self.intercepts_) if not restart else None
        params, found = minimize(
            start or glorot_start(seed, sizes, trial.activation, samples.X.dtype),
            make_splits([samples], [(every, every[:0])], self._objective()),
            activation=trial.activation,
            alpha=float(self.alpha),
            stop=self._stop(),
            machine=self._machine(),
            watch=watch,
        )
        self.n_iter_ = _check_optimize_result("lbfgs", found, self.max_iter)
        self.loss_ = float(found.fun)
        self.t_ = 0 if restart else self.t_
        self._optimizer_state, self._optimizer_name = (), "sgd"
        self._set_network(params)
        return self

    def _watch(self, after: AfterEpoch) -> Watch:
        """Tells callbacks of each epoch."""
        epoch = 0

        def watch(params: Callable[[], Params], goes_on: bool) -> bool:
            nonlocal epoch
            epoch += 1
            return after(lambda: {**self._network(params()), "n_iter_": epoch}, goes_on)

        return watch

    def _report(self, schedule: Schedule, warm: Warm | None) -> Any:
        """Prints what `verbose` asks for, as the epochs go by."""
        epoch, state = 0, (np.inf, 0) if warm is None else (warm.best, warm.stale)
        rate = float(self.learning_rate_init) if warm is None else warm.learning_rate

        def report(curve: Float[np.ndarray, "3 epochs"]) -> None:
            nonlocal epoch, state, rate
            if not self.verbose:
                return
            kind, values = curve.dtype.type, -curve[1] if self.early_stopping else curve[0]
            rates: Any = np.full(len(values), rate, kind)
            if schedule.rule == "adaptive":
                *state, rates = adaptive_rates(values, kind(state[0]), state[1], kind(rate), schedule.stopping)
            for loss, score, new in zip(*curve[:2], np.asarray(rates), strict=True):
                epoch += 1
                print(f"Iteration {epoch}, loss = {loss:.8f}")
                if self.early_stopping:
                    print(f"Validation score: {score:f}")
                if new != kind(rate):
                    rate = new
                    print(f"{self._no_progress()} Setting learning rate to {rate:f}")

        return report

    def _no_progress(self) -> str:
        """In scikit-learn's words."""
        what = "Validation score" if self.early_stopping else "Training loss"
        return f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."

    def _why_it_stopped(self) -> str:
        """In scikit-learn's words."""
        falls = self.solver == "sgd" and self.learning_rate == "adaptive"
        return f"{self._no_progress()} {'Learning rate too small. ' if falls else ''}Stopping."

    def _take(self, course: Course, trial: Trial, samples: int, restart: bool) -> None:
        """The attributes that scikit-learn's estimators have after `fit`."""
        losses, scores, held_out = (line.tolist() for line in course.curve)
        self.loss_curve_ = losses if restart else getattr(self, "loss_curve_", []) + losses
        self.loss_ = losses[-1]
        self.n_iter_ = len(losses)
        self.t_ = (0 if restart else self.t_) + self.n_iter_ * samples
        if self.early_stopping:
            earlier: list[list[float]] = [[], []]
            if not restart:
                earlier = [getattr(self, name, None) or [] for name in ("validation_scores_", "validation_loss_curve_")]
            self.validation_scores_, self.validation_loss_curve_ = earlier[0] + scores, earlier[1] + held_out
            self.best_validation_score_ = float(np.fmax.reduce(self.validation_scores_))
            self.best_loss_ = None
        else:
            self.best_loss_ = min(self.loss_curve_)
            self.validation_scores_ = self.validation_loss_curve_ = self.best_validation_score_ = None
        self._no_improvement_count = course.stale
        self._optimizer = Optimizing(course.learning_rate)
        self._optimizer_state, self._optimizer_name = course.optimizer, str(trial.optimizer)
        self._set_network(course.params)

    def _set_network(self, params: Params) -> None:
        """Take over trained parameters.

        **Raises:** `ValueError` if the training diverged.
        """
        for name, value in self._network(params).items():
            setattr(self, name, value)
        if not all(np.isfinite(a).all() for a in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )

    def _network(self, params: Params) -> dict[str, Any]:
        """The attributes that `predict` needs."""
        return {
            "coefs_": [np.ascontiguousarray(layer.weight.T) for layer in params],
            "intercepts_": [np.array(layer.bias) for layer in params],
            "n_layers_": len(params) + 1,
            "n_outputs_": len(params[-1].bias),
            "out_activation_": OUTPUT_ACTIVATIONS[self._objective()],
        }

    def _outputs(self, X: Any) -> Float[np.ndarray, "samples outputs"]:
        """y-hat for X."""
        check_is_fitted(self)
        objective = next(name for name, output in OUTPUT_ACTIVATIONS.items() if output == self.out_activation_)
        return outputs(self._check_X(X), self.coefs_, self.intercepts_, self._activation(), objective)

    def _check_X(self, X: Any, dtype: Any = None) -> Float[np.ndarray, "samples features"]:
        """scikit-learn's checks of X alone, after `fit`; in the type that was trained in."""
        dtype = self.coefs_[0].dtype if dtype is None else dtype
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=dtype, reset=False)
        return X.toarray() if sparse.issparse(X) else X


def draw_seed(random_state: Any) -> int:
    """An integer is taken as it is, so that networks start as scikit-learn's would; else it is drawn."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(SEEDS))
