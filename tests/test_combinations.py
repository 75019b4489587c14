"""Every feature of a sweep beside every other: drawn combinations against a plain reference.

The reference, `plain_loops`, shares no line with the engine but the initial parameters and the order of the
mini-batches.
"""

import functools
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from plain_loops import (
    FREQUENCIES,
    MOONS,
    TARGETS,
    WEIGHTS,
    folds_of,
    grid_of,
    handed_back,
    loss_on,
    parts_of,
    reference,
)

import jaxbackprop as jb
from jaxbackprop.oracle import float64
from jaxbackprop.sweeps import host, planner
from jaxbackprop.sweeps.grid import expand

HIDDEN = [(2,), (3,), (5,), (3, 2), (2, 4, 3), ()]


class Case(NamedTuple):
    """One combination."""

    objective: str = "softmax"
    hidden: tuple = ((3,), (5,))
    activation: tuple = ("tanh", "relu")
    rates: tuple = (0.3, 0.1)
    optimizer: tuple = ("sgd",)
    batch_size: tuple = (None,)
    dropout: tuple = (0.0,)
    waves: int = 0
    splits: int = 1
    weights: bool = False
    epochs: int = 18
    record_every: int = 3
    patience: int | None = None
    halving: int | None = None
    prune_at: tuple = ()
    frame: bool = False
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
    waves=st.sampled_from([0, 0, 1, 2]),
    splits=st.sampled_from([1, 1, 2, 3]),
    weights=st.booleans(),
    epochs=st.integers(8, 24),
    record_every=st.integers(1, 6),
    patience=st.sampled_from([None, 1, 2, 3]),
    halving=st.sampled_from([None, None, 2, 3]),
    prune_at=st.sampled_from([(), (), (4,), (3, 7)]),
    frame=st.sampled_from([False, False, True]),
    devices=st.sampled_from([1, 2, 8]),
    double=st.sampled_from([True, True, False]),
    programs=st.sampled_from([40, 1]),
    chunk=st.sampled_from([10**6, 600]),
    tight=st.booleans(),
    ending=st.sampled_from(["none", "Ctrl-C", "kill"]),
    moment=st.integers(1, 8),
    other_devices=st.sampled_from([1, 2, 8]),
).map(lambda case: case._replace(halving=None if case.prune_at else case.halving))


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


def worse_half(epoch, trials, losses, scores):
    """A rule of one's own by which trials end."""
    mask = np.ones(len(trials), bool)
    mask[np.argsort(losses, kind="stable")[: -(-len(trials) // 2)]] = False
    return mask


def frame_of(case: Case):
    """A grid that holds the case's, with wider layers, and room for a trial more."""
    grid = grid_of(case)
    wider = [tuple(width + 1 + l for l, width in enumerate(widths)) for widths in case.hidden]
    return {"frame": {**grid, "hidden": wider, "learning_rate": [1.0]}, "room": len(expand(grid)) + 1}


def run(case: Case):
    """The sweep of a case, interrupted and resumed as it says; the second part on other devices and by another plan."""
    directory = Path(tempfile.mkdtemp())

    def once(devices, chunk, programs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planner, "MAX_PROGRAMS", programs)
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
                prune=worse_half if case.prune_at else None,
                prune_at=case.prune_at or None,
                frequencies=FREQUENCIES[case.waves],
                devices=devices,
                shuffle_seed=4,
                progress=False,
                checkpoint=None if case.ending == "none" else directory / "runs",
                checkpoint_every=0.0,
                **(frame_of(case) if case.frame else {}),
            )
            if not case.tight or case.frame:
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
                check_interrupted(first, case)
            except Killed:
                pass
        return once(case.other_devices, 10**6, 40)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_interrupted(result, case):
    """What Ctrl-C hands back is what was recorded so far, and says so; the table measures its parameters."""
    dtype, tolerance = (np.float64, 1e-9) if case.double else (np.float32, 1e-4)
    for t, trial in enumerate(result.trials):
        loss, parts = result.table["train_loss"][t], parts_of(case)
        if trial.batch_size is not None and not np.isnan(loss):
            networks = [handed_back(result.params(t, s)) for s in range(len(parts))]
            each = [loss_on(case, trial, own, part, dtype) for own, (part, _) in zip(networks, parts, strict=True)]
            np.testing.assert_allclose(loss, np.mean(each), rtol=tolerance, atol=tolerance)
    for trial, epochs in enumerate(result.table["epochs"]):
        recorded = ~np.isnan(result.train_loss[trial]).all(axis=0)
        assert (result.epochs[recorded] <= epochs).all()
    assert (result.table["epochs"][result.finished] > 0).all()


def check(case):
    if case.double:
        with float64():
            expected, result = reference(case), None
            if expected is not None:
                result = run(case)
    else:
        expected = reference(case)
        result = None if expected is None else run(case)
    assume(expected is not None)  # another case is drawn for one that rounding decides
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
                for got, expected in (
                    (result.train_loss, right[mark].curve),
                    (result.validation_loss, right[mark].held_out),
                ):
                    if mark > ends[t, s]:
                        assert np.isnan(got[t, s, k])
                    else:
                        np.testing.assert_allclose(got[t, s, k], expected, rtol=tolerance, atol=tolerance)
            final = right[outcome((t, s), ends[t, s])]
            jax.tree.map(
                lambda got, right: np.testing.assert_allclose(got, right, rtol=10 * tolerance, atol=10 * tolerance),
                handed_back(result.params(t, s)),
                final.network,
            )
        finals = [curve[t, s][outcome((t, s), ends[t, s])] for s in range(splits)]
        for got, each in (("train_loss", [f.train for f in finals]), ("validation_loss", [f.held_out for f in finals])):
            np.testing.assert_allclose(result.table[got][t], np.mean(each), rtol=tolerance, atol=tolerance)


@example(Case(patience=1, halving=2, splits=2, ending="kill", moment=4, devices=8, other_devices=2))
@example(Case(hidden=((), (3, 2)), batch_size=(8,), optimizer=("adam",), ending="Ctrl-C", moment=3, devices=2))
@example(Case(patience=1, prune_at=(3, 7), splits=2, frame=True, hidden=((3,), (4, 2)), ending="kill", moment=3))
@example(Case(objective="poisson", prune_at=(4,), batch_size=(8,), dropout=(0.3,), frame=True, weights=True))
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
@settings(max_examples=8, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@pytest.mark.timeout(600)
def test_a_drawn_combination_is_what_plain_loops_make_of_it(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
@given(case=CASES)
@settings(max_examples=25, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@pytest.mark.timeout(1200)
def test_two_hundred_combinations(part, case):
    jax.clear_caches()  # see `forget_programs`
    check(case)
