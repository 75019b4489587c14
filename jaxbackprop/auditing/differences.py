"""Central differences in float64 that know their own error, for losses that autodiff cannot follow.

With D(h) = (f(h) - f(-h)) / 2h = f'(0) + c h^2 + O(h^4), Richardson's (16 D(h/4) - D(h)) / 15 drops the h^2, and its
distance from D(h/4) bounds what is left; rounding adds about eps |f| / h. The step starts at a thousandth of the
parameter's size and is divided by four as long as that lowers the error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EPS = float(np.finfo(np.float64).eps)
GOAL = 1e-8  # relative error at which the step is small enough
LEVELS = 9  # the last step is 4^-9 times the first


class Slope(NamedTuple):
    """f'(0), a bound on its error, and whether f has a kink there; then there is no derivative."""

    value: float
    error: float
    kink: bool


def differentiate(f: Callable[[float], float], step: float, middle: float) -> Slope:
    """The derivative at 0 of a function of one number, where it is `middle`."""
    best = Slope(math.nan, math.inf, False)
    previous, bend_before = math.nan, math.nan
    for level in range(LEVELS):
        h = step / 4**level
        ahead, behind = f(h), f(-h)
        rounding = 4 * EPS * max(abs(ahead), abs(behind), abs(middle)) / h
        central = (ahead - behind) / (2 * h)
        bend = abs(ahead + behind - 2 * middle) / h  # of a smooth f it shrinks with h, at a kink it stays
        if level > 0:
            value = (16 * central - previous) / 15
            error = abs(value - central) + rounding
            kink = bend > bend_before / 2 and bend > 1e-3 * abs(value) + 100 * rounding
            if error < best.error or best.kink:
                best = Slope(value, error, kink)
            if error <= GOAL * abs(value) + 3 * rounding and not kink:
                break
        previous, bend_before = central, bend
    return best
