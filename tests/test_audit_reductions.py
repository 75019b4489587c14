"""The sum over the samples or their mean is a convention; part of the one and part of the other is a mistake."""

import audit_mutants
import jax
import numpy as np
import pytest
from audit_mutants import DELTA, draw

from jaxbackprop import ACTIVATIONS, Layer, Network, audit, audit_network, loss
from jaxbackprop.auditing.refusals import AuditError

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SAMPLES = 7
SUMMED = audit_mutants.Mutant("", DELTA, "delta = y_hat - one_hot(y, y_hat)", l2=0.1)


def mean_loss(params, X, y, l2=0.0):
    layers = tuple(Layer(weight.T, bias) for weight, bias in zip(params[0::2], params[1::2], strict=True))
    targets = jax.nn.one_hot(y, params[-1].size, axis=0, dtype=X.dtype)
    return loss(layers, X.T, targets, activation="tanh", l2=l2)


def sum_loss(params, X, y):
    return len(X) * mean_loss(params, X, y)


def with_penalty(params, X, y):
    return mean_loss(params, X, y, l2=0.1)


MEAN, SUM = audit_mutants.build("tanh"), audit_mutants.build("tanh", SUMMED._replace(l2=0.0))
PARAMS, X, Y = draw((2, 3, 2), 0)


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(
    ("gradient", "loss_fn", "asked", "convention"),
    [
        (MEAN, mean_loss, None, ""),
        (SUM, mean_loss, None, "the gradient of the sum over 7 samples"),
        (MEAN, sum_loss, None, "the gradient of the mean over 7 samples"),
        (SUM, sum_loss, None, ""),
        (SUM, mean_loss, "sum", "the gradient of the sum over 7 samples"),
        (MEAN, sum_loss, "mean", "the gradient of the mean over 7 samples"),
        (SUM, sum_loss, "sum", ""),
        (SUM, mean_loss, "mean", None),
        (MEAN, mean_loss, "sum", None),
        (MEAN, sum_loss, "sum", None),
    ],
)
def test_a_sum_and_a_mean_are_both_right(gradient, loss_fn, asked, convention, described):
    network = Network("tanh", samples_first=True) if described else None
    report = audit(gradient, loss_fn, PARAMS, X, Y, network=network, reduction=asked)
    assert report.ok == (convention is not None), report
    if convention is not None:
        assert report.convention == convention
        assert report.headline == f"The gradient is right{convention and ', as ' + convention}."
    else:
        assert {finding.diagnosis for finding in report.findings} <= {"sum_not_mean", "mean_not_sum"}


def test_a_penalty_may_be_summed_or_not():
    network = Network("tanh", samples_first=True, l2=0.1)
    report = audit(audit_mutants.build("tanh", SUMMED), with_penalty, PARAMS, X, Y, network=network)
    assert report.ok, report
    right = audit_mutants.build("tanh", l2=0.1)
    report = audit(lambda *args: [SAMPLES * leaf for leaf in right(*args)], with_penalty, PARAMS, X, Y, network=network)
    assert report.ok, report


@pytest.mark.parametrize(
    ("factors", "codes"),
    [
        ((7, 1, 7, 1), ("sum_not_mean", None, "sum_not_mean", None)),
        ((7, 7, 1, 7), (None, None, "mean_not_sum", None)),
        ((1, 1, 1, 7), (None, None, None, "sum_not_mean")),
    ],
)
def test_part_of_the_one_and_part_of_the_other_is_wrong_and_named(factors, codes):
    def mixed(*args):
        return [factor * leaf for factor, leaf in zip(factors, MEAN(*args), strict=True)]

    for network in (None, Network("tanh", samples_first=True)):
        report = audit(mixed, mean_loss, PARAMS, X, Y, network=network)
        assert tuple(finding.diagnosis for finding in report.findings) == codes, report
        assert [finding.ok for finding in report.findings] == [code is None for code in codes]


def test_the_mean_twice_stays_a_mistake():
    report = audit(lambda *args: [leaf / SAMPLES for leaf in MEAN(*args)], mean_loss, PARAMS, X, Y)
    assert {finding.diagnosis for finding in report.findings} == {"mean_twice"}


