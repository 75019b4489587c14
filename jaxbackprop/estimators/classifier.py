"""`BackpropClassifier`: `MLPClassifier`'s interface."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import sparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d

from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.estimators.settings import MEMORY


class BackpropClassifier(ClassifierMixin, BaseBackprop):
    """A neural network that classifies, with the parameters, attributes and meanings of scikit-learn's `MLPClassifier`.

    It trains with the gradient derived by hand. Two classes make one logistic output, more of them a softmax, several
    labels a sample one logistic output each.

    For the same integer `random_state` it starts from the numbers that `MLPClassifier` starts from. In float64 and with
    `shuffle=False` it also ends, by "sgd" with any `learning_rate` and by "adam", at the same weights to nine digits,
    after the same number of epochs. Not so with `shuffle=True` or `early_stopping=True`: scikit-learn draws the order
    of the samples, and which are held out, from the same stream as the weights, so that they depend on the widths of
    the layers; here they depend on the seed alone, as all networks of a search share them. By "lbfgs" the start is the
    same, and the steps are until rounding errors have grown. With `sample_weight` a batch counts by its weights in the
    loss of an epoch, in scikit-learn by its number of samples: the steps are the same, but training may stop elsewhere.

    **Arguments:**
    - `hidden_layer_sizes`: the widths of the hidden layers.
    - `activation`: "identity", "logistic", "tanh", "relu", or another name of `jaxbackprop.ACTIVATIONS`; or a tuple of
      them, one for each hidden layer.
    - `solver`: "adam" with `beta_1`, `beta_2` and `epsilon`; "sgd" with `momentum` and `nesterovs_momentum`; or
      "lbfgs", which takes all samples at once, with `max_fun` evaluations of the loss at most.
    - `alpha`: weight of the squared weights in the loss, divided by the (weighted) number of samples of a batch.
    - `batch_size`: "auto" is min(200, n_samples).
    - `learning_rate_init`: step size; of "sgd", `learning_rate` makes it "constant", "invscaling" (after t samples
      divided by (t + 1)^`power_t`), or "adaptive" (a fifth of it each time that training would stop).
    - `max_iter`: epochs, at most.
    - `shuffle`: whether each epoch takes the samples in another order.
    - `random_state`: of the initial parameters, the order of samples, and what early stopping holds out.
    - `tol`, `n_iter_no_change`: training ends when the loss (with early stopping the score) has not improved by `tol`
      for more than so many epochs.
    - `warm_start`: whether `fit` goes on from the last solution.
    - `early_stopping`, `validation_fraction`: hold out a part of the samples, stop by their score, keep the best.
    - `class_weight`: weights of the classes, a dict or "balanced"; None for all alike.
    - `dropout`: the rate at which units of the hidden layers are dropped while training, by masks that follow from the
      seed and the number of the step; for "sgd" and "adam".
    - `verbose`: whether to print the loss of each epoch.
    - `dtype`: "float32", "float64", or "input" for the type of X, as scikit-learn trains: X of float32 in float32, any
      other in float64. JAX's configuration plays no part, and is left as it is.
    - `memory_budget`: bytes that the training by "sgd" or "adam" may take; one that cannot is refused. `devices`: how
      many of JAX's to use, by default all. One network takes one; in a search both hold for all of its networks
      together.

    **Attributes:** those of `MLPClassifier`, and with early stopping `validation_loss_curve_`, the mean loss of the
    samples held out after each epoch, without the penalty of `alpha`.
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's convention
        **BaseBackprop._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
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
        class_weight: Any = None,
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
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BackpropClassifier":
        """Train on X (n_samples, n_features) and y, labels of any type, or 0/1 indicators (n_samples, n_labels).

        **Raises:** `ValueError` as scikit-learn does, and if the training diverges.
        """
        if hasattr(self, "classes_") and not hasattr(self, "coefs_"):
            del self.classes_  # of a fit that has failed: they need not be the classes of y
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> "BackpropClassifier":
        """Train for one epoch, from where the last call left off.

        **Arguments:** `classes`, all labels that will ever occur, in the first call.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which sees only a part of the samples; pass "
                "a dict, from compute_class_weight('balanced', ...)"
            )
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."] | sparse.spmatrix | sparse.sparray:
        """The most probable labels; of several labels a sample a sparse matrix, if they were trained on as one."""
        y_hat = self._outputs(X)
        return self._label_binarizer.inverse_transform(y_hat.ravel() if y_hat.shape[1] == 1 else y_hat)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """The probability of each class, in the order of `classes_`."""
        y_hat = self._outputs(X)
        return np.hstack([1 - y_hat, y_hat]) if y_hat.shape[1] == 1 else y_hat

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """Logarithms of the probabilities."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _objective(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "sigmoid"

    def _check_targets(self, y: Any, *, restart: bool) -> Shaped[np.ndarray, "samples outputs"]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        # Of a first call of partial_fit they are known; of weights that were set by hand they may not be.
        if not hasattr(self, "classes_") or (restart and hasattr(self, "coefs_")):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            labels = unique_labels(y)
            if self.warm_start and not restart and set(labels) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {labels}"
                )
            if len(np.setdiff1d(labels, self.classes_)):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {labels}."
                )
        encoded = self._label_binarizer.transform(y)
        return encoded.toarray() if hasattr(encoded, "toarray") else encoded

    def _reweigh(self, y: Any, weights: Any) -> Any:
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, dict) and self._label_binarizer.y_type_ in ("binary", "multiclass"):
            # By all classes that are known: the samples of a call of partial_fit may lack some.
            each = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            share = each[np.searchsorted(self.classes_, np.ravel(y))]
        else:
            share = compute_sample_weight(self.class_weight, y)
        return share if weights is None else share * weights
