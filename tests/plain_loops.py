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

    def outputs(params, X, masks):
        a = X
        for (weight, bias), mask in zip(params[:-1], masks or [1] * len(params), strict=False):
            a = mask * f(a @ weight.T + bias)
        return a @ params[-1].weight.T + params[-1].bias

    def mean_loss(params, X, y, w, masks=None):
        z = outputs(params, X, masks)
        each = {
            "softmax": lambda: -(jax.nn.log_softmax(z) * y).sum(axis=1),
            "sigmoid": lambda: optax.sigmoid_binary_cross_entropy(z, y).sum(axis=1),
            "squared": lambda: ((z - y) ** 2).sum(axis=1) / 2,
            "poisson": lambda: (jnp.exp(z) - y * z).sum(axis=1),
        }[objective]()
        return (each * w).sum() / w.sum() + 0.01 / 2 * sum((weight**2).sum() for weight, _ in params)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(params, state, rate, X, y, w, masks):
        value, gradient = jax.value_and_grad(mean_loss)(params, X, y, w, masks)
        update, state = OPTIMIZERS[optimizer](rate).update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    return step, jax.jit(mean_loss, compiler_options=QUICKLY)


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
    return tuple(jnp.asarray(a, dtype) for a in (MOONS.X, targets, w))


def loss_on(case, trial, params, part, dtype):
    """The loss of a network on some of the samples."""
    X, y, w = problem_of(case, dtype)
    # What is not in a part counts 0 there, as an empty slot of a batch does: two shapes serve all parts and batches.
    counts = w * jnp.asarray(np.isin(np.arange(36), part), dtype)
    return float(step_of(case.objective, trial.activation, trial.optimizer)[1](params, X, y, counts))


class Mark(NamedTuple):
    """One network at a mark: its parameters, their losses, and what the curve of training losses says there, which is
    the mean loss of the mini-batches since the mark before, each measured before its step."""

    params: tuple
    train: float
    held_out: float
    curve: float


def train_alone(case, trial, train, held_out, marks, dtype):
    """One network at each mark, without any stopping."""
    X, y, w = problem_of(case, dtype)
    sizes = (2, *trial.hidden, y.shape[1])
    params = jb.init_params(jax.random.key(trial.seed), sizes, dtype=dtype)
    state = OPTIMIZERS[trial.optimizer](trial.learning_rate).init(params)
    step, _ = step_of(case.objective, trial.activation, trial.optimizer)
    history, losses, counted = {}, [], []
    for epoch in range(marks[-1] + 1):
        if epoch in marks:
            whole, other = (loss_on(case, trial, params, part, dtype) for part in (train, held_out))
            running = trial.batch_size and losses
            history[epoch] = Mark(params, whole, other, np.average(losses, weights=counted) if running else whole)
            losses, counted = [], []
        order = epoch_order(4 if trial.batch_size else None, epoch, train, trial.batch_size or 36)
        for number, batch in enumerate(order, start=epoch * len(order)):
            masks = None
            if trial.dropout:
                drawn = [
                    draw_mask(trial.seed, number, l, trial.dropout, n, len(batch), np.dtype(dtype))
                    for l, n in enumerate(trial.hidden)
                ]
                masks = [jnp.asarray(mask.T, dtype) for mask in drawn]
            present = jnp.asarray(batch >= 0, dtype)
            i = np.maximum(batch, 0)
            rate, counts = jnp.asarray(trial.learning_rate, dtype), w[i] * present
            params, state, value = step(params, state, rate, X[i], y[i], counts, masks)
            losses.append(float(value))
            counted.append(float(counts.sum()))
    return history


def reference(case):
    """What must come out: status, epochs and losses of each trial, and parameters of each network."""
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
