"""What training refuses, and says so before anything compiles."""

import chex
import jax
import numpy as np
import pytest

from jaxbackprop import Hyperparameters, Layer, batch_order, fit

PARAMS = tuple(Layer(np.ones((o, i), np.float32), np.zeros(o, np.float32)) for i, o in ((2, 3), (3, 2)))
X, Y = np.ones((2, 5), np.float32), np.eye(2, dtype=np.float32)[:, [0, 1, 0, 1, 0]]


def with_bad(array):
    bad = array.copy()
    bad[0, 3] = np.nan
    bad[1, 4] = np.inf
    return bad


REFUSED = {
    "unknown activation": ({"activation": "sigmod"}, "activation='sigmod' is unknown; did you mean 'sigmoid'"),
    "unknown optimizer": ({"optimizer": "Adam"}, "optimizer='Adam' is unknown; did you mean 'adam'"),
    "unknown objective": ({"objective": "logits"}, "objective='logits' is unknown"),
    "no steps": ({"steps": 0}, "steps=0 must be an integer of at least 1"),
    "half a step": ({"steps": 2.5}, "steps=2.5 must be an integer of at least 1"),
    "records": ({"record_every": 0}, "record_every=0 must be an integer of at least 1"),
    "nan": ({"x": with_bad(X)}, r"x must be finite, got 2 NaN or infinite values, the first at index \(0, 3\); impute"),
    "nan target": ({"y": with_bad(Y)}, "y must be finite, got 2 NaN or infinite values"),
    "transposed": ({"x": X.T}, r"W\^1 must be \[out, 5\].*was x handed over as \(samples, features\)\?"),
    "empty": ({"x": X[:, :0], "y": Y[:, :0]}, "x has no samples"),
    "lengths": ({"y": Y[:, :4]}, r"y must be \[classes, samples\] = \(2, 5\), got shape \(2, 4\)"),
    "classes": ({"y": Y[:1]}, r"y must be \[classes, samples\] = \(2, 5\), got shape \(1, 5\)"),
    "hyperparameters": ({"hyperparameters": 0.1}, "hyperparameters must be a Hyperparameters, got float"),
    "batch of 0": ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
    "batch too large": ({"batch_size": 6}, "batch_size=6 is larger than the data, which has 5 samples"),
    "two orders": ({"batch_size": 2, "batches": np.zeros((3, 2), int)}, "batch_size and batches were both given"),
    "short order": (
        {"batches": np.zeros((2, 2), int)},
        r"batches must be \[steps, batch_size\] with steps=3, got shape \(2, 2\)",
    ),
    "flat order": (
        {"batches": np.zeros(3, int)},
        r"batches must be \[steps, batch_size\] with steps=3, got shape \(3,\)",
    ),
    "float order": ({"batches": np.zeros((3, 2))}, "batches must hold the numbers of samples, got float64"),
    "far order": ({"batches": np.full((3, 2), 5)}, "batches names sample 5, but x has 5, numbered from 0"),
}
REFUSED_HYPERPARAMETERS = {
    "learning rate 0": ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
    "learning rate below 0": ({"learning_rate": -0.1}, "learning_rate=-0.1 must be above 0"),
    "learning rate nan": ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number above 0"),
    "learning rate in quotes": ({"learning_rate": "0.1"}, "learning_rate='0.1' must be a finite number above 0"),
    "learning rates": ({"learning_rate": np.ones(2)}, r"learning_rate=array\(\[1., 1.\]\) must be a finite number"),
    "l2 below 0": ({"l2": -1e-3}, "l2=-0.001 must be of at least 0"),
    "infinite momentum": ({"momentum": np.inf}, "momentum=inf must be a finite number of at least 0"),
    "weight decay below 0": ({"weight_decay": -1}, "weight_decay=-1 must be of at least 0"),
    "seed below 0": ({"seed": -1}, "seed=-1 must be an integer of at least 0"),
    "half a seed": ({"seed": 1.5}, "seed=1.5 must be an integer of at least 0"),
    "too few weights": ({"weights": np.ones(4)}, r"weights must have shape \(5,\), one a sample, got \(4,\)"),
    "weight nan": ({"weights": np.array([1, np.nan, 1, 1, 1])}, "weights must be finite, got 1 NaN or infinite"),
    "weight below 0": ({"weights": np.array([1, -2.0, 1, 1, 1])}, "weights must not be negative, the least is -2"),
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_HYPERPARAMETERS])
def test_bad_input_is_refused_before_anything_compiles(case, monkeypatch):
    """The message names the argument, what it got and what would be right."""
    if case in REFUSED:
        changes, message = REFUSED[case]
    else:
        fields, message = REFUSED_HYPERPARAMETERS[case]
        changes = {"hyperparameters": Hyperparameters(**({"learning_rate": 0.1} | fields))}
    arguments = {"params": PARAMS, "x": X, "y": Y, "hyperparameters": Hyperparameters(0.1)}
    arguments |= {"activation": "tanh", "steps": 3} | changes
    monkeypatch.setattr(jax.lax, "scan", lambda *args, **kwargs: pytest.fail("training was started"))
    with pytest.raises(ValueError, match=message):
        fit(**arguments)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_not_bad_is_not_refused():
    settings = Hyperparameters(np.float32(0.1), seed=np.int64(3), weights=np.ones(5), momentum=0)
    result = fit(PARAMS, X.astype(int), Y.astype(int), settings, activation="tanh", steps=3, batch_size=5)
    chex.assert_tree_all_finite(result)


@pytest.mark.parametrize("argument", ["samples", "batch_size", "steps"])
def test_an_order_of_nothing_is_refused(argument):
    numbers = {"samples": 5, "batch_size": 2, "steps": 3} | {argument: 0}
    with pytest.raises(ValueError, match=f"{argument}=0 must be an integer of at least 1"):
        batch_order(jax.random.key(0), **numbers)
