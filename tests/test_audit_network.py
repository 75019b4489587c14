"""A backward pass over many networks, and stage by stage: the first wrong step is named, and where it fails."""

from functools import partial

import audit_mutants
import jax
import numpy as np
import pytest
import reference
from audit_mutants import one_hot, softmax

from jaxbackprop import ACTIVATIONS, Network, audit_network, audit_stages
from jaxbackprop.backprop import loss_and_grad

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def backward(params, X, Y, activation, mutant=None, l2=0.0):
    """The homework on layers and one-hot targets, samples first, with or without a mistake."""
    leaves = [leaf for layer in params for leaf in layer]
    gradient = audit_mutants.build(activation, mutant, l2)(leaves, X, Y.argmax(axis=1))
    return tuple(zip(gradient[0::2], gradient[1::2], strict=True))


def wrong_by(old, new):
    return partial(backward, mutant=audit_mutants.Mutant("", old, new))


def test_a_right_backward_pass_is_right_everywhere():
    report = audit_network(backward, activations=list(ACTIVATIONS), depths=(1, 2, 5), samples_first=True)
    assert audit_network(backward, activations=("tanh",), depths=(2,), classes=(2, 3, 10), samples_first=True).ok
    assert report.ok
    report.raise_if_wrong()
    cases = [outcome.case for outcome in report.outcomes]
    assert report.summary == f"Right in all {len(cases)} cases."
    assert {case["samples"] for case in cases} >= {1, 2, 7}
    assert {case["classes"] for case in cases} == {2}
    assert {case["activation"] for case in cases} >= set(ACTIVATIONS)
    assert {case["layers"] for case in cases} == {1, 2, 5}


def test_our_own_backward_pass_and_a_penalty():
    def ours(params, x, y, activation):
        return loss_and_grad(jax.tree.map(np.asarray, params), x, y, activation=activation, l2=0.1)[1]

    assert audit_network(ours, activations=("tanh",), widths=(3,), batches=(1, 4), classes=(2,), l2=0.1).ok
    report = audit_network(ours, activations=("tanh",), widths=(3,), batches=(1, 4), classes=(2,), l2=0.2)
    assert not report.ok
    assert "l2 term" in report.summary


@pytest.mark.parametrize(
    ("old", "new", "summary"),
    [
        (
            audit_mutants.SLOPE,
            "others['tanh'][1](z[l - 1])",
            "Right for tanh; wrong for sigmoid and relu: the derivative of tanh is used for all.",
        ),
        (
            audit_mutants.DELTA,
            "delta = y_hat - one_hot(y, y_hat)",
            "Right for batches of 1; wrong for batches of 2 and 7: it is the gradient of the sum over the samples, the "
            "loss is their mean.",
        ),
        (
            audit_mutants.DELTA,
            "delta = (one_hot(y, y_hat) - y_hat) / N",
            "the sign of delta^",
        ),
        (audit_mutants.SLOPE, "1", "the derivative of the activation is missing"),
        (audit_mutants.BACK, "delta = delta @ W[l - 1]", "it raises ValueError"),
    ],
)
def test_the_summary_says_where_a_backward_pass_fails_and_why(old, new, summary):
    report = audit_network(wrong_by(old, new), samples_first=True, reduction="mean")
    assert not report.ok
    assert summary in report.summary, report.summary
    assert report.summary in " ".join(str(report).split())
    with pytest.raises(AssertionError, match="right"):
        report.raise_if_wrong()
    assert report.summary.split(";")[0] in report._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ("tan",)}, "activation"),
        ({"activations": ()}, "activations"),
        ({"depths": ()}, "depths"),
        ({"widths": (0,)}, "widths"),
        ({"batches": (1.5,)}, "batches"),
        ({"classes": (-2,)}, "classes"),
        ({"l2": -1}, "l2"),
        ({"seed": "a"}, "seed"),
    ],
)
def test_cases_that_do_not_exist_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        audit_network(backward, samples_first=True, **change)


STAGES = """
z1 = X @ W1 + b1
a1 = f(z1)
z2 = a1 @ W2 + b2
y_hat = softmax(z2)
delta3 = y_hat - Y
dW2 = a1.T @ delta3 / N
db2 = delta3.sum(axis=0) / N
delta2 = delta3 @ W2.T * slope(z1)
dW1 = X.T @ delta2 / N
db1 = delta2.sum(axis=0) / N
"""
NAMES = ("z1", "a1", "z2", "y_hat", "delta3", "dW2", "db2", "delta2", "dW1", "db1")


def stages_of(old="", new="", activation="tanh", names=NAMES):
    assert old in STAGES
    source = STAGES.replace(old, new) if old else STAGES
    f, slope = reference.ACTIVATIONS[activation]

    def run(params, X, Y):
        (W1, b1), (W2, b2) = params
        known = {"X": X, "Y": Y, "N": len(X), "W1": W1, "b1": b1, "W2": W2, "b2": b2}
        known |= {"np": np, "f": f, "slope": slope, "softmax": softmax}
        exec(source, known)
        return {name: known[name] for name in names}

    return run


def data(width=3):
    rng = np.random.default_rng(0)
    params = ((rng.normal(size=(3, width)), rng.normal(size=width)), (rng.normal(size=(width, 3)), rng.normal(size=3)))
    y = np.arange(6) % 3
    return params, rng.normal(size=(6, 3)), one_hot(y, np.zeros((1, 3)))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_right_stages_are_right(activation):
    report = audit_stages(stages_of(activation=activation), Network(activation, samples_first=True), *data(4))
    assert report.ok, report
    assert report.first_wrong is None
    assert [finding.name for finding in report.findings] == list(NAMES)


