"""A sweep written out: one network after another, by autodiff and optax, in a loop of Python; the rules of early
stopping, successive halving and pruning in NumPy. It shares no line with the engine but the initial parameters and the
order of the mini-batches.
"""

import functools
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference import QUICKLY

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.embedded import Waves
from jaxbackprop.sweeps.grid import expand
from jaxbackprop.sweeps.host import epoch_order
from jaxbackprop.thinned import draw_mask

MOONS = data.load("moons", samples=36)
TARGETS = {
    "softmax": MOONS.y,
    "sigmoid": np.stack([MOONS.y, MOONS.X[:, 0] > 0.5], axis=1).astype(int),
    "squared": np.stack([MOONS.X[:, 0] * MOONS.X[:, 1], np.sin(MOONS.X[:, 0])], axis=1),
    "poisson": np.floor(2 + MOONS.X).astype(int),
}
# Of an embedding's frequencies where they start: of one feature, or of both.
FREQUENCIES = {0: None, 1: np.array([[0.3, 0.7]]), 2: np.array([[0.4], [0.2]])}
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, 36)
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
}


def grid_of(case):
    return {
        "hidden": list(case.hidden),
        "activation": list(case.activation),
        "learning_rate": list(case.rates),
        "optimizer": list(case.optimizer),
        "batch_size": list(case.batch_size),
        "dropout": list(case.dropout),
        "l2": [0.01],
    }


def folds_of(case):
    """Folds of unequal size."""
    labels = np.arange(36) % (case.splits + 1)
    return [(np.flatnonzero(labels != k), np.flatnonzero(labels == k)) for k in range(case.splits)]


@functools.cache
def step_of(objective, activation, optimizer):
    """One step of one network, samples first, by autodiff and optax, with the loss before it; and a loss alone."""
    f = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]

    def outputs(network, X, masks):
        frequency, params = network
        v = 2 * jnp.pi * X[:, : len(frequency), None] * frequency
        a = jnp.hstack([X, jnp.sin(v).reshape(len(X), -1), jnp.cos(v).reshape(len(X), -1)])
        for (weight, bias), mask in zip(params[:-1], masks or [1] * len(params), strict=False):
            a = mask * f(a @ weight.T + bias)
        return a @ params[-1].weight.T + params[-1].bias

    def mean_loss(network, X, y, w, masks=None):
        z = outputs(network, X, masks)
        each = {
            "softmax": lambda: -(jax.nn.log_softmax(z) * y).sum(axis=1),
            "sigmoid": lambda: optax.sigmoid_binary_cross_entropy(z, y).sum(axis=1),
            "squared": lambda: ((z - y) ** 2).sum(axis=1) / 2,
            "poisson": lambda: (jnp.exp(z) - y * z).sum(axis=1),
        }[objective]()
        return (each * w).sum() / w.sum() + 0.01 / 2 * sum((weight**2).sum() for weight, _ in network[1])

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(network, state, rate, X, y, w, masks):
        value, gradient = jax.value_and_grad(mean_loss)(network, X, y, w, masks)
        update, state = OPTIMIZERS[optimizer](rate).update(gradient, state, network)
        return optax.apply_updates(network, update), state, value

    return step, jax.jit(mean_loss, compiler_options=QUICKLY)


@functools.cache
def mask_of(seed, number, l, rate, units, samples, dtype):
    """A mask, samples first; most networks of a case have it in common."""
    return np.asarray(draw_mask(seed, number, l, rate, units, samples, np.dtype(dtype)).T, dtype)


def parts_of(case):
    """(training samples, held-out samples) of each split."""
    if case.splits > 1:
        return folds_of(case)
    labels = TARGETS[case.objective]
    labels = labels.astype(float) if case.objective in ("squared", "poisson") else labels
    every = data.split(np.arange(36.0)[:, None], labels, validation=0.25, test=0.0, seed=4)
    return [(every.train.X[:, 0].astype(int), every.validation.X[:, 0].astype(int))]


def problem_of(case, dtype):
    """All samples, their targets, and what each of them counts."""
    y = TARGETS[case.objective]
    targets = np.eye(2)[y] if case.objective == "softmax" else y
    w = WEIGHTS if case.weights else np.ones(36)
    return tuple(np.asarray(a, dtype) for a in (MOONS.X, targets, w))


def handed_back(params):
    """What a sweep hands back, as (frequencies, layers)."""
    return (params[0].frequency, params[1:]) if isinstance(params[0], Waves) else (np.zeros((0, 1)), params)


def loss_on(case, trial, network, part, dtype):
    """The loss of a network, (frequencies, layers), on some of the samples."""
    X, y, w = problem_of(case, dtype)
    # What is not in a part counts 0 there, as an empty slot of a batch does: two shapes serve all parts and batches.
    counts = w * np.isin(np.arange(36), part).astype(dtype)
    return float(step_of(case.objective, trial.activation, trial.optimizer)[1](network, X, y, counts))


class Mark(NamedTuple):
    """One network at a mark: its frequencies and layers, their losses, and what the curve of training losses says
    there, which is the mean loss of the mini-batches since the mark before, each measured before its step."""

    network: tuple
    train: float
    held_out: float
    curve: float


