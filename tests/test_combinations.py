"""Every feature of a sweep beside every other: drawn combinations against a plain reference.

The reference trains one network after another by autodiff and optax, in a loop of Python, and writes the rules of early
stopping and successive halving out in NumPy. It shares no line with the engine but the initial parameters and the order
of the mini-batches.
"""

import functools
import re
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from reference import QUICKLY

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.oracle import float64
from jaxbackprop.sweeps import host, planner
from jaxbackprop.sweeps.grid import expand
from jaxbackprop.sweeps.host import epoch_order
from jaxbackprop.thinned import draw_mask

MOONS = data.load("moons", samples=36)
TARGETS = {
    "softmax": MOONS.y,
    "sigmoid": np.stack([MOONS.y, MOONS.X[:, 0] > 0.5], axis=1).astype(int),
    "squared": np.stack([MOONS.X[:, 0] * MOONS.X[:, 1], np.sin(MOONS.X[:, 0])], axis=1),
}
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, 36)
HIDDEN = [(2,), (3,), (5,), (3, 2), (2, 4, 3), ()]
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
}


class Case(NamedTuple):
    """One combination."""

    objective: str = "softmax"
    hidden: tuple = ((3,), (5,))
    activation: tuple = ("tanh", "relu")
    rates: tuple = (0.3, 0.1)
    optimizer: tuple = ("sgd",)
    batch_size: tuple = (None,)
    dropout: tuple = (0.0,)
    splits: int = 1
    weights: bool = False
    epochs: int = 18
    record_every: int = 3
    patience: int | None = None
    halving: int | None = None
    devices: int = 1
    double: bool = False
    programs: int = 40
    chunk: int = 10**6
    tight: bool = False
    ending: str = "none"
    moment: int = 1
    other_devices: int = 1


CASES = st.builds(
    Case,
    objective=st.sampled_from(list(TARGETS)),
    hidden=st.lists(st.sampled_from(HIDDEN), min_size=1, max_size=3, unique=True).map(tuple),
    activation=st.sampled_from([("tanh",), ("relu",), ("tanh", "relu")]),
    rates=st.sampled_from([(0.03,), (0.05, 0.2), (0.1, 0.01, 1e-12), (0.3, 0.2)]),
    optimizer=st.sampled_from([("sgd",), ("adam",), ("momentum", "sgd")]),
    batch_size=st.sampled_from([(None,), (8,), (8, None)]),
    dropout=st.sampled_from([(0.0,), (0.0,), (0.0, 0.3)]),
    splits=st.sampled_from([1, 1, 2, 3]),
    weights=st.booleans(),
    epochs=st.integers(8, 24),
    record_every=st.integers(1, 6),
    patience=st.sampled_from([None, 1, 2, 3]),
    halving=st.sampled_from([None, None, 2, 3]),
    devices=st.sampled_from([1, 2, 8]),
    double=st.sampled_from([True, True, False]),
    programs=st.sampled_from([40, 1]),
    chunk=st.sampled_from([10**6, 600]),
    tight=st.booleans(),
    ending=st.sampled_from(["none", "Ctrl-C", "kill"]),
    moment=st.integers(1, 8),
    other_devices=st.sampled_from([1, 2, 8]),
)


# Fewer shapes in each, so that less is compiled.
SMALL_CASES = st.builds(
    lambda case, hidden, optimizer, batch_size: case._replace(
        hidden=hidden, optimizer=(optimizer,), batch_size=(batch_size,), rates=case.rates[:2], dropout=case.dropout[-1:]
    ),
    CASES,
    hidden=st.sampled_from([((3,), (5,)), ((3, 2),), ((2,), (2, 4, 3)), ((3,), (4, 2))]),
    optimizer=st.sampled_from(["sgd", "adam"]),
    batch_size=st.sampled_from([8, None]),
)


class Killed(BaseException):
    """In place of kill -9: nothing of the sweep runs after it. (`test_long_work` kills real processes.)"""