@pytest.mark.parametrize(
    ("old", "new", "first", "explanation", "later"),
    [
        ("X @ W1 + b1", "X @ W1", "z1", "b^1 is missing", NAMES[1:]),
        ("X @ W1 + b1", "X @ W1.T + b1", "z1", "W^1 is transposed", NAMES[1:]),
        ("a1 = f(z1)", "a1 = z1", "a1", "no activation is applied", NAMES[2:]),
        ("a1 = f(z1)", "a1 = np.maximum(z1, 0)", "a1", "relu is applied, the activation is tanh", NAMES[2:]),
        ("softmax(z2)", "softmax(z2.T).T", "y_hat", "taken over the samples", NAMES[4:]),
        ("softmax(z2)", "z2", "y_hat", "no softmax is applied", NAMES[4:]),
        ("y_hat - Y", "Y - y_hat", "delta3", "the sign is turned", NAMES[5:]),
        ("a1.T @ delta3 / N", "a1.T @ delta3", "dW2", "the sum over the samples", ()),
        ("a1.T @ delta3", "z1.T @ delta3", "dW2", "it multiplies z^1, before the activation", ()),
        ("delta3.sum(axis=0) / N", "delta3[0] / N", "db2", "only the first sample counted", ()),
        ("slope(z1)", "slope(a1)", "delta2", "taken at a^1, after the activation", ("dW1", "db1")),
        ("slope(z1)", "1", "delta2", "the derivative of tanh is missing", ("dW1", "db1")),
        ("delta3 @ W2.T", "delta3 @ W2", "delta2", "W^2 is not transposed", ("dW1", "db1")),
        ("X.T @ delta2", "a1.T @ delta2", "dW1", "it multiplies a^1; layer 1 sees x", ()),
        ("slope(z1)", "np.cos(z1)", "delta2", "none that is known here", ("dW1", "db1")),
    ],
)
def test_the_first_wrong_stage_is_named_and_later_ones_are_its_consequence(old, new, first, explanation, later):
    report = audit_stages(stages_of(old, new), Network("tanh", samples_first=True), *data())
    assert report.first_wrong == first, report
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    assert [name for name, verdict in verdicts.items() if verdict == "wrong"] == [first]
    assert {name for name, verdict in verdicts.items() if verdict == "consequence"} <= set(later)
    found = next(finding for finding in report.findings if finding.name == first)
    assert explanation in found.explanation
    assert found.explanation in " ".join(str(report).split())
    assert ("nothing to change here" in " ".join(str(report).split())) == ("consequence" in verdicts.values())
    with pytest.raises(AssertionError, match="first wrong stage"):
        report.raise_if_wrong()


def test_the_gradients_of_a_sum_are_right():
    def summed(params, X, Y):
        values = stages_of()(params, X, Y)
        return {
            name: len(X) * value if name.startswith("d") and name[1] in "Wb" else value
            for name, value in values.items()
        }

    network = Network("tanh", samples_first=True)
    assert audit_stages(summed, network, *data()).ok
    report = audit_stages(lambda *a: summed(*a) | {"db2": stages_of()(*a)["db2"]}, network, *data())
    assert report.first_wrong == "db2"


def test_a_turned_sign_of_delta_is_named_for_sigmoids_too():
    right = stages_of("softmax(z2)", "1 / (1 + np.exp(-z2))")
    network = Network("tanh", "sigmoid", samples_first=True)
    assert audit_stages(right, network, *data()).ok
    report = audit_stages(lambda *a: (values := right(*a)) | {"delta3": -values["delta3"]}, network, *data())
    assert report.first_wrong == "delta3"
    assert "the sign is turned: it is y-hat - y" in " ".join(str(report).split())


def test_two_mistakes_in_one_leaf_from_different_steps_are_two():
    """dW1 is spoiled by its delta, and by what that is multiplied with."""
    source = stages_of("slope(z1)", "slope(a1)")

    def run(params, X, Y):
        values = source(params, X, Y)
        return values | {"dW1": -values["dW1"]}

    report = audit_stages(run, Network("tanh", samples_first=True), *data())
    wrong = {finding.name: finding.explanation for finding in report.findings if finding.verdict == "wrong"}
    assert list(wrong) == ["delta2", "dW1"]
    assert "taken at a^1" in wrong["delta2"]
    assert wrong["dW1"] == "the sign is turned"


def test_two_mistakes_are_two():
    run = stages_of("slope(z1)", "slope(a1)")

    def twice_wrong(params, X, Y):
        values = run(params, X, Y)
        return values | {"db1": -values["db1"]}

    report = audit_stages(twice_wrong, Network("tanh", samples_first=True), *data())
    assert [finding.name for finding in report.findings if finding.verdict == "wrong"] == ["delta2", "db1"]


def test_stages_may_be_left_out_and_named_by_their_z():
    def run(params, X, Y):
        values = stages_of()(params, X, Y)
        return {"dz2": values["delta3"] / len(X), "dz1": values["delta2"] / len(X), "dW1": values["dW1"]}

    report = audit_stages(run, Network("tanh", samples_first=True), *data())
    assert report.ok
    assert [finding.name for finding in report.findings] == ["dz2", "dz1", "dW1"]


def test_what_is_no_stage_is_refused():
    with pytest.raises(ValueError, match=r"'z3', which is no stage of a network of 2 layers"):
        audit_stages(lambda *_: {"z3": np.zeros(1)}, Network("tanh", samples_first=True), *data())
    with pytest.raises(ValueError, match="'gradient'"):
        audit_stages(lambda *_: {"gradient": np.zeros(1)}, Network("tanh", samples_first=True), *data())
    for nothing in ({}, None):
        with pytest.raises(ValueError, match=f"stages_fn must return a dict of stages.* got {nothing}"):
            audit_stages(lambda *_, nothing=nothing: nothing, Network("tanh", samples_first=True), *data())
