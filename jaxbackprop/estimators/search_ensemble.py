"""The ensemble out of a search that has been done: its candidates' networks of all folds, behind their folds' steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from sklearn.base import is_regressor
from sklearn.utils.multiclass import type_of_target

from jaxbackprop.activations import OneOrEach
from jaxbackprop.devices import precision
from jaxbackprop.estimators.base import BaseBackprop
from jaxbackprop.losses import get_objective
from jaxbackprop.network import Params
from jaxbackprop.sweeps.calibration import calibrated
from jaxbackprop.sweeps.mixing import HeldOut, choose_members, predict_plainly
from jaxbackprop.sweeps.mixture import Choice, Stack, mean_prediction, plot_members, stack_networks
from jaxbackprop.sweeps.splits import labels_of
from jaxbackprop.sweeps.state import Book


class Kept(NamedTuple):
    """The network of one candidate on one fold: its parameters and activation, a network that knows its classes, the
    steps before it, and what it predicts for the samples that its fold holds out."""

    params: Params
    activation: OneOrEach
    template: BaseBackprop
    steps: Any
    held_out: Int[np.ndarray, " held_out"]
    y_hat: Float[np.ndarray, "held_out outputs"]


@dataclass(frozen=True, eq=False)
class Archive:
    """What a search keeps for an ensemble: predictions, and not the data; `networks` by candidate and fold."""

    y: Shaped[np.ndarray, "samples ..."]
    weights: Float[np.ndarray, " samples"] | None
    folds: int
    networks: dict[tuple[int, int], Kept] = field(default_factory=dict)

    def keep(self, job: Sequence[Any], ready: Sequence[Any], book: Book) -> None:
        """Take over the networks that were trained for the candidates `job` on the folds `ready`, see `evaluate`."""
        seen = [now.template._check_X(now.fold.samples("test")[0], now.samples.X.dtype) for now in ready]
        for kind in book.kinds:
            for position, number in enumerate(kind.networks.tolist()):
                candidate, k = job[number // len(ready)], number % len(ready)
                fold, template = ready[k].fold, ready[k].template
                params = jax.tree.map(lambda a, p=position: np.array(a[p]), kind.kept)
                activation = candidate.network._trial(0, 1).activation
                with np.errstate(all="ignore"):  # networks that diverged are among them
                    y_hat = predict_plainly(seen[k], params, activation, get_objective(template._objective()))
                own = Kept(params, activation, template, fold.steps, fold.index("test"), y_hat)
                self.networks[candidate.number, fold.number] = own


class Part(NamedTuple):
    """The networks of an ensemble that were trained behind the same steps."""

    steps: Any
    template: BaseBackprop
    stacks: tuple[Stack, ...]


@dataclass(frozen=True, eq=False)
class SearchEnsemble:
    """Candidates of a search that predict together; `save` writes them to a file.

    - `members`: rows of `cv_results_`, by falling weight; `weights`, in sum 1; `temperature` of the probabilities.
    - `score`, `loss`: out of fold, accuracy or R^2, and log loss or mean squared error; `curve`: those of the first 1,
      2, … members.
    - `parts`: the networks.
    """

    members: Int[np.ndarray, " members"]
    weights: Float[np.ndarray, " members"]
    temperature: float
    score: float
    loss: float
    curve: dict[str, np.ndarray]
    parts: tuple[Part, ...]
    targets: str
    classes: Shaped[np.ndarray, " classes"] | None

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples outputs"]:
        """The calibrated probabilities for X (n_samples, n_features); for numbers to predict the predicted numbers."""
        mean: Any = 0
        for steps, template, stacks in self.parts:
            dtype = stacks[0].shares.dtype
            checked = template._check_X(X if steps is None else steps.transform(X), dtype)
            share = np.sum([stack.shares.sum() for stack in stacks])
            with precision(dtype):
                y_hat = mean_prediction(stacks, checked.T, template._objective())
            mean = mean + share * as_columns(template, y_hat / share, self.classes)
        return calibrated(mean, self.temperature, self.targets)

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."]:
        """The labels for X; 0 or 1 a label for several labels, numbers for numbers."""
        return labels_of(self.predict_proba(X), self.targets, self.classes)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Loss and score out of fold, against the number of members."""
        return plot_members(self.curve, self.targets, ax=ax)


def as_columns(
    template: BaseBackprop, y_hat: Float[np.ndarray, "samples outputs"], classes: Any
) -> Float[np.ndarray, "samples columns"]:
    """Predictions with a column for each class, also for those that a fold has not seen."""
    if classes is None:
        return y_hat
    own: Any = template
    columns = np.zeros((len(y_hat), len(classes)), y_hat.dtype)
    full = np.hstack([1 - y_hat, y_hat]) if y_hat.shape[1] == 1 else y_hat
    columns[:, np.searchsorted(classes, own.classes_)] = full[:, -len(own.classes_) :]
    return columns


def ensemble_of(archive: Archive, **options: int) -> SearchEnsemble:
    """The ensemble that a search has kept the networks for.

    **Raises:** `ValueError` if none was trained on every fold.
    """
    whole = sorted({c for c, _ in archive.networks if all((c, k) in archive.networks for k in range(archive.folds))})
    if not whole:
        raise ValueError("no candidate of this search was trained together with others on every fold")
    first = archive.networks[whole[0], 0].template
    y, classes, targets = _targets(first, archive.y)
    times = np.zeros(len(y))
    for k in range(archive.folds):
        times[archive.networks[whole[0], k].held_out] += 1
    seen = np.flatnonzero(times)
    weights = np.ones(len(y)) if archive.weights is None else np.asarray(archive.weights, float)

    def predict(candidate: int) -> Float[np.ndarray, "samples columns"]:
        own = [archive.networks[candidate, k] for k in range(archive.folds)]
        total = np.zeros(y.shape, own[0].y_hat.dtype)
        for one in own:
            total[one.held_out] += as_columns(one.template, one.y_hat, classes)
        return total[seen] / times[seen, None].astype(total.dtype)

    choice = choose_members(HeldOut(y[seen], weights[seen], targets, predict), whole, **options)
    return SearchEnsemble(*choice, _parts(archive, choice), targets, classes)


def _parts(archive: Archive, choice: Choice) -> tuple[Part, ...]:
    """The members' networks, by the steps before them and by fold: those of a fold share its classes."""
    groups: dict[tuple, list[tuple[Kept, float]]] = {}
    for member, weight in zip(choice.members.tolist(), choice.weights.tolist(), strict=True):
        for k in range(archive.folds):
            own = archive.networks[member, k]
            groups.setdefault((k, id(own.steps)), []).append((own, weight / archive.folds))
    return tuple(
        Part(
            networks[0][0].steps,
            networks[0][0].template,
            stack_networks([(kept.activation, kept.params, share) for kept, share in networks]),
        )
        for networks in groups.values()
    )


def _targets(template: BaseBackprop, y: Any) -> tuple[Float[np.ndarray, "samples columns"], Any, str]:
    """y as numbers, the classes where each sample has one, and how y is read."""
    y = np.asarray(y)
    if is_regressor(template):
        return y.reshape(len(y), -1).astype(float), None, template._objective()
    if type_of_target(y).startswith("multilabel"):
        return y.astype(float), None, "sigmoid"
    classes, codes = np.unique(y.ravel(), return_inverse=True)
    return np.eye(len(classes))[codes], classes, "softmax"
