"""Successive halving: train all trials a little, go on with the better part, and so on.

Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016. Every rung multiplies the epochs by the factor and divides
the trials by it.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxbackprop.sweeps.pruning import judged
from jaxbackprop.sweeps.state import DROPPED, Book

RUNGS = 3  # at most: a first rung earlier than epochs / factor^2 judges trials that have hardly begun


def schedule(epochs: int, trials: int, factor: int) -> list[tuple[int, int]]:
    """(epoch, trials that go on from there) of each rung, the last one being (epochs, 0)."""
    rungs = [(epochs, 0)]
    for k in range(1, RUNGS):
        epoch, survivors = epochs // factor**k, trials // factor ** (RUNGS - k)
        if epoch < 1 or survivors < 1:
            break
        rungs.insert(0, (epoch, survivors))
    # With fewer rungs than planned the first of them keeps a 1 / factor part all the same.
    return [(epoch, max(1, trials // factor ** (i + 1)) if left else 0) for i, (epoch, left) in enumerate(rungs)]


def survivors(
    losses: Float[np.ndarray, " trials"], alive: Int[np.ndarray, " alive"], keep: int
) -> Int[np.ndarray, " k"]:
    """The `keep` trials with the lowest losses among those still alive, in their order; NaN is the worst."""
    order = np.argsort(np.where(np.isnan(losses[alive]), np.inf, losses[alive]), kind="stable")
    return np.sort(alive[order[:keep]])


def worst(book: Book, epoch: int, keep: int) -> Int[np.ndarray, " dropped"]:
    """The trials to drop so that the `keep` with the lowest loss go on, of those not dropped before; see
    `pruning.judged`. None where `keep` is 0, at the last rung.

    A trial that early stopping has ended competes with the loss of its best parameters, as the others do with theirs.
    """
    alive = np.flatnonzero(~(book.status.reshape(-1, book.splits) == DROPPED).any(axis=1))
    return np.setdiff1d(alive, survivors(judged(book)[0], alive, keep)) if keep else alive[:0]
