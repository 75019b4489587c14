"""Optuna in batches, and sweeps in a frame: the same numbers, compiled once."""

import signal

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
    assert [(p.hidden, p.depths) for p in framed.plan.programs] == [((6, 6), (1, 2))]
    for number, (result, own) in enumerate([(framed, 0), (framed, 1), (other, 1), (other, 2), (other, 3)]):
        for split in range(3):
            right, found = free.params(number, split), result.params(own, split)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), right, found)


def test_bad_frames():
    with pytest.raises(ValueError, match=r"trial 0 is not inside the frame: its hidden=\(7,\)"):
        sweep([{"hidden": (7,)}], frame=FRAME, room=4)
    with pytest.raises(ValueError, match=r"its hidden=\(3, 3, 3\)"):
        sweep([{"hidden": (3, 3, 3)}], frame=FRAME, room=4)
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


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", ["grid", "brute force"])
def test_a_sampler_with_nothing_left_ends_the_search_as_in_optunas_own_loop(kind):
    space = {"width": [1, 2, 3], "activation": ["tanh", "relu"]}
    samplers = {"grid": lambda: optuna.samplers.GridSampler(space), "brute force": optuna.samplers.BruteForceSampler}

    def draw(trial):
        hidden = (trial.suggest_int("width", 1, 3),)
        return {"hidden": hidden, "activation": trial.suggest_categorical("activation", ["tanh", "relu"])}

    def one_at_a_time(trial):
        grid = {key: [value] for key, value in draw(trial).items()}
        return jb.sweep(grid, MOONS.X, MOONS.y, progress=False, **OPTIONS).table["validation_loss"][0]

    alone, together = (optuna.create_study(sampler=samplers[kind]()) for _ in range(2))
    alone.optimize(one_at_a_time, n_trials=20)
    optimize_in_batches(together, draw, MOONS.X, MOONS.y, batches=5, batch=4, **OPTIONS)
    right, found = ({tuple(t.params.items()): t.value for t in study.trials} for study in (alone, together))
    assert len(right) == len(alone.trials) == 6
    assert found == pytest.approx(right, rel=1e-5)
    assert len(together.trials) == 8  # two whole batches, with two trials that a sampler repeats
    assert {trial.state.name for trial in together.trials} == {"COMPLETE"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halving": 2}, "halving=2 cannot be given: the study's pruner ends trials"),
        ({"prune": len, "prune_at": [2]}, "prune=<built-in function len> cannot be given"),
        ({"frame": FRAME, "room": 9}, "room=9 cannot be given: a frame has room for a batch"),
        ({"checkpoint": "here"}, "checkpoint='here' cannot be given: one belongs to a single sweep"),
        ({"folds": None, "validation": None}, "validation=None leaves nothing to judge trials by"),
    ],
)
def test_options_that_have_no_place_are_refused_before_a_trial_is_asked_for(options, message):
    study = optuna.create_study()
    with pytest.raises(ValueError, match=message):
        optimize_in_batches(study, suggest, MOONS.X, MOONS.y, batches=2, batch=4, **{**OPTIONS, **options})
    assert study.trials == []


def test_what_suggest_prunes_is_pruned_and_not_trained():
    """As in Optuna's own loop; a batch of which nothing is left is none to train."""
    trained = []

    def some(trial):
        rate = trial.suggest_float("rate", 0.01, 0.1)
        if trial.number in (0, 2, 3, 5):
            raise optuna.TrialPruned
        return {"hidden": (2,), "learning_rate": rate}

    study, own = (optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)) for _ in range(2))
    optimize_in_batches(
        study, some, MOONS.X, MOONS.y, batches=4, batch=2, epochs=3, prune_at=[1],
        report=lambda result: trained.append([trial.learning_rate for trial in result.trials]),
    )  # fmt: skip
    own.optimize(lambda trial: float(bool(some(trial))), n_trials=8)
    assert [trial.state for trial in study.trials] == [trial.state for trial in own.trials]
    rates = [trial.params["rate"] for trial in study.trials]
    assert trained == [[rates[1]], [rates[4]], rates[6:]]  # and of the second batch nothing
    assert [trial.value is None for trial in study.trials] == [trial.value is None for trial in own.trials]


def test_what_suggest_returns_must_be_settings():
    with pytest.raises(ValueError, match=r"suggest must return a dict of settings, .* got None"):
        optimize_in_batches(optuna.create_study(), lambda trial: None, MOONS.X, MOONS.y, batches=1, **OPTIONS)


ENDS = {1: 4, 2: 7, 3: 9, 4: 1}


class Rule(optuna.pruners.BasePruner):
    """Trial k ends at the first step asked from `ENDS[k]` on."""

    def prune(self, study, trial):
        return trial.last_step >= ENDS.get(trial.number, 100)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_pruner_ends_trials_and_the_others_end_as_they_would(direction):
    settings = [
        {"hidden": (3,), "activation": activation, "optimizer": "adamw", "learning_rate": rate}
        for rate in (0.01, 0.1, 1.0)
        for activation in ("tanh", "relu")
    ]
    grid = [{key: [value] for key, value in one.items()} for one in settings]
    full = jb.sweep(grid, MOONS.X, MOONS.y, epochs=10, folds=3, progress=False, record_every=1)
    study = optuna.create_study(direction=direction, pruner=Rule())
    seen = []
    optimize_in_batches(
        study,
        lambda trial: settings[trial.number],
        MOONS.X,
        MOONS.y,
        batches=1,
        batch=6,
        prune_at=[2, 5, 8],
        record_every=1,
        report=seen.append,
        **OPTIONS,
    )
    ends = [10, 5, 8, 10, 2, 10]
    assert seen[0].table["epochs"].tolist() == ends
    for number, (trial, end) in enumerate(zip(study.trials, ends, strict=True)):
        assert trial.user_attrs["epochs"] == end
        assert trial.state.name == ("PRUNED" if end < 10 else "COMPLETE")
        assert sorted(trial.intermediate_values) == [epoch for epoch in (2, 5, 8, 10) if epoch <= end]
        assert trial.value == trial.intermediate_values[end]
        if direction == "minimize":
            for epoch, value in trial.intermediate_values.items():
                assert value == full.validation_loss[number, :, epoch].mean()
        elif end == 10:
            assert trial.value == pytest.approx(full.table["validation_accuracy"][number])
        if end == 10:
            for split in range(3):
                jax.tree.map(np.testing.assert_array_equal, seen[0].params(number, split), full.params(number, split))


