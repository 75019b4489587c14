"""Samples as an estimator has checked them, and as the engine trains on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxbackprop.losses import OBJECTIVES
from jaxbackprop.sweeps.splits import Index, Splits, make_data


class Samples(NamedTuple):
    """Samples as they are trained on: targets [samples, outputs], one weight a sample or None."""

    X: Float[np.ndarray, "samples features"]
    y: Float[np.ndarray, "samples outputs"]
    weights: Float[np.ndarray, " samples"] | None


def mean_squared_error(
    z: Float[Array, "outputs samples"], y: Float[Array, "outputs samples"]
) -> Float[Array, " samples"]:
    """Half the mean of the squared errors of a sample's outputs."""
    return jnp.mean((z - y) ** 2, axis=0) / 2


# What `MLPRegressor` tells of its loss, and stops by, is the mean over the outputs, but its steps descend their sum,
# the derivative of which is y-hat - y. Of one output both are the same.
TRAINED_FOR = {**OBJECTIVES, "squared": replace(OBJECTIVES["squared"], per_sample=mean_squared_error)}


def positions(part: Any) -> Int[np.ndarray, " samples"]:
    """The positions of the samples of a split's part, which scikit-learn also takes as a mask or a list."""
    part = np.asarray(part)
    return np.flatnonzero(part) if part.dtype == bool else part.astype(int)


def make_splits(samples: Sequence[Samples], parts: Sequence[tuple[Index, Index]], objective: str) -> Splits:
    """The engine's data: features first, and for each split the samples to train on and those to hold out.

    **Arguments:** `samples`, one for all splits, or one for each; `parts`, positions in them.
    """
    sizes = np.cumsum([0, *(len(s.X) for s in samples)])
    offsets = sizes[:-1] if len(samples) > 1 else np.zeros(len(parts), int)
    weighted = any(s.weights is not None for s in samples)
    weights = [np.ones(len(s.X), s.X.dtype) if s.weights is None else s.weights for s in samples] if weighted else []
    train, held_out = ([o + part[k] for o, part in zip(offsets, parts, strict=True)] for k in (0, 1))
    return Splits(
        make_data(
            np.concatenate([s.X.T for s in samples], axis=1),
            np.concatenate([s.y.T for s in samples], axis=1),
            np.concatenate(weights) if weighted else None,
            train,
            held_out,
        ),
        tuple(map(len, train)),
        tuple(map(len, held_out)),
        TRAINED_FOR[objective],
        objective,
    )
