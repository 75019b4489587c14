"""A rule of one's own ends trials at a rung: exactly those, there, and the others train as if nothing were."""

import jax
import numpy as np
import pytest

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps import host

MOONS = data.load("moons", samples=60)
GRID = {"activation": ["tanh", "relu"], "hidden": [(3,)], "learning_rate": [0.05, 0.5, 3.0], "seed": [0, 1]}
ENDS = {4: (1, 6), 10: (0, 7, 11)}  # trials, by the epoch at which they end


def sweep(**options):
    return jb.sweep(GRID, MOONS.X, MOONS.y, epochs=20, folds=2, progress=False, **options)


def by_rule(epoch, trials, losses, scores):
    return np.isin(trials, ENDS[epoch])


def assert_same_networks(one, other, trials):
    for trial in trials:
        for split in range(2):
            jax.tree.map(np.testing.assert_array_equal, one.params(trial, split), other.params(trial, split))


@pytest.fixture(scope="module")
def full():
    return sweep()


@pytest.fixture(scope="module")
def asked():
    """A sweep that is pruned, and what its rule was asked."""
    questions = []

    def rule(*question):
        questions.append(question)
        return by_rule(*question)

    return sweep(prune=rule, prune_at=[10, 4]), questions


def test_those_that_a_rule_names_end_there_and_the_others_end_as_they_would(full, asked):
    result, _ = asked
    last = {trial: epoch for epoch, trials in ENDS.items() for trial in trials}
    assert result.table["epochs"].tolist() == [last.get(trial, 20) for trial in range(12)]
    goes_on = [trial for trial in range(12) if trial not in last]
    assert np.flatnonzero(result.finished).tolist() == goes_on
    assert_same_networks(result, full, goes_on)
    for trial, epoch in last.items():
        assert np.isnan(result.validation_loss[trial][:, result.epochs > epoch]).all()
    assert result.best() in goes_on


def test_a_rule_is_asked_for_what_still_trains_with_the_means_of_the_curves(full, asked):
    _, questions = asked
    assert [epoch for epoch, *_ in questions] == [4, 10]
    assert [trials.tolist() for _, trials, *_ in questions] == [list(range(12)), [0, 2, 3, 4, 5, 7, 8, 9, 10, 11]]
    for epoch, trials, losses, _ in questions:
        curve = full.validation_loss[trials, :, np.searchsorted(full.epochs, epoch)]
        np.testing.assert_array_equal(losses, curve.mean(axis=1))


def test_scores_are_those_of_a_shorter_training(asked):
    _, questions = asked
    for epoch, trials, _, scores in questions:
        short = jb.sweep(GRID, MOONS.X, MOONS.y, epochs=epoch, folds=2, progress=False)
        np.testing.assert_allclose(scores, short.table["validation_accuracy"][trials], atol=1e-6)


def test_where_nothing_is_held_out_training_is_judged():
    seen = []

    def rule(epoch, trials, losses, scores):
        seen.append(losses)
        return losses > np.median(losses)

    result = jb.sweep(GRID, MOONS.X, MOONS.y, epochs=20, validation=None, progress=False, prune=rule, prune_at=[5])
    assert np.isfinite(seen[0]).all()
    np.testing.assert_array_equal(result.finished, seen[0] <= np.median(seen[0]))


def test_what_early_stopping_has_ended_is_not_asked_for():
    grid = {**GRID, "learning_rate": [0.05, 30.0]}
    asked_for = []

    def rule(epoch, trials, losses, scores):
        asked_for.append(set(trials.tolist()))
        return np.zeros(len(trials), bool)

    options = {"epochs": 200, "record_every": 5, "patience": 2, "folds": 2, "progress": False}
    result = jb.sweep(grid, MOONS.X, MOONS.y, prune=rule, prune_at=[100, 150], **options)
    plain = jb.sweep(grid, MOONS.X, MOONS.y, **options)
    longest = plain.table["epochs"]
    assert 0 < len(asked_for[0]) < len(plain.trials)
    for epoch, trials in zip((100, 150), asked_for, strict=False):
        assert trials == set(np.flatnonzero(longest > epoch).tolist())
    assert result.table["epochs"].tolist() == longest.tolist()


def test_all_may_end():
    result = sweep(prune=lambda epoch, trials, losses, scores: np.ones(len(trials), bool), prune_at=[4, 10])
    assert (result.table["epochs"] == 4).all()
    with pytest.raises(ValueError, match="no trial can be the best"):
        result.best()


@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_sweep_taken_up_again_ends_with_the_same_numbers(full, asked, tmp_path, monkeypatch, at):
    """Cut short before, at and after the first rung, and taken up: what was dropped is not asked for again."""
    call, questions = host._call, []

    def cut(*arguments):
        run, curves = call(*arguments)
        if run.epoch >= at:
            raise KeyboardInterrupt
        return run, curves

    def rule(*question):
        questions.append(question)
        return by_rule(*question)

    options = {"prune": rule, "prune_at": [4, 10], "checkpoint": tmp_path, "checkpoint_every": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(host, "_epochs_at_once", lambda job, program: 1)
        patch.setattr(host, "_call", cut)
        with pytest.raises(KeyboardInterrupt):
            sweep(**options)
    before = len(questions)
    result = sweep(**options)
    assert before == (at > 4)
    assert [question[0] for question in questions] == [4, 10]
    assert_same_networks(result, asked[0], range(12))


REFUSED = {
    "alone": ({"prune": by_rule}, "prune and prune_at go together"),
    "no rule": ({"prune_at": [4]}, "prune and prune_at go together"),
    "not a rule": ({"prune": 3, "prune_at": [4]}, "prune=3 must be a function"),
    "one epoch": ({"prune": by_rule, "prune_at": 4}, "prune_at=4 must be a list of epochs"),
    "epoch 0": ({"prune": by_rule, "prune_at": [4, 0]}, r"prune_at\[1\]=0 must be an integer of at least 1"),
    "the end": ({"prune": by_rule, "prune_at": [4, 20]}, "prune_at has epoch 20, but training ends at epochs=20"),
    "halving": ({"prune": by_rule, "prune_at": [4], "halving": 2}, "halving and prune were both given"),
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_rules_are_refused_before_anything_is_trained(case, monkeypatch):
    options, message = REFUSED[case]
    monkeypatch.setattr(host, "_call", lambda *arguments: pytest.fail("training was started"))
    with pytest.raises(ValueError, match=message):
        sweep(**options)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("answer", [True, [True], [0, 3], np.zeros(12)])
def test_an_answer_that_is_no_mask_is_refused(answer):
    with pytest.raises(ValueError, match="prune must return a mask, one bool for each of 12 trials, got "):
        sweep(prune=lambda *question: answer, prune_at=[4])