class Worst(optuna.pruners.BasePruner):
    """Every third trial ends at the first step asked."""

    def prune(self, study, trial):
        return trial.number % 3 == 1


@pytest.mark.slow
def test_suggestions_pruned_beside_a_frame_folds_patience_and_a_pruner(compiled):
    """Each trial comes to what it would alone, and only the first batch compiles."""
    generator = np.random.default_rng(0)
    settings = [{**TRIALS[k % len(TRIALS)], "learning_rate": float(generator.choice([0.01, 0.05, 3.0])), "seed": k}
                for k in range(12)]  # fmt: skip
    options = {"epochs": 30, "folds": 3, "patience": 2, "record_every": 2, "progress": False}

    def some(trial):
        if trial.number % 4 == 2:
            raise optuna.TrialPruned
        return settings[trial.number] | {"optimizer": "adamw"}

    study, programs = optuna.create_study(pruner=Worst()), []
    optimize_in_batches(study, some, MOONS.X, MOONS.y, batches=3, batch=4, frame=FRAME, prune_at=[4],
                        report=lambda _: programs.append(compiled()), **options)  # fmt: skip
    assert programs[1:] == programs[:1] * 2
    for trial, own in zip(study.trials, settings, strict=True):
        alone = jb.sweep({key: [value] for key, value in own.items()} | {"optimizer": ["adamw"]},
                         MOONS.X, MOONS.y, **options)  # fmt: skip
        if trial.number % 4 == 2 or trial.number % 3 == 1:
            assert trial.state.name == "PRUNED"
        else:
            assert trial.state.name == "COMPLETE"
            assert trial.value == pytest.approx(alone.table["validation_loss"][0], rel=1e-5)
            assert trial.user_attrs["epochs"] == alone.table["epochs"][0]


class Impatient(Rule):
    """Presses Ctrl-C at step 5."""

    def prune(self, study, trial):
        if trial.number == 0 and trial.last_step == 5:
            signal.raise_signal(signal.SIGINT)
        return super().prune(study, trial)


def test_after_ctrl_c_what_was_pruned_is_pruned_and_the_rest_is_told_as_it_is():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=Impatient())
    with pytest.warns(RuntimeWarning, match="the search was interrupted"):
        optimize_in_batches(study, suggest, MOONS.X, MOONS.y, batches=3, batch=6, prune_at=[2, 5, 8], **OPTIONS)
    assert [trial.user_attrs["epochs"] for trial in study.trials] == [5, 5, 5, 5, 2, 5]
    states = ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert [trial.state.name for trial in study.trials] == states


PRUNERS = {
    "median": lambda p: p.MedianPruner(n_startup_trials=3),
    "percentile": lambda p: p.PercentilePruner(25.0, n_startup_trials=3, n_warmup_steps=3),
    "halving": lambda p: p.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
    "hyperband": lambda p: p.HyperbandPruner(min_resource=2, max_resource=10, reduction_factor=2),
    "patient": lambda p: p.PatientPruner(p.MedianPruner(n_startup_trials=3), patience=1),
    "threshold": lambda p: p.ThresholdPruner(upper=0.6),
    "wilcoxon": lambda p: p.WilcoxonPruner(p_threshold=0.2, n_startup_steps=1),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", PRUNERS)
def test_optunas_pruners_say_the_same_of_what_they_were_told(name):
    """Who is pruned is what the pruner would say to anyone that reports these values: no step is left out, and none is
    trained after it."""
    pruner = PRUNERS[name](optuna.pruners)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    moments = [2, 4, 6, 8]
    optimize_in_batches(study, suggest, MOONS.X, MOONS.y, batches=3, batch=6, prune_at=moments, frame=FRAME, **OPTIONS)
    states = [trial.state.name for trial in study.trials]
    assert set(states) <= {"PRUNED", "COMPLETE"}
    assert "COMPLETE" in states
    for trial in study.trials:
        end = trial.user_attrs["epochs"]
        assert trial.state.name == ("COMPLETE" if end == 10 else "PRUNED")
        assert sorted(trial.intermediate_values) == [epoch for epoch in (*moments, 10) if epoch <= end]
    if name == "threshold":
        for trial in study.trials:
            above = [step for step, value in trial.intermediate_values.items() if value > 0.6 and step < 10]
            assert above == ([trial.last_step] if trial.state.name == "PRUNED" else [])
    if name in ("median", "percentile", "patient"):  # which compare with completed trials
        assert states[:6] == ["COMPLETE"] * 6
    if name in ("median", "percentile", "halving", "hyperband", "threshold"):
        assert "PRUNED" in states
