"""Early stopping, successive halving, Ctrl-C, and resuming after a kill."""

import itertools
import signal
import time

import jax
import numpy as np
import pandas as pd
import pytest
from test_processes import assert_same, finish, start

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps import costs, host, planner
from jaxbackprop.sweeps.halving import schedule, survivors

MOONS = data.load("moons", samples=60)
HELD_OUT = data.load("moons", samples=60, seed=1)
GRID = {
    "activation": ["tanh", "relu"],
    "hidden": [(3,), (12,)],
    "learning_rate": [0.05, 0.5, 3.0],
    "seed": [0, 1],
    "l2": [0.0],
}


def sweep(grid=None, *, epochs=1000, **options):
    return jb.sweep(
        GRID if grid is None else grid,
        MOONS.X,
        MOONS.y,
        epochs=epochs,
        validation=(HELD_OUT.X, HELD_OUT.y),
        progress=False,
        record_every=20,
        **options,
    )


@pytest.fixture(scope="module")
def full():
    return sweep()


@pytest.fixture(scope="module")
def stopped():
    return sweep(patience=3)


def first_stop(curve, patience):
    """After which record, and with which best one, a plain loop over a whole loss curve stops."""
    best, since = 0, 0
    for k in range(1, len(curve)):
        best, since = (k, 0) if curve[k] < curve[best] else (best, since + 1)
        if since == patience:
            return k, best
    return len(curve) - 1, best


def test_early_stopping_stops_where_a_plain_loop_over_the_whole_curve_would(full, stopped):
    ends = [first_stop(curve, 3) for curve in full.validation_loss[:, 0]]
    assert len({end for end, _ in ends}) > 3  # it does stop, at different times
    assert stopped.table["epochs"].tolist() == [full.epochs[end] for end, _ in ends]
    assert stopped.table["best_epoch"].tolist() == [full.epochs[best] for _, best in ends]
    expected = [curve[best] for curve, (_, best) in zip(full.validation_loss[:, 0], ends, strict=True)]
    np.testing.assert_allclose(stopped.table["validation_loss"], expected, rtol=1e-5)
    assert stopped.finished.all()


def test_a_stopped_trial_keeps_its_best_parameters(stopped):
    early = stopped.table.query("epochs < 1000 and best_epoch > 0").index
    assert len(early) > 3
    for trial in early:
        settings = {key: [getattr(stopped.trials[trial], key)] for key in GRID}
        alone = sweep(settings, epochs=int(stopped.table["best_epoch"][trial]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), stopped.params(trial), alone.params(0))


def test_curves_end_where_a_trial_stopped(stopped):
    for trial, epochs in enumerate(stopped.table["epochs"]):
        recorded = ~np.isnan(stopped.train_loss[trial, 0])
        assert stopped.epochs[recorded][-1] == epochs


def test_patience_needs_samples_held_out():
    with pytest.raises(ValueError, match="patience needs samples held out"):
        jb.sweep({}, MOONS.X, MOONS.y, epochs=5, validation=None, patience=2)


@pytest.mark.parametrize(("epochs", "trials", "factor"), [(20_000, 240, 3), (1000, 24, 2), (9, 3, 3), (1, 50, 2)])
def test_every_rung_multiplies_the_epochs_and_divides_the_trials(epochs, trials, factor):
    rungs = schedule(epochs, trials, factor)
    assert rungs[-1] == (epochs, 0)
    left = trials
    for (epoch, keep), (later, _) in itertools.pairwise(rungs):
        assert epoch >= 1
        assert later // epoch >= factor
        assert keep == max(1, left // factor)
        left = keep


def test_survivors_are_the_lowest_losses_and_nan_is_the_worst():
    losses = np.array([0.3, np.nan, 0.1, 0.2, 0.5])
    assert survivors(losses, np.array([0, 1, 3, 4]), 2).tolist() == [0, 3]
    assert survivors(losses, np.array([1, 4]), 1).tolist() == [4]


def test_halving_drops_the_worst_and_trains_the_others_as_if_nothing_were(full):
    result = sweep(halving=2)
    (first, keep), (second, keep_then), _ = schedule(1000, len(full.trials), 2)
    mark = {epoch: int(np.searchsorted(result.epochs, epoch)) for epoch in (first, second)}
    table = result.table
    at_first = result.validation_loss[:, 0, mark[first]]
    survived = np.flatnonzero(table["epochs"] > first)
    assert len(survived) == keep
    assert at_first[survived].max() <= np.delete(at_first, survived).min()
    finished = np.flatnonzero(table["epochs"] == 1000)
    assert len(finished) == keep_then == result.finished.sum()
    at_second = result.validation_loss[survived, 0, mark[second]]
    assert at_second[np.isin(survived, finished)].max() <= at_second[~np.isin(survived, finished)].min()
    for trial in finished:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result.params(trial), full.params(trial))
    assert result.best() in finished


