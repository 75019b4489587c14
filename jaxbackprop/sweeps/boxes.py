"""Which shapes of networks to pad to one: boxes around shapes, cut in two where that saves most arithmetic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Seconds of a step, from padded shapes, how many of the slots a network uses, and how many its program has.
Work = Callable[
    [Int[np.ndarray, "shapes slots"], Int[np.ndarray, "#shapes"], Int[np.ndarray, "#shapes"]],
    Float[np.ndarray, " shapes"],
]


class Box(NamedTuple):
    """Shapes that are padded to one, and the number of hidden layers in each; what that costs a step, all in all and
    without the slots that a network does not use; the cut that saves most."""

    shapes: Int[np.ndarray, "shapes slots"]
    depth: Int[np.ndarray, " shapes"]
    counts: Int[np.ndarray, " shapes"]
    cost: float
    padded: float
    saving: float
    sides: tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]] | None


def make_box(
    shapes: Int[np.ndarray, "shapes slots"],
    depth: Int[np.ndarray, " shapes"],
    counts: Int[np.ndarray, " shapes"],
    work: Work,
) -> Box:
    """Try to cut the shapes in two at every width of every slot, and at every depth."""
    depths = np.unique(depth)
    of_depth = (depth[:, None] == depths) * counts[:, None]  # [shapes, depths]

    def costs(order: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        """Of a step of the first shape, the first two, …, padded to one."""
        tops, deepest = np.maximum.accumulate(shapes[order]), np.maximum.accumulate(depth[order])
        networks = np.cumsum(of_depth[order], axis=0)
        return np.sum([work(tops, d[None], deepest) * many for d, many in zip(depths, networks.T, strict=True)], axis=0)

    top, networks = shapes.max(axis=0, keepdims=True).repeat(len(depths), axis=0), of_depth.sum(axis=0)
    cost = float((work(top, depths, depth.max(keepdims=True)) * networks).sum())
    padded = float((work(top, depths, depths) * networks).sum())
    best: tuple[float, Any] = (0.0, None)
    for column in (*shapes.T, depth):
        order = np.argsort(column, kind="stable")
        below, above = costs(order), costs(order[::-1])[::-1]
        cuts = np.flatnonzero(np.diff(column[order]))  # the last shape of the left side
        if len(cuts):
            saved = cost - below[cuts] - above[cuts + 1]
            k = int(np.argmax(saved))
            if saved[k] > best[0]:
                best = float(saved[k]), (order[: cuts[k] + 1], order[cuts[k] + 1 :])
    return Box(shapes, depth, counts, cost, padded, *best)
