"""From trained networks to an ensemble: out-of-fold predictions, greedy selection, one temperature."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.metrics import accuracy_score, r2_score
from threadpoolctl import threadpool_limits

from jaxbackprop._checks import check_integer
from jaxbackprop.activations import Activation, OneOrEach, get_activation
from jaxbackprop.embedded import Embedded, Waves
from jaxbackprop.inference import FUNCTIONS, OUTPUTS, logits, with_waves
from jaxbackprop.losses import OBJECTIVES, Objective
from jaxbackprop.sweeps.calibration import calibrated, fit_temperature
from jaxbackprop.sweeps.greedy import BAGS, LIBRARY, ROUNDS, greedy_weights
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.mixture import Choice, Mixture, stack_networks
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.sweeps.state import COMPLETED, STOPPED, Book

Predictions = Float[np.ndarray, "samples outputs"]


class HeldOut(NamedTuple):
    """The samples that networks were not trained on: their targets, what each counts, how targets are read,
    and a function from a candidate to its predictions for them."""

    y: Predictions
    weights: Float[np.ndarray, " samples"]
    targets: str
    predict: Callable[[int], Predictions]


def choose_members(
    held_out: HeldOut,
    candidates: Sequence[int],
    *,
    rounds: int = ROUNDS,
    bags: int = BAGS,
    library: int = LIBRARY,
    seed: int = 0,
) -> Choice:
    """Select, weigh and calibrate; see `greedy.greedy_weights` for the arguments.

    **Raises:** `ValueError` if no candidate has finite predictions.
    """
    for name, value in (("rounds", rounds), ("bags", bags), ("library", library)):
        check_integer(name, value, 1)
    check_integer("seed", seed, 0)
    # The products are many and small: threads that wait for each other would take ten times as long.
    with threadpool_limits(1, "blas"):
        return _choose(held_out, candidates, rounds=rounds, bags=bags, library=library, seed=seed)


def _choose(held_out: HeldOut, candidates: Sequence[int], **options: int) -> Choice:
    y, counts, targets, predict = held_out
    shares = counts / counts.sum()
    # Only what enters a mean is kept: of a classifier the probability of the truth, one number a sample.
    kept = np.stack([_contribution(predict(c), y, targets) for c in candidates])
    weights = greedy_weights(
        kept,
        lambda means: _losses(means, y, shares, targets),
        lambda means: _slopes(means, y, shares, targets),
        **options,
    )
    order = np.argsort(-weights, kind="stable")[: np.count_nonzero(weights)]
    members, weights = np.asarray(candidates)[order], weights[order]
    curve: dict[str, list] = {"members": [], "loss": [], "score": []}
    total, mean = 0.0, np.zeros(y.shape, kept.dtype)
    for count, (member, weight) in enumerate(zip(members, weights, strict=True), start=1):
        total += weight
        mean += (predict(int(member)) - mean) * kept.dtype.type(weight / total)
        loss, score = judge(mean, y, shares, targets)
        for key, value in (("members", count), ("loss", loss), ("score", score)):
            curve[key].append(value)
    temperature = 1.0
    if targets in ("softmax", "sigmoid"):
        temperature = fit_temperature(mean, y, counts, exclusive=targets == "softmax")
    loss, score = judge(calibrated(mean, temperature, targets), y, shares, targets)
    return Choice(members, weights, temperature, score, loss, {key: np.array(line) for key, line in curve.items()})


def _contribution(p: Predictions, y: Predictions, targets: str) -> Any:
    if targets == "softmax":
        return np.einsum("ij,ij->i", p, y)
    return np.where(y > 0.5, p, 1 - p) if targets == "sigmoid" else p


def _losses(means: Any, y: Predictions, shares: Any, targets: str) -> Float[np.ndarray, " models"]:
    """Log loss, mean squared error, or half the Poisson deviance without the terms of y alone."""
    tiny = np.finfo(means.dtype).tiny  # added, so that the loss is convex down to a mean of 0
    if targets in ("softmax", "sigmoid"):
        each = -np.log(means + tiny)
    elif targets == "squared":
        each = (means - y) ** 2
    else:
        each = means - y * np.log(means + tiny)
    return each.reshape(len(each), -1) @ np.repeat(shares, each[0].size // len(shares))


def _slopes(means: Any, y: Predictions, shares: Any, targets: str) -> Float[np.ndarray, "models samples *outputs"]:
    """The derivative of `_losses`."""
    tiny = np.finfo(means.dtype).tiny
    if targets in ("softmax", "sigmoid"):
        each = -1 / (means + tiny)
    elif targets == "squared":
        each = 2 * (means - y)
    else:
        each = 1 - y / (means + tiny)
    return each * shares.reshape(-1, *[1] * (means.ndim - 2))


def judge(
    mean: Predictions, y: Predictions, shares: Float[np.ndarray, " samples"], targets: str
) -> tuple[float, float]:
    """Loss and score of one set of predictions."""
    loss = float(_losses(_contribution(mean, y, targets)[None], y, shares, targets)[0])
    if targets == "softmax":
        return loss, float(accuracy_score(y.argmax(axis=1), mean.argmax(axis=1), sample_weight=shares))
    if targets == "sigmoid":
        return loss, float(((mean > 0.5) == (y > 0.5)).all(axis=1) @ shares)
    return loss, float(r2_score(y, mean, sample_weight=shares)) if len(y) > 1 else float("nan")


def predict_plainly(
    X: Float[np.ndarray, "samples features"], params: Embedded, activation: OneOrEach, objective: Objective
) -> Predictions:
    """y-hat of one network in NumPy: the networks of a sweep have many shapes, and each is asked once."""
    if isinstance(params[0], Waves):
        X, params = with_waves(X, np.asarray(params[0].frequency)), params[1:]
    functions = tuple(map(_in_numpy, activation)) if isinstance(activation, tuple) else _in_numpy(activation)
    numbers: Any = params
    z = logits(X, [layer.weight.T for layer in numbers], [layer.bias for layer in numbers], functions)
    if OBJECTIVES.get(objective.name) is objective:
        return OUTPUTS[objective.name](z)
    return np.asarray(objective.predict(jnp.asarray(z.T))).T


def _in_numpy(activation: str | Activation) -> Any:
    """An activation of arrays with the samples first."""
    if isinstance(activation, str) and activation in FUNCTIONS:
        return FUNCTIONS[activation]
    own = get_activation(activation)
    return lambda z: np.asarray(own.value(jnp.asarray(z.T))).T


def held_out_samples(splits: Splits) -> list[tuple[int, np.ndarray]]:
    """Each split with the samples that it holds out."""
    sizes = splits.validation_sizes
    return [(k, np.asarray(splits.data.validation[k][: sizes[k]])) for k in range(len(sizes))]


def mix(trials: Sequence[Trial], book: Book, splits: Splits, objective: str | Objective, **options: Any) -> Mixture:
    """The ensemble out of a sweep's book: candidates are the trials that were trained to the end on every split.

    **Raises:** `ValueError` if nothing was held out, or no trial was trained to the end.
    """
    parts = held_out_samples(splits)
    if not any(len(index) for _, index in parts):
        raise ValueError("an ensemble is chosen on samples held out, and this sweep held out none: give folds")
    x, y = np.asarray(splits.data.x), np.asarray(splits.data.y)
    held_out = np.concatenate([index for _, index in parts])
    order = np.argsort(held_out, kind="stable")
    seen, firsts, times = np.unique(held_out[order], return_index=True, return_counts=True)
    weights = np.ones(x.shape[1]) if splits.data.weights is None else np.asarray(splits.data.weights, float)
    samples_first = np.ascontiguousarray(x.T)
    inputs = [samples_first[index] for _, index in parts]

    def predict(trial: int) -> Predictions:
        networks = [book.view(trial * book.splits + split) for split, _ in parts]
        with np.errstate(all="ignore"):  # diverged networks are among them
            own = [
                predict_plainly(of_split, params, trials[trial].activation, splits.objective)
                for of_split, params in zip(inputs, networks, strict=True)
            ]
            found = np.concatenate(own).take(order, axis=0)
            return found if len(found) == len(seen) else np.add.reduceat(found, firsts) / times[:, None].astype(x.dtype)

    status = book.status.reshape(len(trials), book.splits)
    ended = np.flatnonzero(np.isin(status, (STOPPED, COMPLETED)).all(axis=1))
    if len(ended) == 0:
        raise ValueError(f"none of {len(trials)} trials was trained to the end; train on before an ensemble is chosen")
    choice = choose_members(HeldOut(y.T[seen], weights[seen], splits.targets, predict), ended.tolist(), **options)
    networks = (
        (trials[member].activation, book.view(int(member) * book.splits + split), float(weight) / len(parts))
        for member, weight in zip(choice.members, choice.weights, strict=True)
        for split, _ in parts
    )
    return Mixture(*choice, stack_networks(list(networks)), objective, splits.targets, splits.classes)