def test_the_dropped_keep_what_they_had_learnt():
    result = sweep(halving=2)
    dropped = result.table.index[result.table["epochs"] < 1000]
    assert len(dropped)
    for trial in dropped[::4]:
        settings = {key: [getattr(result.trials[trial], key)] for key in GRID}
        alone = sweep(settings, epochs=int(result.table["epochs"][trial]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result.params(trial), alone.params(0))


def press_ctrl_c_in(monkeypatch, depth, epoch):
    """Send Ctrl-C when the program of that many hidden layers has been trained so long."""
    call, done = host._call, []

    def pressed(job, data, recipe, run, epochs, times, *rest):
        if not done and len(run.program.hidden) == depth and run.epoch + epochs * times >= epoch:
            done.append(True)
            signal.raise_signal(signal.SIGINT)
        return call(job, data, recipe, run, epochs, times, *rest)

    monkeypatch.setattr(host, "_call", pressed)


def without_compile_costs(monkeypatch):
    monkeypatch.setattr(planner, "MAX_WASTE", 0.0)
    for name in ("COMPILE", "COMPILE_LAYER", "COMPILE_ACTIVATION"):
        monkeypatch.setattr(costs, name, 0.0)


def test_ctrl_c_returns_what_is_finished(monkeypatch):
    grid = [{"hidden": [(2,)]}, {"hidden": [(2, 2)]}, {"hidden": [(2, 2, 2)]}]
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(host, "RECORDS", 4)  # short calls
    with monkeypatch.context() as patch:
        without_compile_costs(patch)  # a program for each depth
        press_ctrl_c_in(patch, 2, 200)
        result = sweep(grid)
    assert signal.getsignal(signal.SIGINT) is before
    order = [len(p.hidden) for p in result.plan.programs]
    epochs = dict(zip(map(len, result.table["hidden"]), result.table["epochs"], strict=True))
    assert 0 < epochs[2] < 1000
    for depth in order[: order.index(2)]:
        assert epochs[depth] == 1000
    for depth in order[order.index(2) + 1 :]:
        assert epochs[depth] == 0
    assert result.finished.tolist() == [epochs[len(hidden)] == 1000 for hidden in result.table["hidden"]]
    done = int(result.table.index[[len(h) == 2 for h in result.table["hidden"]]][0])
    alone = sweep([grid[done]], epochs=epochs[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result.params(done), alone.params(0))
    assert result.table["train_loss"][done] == pytest.approx(alone.table["train_loss"][0], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"patience": 3}, {"halving": 2}, {"patience": 3, "halving": 2}], ids=str)
def test_after_ctrl_c_the_same_call_ends_as_if_nothing_had_been(tmp_path, monkeypatch, options):
    grid = [{"hidden": [(2,), (3,)], "learning_rate": [0.1, 1.0]}, {"hidden": [(2, 2)], "optimizer": ["adam"]}]
    monkeypatch.setattr(host, "RECORDS", 4)
    whole = sweep(grid, **options)
    with monkeypatch.context() as patch:
        press_ctrl_c_in(patch, 2, 40)
        stopped = sweep(grid, checkpoint=tmp_path / "runs", **options)
    assert not stopped.finished.all()
    resumed = sweep(grid, checkpoint=tmp_path / "runs", **options)
    assert_identical(resumed, whole)


def assert_identical(one, other):
    """Bit by bit."""
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    np.testing.assert_array_equal(one.train_loss, other.train_loss)
    np.testing.assert_array_equal(one.validation_loss, other.validation_loss)
    np.testing.assert_array_equal(one.finished, other.finished)
    for trial in range(len(one.trials)):
        jax.tree.map(np.testing.assert_array_equal, one.params(trial), other.params(trial))


def test_a_checkpoint_is_taken_up_with_another_budget(tmp_path, monkeypatch):
    """Another budget plans other programs in another order; every trial keeps its own parameters and goes on."""
    grid = {"hidden": [(2,), (9,), (40,)], "activation": ["tanh", "relu"], "seed": range(4)}
    whole = sweep(grid, epochs=400)
    with monkeypatch.context() as patch:
        patch.setattr(host, "RECORDS", 4)
        press_ctrl_c_in(patch, 1, 200)
        assert not sweep(grid, epochs=400, checkpoint=tmp_path / "runs").finished.any()
    with monkeypatch.context() as patch:
        without_compile_costs(patch)  # a program for each width
        patch.setattr("jaxbackprop.sweeps.interface.CACHE", 30_000)
        resumed = sweep(grid, epochs=400, checkpoint=tmp_path / "runs")
        again = sweep(grid, epochs=400, checkpoint=tmp_path / "runs", memory_budget=2**28)
    assert len(resumed.plan.programs) != len(whole.plan.programs)
    for result in (resumed, again):
        assert result.finished.all()
        np.testing.assert_allclose(result.train_loss, whole.train_loss, atol=2e-5)
        for trial in range(len(whole.trials)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result.params(trial), whole.params(trial)
            )


