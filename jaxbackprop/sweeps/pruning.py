"""Trials that end at a rung: a chooser says which, by what the book says of them. Successive halving is one chooser, a
caller's function another.

The book is the same in every process and in every checkpoint, so that a choice made by it alone is, too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxbackprop._checks import check_integer
from jaxbackprop.sweeps.state import DROPPED, TRAINING, Book

# From the epoch, the numbers of the trials that still train, and their losses and scores, to which of them end.
Prune = Callable[
    [int, Int[np.ndarray, " living"], Float[np.ndarray, " living"], Float[np.ndarray, " living"]],
    Bool[np.ndarray, " living"],
]


def check_pruning(prune: Prune | None, prune_at: Sequence[int] | None, epochs: int) -> list[int]:
    """The epochs at which trials are pruned, in order.

    **Raises:** `ValueError` unless they are epochs before the last, and there is a function to ask.
    """
    if (prune is None) != (prune_at is None):
        raise ValueError("prune and prune_at go together: which trials end, and the epochs at which that is asked")
    if prune_at is None:
        return []
    if not callable(prune):
        raise ValueError(f"prune={prune!r} must be a function prune(epoch, trials, losses, scores) -> mask")
    if isinstance(prune_at, str) or not np.iterable(prune_at):
        raise ValueError(f"prune_at={prune_at!r} must be a list of epochs")
    at = sorted({check_integer(f"prune_at[{i}]", epoch, 1) for i, epoch in enumerate(prune_at)})
    if at and at[-1] >= epochs:
        raise ValueError(f"prune_at has epoch {at[-1]}, but training ends at epochs={epochs}; prune before")
    return at


def judged(book: Book) -> tuple[Float[np.ndarray, " trials"], Float[np.ndarray, " trials"]]:
    """Loss and score of each trial, of held-out samples where there are any, averaged over the splits."""
    outcome: Any = book.outcome()
    part = "validation" if np.isfinite(outcome.validation_loss).any() else "train"
    each = (getattr(outcome, f"{part}_{name}") for name in ("loss", "score"))
    loss, score = (values.reshape(-1, book.splits).mean(axis=1) for values in each)
    return loss, score


def pruned(prune: Prune, book: Book, epoch: int, _: int) -> Int[np.ndarray, " dropped"]:
    """The trials to drop, by a function of one's own, which is asked for those that still train.

    **Raises:** `ValueError` unless it answers for each of them.
    """
    living = np.flatnonzero((book.status.reshape(-1, book.splits) == TRAINING).any(axis=1))
    if len(living) == 0:
        return living
    losses, scores = judged(book)
    mask = np.asarray(prune(epoch, living, losses[living], scores[living]))
    if mask.shape != living.shape or mask.dtype != bool:
        raise ValueError(
            f"prune must return a mask, one bool for each of {len(living)} trials, got {mask.dtype.name} of shape "
            f"{mask.shape}"
        )
    return living[mask]


def drop_trials(book: Book, trials: Int[np.ndarray, " dropped"]) -> Int[np.ndarray, " networks"]:
    """End some trials: their networks that still train are dropped, and returned."""
    trial = np.arange(len(book.status)) // book.splits
    dropped = np.flatnonzero((book.status == TRAINING) & np.isin(trial, trials))
    book.status[dropped] = DROPPED
    return dropped