@pytest.mark.parametrize("factor", [7, 1 / 7, -1, 2.5])
def test_a_common_factor_is_taken_out_before_the_place_is_told(factor):
    """A mistake without a name in the step to delta^2, and all of it times a constant."""
    mutant = audit_mutants.Mutant("", audit_mutants.SLOPE, "np.cos(3 * z[l - 1])")
    wrong = audit_mutants.build("tanh", mutant)
    report = audit(
        lambda *args: [factor * leaf for leaf in wrong(*args)],
        mean_loss,
        PARAMS,
        X,
        Y,
        network=Network("tanh", samples_first=True),
    )
    first = report.findings[0]
    assert not first.ok
    assert first.diagnosis is None
    assert "the mistake is in the step from delta^3 to delta^2" in first.explanation, report
    assert "consequence" not in str(report)
    assert (factor == 7) == report.findings[3].ok
    assert report.findings[3].diagnosis == {7: None, 1 / 7: "mean_twice", -1: "sign", 2.5: "factor"}[factor]


def test_a_leaf_of_another_shape_is_no_evidence():
    def wrong(*args):
        gradient = MEAN(*args)
        return [gradient[0] + np.sin(9 * args[0][0]), gradient[1][:-1], *gradient[2:]]

    report = audit(wrong, mean_loss, PARAMS, X, Y, network=Network("tanh", samples_first=True))
    assert "As b^1 is right" not in str(report)
    assert not report.findings[1].ok
    assert report.findings[1].got is None


def test_what_is_small_is_not_called_zero_nor_a_factor():
    def junk(*args):
        return [2e-4 * np.sin(7 * leaf + n) for n, leaf in enumerate(args[0])]

    for network in (None, Network("tanh", samples_first=True)):
        report = audit(junk, mean_loss, PARAMS, X, Y, network=network)
        assert [finding.diagnosis for finding in report.findings] == [None] * 4, report
        assert not any(finding.ok for finding in report.findings)


@pytest.mark.parametrize(
    ("activation", "slope"), [("relu", "(z[l - 1] >= 0)"), ("relu", "np.where(z[l - 1] == 0, 0.5, z[l - 1] > 0)")]
)
def test_another_slope_at_a_kink_is_a_note(activation, slope):
    wrong = audit_mutants.build(activation, audit_mutants.Mutant("", audit_mutants.SLOPE, slope))
    k = np.array(list(ACTIVATIONS).index(activation))
    network = Network(activation, samples_first=True)
    report = audit(wrong, audit_mutants.numbered_loss, PARAMS, X, Y, k, np.array(0.0), network=network)
    assert report.ok, report
    assert any("exactly at z^1 = 0" in note for note in report.notes), report


def test_a_function_that_raises_is_told_in_a_line():
    def broken(params, X, y):
        return [leaf / "seven" for leaf in params]

    with pytest.raises(AuditError, match=r"gradient_fn raised TypeError: .*test_audit_reductions.py, line \d+") as told:
        audit(broken, mean_loss, PARAMS, X, Y)
    assert "\n" not in str(told.value)
    assert "float64 (7, 2)" in str(told.value)
    with pytest.raises(AuditError, match=r"loss_fn raised ZeroDivisionError"):
        audit(MEAN, lambda *args: 1 / 0, PARAMS, X, Y)


def test_many_networks_may_be_sums():
    def summed(params, X, Y, activation):
        leaves = [leaf for layer in params for leaf in layer]
        gradient = audit_mutants.build(activation)(leaves, X, Y.argmax(axis=1))
        return tuple(zip(*(iter([len(X) * leaf for leaf in gradient]),) * 2, strict=True))

    options = {"activations": ("tanh",), "depths": (2,), "samples_first": True}
    report = audit_network(summed, **options)
    assert report.ok
    assert report.summary.endswith("as the gradient of the sum over the samples.")
    assert not audit_network(summed, reduction="mean", **options).ok
    assert {outcome.case["classes"] for outcome in report.outcomes} == {2}


@pytest.mark.parametrize("bad", ["average", 1])
def test_a_reduction_that_does_not_exist_is_refused(bad):
    with pytest.raises(ValueError, match="reduction"):
        audit(MEAN, mean_loss, PARAMS, X, Y, reduction=bad)
    with pytest.raises(ValueError, match="reduction"):
        Network("tanh", reduction=bad)