@pytest.mark.parametrize("grid", [{"learning_rate": [1e-12]}, {"activation": ["relu"], "learning_rate": [1e5]}])
def test_a_plateau_is_no_progress(grid):
    """A learning rate that changes nothing; units that are dead after the first step."""
    result = sweep({"hidden": [(3,)], **grid}, patience=2, epochs=200)
    curve = result.validation_loss[0, 0]
    recorded = curve[~np.isnan(curve)]
    best = int(np.argmin(recorded))
    assert result.table["epochs"][0] == result.epochs[best + 2] < 200


def test_a_stopped_trial_competes_with_its_best():
    """Trials that overfit at once stop early with a loss that the others never reach: they must not be dropped."""
    grid = {"hidden": [(12,)], "learning_rate": [0.5, 3.0, 1e-4, 2e-4, 3e-4, 4e-4], "seed": [0]}
    result = sweep(grid, patience=2, halving=2, epochs=800)
    stopped = result.table["validation_loss"].iloc[:2]
    assert (stopped.to_numpy() < result.table["validation_loss"].iloc[2:].min()).all()
    assert result.finished[:2].any()
    assert not result.finished[2:].any()
    assert result.best() in (0, 1)


def test_nothing_is_the_best_where_nothing_has_finished_or_all_diverged(monkeypatch):
    diverged = sweep({"activation": ["relu"], "hidden": [(4,)], "learning_rate": [1e30]}, epochs=40)
    with pytest.raises(ValueError, match=r"no trial can be the best: .* 1 diverged"):
        diverged.best()
    press_ctrl_c_in(monkeypatch, 1, 1)
    with pytest.raises(ValueError, match="0 were trained to the end"):
        sweep({"hidden": [(4,)]}, epochs=10_000_000).best()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"patience": 2, "halving": 2}], ids=["plain", "patience and halving"])
def test_after_kill_9_the_same_call_ends_with_the_same_bits(tmp_path, options):
    finish(start(tmp_path / "whole.npz", **options))
    saved = tmp_path / "checkpoint"
    generator = np.random.default_rng(0)
    for _ in range(2):
        process = start(tmp_path / "killed.npz", checkpoint=saved, slow=0.1, **options)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not (saved / "sweep.safetensors").exists():
            time.sleep(0.02)
        time.sleep(generator.uniform(0.1, 0.7))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (tmp_path / "killed.npz").exists()
    finish(start(tmp_path / "resumed.npz", checkpoint=saved, **options))
    assert_same(tmp_path / "whole.npz", tmp_path / "resumed.npz", 0)


def test_a_checkpoint_of_another_sweep_is_refused(tmp_path):
    grid = {"hidden": [(2,)]}
    sweep(grid, epochs=20, checkpoint=tmp_path / "runs")
    again = sweep(grid, epochs=20, checkpoint=tmp_path / "runs")  # done already: nothing is trained anew
    assert again.table["epochs"].tolist() == [20]
    with pytest.raises(ValueError, match=r"belongs to another sweep.*epochs"):
        sweep(grid, epochs=40, checkpoint=tmp_path / "runs")
    with pytest.raises(ValueError, match=r"belongs to another sweep.*grid"):
        sweep({"hidden": [(3,)]}, epochs=20, checkpoint=tmp_path / "runs")
    with pytest.raises(ValueError, match=r"belongs to another sweep.*data"):
        jb.sweep(
            grid,
            MOONS.X + 1,
            MOONS.y,
            epochs=20,
            validation=(HELD_OUT.X, HELD_OUT.y),
            record_every=20,
            progress=False,
            checkpoint=tmp_path / "runs",
        )


def test_a_save_that_fails_is_reported_and_loses_nothing(tmp_path, monkeypatch):
    from jaxbackprop.sweeps import checkpoint

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.warns(RuntimeWarning, match="checkpoint not saved, the sweep goes on: .*No space left"):
        result = sweep({"hidden": [(2,)]}, epochs=20, checkpoint=tmp_path / "runs")
    assert result.finished.all()


def test_a_checkpoint_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        sweep({"hidden": [(2,)]}, epochs=20, checkpoint=tmp_path / "file" / "runs")
