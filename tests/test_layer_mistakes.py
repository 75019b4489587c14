"""Every mistake of a layer's table is held by a mutant, is told from the others, and blames nothing that is right."""

import numpy as np
import pytest
from layer_cases import CASES, CODES, IMPOSSIBLE, case_of, codes_of, in_our_layout, layer_of, mutant_of
from layer_mutants import MUTANTS

from jaxbackprop.layers import FILES, find_layer

CLOSE = 1e-3  # of the discrepancy, and of the gradient


def distance(some, others):
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(some, others, strict=True))


def explained_by(got, right, predictions):
    """The codes by the simplest rule: what is left is small beside the discrepancy and the gradient; nearest first."""
    wrong, size = distance(got, right), max(float(np.max(np.abs(r))) for r in right)
    left = {code: distance(got, prediction) for code, prediction in predictions.items()}
    return [code for code in sorted(left, key=left.get) if left[code] < CLOSE * min(wrong, size)]


@pytest.mark.parametrize("name", CASES)
def test_every_mistake_is_told_from_what_is_right_and_from_the_others(name):
    *_, right, predictions = case_of(name)
    assert set(predictions) == set(codes_of(name))
    for code, got in predictions.items():
        assert distance(got, right) > 1e-6, code
        assert explained_by(got, right, predictions) == [code]
    rounded = [np.asarray(r) * (1 + 1e-12) for r in right]
    assert explained_by(rounded, right, predictions) == []


@pytest.mark.parametrize("name", CASES)
def test_the_mutants_without_a_mistake_are_right(name):
    *_, right, predictions = case_of(name)
    got = in_our_layout(name, mutant_of(name, None))
    assert distance(got, right) < 1e-10
    assert explained_by(got, right, predictions) == []


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_mutant_gets_its_own_diagnosis(name, code):
    *_, right, predictions = case_of(name)
    got = in_our_layout(name, mutant_of(name, code))
    assert distance(got, predictions[code]) < 1e-8 * max(1, distance(got, right))
    assert explained_by(got, right, predictions) == [code]


def test_there_are_six_a_layer_and_far_more_than_120_each_with_its_mutant():
    assert set(MUTANTS) == set(FILES)
    assert all(len(codes_of(name)) >= 6 for name in FILES)
    held = {name: {code for case, code in CODES if layer_of(case) == name} for name in FILES}
    assert sum(map(len, held.values())) > 300
    for name in FILES:
        assert {mistake.code for mistake in find_layer(name).mistakes} - held[name] == IMPOSSIBLE.get(name, set())
