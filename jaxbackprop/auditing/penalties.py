"""The l2 term of somebody else's code: its strength in the loss, found out by setting it, and in the gradient.

Courses write it as reg/2 sum(W^2), as reg sum(W^2), inside or outside of the mean. What the loss does when the strength
is changed says which; without a loss of its own the gradient says it.
"""

import ast
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import role
from jaxbackprop.auditing.hand_in import HandIn
from jaxbackprop.auditing.subjects import Run

LEAST = 1e-3  # a strength below shows too little


class Penalty(NamedTuple):
    """The strength that is set in somebody's code, the l2 of the mean loss that it amounts to, and a note."""

    strength: float = 0.0
    l2: float = 0.0
    note: str = ""


def find_penalty(
    hand_in: HandIn, without: Run, strength: float, with_it: Run, samples: int, mean_loss: float,
    gradients: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], backward: str,
) -> Penalty:  # fmt: skip
    """How to audit code whose l2 term can be set: `without` it, and `with_it` of that strength."""
    weights = {name: leaf for name, leaf in without.leaves.items() if name[0] == "W"}
    norm = sum(float(np.sum(leaf**2)) for leaf in weights.values())
    in_loss = 0.0
    if without.loss is not None and with_it.loss is not None:
        try:
            first, second = without.loss(), with_it.loss()
        except Exception:
            first = second = np.nan
        if np.isfinite(first + second) and abs(second - first) > 1e-9 * abs(first):
            summed = np.isclose(first, samples * mean_loss, rtol=1e-5)
            in_loss = 2 * (second - first) / norm / (samples if summed else 1)
    change = {name: gradients[1][name] - gradients[0][name].reshape(gradients[1][name].shape) for name in gradients[0]}
    size = max(float(np.max(np.abs(leaf), initial=0)) for leaf in gradients[0].values())
    in_gradient = any(float(np.max(np.abs(leaf), initial=0)) > 1e-9 * size for leaf in change.values())
    if not in_gradient:
        if not in_loss:
            return Penalty()
        if added_elsewhere(hand_in, backward):
            return Penalty(note="the l2 term is added to the gradient outside of it, and is not looked at")
        return Penalty(strength, in_loss)
    if in_loss:
        return Penalty(strength, in_loss)
    factors = [
        float(np.sum(change[name].reshape(leaf.shape) * leaf) / np.sum(leaf**2))
        for name, leaf in weights.items()
        if change[name].size == leaf.size
    ]
    if not factors:
        return Penalty(strength, strength)
    known = [f for f in (1, 2, 1 / samples, 2 / samples) if np.isclose(factors[0], f * strength, rtol=1e-6)]
    same = bool(known) and np.allclose(factors, factors[0], rtol=1e-6)
    note = "" if without.loss is None else "the loss has no l2 term, the gradient has one"
    return Penalty(strength, factors[0] if same else strength, note)


def usual_strength(own: float) -> float:
    """The strength to try: the code's own, if it is large enough to see."""
    return own if own >= LEAST else 0.1


def added_elsewhere(hand_in: HandIn, backward: str) -> bool:
    """Whether the strength is used in an assignment outside of the loss and the backward pass, as a `fit` does."""
    for function in ast.walk(hand_in.tree):
        if not isinstance(function, ast.FunctionDef) or function.name in (backward, "__init__"):
            continue
        if "loss" in function.name.lower() or "cost" in function.name.lower():
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AugAssign) and any(
                isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) and uses_strength(part)
                for part in ast.walk(node.value)
            ):
                return True
    return False


def uses_strength(node: ast.AST) -> bool:
    names = [
        p.attr if isinstance(p, ast.Attribute) else p.id if isinstance(p, ast.Name) else "" for p in ast.walk(node)
    ]
    return any(role(name) == "penalty" for name in names if name)