def train_alone(case, trial, train, held_out, marks, dtype, nudge=0.0):
    """One network at each mark, without any stopping; from a start that is off by `nudge`, relatively."""
    X, y, w = problem_of(case, dtype)
    start = FREQUENCIES[case.waves]
    frequency = jnp.asarray(np.zeros((0, 1)) if start is None else start, dtype)
    sizes = (2 + 2 * frequency.size, *trial.hidden, y.shape[1])
    layers = jb.init_params(jax.random.key(trial.seed), sizes, dtype=dtype)
    network = frequency, jax.tree.map(lambda leaf: leaf * dtype(1 + nudge), layers)
    state = OPTIMIZERS[trial.optimizer](trial.learning_rate).init(network)
    step, _ = step_of(case.objective, trial.activation, trial.optimizer)
    history, losses, counted = {}, [], []
    for epoch in range(marks[-1] + 1):
        if epoch in marks:
            whole, other = (loss_on(case, trial, network, part, dtype) for part in (train, held_out))
            running = trial.batch_size and losses
            history[epoch] = Mark(network, whole, other, np.average(losses, weights=counted) if running else whole)
            losses, counted = [], []
        order = epoch_order(4 if trial.batch_size else None, epoch, train, trial.batch_size or 36)
        for number, batch in enumerate(order, start=epoch * len(order)):
            masks = None
            if trial.dropout:
                masks = [
                    mask_of(trial.seed, number, l, trial.dropout, n, len(batch), dtype)
                    for l, n in enumerate(trial.hidden)
                ]
            i, counts = np.maximum(batch, 0), w[batch] * (batch >= 0)
            rate = dtype(trial.learning_rate)
            network, state, value = step(network, state, rate, X[i], y[i], counts, masks)
            losses.append(float(value))
            counted.append(float(counts.sum()))
    return history


def rounding_decides(case, trials, parts, marks, curve, dtype):
    """Whether the type cannot say what comes out: a start that is off by ten roundings ends elsewhere (large steps; a
    gradient near 0, which Adam divides by its own size)."""
    nudge, apart = (2e-15, 1e-10) if case.double else (1e-6, 1e-4)
    for t, s in curve:
        nudged = train_alone(case, trials[t], *map(np.asarray, parts[s]), marks, dtype, nudge)
        for mark, right in curve[t, s].items():
            if max(abs(nudged[mark].curve - right.curve), abs(nudged[mark].held_out - right.held_out)) > apart:
                return True
    return False


def reference(case):
    """What must come out: status, epochs and losses of each trial, and parameters of each network. Nothing where
    rounding decides it."""
    trials = expand(grid_of(case))
    dtype = np.float64 if case.double else np.float32
    parts = parts_of(case)
    rungs = [*((epoch, None) for epoch in case.prune_at), (case.epochs, 0)]
    if case.halving is not None:
        for k in (1, 2):
            if case.epochs // case.halving**k < 1 or len(trials) // case.halving ** (3 - k) < 1:
                break
            rungs.insert(0, (case.epochs // case.halving**k, None))
        rungs = [
            (epoch, max(1, len(trials) // case.halving ** (i + 1)) if i < len(rungs) - 1 else 0)
            for i, (epoch, _) in enumerate(rungs)
        ]
    marks = sorted({*range(0, case.epochs, case.record_every), *(epoch for epoch, _ in rungs)})
    networks = list(product(range(len(trials)), range(len(parts))))
    curve = {(t, s): train_alone(case, trials[t], *map(np.asarray, parts[s]), marks, dtype) for t, s in networks}
    if rounding_decides(case, trials, parts, marks, curve, dtype):
        return None

    def stop(network, until):
        """(epoch of its end or None, epoch of the best record so far)."""
        best, since = None, 0
        for mark in [m for m in marks if m <= until]:
            value = curve[network][mark].held_out
            if best is None or value < curve[network][best].held_out:
                best, since = mark, 0
            else:
                since += mark > 0
            if case.patience is not None and since >= case.patience:
                return mark, best
        return None, best

    def outcome(network, until):
        ended, best = stop(network, until)
        return best if case.patience is not None else (until if ended is None else ended)

    dropped, survived = {}, set(range(len(trials)))
    for epoch, keep in rungs[:-1]:
        running = {t: any(stop((t, s), epoch)[0] is None for s in range(len(parts))) for t in survived}
        compared = [t for t in survived if running[t]] if case.prune_at else survived
        if case.prune_at:  # the worse half of those that still train
            keep = -(-len(compared) // 2)
        mean = {t: np.mean([curve[t, s][outcome((t, s), epoch)].held_out for s in range(len(parts))]) for t in compared}
        order = sorted(compared, key=lambda t: (np.nan_to_num(mean[t], nan=np.inf), t))
        for t in order[keep:]:
            if running[t]:
                dropped[t] = epoch
                survived.discard(t)
        # How close the decision was: rounding may turn a tie.
        if keep < len(order) and abs(mean[order[keep - 1]] - mean[order[keep]]) < 1e-4:
            return None
    ends = {}
    for t, s in networks:
        ended, _ = stop((t, s), case.epochs)
        end = case.epochs if ended is None else ended
        if t in dropped and (ended is None or ended > dropped[t]):
            end = dropped[t]
        ends[t, s] = end
    if case.patience is not None and any(
        abs(a - b) < 1e-6 * max(1, abs(a)) and a != b
        for network in networks
        for a, b in product([curve[network][m].held_out for m in marks], repeat=2)
    ):
        return None  # two losses that rounding may put into another order
    return trials, curve, ends, dropped, outcome, marks
