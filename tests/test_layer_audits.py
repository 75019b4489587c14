"""What `audit_vjp` says of the mutants of all layers: each its own diagnosis, and nothing that is right is blamed."""

import numpy as np
import pytest
from layer_cases import CASES, CODES, case_of, in_courses_layout, in_courses_words, layer_of
from layer_mutants import MUTANTS

from jaxbackprop import audit_vjp
from jaxbackprop.layers.contract import turn, turn_back
from jaxbackprop.oracle import float64

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def audited(name, code):
    """The report on the mutant of a case, in the courses' layout and words."""
    layer, _, ours, *_ = case_of(name)
    _, arguments, options = in_courses_layout(case_of(name))
    options.pop("causal", None)

    def forward(*args):
        arrays = [turn(a, axes) for a, axes in zip(args, layer.samples_first, strict=False)]
        return turn_back(layer.forward(*arrays, **ours)[0], layer.out_samples_first)

    def backward(dout, *args):
        arrays = [np.asarray(a) for a in args[: len(arguments)]]
        return MUTANTS[layer_of(name)](np.asarray(dout)[()], *arrays, **options, mistake=code)

    with float64():
        return audit_vjp(forward, backward, *arguments, *in_courses_words(name), layer=layer.name)


def wrong_places(name, code):
    *_, right, predictions = case_of(name)
    return [not np.allclose(p, r, rtol=1e-9, atol=1e-12) for p, r in zip(predictions[code], right, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_right_and_known_to_be_the_layer(name):
    report = audited(name, None)
    assert report.ok, report
    assert not any("is not the layer" in note for note in report.notes), report


# Of two equal numbers max has no right slope: any share of the error for the first of them is as good.
EXCUSED = {("max_pool", "tie_shared"), ("max_pool", "tie_to_last")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_the_mutants_95_percent_get_their_own_name_and_no_right_leaf_is_blamed():
    misses, blamed = [], []
    for name, code in CODES:
        report = audited(name, code)
        wrong = [not finding.ok for finding in report.findings]
        if any(said and not so for said, so in zip(wrong, wrong_places(name, code), strict=True)):
            blamed.append((name, code, wrong))
        named = {finding.diagnosis for finding in report.findings if not finding.ok}
        if named != {code} or wrong != wrong_places(name, code):
            misses.append((name, code, named))
    share = 1 - len(misses) / len(CODES)
    print(f"{share:.1%} of {len(CODES)} mutants get their own name; not so {misses}")
    assert not blamed
    assert share >= 0.95, misses
    assert {(name, code) for name, code, named in misses if not named} == EXCUSED
