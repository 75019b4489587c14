"""The line search of Moré and Thuente (1994), one evaluation at a time.

Theirs is the line search of MINPACK-2 that L-BFGS-B calls, with L-BFGS-B's constants, so that a network takes the steps
that scipy would have it take. A search that loops until it has found its step would, under `jax.vmap`, keep all
networks waiting for the slowest; this one takes in loss and slope where it has asked for them, and asks for the next.

Source: J. J. Moré and D. J. Thuente, Line search algorithms with guaranteed sufficient decrease, ACM Transactions on
Mathematical Software 20 (1994), 286-307; the numbers of equations below are theirs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Number = Float[Array, ""]

DECREASE, CURVATURE, NARROW = 1e-3, 0.9, 0.1  # ftol, gtol and xtol, as L-BFGS-B has them
LONGEST = 1e10  # step
NEARER, FARTHER = 1.1, 4.0  # times the last step, where to look for the next while there is no bracket
SHRINK = 0.66  # of its width: what a bracket may keep after two evaluations


class Place(NamedTuple):
    """A step, and the loss and its slope along the line there."""

    step: Number
    value: Number
    slope: Number


class Line(NamedTuple):
    """A search that is under way.

    `start` is step 0; `best` the lowest place so far, `other` the other end of the interval that holds a minimum, once
    `bracketed`. The loss is asked for at `step`, which lies in [`low`, `high`]. `widths` are those of the last two
    intervals. `modified` as long as the first stage goes on, which looks for a minimum of psi, equation (1.5).
    """

    start: Place
    best: Place
    other: Place
    step: Number
    low: Number
    high: Number
    widths: tuple[Number, Number]
    bracketed: Bool[Array, ""]
    modified: Bool[Array, ""]
    evaluations: Int[Array, ""]


def begin_search(value: Number, slope: Number, step: Number) -> Line:
    """A search from a place with this loss and this slope, below 0; `step` is the first to try."""
    start = Place(jnp.zeros_like(value), value, slope)
    widest = jnp.full_like(value, LONGEST)
    no = jnp.zeros((), bool)
    first = (start, start, start, step, start.step, (1 + FARTHER) * step, (widest, 2 * widest))
    return Line(*first, no, ~no, jnp.zeros((), jnp.int32))


def go_on(line: Line, value: Number, slope: Number) -> tuple[Line, Bool[Array, ""]]:
    """The search after one more evaluation, and whether `line.step` is the step to take: it fulfils the strong Wolfe
    conditions, or no better one can be told from it by rounding.

    Where the loss is not a finite number the next step is half of the way back.
    """
    start, here = line.start, Place(line.step, value, slope)
    tilt = DECREASE * start.slope
    enough = start.value + here.step * tilt
    modified = line.modified & ~((value <= enough) & (slope >= 0))

    flat = (value <= enough) & (jnp.abs(slope) <= -CURVATURE * start.slope)
    outside = (here.step <= line.low) | (here.step >= line.high)
    rounded = line.bracketed & (outside | (line.high - line.low <= NARROW * line.high))
    longest = (here.step == LONGEST) & (value <= enough) & (slope <= tilt)

    psi = modified & (value <= line.best.value) & (value > enough)
    own = jnp.where(psi, tilt, 0)
    best, other, end = (_tilted(place, own) for place in (line.best, line.other, here))
    best, other, step, bracketed = _next_place(best, other, end, line)
    best, other = _tilted(best, -own), _tilted(other, -own)

    width = jnp.abs(other.step - best.step)
    bisect = bracketed & (width >= SHRINK * line.widths[1])
    step = jnp.where(bisect, best.step + 0.5 * (other.step - best.step), step)
    widths = jnp.where(bracketed, width, line.widths[0]), jnp.where(bracketed, line.widths[0], line.widths[1])
    low = jnp.where(bracketed, jnp.minimum(best.step, other.step), step + NEARER * (step - best.step))
    high = jnp.where(bracketed, jnp.maximum(best.step, other.step), step + FARTHER * (step - best.step))
    step = jnp.clip(step, 0, LONGEST)
    stuck = bracketed & ((step <= low) | (step >= high) | (high - low <= NARROW * high))
    step = jnp.where(stuck, best.step, step)

    evaluations = line.evaluations + 1
    new = Line(start, best, other, step, low, high, widths, bracketed, modified, evaluations)
    finite = jnp.isfinite(value) & jnp.isfinite(slope)
    nearer = line._replace(step=line.best.step + 0.5 * (line.step - line.best.step), evaluations=evaluations)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, nearer)
    return new, finite & (flat | rounded | longest)


def _tilted(place: Place, tilt: Number) -> Place:
    """The loss minus `tilt` times the step, as psi is."""
    return Place(place.step, place.value - place.step * tilt, place.slope - tilt)


def _next_place(best: Place, other: Place, here: Place, line: Line) -> tuple[Place, Place, Number, Bool[Array, ""]]:
    """Section 4: the interval after the evaluation `here`, the step to try next, and whether a minimum is inside."""
    step, ahead = here.step, here.step > best.step
    opposite = jnp.sign(here.slope) * jnp.sign(best.slope) < 0
    higher, flatter = here.value > best.value, jnp.abs(here.slope) < jnp.abs(best.slope)
    edge = jnp.where(ahead, line.high, line.low)

    # Case 1: a higher loss.
    cubic = _cubic(best, here)[0]
    rise = (best.value - here.value) / (step - best.step)
    quadratic = best.step + best.slope / (rise + best.slope) / 2 * (step - best.step)
    nearer = jnp.abs(cubic - best.step) <= jnp.abs(quadratic - best.step)
    first = jnp.where(nearer, cubic, cubic + (quadratic - cubic) / 2)

    # Case 2: a lower loss, slopes of opposite sign.
    back, ratio, root = _cubic(here, best)
    secant = step + here.slope / (here.slope - best.slope) * (best.step - step)
    farther = jnp.abs(back - step) > jnp.abs(secant - step)
    second = jnp.where(farther, back, secant)

    # Case 3: a lower loss, slopes of the same sign, the new one flatter.
    bounded = jnp.where((ratio < 0) & (root != 0), back, edge)
    inner = jnp.where(jnp.abs(bounded - step) < jnp.abs(secant - step), bounded, secant)
    most = step + SHRINK * (other.step - step)
    inner = jnp.where(ahead, jnp.minimum(most, inner), jnp.maximum(most, inner))
    outer = jnp.where(jnp.abs(bounded - step) > jnp.abs(secant - step), bounded, secant)
    third = jnp.where(line.bracketed, inner, jnp.clip(outer, line.low, line.high))

    # Case 4: a lower loss, slopes of the same sign, the new one no flatter.
    fourth = jnp.where(line.bracketed, _cubic(here, other)[0], edge)

    new = jnp.select([higher, opposite, flatter], [first, second, third], fourth)
    end = Place(*(jnp.select([higher, opposite], [h, b], o) for b, o, h in zip(best, other, here, strict=True)))
    lowest = Place(*(jnp.where(higher, b, h) for b, h in zip(best, here, strict=True)))
    return lowest, end, new, line.bracketed | higher | opposite


def _cubic(a: Place, b: Place) -> tuple[Number, Number, Number]:
    """The minimum of the cubic through two places with their slopes; its place as a ratio of the way from `a` to `b`,
    and the root in it, 0 where the cubic has no minimum."""
    theta = 3 * (a.value - b.value) / (b.step - a.step) + a.slope + b.slope
    scale = jnp.maximum(jnp.maximum(jnp.abs(theta), jnp.abs(a.slope)), jnp.abs(b.slope))
    square = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    root = scale * jnp.sqrt(jnp.maximum(square, 0)) * jnp.where(b.step < a.step, -1, 1)
    ratio = ((root - a.slope) + theta) / (((root - a.slope) + root) + b.slope)
    return a.step + ratio * (b.step - a.step), ratio, root
