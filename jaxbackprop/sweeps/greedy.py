"""Ensemble selection from a library of models (Caruana, Niculescu-Mizil, Crew and Ksikes 2004), in plain NumPy.

An ensemble grows by one model at a time, the one whose prediction improves the mean of those chosen most; a model may
be chosen again, which is its weight. As the best of many models on few samples is partly luck, the choice is made
several times, each time from another random half of the library, and the weights are averaged ("bagged selection").

Most models need not be tried. A convex loss lies above its tangent at the mean so far, and the tangent, linear in what
a model would add, costs all models and bags of a round one product of matrices. Only the models whose tangent is not
above the loss with the most promising one can be the best; the loss itself decides among them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

Loss = Callable[[Float[np.ndarray, "models samples *outputs"]], Float[np.ndarray, " models"]]
Slope = Callable[[Float[np.ndarray, "models samples *outputs"]], Float[np.ndarray, "models samples *outputs"]]

ROUNDS = 30  # models chosen in a bag, at most
BAGS = 20
SHARE = 0.5  # of the library, in a bag
FEWEST_MODELS = 16  # in a bag, where there are so many: few good ones would else be missing in many bags
LIBRARY = 100  # models, the best alone, that are chosen from
SLACK = 64  # units of rounding that a tangent is lowered by


def greedy_weights(
    predictions: Float[np.ndarray, "models samples *outputs"],
    loss: Loss,
    slope: Slope | None = None,
    *,
    rounds: int = ROUNDS,
    bags: int = BAGS,
    share: float = SHARE,
    library: int = LIBRARY,
    seed: int = 0,
) -> Float[np.ndarray, " models"]:
    """What each model counts in the mean; the weights sum to 1, most of them are 0.

    **Arguments:**
    - `predictions`: whatever of a model's predictions enters a mean, on samples that it was not trained on.
    - `loss`: from such means, stacked, to the loss of each; lower is better.
    - `slope`: the derivative of a convex `loss`; without it every model is tried in every round.
    - `rounds`, `bags`, `share`: how often a bag chooses, how many there are, and the share of the library in each. A
      single bag holds the whole library, and so does any of a small one.
    - `library`: how many models to choose from: those with the lowest losses alone.

    **Raises:** `ValueError` if no model has finite predictions.
    """
    alone = loss(predictions)
    usable = np.flatnonzero(np.isfinite(alone))
    if len(usable) == 0:
        raise ValueError(f"none of {len(predictions)} models has finite predictions; try lower learning rates")
    best = usable[np.argsort(alone[usable], kind="stable")][:library]
    size = len(best) if bags == 1 else min(len(best), max(FEWEST_MODELS, round(share * len(best))))
    if size == len(best):
        bags = 1  # all of them would be the same
    generator = np.random.default_rng(seed)
    shelf = np.sort(best)
    own = [np.searchsorted(shelf, np.sort(generator.choice(best, size, replace=False))) for _ in range(bags)]
    weights = np.zeros(len(predictions))
    for chosen in grow(predictions[shelf], alone[shelf], own, loss, slope, rounds):
        weights += np.bincount(shelf[chosen], minlength=len(weights)) / len(chosen) / bags
    return weights


def grow(
    predictions: Float[np.ndarray, "models samples *outputs"],
    alone: Float[np.ndarray, " models"],
    bags: Sequence[Int[np.ndarray, " own"]],
    loss: Loss,
    slope: Slope | None,
    rounds: int,
) -> list[Int[np.ndarray, " k"]]:
    """The models that one greedy selection with replacement takes in each bag, up to where its mean is best."""
    chosen = [[int(own[np.argmin(alone[own])])] for own in bags]
    losses = [[alone[first]] for (first,) in chosen]
    total = predictions[[first for (first,) in chosen]]
    for count in range(2, rounds + 1):
        last = np.array([values[-1] for values in losses])
        bounds = None if slope is None else _tangents(predictions, total / (count - 1), last, slope, count)
        for b, own in enumerate(bags):
            if bounds is not None:
                bound = bounds[b, own]
                limit = _losses_with(predictions[own[[np.argmin(bound)]]], total[b], loss, count)
                own = own[~(bound > limit)]  # a bound that is not a number bars nobody
            each = _losses_with(predictions[own], total[b], loss, count)
            pick = int(np.argmin(each))
            total[b] += predictions[own[pick]]
            chosen[b].append(int(own[pick]))
            losses[b].append(each[pick])
    return [np.array(c[: int(np.argmin(values)) + 1]) for c, values in zip(chosen, losses, strict=True)]


def _losses_with(
    room: Float[np.ndarray, "models samples *outputs"], total: np.ndarray, loss: Loss, count: int
) -> np.ndarray:
    """The losses of the means that models, in an array to write to, would make with those chosen."""
    room += total
    room /= count
    return loss(room)


def _tangents(
    predictions: Float[np.ndarray, "models samples *outputs"],
    means: Float[np.ndarray, "bags samples *outputs"],
    losses: Float[np.ndarray, " bags"],
    slope: Slope,
    count: int,
) -> Float[np.ndarray, "bags models"]:
    """What the loss of each bag's mean, `losses` as it is, falls to with each model at best, less some rounding: the
    mean m becomes m + (p - m) / count."""
    with np.errstate(over="ignore", invalid="ignore"):  # beside a probability of 0 the tangent is as good as upright
        slopes = slope(means).reshape(len(means), -1).astype(predictions.dtype)
        here = slopes * means.reshape(slopes.shape)
        slack = SLACK * np.finfo(predictions.dtype).eps * (np.abs(here).sum(axis=1) + np.abs(losses))
        steps = slopes @ predictions.reshape(len(predictions), -1).T - here.sum(axis=1)[:, None]
    return losses[:, None] + steps / count - slack[:, None]