def run(case: Case):
    """The sweep of a case, interrupted and resumed as it says; the second part on other devices and by another plan."""
    directory = Path(tempfile.mkdtemp())

    def once(devices, chunk, programs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planner, "MAX_PROGRAMS", programs)
            patch.setattr(planner, "CACHE", chunk)
            patch.setattr("jaxbackprop.sweeps.interface.CACHE", chunk)
            train = functools.partial(
                jb.sweep,
                grid_of(case),
                MOONS.X,
                TARGETS[case.objective],
                epochs=case.epochs,
                record_every=case.record_every,
                folds=folds_of(case) if case.splits > 1 else None,
                validation=0.25,
                weights=WEIGHTS if case.weights else None,
                objective=case.objective,
                patience=case.patience,
                halving=case.halving,
                devices=devices,
                shuffle_seed=4,
                progress=False,
                checkpoint=None if case.ending == "none" else directory / "runs",
                checkpoint_every=0.0,
            )
            if not case.tight:
                return train()
            with pytest.raises(ValueError, match=r"memory_budget=\S+ MiB is too little") as refusal:
                train(memory_budget=1)
            return train(memory_budget=int(re.search(r"([\d,]+) bytes", str(refusal.value))[1].replace(",", "")))

    try:
        if case.ending == "none":
            return once(case.devices, case.chunk, case.programs)
        with pytest.MonkeyPatch.context() as patch:
            call, calls = host._call, []

            def ended(*args):
                calls.append(1)
                if len(calls) == case.moment:
                    if case.ending == "kill":
                        raise Killed
                    import signal

                    signal.raise_signal(signal.SIGINT)
                return call(*args)

            patch.setattr(host, "_call", ended)
            patch.setattr(host, "RECORDS", 2)
            try:
                first = once(case.devices, case.chunk, case.programs)
                assert len(calls) < case.moment or case.ending == "Ctrl-C"
                check_interrupted(first)
            except Killed:
                pass
        return once(case.other_devices, 10**6, 40)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_interrupted(result):
    """What Ctrl-C hands back is what was recorded so far, and says so."""
    for trial, epochs in enumerate(result.table["epochs"]):
        recorded = ~np.isnan(result.train_loss[trial]).all(axis=0)
        assert (result.epochs[recorded] <= epochs).all()
    assert (result.table["epochs"][result.finished] > 0).all()


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
    """One step of one network, samples first, by autodiff and optax."""
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
        }[objective]()
        return (each * w).sum() / w.sum() + 0.01 / 2 * sum((weight**2).sum() for weight, _ in params)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(params, state, rate, X, y, w, masks):
        gradient = jax.grad(mean_loss)(params, X, y, w, masks)
        update, state = OPTIMIZERS[optimizer](rate).update(gradient, state, params)
        return optax.apply_updates(params, update), state

    return step, jax.jit(mean_loss, compiler_options=QUICKLY)


def train_alone(case, trial, train, held_out, marks, dtype):
    """Parameters, training and validation loss of one network at each mark, without any stopping."""
    y = TARGETS[case.objective]
    targets = np.eye(2)[y] if case.objective == "softmax" else y
    w = WEIGHTS if case.weights else np.ones(36)
    X, y, w = (jnp.asarray(a, dtype) for a in (MOONS.X, targets, w))
    sizes = (2, *trial.hidden, y.shape[1])
    params = jb.init_params(jax.random.key(trial.seed), sizes, dtype=dtype)
    state = OPTIMIZERS[trial.optimizer](trial.learning_rate).init(params)
    step, loss = step_of(case.objective, trial.activation, trial.optimizer)
    # What is not in a part counts 0 there, as an empty slot of a batch does: two shapes serve all parts and batches.
    counted = [w * jnp.asarray(np.isin(np.arange(36), part), dtype) for part in (train, held_out)]
    history = {}
    for epoch in range(marks[-1] + 1):
        if epoch in marks:
            history[epoch] = (params, *(float(loss(params, X, y, part)) for part in counted))
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
            params, state = step(params, state, rate, X[i], y[i], counts, masks)
    return history


