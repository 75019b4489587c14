"""Of mini-batches a record tells the mean loss of those since the last one; what is handed back is measured in full."""

import signal

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps import host

MOONS = data.load("moons", samples=60)
HELD_OUT = data.load("moons", samples=40, seed=1)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, 60)
GRID = {
    "hidden": [(3,), (4, 2)],
    "learning_rate": [0.3, 0.05],
    "batch_size": [16],
    "optimizer": ["adam"],
    "l2": [0.01],
    "dropout": [0.0, 0.2],
}


def sweep(grid=None, *, epochs=12, validation=(HELD_OUT.X, HELD_OUT.y), **options):
    grid = GRID if grid is None else grid
    options = {"record_every": 4, **options}
    return jb.sweep(
        grid, MOONS.X, MOONS.y, epochs=epochs, validation=validation, weights=WEIGHTS, progress=False, **options
    )


def check_table(result):
    """The table's training loss and score are those of the parameters handed back, on all training samples."""
    assert len(result.table)
    for trial, settings in enumerate(result.trials):
        loss, _ = jb.loss_and_grad(
            result.params(trial),
            jnp.asarray(MOONS.X.T, jnp.float32),
            jnp.asarray(np.eye(2)[MOONS.y].T, jnp.float32),
            activation=settings.activation,
            weights=jnp.asarray(WEIGHTS, jnp.float32),
            l2=settings.l2,
        )
        assert result.table["train_loss"][trial] == pytest.approx(float(loss), rel=1e-5)
        score = accuracy_score(MOONS.y, result.predict(trial, MOONS.X), sample_weight=WEIGHTS)
        assert result.table["train_accuracy"][trial] == pytest.approx(score, abs=1e-6)


def press_ctrl_c(patch, number):
    """At the call of that number."""
    call, calls = host._call, []

    def pressed(*arguments):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return call(*arguments)

    patch.setattr(host, "RECORDS", 1)
    patch.setattr(host, "_call", pressed)


@pytest.mark.parametrize(
    "options",
    [{}, {"patience": 1, "record_every": 1, "epochs": 40}, {"halving": 2}, {"halving": 2, "validation": None}],
    ids=str,
)
def test_the_table_measures_what_is_handed_back(options, monkeypatch):
    result = sweep(**options)
    check_table(result)
    if "halving" in options:
        assert 0 < result.finished.sum() < len(result.trials)
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 3)
        interrupted = sweep({**GRID, "hidden": [(3,)]}, **options)
    assert not interrupted.finished.all()
    check_table(interrupted)


def test_a_curve_does_not_depend_on_how_long_its_trial_is_trained_afterwards():
    """A sum of losses that went on from one record to the next would."""
    short, long = sweep(epochs=8), sweep(epochs=12)
    np.testing.assert_allclose(short.train_loss[..., :3], long.train_loss[..., :3], rtol=1e-6)
    fine = sweep(epochs=8, record_every=2)
    # Of as many batches in each half, the mean of the two means is the mean of all.
    np.testing.assert_allclose(
        fine.train_loss[..., 1::2] / 2 + fine.train_loss[..., 2::2] / 2, short.train_loss[..., 1:], rtol=1e-5
    )


def test_the_first_point_of_a_curve_is_the_loss_before_training():
    result = sweep({"hidden": [(3,)], "batch_size": [16, None], "l2": [0.01]})
    batched, full = result.train_loss[:, 0]
    assert batched[0] == pytest.approx(full[0], rel=1e-6)
    assert full[-1] == np.float32(result.table["train_loss"][1])
    assert batched[-1] != pytest.approx(result.table["train_loss"][0], rel=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"patience": 1, "record_every": 1}, {"halving": 2, "validation": None}], ids=str
)
def test_after_ctrl_c_between_two_records_a_checkpoint_ends_as_if_nothing_had_been(tmp_path, monkeypatch, options):
    whole = sweep(**options)
    with monkeypatch.context() as patch:
        patch.setattr(host, "STRETCH_SECONDS", 0.0)  # an epoch a call
        press_ctrl_c(patch, 3)
        assert not sweep(checkpoint=tmp_path / "runs", **options).finished.all()
    for _ in range(2):  # the second time there is nothing left to train or to measure
        resumed = sweep(checkpoint=tmp_path / "runs", **options)
        assert resumed.table.equals(whole.table)
        np.testing.assert_array_equal(resumed.train_loss, whole.train_loss)


def test_trials_are_judged_by_all_training_samples_where_nothing_is_held_out():
    asked = {}

    def keep_all(epoch, trials, losses, scores):
        asked[epoch] = losses, scores
        return np.zeros(len(trials), bool)

    sweep(validation=None, prune=keep_all, prune_at=[4])
    ended = sweep(validation=None, epochs=4).table
    np.testing.assert_allclose(asked[4][0], ended["train_loss"], rtol=1e-6)
    np.testing.assert_allclose(asked[4][1], ended["train_accuracy"], rtol=1e-6)
