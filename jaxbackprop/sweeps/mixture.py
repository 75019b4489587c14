"""Networks that predict together: the weighted mean of their predictions, all of them in one compiled program."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxbackprop.activations import OneOrEach
from jaxbackprop.data import features_first
from jaxbackprop.devices import compiler_options
from jaxbackprop.embedded import Embedded, behind, features_of
from jaxbackprop.losses import Objective
from jaxbackprop.network import forward
from jaxbackprop.sweeps.calibration import calibrated
from jaxbackprop.sweeps.splits import labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST, MOST = 64, 2048  # samples that the program is compiled for: powers of two between them


class Stack(NamedTuple):
    """Networks of one depth and activation, padded with zeros to shared widths, and what each counts in the mean."""

    activation: OneOrEach
    params: Embedded
    shares: Float[np.ndarray, " networks"]


class Choice(NamedTuple):
    """Which candidates predict together, by falling weight, and what came of it on samples not trained on.

    `curve` is of the first 1, 2, … members, each with its weight: "members", "loss" and "score".
    """

    members: Int[np.ndarray, " members"]
    weights: Float[np.ndarray, " members"]
    temperature: float
    score: float
    loss: float
    curve: dict[str, np.ndarray]


def stack_networks(networks: Sequence[tuple[OneOrEach, Embedded, float]]) -> tuple[Stack, ...]:
    """Networks, with their activations and shares, in as few stacks as hold them.

    A padded unit has zero weights into it and out of it, so that it changes nothing, whatever f(0) is.
    """
    groups: dict[tuple, list[tuple[Embedded, float]]] = {}
    for activation, params, share in networks:
        groups.setdefault((activation, len(params)), []).append((params, share))
    return tuple(
        Stack(
            activation,
            jax.tree.map(lambda *arrays: _padded(arrays), *(params for params, _ in own)),
            np.array([share for _, share in own], own[0][0][-1].bias.dtype),
        )
        for (activation, _), own in groups.items()
    )


def _padded(arrays: Sequence[np.ndarray]) -> Any:
    """Arrays of several shapes, stacked, each in the corner of the largest."""
    shape = np.max([a.shape for a in arrays], axis=0)
    room = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for own, a in zip(room, arrays, strict=True):
        own[tuple(map(slice, a.shape))] = a
    return room


@lru_cache(maxsize=64)
def make_program_of_mean(activations: tuple[OneOrEach, ...], objective: str | Objective) -> Any:
    """The compiled function from the arrays of stacks of these activations, and x, to the mean prediction. It goes from
    network to network, so that the activations of one stay in the cache."""

    def mean(stacks: Any, x: Float[Array, "features samples"]) -> Float[Array, "outputs samples"]:
        total = jnp.zeros((stacks[0][0][-1].bias.shape[-1], x.shape[1]), x.dtype)
        for activation, (params, shares) in zip(activations, stacks, strict=True):

            def add(total: Array, one: Any, f: Any = activation) -> tuple[Array, None]:
                params, share = one
                y_hat = forward(*behind(params, x), activation=f, objective=objective).activations[-1]
                return total + share * y_hat, None

            total, _ = lax.scan(add, total, (params, shares))
        return total

    return jax.jit(mean, compiler_options=compiler_options(quick=True))


def mean_prediction(
    stacks: Sequence[Stack], x: Float[np.ndarray, "features samples"], objective: str | Objective
) -> Float[np.ndarray, "samples outputs"]:
    """The weighted mean of the predictions of all networks."""
    arrays = jax.tree.map(jnp.asarray, tuple((s.params, s.shares) for s in stacks))
    program = make_program_of_mean(tuple(s.activation for s in stacks), objective)
    size = min(MOST, max(FEWEST, 1 << (x.shape[1] - 1).bit_length()))
    parts = []
    for start in range(0, x.shape[1], size):
        own = x[:, start : start + size]
        room = np.pad(own, ((0, 0), (0, size - own.shape[1]))).astype(stacks[0].shares.dtype)
        parts.append(np.asarray(program(arrays, jnp.asarray(room)))[:, : own.shape[1]].T)
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Mixture:
    """An ensemble: networks of a sweep, chosen and weighted on the samples that they were not trained on;
    `estimators.save` writes it to a file.

    - `members`: numbers of trials, by falling weight; `weights`, in sum 1. Each stands for its networks of all splits.
    - `temperature`: of the probabilities; 1 for numbers to predict.
    - `score`, `loss`: on held-out samples: accuracy or r2, and log loss (of the calibrated probabilities) or mean
      squared error. As members, weights and temperature were chosen on the same samples, they flatter a little.
    - `curve`: "loss" and "score" of the first 1, 2, … "members".
    """

    members: Int[np.ndarray, " members"]
    weights: Float[np.ndarray, " members"]
    temperature: float
    score: float
    loss: float
    curve: dict[str, np.ndarray]
    stacks: tuple[Stack, ...]
    objective: str | Objective
    targets: str
    classes: Shaped[np.ndarray, " classes"] | None = None

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples outputs"]:
        """The calibrated probabilities for X (n_samples, n_features); for numbers to predict the predicted numbers.

        **Raises:** `ValueError` if X does not fit.
        """
        x = features_first(X, features=features_of(self.stacks[0].params))
        mean = mean_prediction(self.stacks, x, self.objective)
        return calibrated(mean, self.temperature, self.targets)

    def predict(self, X: Any) -> Shaped[np.ndarray, "samples ..."]:
        """The labels for X; 0 or 1 a label for several labels, numbers for numbers."""
        return labels_of(self.predict_proba(X), self.targets, self.classes)

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """The loss on held-out samples against the number of members."""
        return plot_members(self.curve, self.targets, ax=ax)


def plot_members(curve: dict[str, np.ndarray], targets: str, *, ax: "Axes | None" = None) -> "Axes":
    """A curve of `Choice`: the loss to the left, the score to the right."""
    from matplotlib.ticker import MaxNLocator

    from jaxbackprop.plotting import COLORS, panels

    ax = panels()[1][0, 0] if ax is None else ax
    right = ax.twinx()
    classifies = targets in ("softmax", "sigmoid")
    names = ("log loss", "accuracy") if classifies else ("loss", "R²")
    few = len(curve["members"]) <= 20
    # Where neither changes, as with one member, both lie on each other: the score's marks are a frame to the loss's.
    marks = {"loss": {"marker": "o", "markersize": 4}, "score": {"marker": "s", "markersize": 8, "fillstyle": "none"}}
    for axes, key, name, color in ((ax, "loss", names[0], COLORS[0]), (right, "score", names[1], COLORS[5])):
        own: Any = marks[key] if few else {}
        axes.plot(curve["members"], curve[key], color=color, linewidth=1.8, **own)
        axes.set_ylabel(f"{name}, out of fold", color=color)
        axes.spines["top"].set_visible(False)
    right.spines["right"].set_visible(True)
    ax.set_xlabel("members")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return ax
