"""How sure a classifier may be: one temperature (Guo, Pleiss, Sun and Weinberger 2017), and what it leaves.

Probabilities p are taken for logits, z = log p, and softened or sharpened, p_T proportional to e^(z/T). For labels that
do not exclude each other z = log p/(1 - p), each by itself. The order of the classes stays what it was.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import expit

BOUNDS = (0.05, 20.0)  # of the temperature
PRIOR = 0.5  # standard deviation of log T, before any sample was seen

Probabilities = Float[np.ndarray, "samples classes"]


def soften(p: Probabilities, temperature: float, *, exclusive: bool = True) -> Probabilities:
    """The probabilities at a temperature: above 1 less sure, below 1 surer.

    **Arguments:** `p`; `exclusive`, whether the classes of a sample exclude each other.
    """
    tiny = np.finfo(p.dtype).tiny
    if not exclusive:
        z = np.log(np.maximum(p, tiny)) - np.log(np.maximum(1 - p, tiny))
        return expit(z / p.dtype.type(temperature))
    z = np.log(np.maximum(p, tiny)) / p.dtype.type(temperature)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def calibrated(mean: Probabilities, temperature: float, targets: str) -> Probabilities:
    """Predictions at a temperature, by how targets are read: numbers have none and stay what they are."""
    return soften(mean, temperature, exclusive=targets == "softmax") if targets in ("softmax", "sigmoid") else mean


def fit_temperature(
    p: Probabilities, y: Probabilities, weights: Float[np.ndarray, " samples"], *, exclusive: bool = True
) -> float:
    """The temperature that makes the log loss of samples not trained on least.

    Few samples that are all predicted rightly would be best off with a temperature of 0, which the next wrong one would
    make costly. So log T has the prior N(0, PRIOR^2), which counts as one term beside the sum over all samples.

    **Arguments:** `y`, one-hot, or 0 and 1 for each label; `weights`, what each sample counts.
    """
    tiny = np.finfo(p.dtype).tiny

    def cost(log_temperature: float) -> float:
        soft = soften(p, float(np.exp(log_temperature)), exclusive=exclusive)
        truth = (soft * y).sum(axis=1, keepdims=True) if exclusive else np.where(y > 0.5, soft, 1 - soft)
        prior = (log_temperature / PRIOR) ** 2 / 2
        return float(-(np.log(np.maximum(truth, tiny)).sum(axis=1) @ weights)) + prior

    low, high = np.log(BOUNDS)
    return float(np.exp(minimize_scalar(cost, bounds=(low, high), method="bounded").x))


class Reliability(NamedTuple):
    """Predictions in bins of equal width of their confidence: means, and how many there are; NaN in an empty bin."""

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    counts: Int[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of confidence and accuracy over all predictions."""
        return float(np.nansum(np.abs(self.confidence - self.accuracy) * self.counts) / self.counts.sum())


def reliability(
    confidence: Float[np.ndarray, " samples"], right: Bool[np.ndarray, " samples"], bins: int = 15
) -> Reliability:
    """How often predictions are right, by how sure they are.

    **Arguments:** `confidence`, the probability of the predicted class; `right`, whether it was the true one.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=v.astype(float), minlength=bins) / count for v in (confidence, right)]
    return Reliability(means[0], means[1], count)
