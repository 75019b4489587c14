"""Optuna in batches, and sweeps in a frame: the same numbers, compiled once."""

import jax
import numpy as np
import pytest

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.estimators.ask_and_tell import optimize_in_batches
from jaxbackprop.sweeps import host
from jaxbackprop.sweeps.program import make_program

MOONS = data.load("moons", samples=60)
FRAME = {"hidden": [(6,), (4, 5)], "activation": ["tanh", "relu"], "optimizer": ["adamw"], "learning_rate": [0.02]}
TRIALS = [
    {"hidden": (3,), "activation": "tanh"},
    {"hidden": (4, 2), "activation": "relu"},
    {"hidden": (6,), "activation": "relu"},
    {"hidden": (5,), "activation": "tanh", "seed": 3},
    {"hidden": (1, 5), "activation": "relu"},
]


def sweep(settings, **options):
    own = [{"optimizer": "adamw", "learning_rate": 0.02, **one} for one in settings]
    grid = [{key: [value] for key, value in one.items()} for one in own]
    return jb.sweep(grid, MOONS.X, MOONS.y, epochs=10, folds=3, progress=False, **options)


@pytest.fixture
def compiled(monkeypatch):
    """How often each program has been compiled so far."""
    programs = {}

    def watched(*arguments):
        program = make_program(*arguments)
        programs[id(program)] = program
        return program

    monkeypatch.setattr(host, "make_program", watched)
    return lambda: {name: program._cache_size() for name, program in programs.items()}


@pytest.mark.slow
def test_a_sweep_in_a_frame_ends_with_the_same_numbers_and_only_the_first_compiles(compiled):
    free = sweep(TRIALS)
    framed = sweep(TRIALS[:3], frame=FRAME, room=4)
    before = compiled()
    other = sweep(TRIALS[1:], frame=FRAME, room=4)
    assert compiled() == before
    assert sorted(p.hidden for p in framed.plan.programs) == [(4, 5), (6,)]
    for number, (result, own) in enumerate([(framed, 0), (framed, 1), (other, 1), (other, 2), (other, 3)]):
        for split in range(3):
            right, found = free.params(number, split), result.params(own, split)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), right, found)


def test_bad_frames():
    with pytest.raises(ValueError, match=r"trial 0 is not inside the frame: its hidden=\(7,\)"):
        sweep([{"hidden": (7,)}], frame=FRAME, room=4)
    with pytest.raises(ValueError, match="activation='elu'"):
        sweep([{"hidden": (3,), "activation": "elu"}], frame=FRAME, room=4)
    with pytest.raises(ValueError, match="grid has 5 trials, but the frame has room for 4"):
        sweep(TRIALS, frame=FRAME, room=4)
    with pytest.raises(ValueError, match="frame and room go together"):
        sweep(TRIALS, frame=FRAME)


optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)
OPTIONS = {"epochs": 10, "folds": 3}


def suggest(trial):
    return {
        "hidden": (trial.suggest_int("width", 1, 6),),
        "activation": trial.suggest_categorical("activation", ["tanh", "relu"]),
        "optimizer": "adamw",
        "learning_rate": trial.suggest_float("rate", 1e-3, 0.1, log=True),
    }


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_is_told_what_its_trials_are_worth(direction, compiled):
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []

    def report(result):
        seen.append((result, compiled()))

    optimize_in_batches(study, suggest, MOONS.X, MOONS.y, batches=2, batch=4, frame=FRAME, report=report, **OPTIONS)
    assert seen[0][1] == seen[1][1]
    assert len(study.trials) == 8
    for number, trial in enumerate(study.trials):
        result = seen[number // 4][0]
        own, row = result.trials[number % 4], result.table.iloc[number % 4]
        assert own.learning_rate == trial.params["rate"]
        assert own.hidden == (trial.params["width"],)
        column = "validation_loss" if direction == "minimize" else "validation_accuracy"
        assert trial.value == pytest.approx(row[column], rel=1e-5)
        assert trial.user_attrs["epochs"] == 10


def test_what_diverges_has_failed_and_so_has_what_cannot_be_trained():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rates = iter([1e30, 0.01])
    optimize_in_batches(
        study,
        lambda trial: {"hidden": (3,), "activation": "relu", "learning_rate": next(rates)},
        MOONS.X,
        MOONS.y,
        batches=1,
        batch=2,
        **OPTIONS,
    )
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    with pytest.raises(ValueError, match="did you mean 'hidden'"):
        optimize_in_batches(study, lambda trial: {"hiden": (3,)}, MOONS.X, MOONS.y, batches=1, batch=2, **OPTIONS)
    assert [trial.state.name for trial in study.trials[2:]] == ["FAIL", "FAIL"]
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="study has 2 objectives"):
        optimize_in_batches(several, suggest, MOONS.X, MOONS.y, batches=1, **OPTIONS)
