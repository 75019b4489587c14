"""The corpus of hand-ins: no verdict is wrong, and no name is false. The truth is held by differences of NumPy."""

import json

import numpy as np
import pytest
from hand_in_mistakes import HAND_INS
from hand_ins import COURSE, CS231N, DEEP, FUNCTION, HARD, LISTS, MATRIX, MODEL, PAIR

from jaxbackprop.auditing.command import examine_file
from jaxbackprop.auditing.hand_in import opened, quiet

pytestmark = [
    pytest.mark.usefixtures("as_users_run_it"),
    pytest.mark.filterwarnings("ignore:the matrix subclass"),
]
NAMES = ("W1", "b1", "W2", "b2")
SHAPES = ((3, 5), (1, 5), (5, 2), (1, 2))
SAMPLES = 9
FUNCTIONS = {"tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: np.maximum(z, 0)}


def own_loss(leaves, X, y, function):
    """The mean cross-entropy, written once more."""
    a = X
    for l in range(0, len(leaves), 2):
        z = a @ leaves[l] + leaves[l + 1].reshape(1, -1)
        a = function(z)
    logits = z - z.max(axis=1, keepdims=True)
    return -(logits[np.arange(len(y)), y] - np.log(np.exp(logits).sum(axis=1))).mean()


def differences(loss, leaves):
    gradient = []
    for i, leaf in enumerate(leaves):
        slopes = np.zeros_like(leaf)
        for index in np.ndindex(*leaf.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [other.copy() for other in leaves]
                moved[i][index] += step
                ends.append(loss(moved))
            slopes[index] = (ends[0] - ends[1]) / 2e-5
        gradient.append(slopes)
    return gradient


def results(base, namespace, leaves, X, y):
    """Of each activation: the parameters, the gradient, the activation, and the penalty in the hand-in's own loss."""
    if base is CS231N:

        def ask(leaves, reg):
            net = namespace["TwoLayerNet"](3, 5, 2)
            net.params.update({k: v.reshape(-1) if k[0] == "b" else v for k, v in zip(NAMES, leaves, strict=True)})
            return net.loss(X, y, reg)

        grads = ask(leaves, 0.1)[1]
        yield leaves, [grads[k] for k in NAMES], "relu", lambda leaves: ask(leaves, 0.1)[0] - ask(leaves, 0.0)[0]
    elif base is LISTS:
        for kind in ("tanh", "sigmoid"):
            net = namespace["deepNet"]([3, 5, 2], kind)
            net.weights, net.biases = leaves[0::2], leaves[1::2]
            dW, db = sorted(net.backwardPass(X, np.eye(2)[y]), key=lambda group: group[0].shape[0] == 1)
            yield leaves, [dW[0], db[0], dW[1], db[1]], kind, None
    elif base is COURSE:
        for kind in FUNCTIONS:

            def ask(leaves, reg, kind=kind):
                net = namespace["NeuralNetwork"](3, 5, 2, kind, reg)
                net.W1, net.b1, net.W2, net.b2 = leaves
                net.feedforward(X, lambda z: net.actFun(z, kind))
                dW1, dW2, db1, db2 = net.backprop(X, y)
                return net.calculate_loss(X, y), [dW1, db1, dW2, db2]

            gradient, without = ask(leaves, 0.1)[1], ask(leaves, 0.0)[1]
            penalty = lambda leaves: ask(leaves, 0.1)[0] - ask(leaves, 0.0)[0]  # noqa: E731
            yield leaves, gradient, kind, None if np.allclose(gradient[0], without[0]) else penalty
    elif base is DEEP:
        for kind in ("tanh", "sigmoid"):
            net = namespace["DeepNeuralNetwork"]([3, 5, 2], kind)
            for layer, W, b in zip(net.layers, leaves[0::2], leaves[1::2], strict=True):
                layer.W, layer.b = W, b
            net.feedforward(X)
            net.backprop(X, y)
            yield leaves, [array for layer in net.layers for array in (layer.dW, layer.db)], kind, None
    elif base is MODEL:
        namespace.update(X=X, y=y, num_examples=len(X), nn_input_dim=3, nn_output_dim=2, reg_lambda=0.1)
        before, after = (
            [np.array(namespace["build_model"](5, passes)[k]) for k in NAMES] for passes in (1, 2)
        )  # fmt: skip
        gradient = [(b - a) / namespace["epsilon"] for b, a in zip(before, after, strict=True)]

        def penalty(leaves):
            losses = []
            for strength in (0.1, 0.0):
                namespace["reg_lambda"] = strength
                losses.append(namespace["calculate_loss"](dict(zip(NAMES, leaves, strict=True))))
            return losses[0] - losses[1]

        yield before, gradient, "tanh", penalty
    elif base is PAIR:
        parameters = {k: v.T for k, v in zip(NAMES, leaves, strict=True)}
        _, cache = namespace["forward_propagation"](X.T, parameters)
        grads = namespace["backward_propagation"](parameters, cache, X.T, np.eye(2)[y].T)
        yield leaves, [grads[f"d{k}"].T for k in NAMES], "tanh", None
    elif base is MATRIX:
        net = namespace["MatrixNet"](3, 5, 2)
        for name, leaf in zip(NAMES, leaves, strict=True):
            setattr(net, name, np.asmatrix(leaf))
        net.forward(X)
        net.backward(X, np.eye(2)[y])
        yield leaves, [np.asarray(getattr(net, f"d{k}")) for k in NAMES], "sigmoid", None
    elif base is HARD:
        net, names = namespace["TwoClassNet"](), ("w_hidden", "b_hidden", "w_output", "b_output")
        for name, leaf in zip(names, leaves, strict=True):
            setattr(net, name, leaf.reshape(-1) if name[0] == "b" else leaf)
        grads = net.compute_gradients(X, y)
        yield leaves, [grads[k] for k in names], "relu", None
    else:
        yield leaves, namespace["gradient"](*leaves, X, y), "tanh", None


def is_right(base, namespace):
    """Whether a hand-in's gradient is that of the mean or of the sum, with its own loss's penalty."""
    rng = np.random.default_rng(3)
    shapes = SHAPES if base is not HARD else ((2, 3), (1, 3), (3, 2), (1, 2))
    X, y = rng.normal(size=(SAMPLES, shapes[0][0])), rng.permutation(np.arange(SAMPLES) % 2)
    leaves = [rng.normal(size=shape) for shape in shapes]
    verdicts = []
    try:
        for at, got, kind, penalty in results(base, namespace, leaves, X, y):
            data = differences(lambda leaves, kind=kind: own_loss(leaves, X, y, FUNCTIONS[kind]), at)
            extra = [np.zeros_like(d) for d in data] if penalty is None else differences(penalty, at)
            verdicts.append(
                any(
                    all(
                        np.allclose(np.reshape(g, d.shape), factor * d + times * e, rtol=1e-5, atol=1e-7)
                        for g, d, e in zip(got, data, extra, strict=True)
                    )
                    for factor in (1, SAMPLES)
                    for times in (1, factor)
                )
            )
    except IndexError:  # another number of samples than the one that is written into it
        return False
    return all(verdicts)


def changed(base, changes):
    for old, new in changes:
        assert old in base
        base = base.replace(old, new)
    return base


@pytest.fixture(scope="module")
def outcomes():
    return []


@pytest.mark.parametrize("number", range(len(HAND_INS)))
def test_the_corpus(number, tmp_path, outcomes):
    base, changes, right, codes = HAND_INS[number]
    path = tmp_path / f"homework_{number}.py"
    path.write_text(changed(base, changes))
    with opened(path) as hand_in:
        with quiet(hand_in.printed):
            assert is_right(base, dict(hand_in.namespace) if base is not MODEL else hand_in.namespace) == right
        text, ok, mistakes = examine_file(hand_in, None, None, l2=0.0, one_hot=False, classes=2, seed=0)
    assert ok == right, text
    assert set(mistakes) <= {*codes, "unknown"}, text  # no name is false
    outcomes.append(right or (bool(codes) and mistakes[0] in codes))


def test_nearly_all_first_diagnoses_are_right(outcomes):
    if len(outcomes) < len(HAND_INS):
        pytest.skip("the corpus was not run whole in this process")
    assert sum(outcomes) >= 0.9 * len(outcomes)


def test_the_corpus_is_as_it_is_told_to_be():
    assert len(HAND_INS) >= 80
    assert sum(right for _, _, right, _ in HAND_INS) >= len(HAND_INS) // 4
    assert sum(len(changes) > 1 and not right for _, changes, right, _ in HAND_INS) >= 6


def test_a_model_and_any_order(tmp_path):
    for number, (old, new) in enumerate(
        [
            (
                "(W1, b1, W2, b2, X, y):",
                "(model, X, y):\n    W1, b1, W2, b2 = (model[k] for k in ('W1', 'b1', 'W2', 'b2'))",
            ),
            ("(W1, b1, W2, b2, X, y):", "(X, y, W1, W2, b1, b2):"),
            ("return dW1, db1, dW2, db2", "return dW1, dW2, db1, db2"),
        ]
    ):
        path = tmp_path / f"homework_{number}.py"
        path.write_text(FUNCTION.replace(old, new))
        with opened(path) as hand_in:
            text, ok, _ = examine_file(hand_in, None, None, l2=0.0, one_hot=False, classes=2, seed=0)
        assert ok, text


def test_a_notebook_of_the_course(tmp_path):
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
             for source in ("%matplotlib inline", COURSE.replace("return s * (1 - s)", "return s * s"))]  # fmt: skip
    path = tmp_path / "homework.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    with opened(path) as hand_in:
        text, ok, mistakes = examine_file(hand_in, None, None, l2=0.0, one_hot=False, classes=2, seed=0)
    assert not ok
    assert mistakes == ["slope", "wrong_slope"], text
