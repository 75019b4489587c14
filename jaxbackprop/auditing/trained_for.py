"""What the network of a hand-in is trained for, if that is not the cross-entropy of a softmax: told by its outputs, and
by its gradient up to a constant."""

import ast
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbackprop.auditing.calling import plain
from jaxbackprop.auditing.hand_in import HandIn
from jaxbackprop.auditing.subjects import Run, Subject, parallel
from jaxbackprop.auditing.yardstick import Data, yardstick
from jaxbackprop.losses import OBJECTIVES, Objective


def half_squares(z: Any, y: Any) -> Any:
    """Half the squared error of each sample, summed over the outputs p = sigmoid(z)."""
    return jnp.sum((lax.logistic(z) - y) ** 2, axis=0) / 2


def half_squares_error(z: Any, y: Any) -> Any:
    """(p - y) p (1 - p), by the chain rule."""
    p = lax.logistic(z)
    return (p - y) * p * (1 - p)


HALVES = (2.0, 1.0, 0.5)  # of a squared error, as it may be written
OTHERS = (
    Objective("squared error of sigmoids", lax.logistic, half_squares, half_squares_error),
    replace(OBJECTIVES["sigmoid"], name="binary cross-entropy of sigmoids"),
    replace(OBJECTIVES["squared"], name="squared error"),
)


def told_objective(
    hand_in: HandIn, subject: Subject, run: Run, data: Data, activations: Iterable[str]
) -> str | Objective:
    """That of `OTHERS` whose outputs are the network's, and whose gradient is a multiple of its own in some leaf; if
    there are several, in most of them. Else the subject's own.

    The squared error may be halved or not, and its mean be taken over the outputs too: it comes with its constant.
    """
    found, most = subject.objective, 0
    seen = run.stages.get("probs", run.stages.get("outputs", run.stages.get(f"a{len(subject.shapes) // 2}")))
    if seen is None:
        return found
    got, has_softmax = subject.gradient(run), speaks_of(hand_in, "softmax")
    for objective in OTHERS:
        for name in activations:
            right = yardstick(run.leaves, data, name, subject.samples_first, objective=objective)
            known = right.trace(run.leaves).a[-1].T
            if known.shape != seen.shape or not np.allclose(known, seen):
                continue
            alike = {leaf: g for leaf, g in right.gradient(run.leaves).items() if parallel(got[leaf], g)}
            if (
                has_softmax
                and "cross-entropy" in objective.name
                and (len(alike) < len(got) or not fits_loss(run, right.loss(run.leaves)))
            ):
                continue  # a sigmoid in a softmax's place, and no network with sigmoids
            if len(alike) > most:
                ratios = [abs(np.vdot(got[leaf], g) / np.vdot(g, g)) for leaf, g in alike.items()]
                constant = usual_constant(float(np.median(ratios)), data.samples, subject.classes)
                found, most = scaled(objective, constant), len(alike)
    return found


def fits_loss(run: Run, loss: float) -> bool:
    """Whether the file has no loss of its own, or one that is a usual constant times this."""
    if run.loss is None:
        return True
    try:
        ratio = run.loss() / loss
    except Exception:
        return False
    samples = len(next(iter(run.stages.values())))
    return any(np.isclose(ratio, a * b) for a in HALVES for b in (1, samples))


def speaks_of(hand_in: HandIn, word: str) -> bool:
    """Whether a name or text of the file has a word in it."""
    names = (getattr(node, "id", getattr(node, "attr", getattr(node, "name", getattr(node, "value", ""))))
             for node in ast.walk(hand_in.tree))  # fmt: skip
    return any(isinstance(name, str) and word in plain(name) for name in names)


def usual_constant(ratio: float, samples: int, outputs: int) -> float:
    """The constant of a squared error that a gradient is right for, as that of the mean or of the sum over samples."""
    usual = (1.0, 2.0, 0.5, 2 / outputs, 1 / outputs)
    return next((c for c in usual for n in (1, samples) if np.isclose(ratio, c * n, rtol=1e-5)), 1.0)


def scaled(objective: Objective, constant: float) -> Objective:
    """A constant times an objective."""
    if constant == 1:
        return objective
    return Objective(
        objective.name,
        objective.predict,
        lambda z, y: constant * objective.per_sample(z, y),
        lambda z, y: constant * (objective.predict(z) - y if objective.error is None else objective.error(z, y)),
    )
