"""Ensemble selection from a library of models (Caruana, Niculescu-Mizil, Crew and Ksikes 2004), in plain NumPy.

An ensemble grows by one model at a time, the one whose prediction improves the mean of those chosen most; a model may
be chosen again, which is its weight. As the best of many models on few samples is partly luck, the choice is made
several times, each time from another random half of the library, and the weights are averaged ("bagged selection").
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

Loss = Callable[[Float[np.ndarray, "models samples *outputs"]], Float[np.ndarray, " models"]]

ROUNDS = 30  # models chosen in a bag, at most
BAGS = 20
SHARE = 0.5  # of the library, in a bag
FEWEST_MODELS = 16  # in a bag, where there are so many: few good ones would else be missing in many bags
LIBRARY = 100  # models, the best alone, that are chosen from


def greedy_weights(
    predictions: Float[np.ndarray, "models samples *outputs"],
    loss: Loss,
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
    weights = np.zeros(len(predictions))
    for _ in range(bags):
        own = np.sort(generator.choice(best, size, replace=False))
        chosen = own[grow(predictions[own], loss, rounds)]
        weights += np.bincount(chosen, minlength=len(weights)) / len(chosen) / bags
    return weights


def grow(predictions: Float[np.ndarray, "models samples *outputs"], loss: Loss, rounds: int) -> Int[np.ndarray, " k"]:
    """The models that one greedy selection with replacement takes, up to where its mean is best."""
    total, chosen, losses = np.zeros_like(predictions[0]), [], []
    room = np.empty_like(predictions)
    for count in range(1, rounds + 1):
        np.add(predictions, total, out=room)
        room /= count
        each = loss(room)
        pick = int(np.argmin(each))
        total += predictions[pick]
        chosen.append(pick)
        losses.append(each[pick])
    return np.array(chosen[: int(np.argmin(losses)) + 1])
