"""The corpus of hand-ins: no verdict is wrong, and no name is false. The truth is held by differences of NumPy."""

import numpy as np
import pytest
from hand_ins import CS231N, FUNCTION, HAND_INS, LISTS

from jaxbackprop.auditing.command import examine_file
from jaxbackprop.auditing.hand_in import opened

pytestmark = [
    pytest.mark.usefixtures("as_users_run_it"),
    pytest.mark.filterwarnings("ignore:the matrix subclass"),
]


def own_loss(leaves, X, y, function):
    """The mean cross-entropy, written once more."""
    a = X
    for l in range(0, len(leaves), 2):
        z = a @ leaves[l] + leaves[l + 1].reshape(1, -1)
        a = function(z)
    logits = z - z.max(axis=1, keepdims=True)
    return -(logits[np.arange(len(y)), y] - np.log(np.exp(logits).sum(axis=1))).mean()


def differences(leaves, X, y, function):
    gradient = []
    for i, leaf in enumerate(leaves):
        slopes = np.zeros_like(leaf)
        for index in np.ndindex(*leaf.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [other.copy() for other in leaves]
                moved[i][index] += step
                ends.append(own_loss(moved, X, y, function))
            slopes[index] = (ends[0] - ends[1]) / 2e-5
        gradient.append(slopes)
    return gradient


def is_right(base, namespace):
    """Whether a hand-in's gradient is that of the mean or of the sum."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(9, 3)), rng.permutation(np.arange(9) % 2)
    leaves = [rng.normal(size=shape) for shape in ((3, 5), (1, 5), (5, 2), (1, 2))]
    results = []
    if base is CS231N:
        net = namespace["TwoLayerNet"](3, 5, 2)
        leaves = [leaf.reshape(-1) if leaf.shape[0] == 1 else leaf for leaf in leaves]
        net.params.update(zip(("W1", "b1", "W2", "b2"), leaves, strict=True))
        grads = net.loss(X, y)[1]
        results.append(([grads[k] for k in ("W1", "b1", "W2", "b2")], lambda z: np.maximum(z, 0)))
    elif base is LISTS:
        for kind, function in (("tanh", np.tanh), ("sigmoid", lambda z: 1 / (1 + np.exp(-z)))):
            net = namespace["deepNet"]([3, 5, 2], kind)
            net.weights, net.biases = leaves[0::2], leaves[1::2]
            dW, db = sorted(net.backwardPass(X, np.eye(2)[y]), key=lambda group: group[0].shape[0] == 1)
            results.append(([dW[0], db[0], dW[1], db[1]], function))
    else:
        results.append((namespace["gradient"](*leaves, X, y), np.tanh))
    verdicts = []
    for got, function in results:
        right = differences(leaves, X, y, function)
        verdicts.append(
            any(
                all(np.allclose(g, factor * r, rtol=1e-5, atol=1e-7) for g, r in zip(got, right, strict=True))
                for factor in (1, 9)
            )
        )
    return all(verdicts)


@pytest.mark.parametrize("number", range(len(HAND_INS)))
def test_the_corpus(number, tmp_path):
    base, old, new, right, codes = HAND_INS[number]
    assert old in base
    source = base.replace(old, new) if old else base
    path = tmp_path / f"homework_{number}.py"
    path.write_text(source)
    with opened(path) as hand_in:
        assert is_right(base, hand_in.namespace) == right
        name = "gradient" if base is FUNCTION else None
        _, ok, mistakes = examine_file(hand_in, name, None, l2=0.0, one_hot=False, classes=2, seed=0)
    assert ok == right
    assert set(mistakes) <= {*codes, "unknown"}  # no name is false
    if codes and not ok:
        assert mistakes[0] in codes


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