def reference(case):
    """What must come out: status, epochs and losses of each trial, and parameters of each network."""
    trials = expand(grid_of(case))
    dtype = np.float64 if case.double else np.float32
    if case.splits > 1:
        parts = folds_of(case)
    else:
        labels = TARGETS[case.objective]
        labels = labels.astype(float) if case.objective == "squared" else labels
        every = data.split(np.arange(36.0)[:, None], labels, validation=0.25, test=0.0, seed=4)
        parts = [(every.train.X[:, 0].astype(int), every.validation.X[:, 0].astype(int))]
    rungs = [(case.epochs, 0)]
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
            value = curve[network][mark][2]
            if best is None or value < curve[network][best][2]:
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
        mean = {t: np.mean([curve[t, s][outcome((t, s), epoch)][2] for s in range(len(parts))]) for t in survived}
        order = sorted(survived, key=lambda t: (np.nan_to_num(mean[t], nan=np.inf), t))
        for t in order[keep:]:
            running = [s for s in range(len(parts)) if stop((t, s), epoch)[0] is None]
            if running:
                dropped[t] = (epoch, running)
                survived.discard(t)
        # How close the decision was: rounding may turn a tie.
        if keep < len(order) and abs(mean[order[keep - 1]] - mean[order[keep]]) < 1e-4:
            return None
    ends = {}
    for t, s in networks:
        ended, _ = stop((t, s), case.epochs)
        end = case.epochs if ended is None else ended
        if t in dropped and (ended is None or ended > dropped[t][0]):
            end = dropped[t][0]
        ends[t, s] = end
    if case.patience is not None and any(
        abs(a - b) < 1e-6 * max(1, abs(a)) and a != b
        for network in networks
        for a, b in product([curve[network][m][2] for m in marks], repeat=2)
    ):
        return None  # two losses that rounding may put into another order
    return trials, curve, ends, dropped, outcome, marks


def check(case):
    if case.double:
        with float64():
            expected, result = reference(case), None
            if expected is not None:
                result = run(case)
    else:
        expected = reference(case)
        result = None if expected is None else run(case)
    if expected is None or result is None:
        return
    trials, curve, ends, dropped, outcome, marks = expected
    tolerance = 1e-9 if case.double else 1e-3  # rounding grows while a network is trained
    assert result.epochs.tolist() == marks
    splits = max(s for _, s in ends) + 1
    for t in range(len(trials)):
        assert result.finished[t] == (t not in dropped), (t, trials[t])
        assert result.table["epochs"][t] == max(ends[t, s] for s in range(splits)), (t, trials[t])
        for s in range(splits):
            right = curve[t, s]
            for k, mark in enumerate(marks):
                for got, column in ((result.train_loss, 1), (result.validation_loss, 2)):
                    if mark > ends[t, s]:
                        assert np.isnan(got[t, s, k])
                    else:
                        np.testing.assert_allclose(got[t, s, k], right[mark][column], rtol=tolerance, atol=tolerance)
            final = right[outcome((t, s), ends[t, s])]
            for (weight, bias), (w, b) in zip(result.params(t, s), final[0], strict=True):
                np.testing.assert_allclose(weight, w, rtol=10 * tolerance, atol=10 * tolerance)
                np.testing.assert_allclose(bias, b, rtol=10 * tolerance, atol=10 * tolerance)
        mean = np.mean([curve[t, s][outcome((t, s), ends[t, s])][2] for s in range(splits)])
        np.testing.assert_allclose(result.table["validation_loss"][t], mean, rtol=tolerance, atol=tolerance)


@example(Case(patience=1, halving=2, splits=2, ending="kill", moment=4, devices=8, other_devices=2))
@example(Case(hidden=((), (3, 2)), batch_size=(8,), optimizer=("adam",), ending="Ctrl-C", moment=3, devices=2))
@example(
    Case(
        hidden=((5,), (3, 2), (2, 4, 3)),
        optimizer=("adam",),
        batch_size=(8,),
        dropout=(0.3,),
        splits=2,
        weights=True,
        patience=2,
        halving=2,
        double=True,
        ending="kill",
        moment=3,
        other_devices=2,
    )
)
@given(SMALL_CASES)
# Without shrinking, which would take many times as long as to find out.
@settings(max_examples=20, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@pytest.mark.timeout(600)
def test_a_drawn_combination_is_what_plain_loops_make_of_it(case):
    check(case)


@pytest.mark.slow
@given(CASES)
@settings(max_examples=200, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@pytest.mark.timeout(3600)
def test_two_hundred_combinations(case):
    jax.clear_caches()  # see `forget_programs`
    check(case)
