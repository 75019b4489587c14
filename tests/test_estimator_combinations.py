"""The estimators' settings beside each other: drawn combinations, fitted alone against a plain loop, and searched
together against scikit-learn's own search over the same estimator.

The loop goes by scikit-learn's rules, which it writes out: gradients by autodiff, updates in NumPy. It shares no line
with the package but the order of the batches and the masks of dropout.
"""

import functools
import warnings
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from reference import QUICKLY
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxbackprop.estimators import (
    BackpropClassifier,
    BackpropRegressor,
    SweepEnsembleClassifier,
    SweepEnsembleRegressor,
    SweepSearchCV,
)
from jaxbackprop.sweeps.host import epoch_order
from jaxbackprop.thinned import draw_mask

N = 44
INPUTS = np.random.default_rng(0).normal(size=(N, 3))
SIGNAL = INPUTS[:, 0] * INPUTS[:, 1] + np.sin(INPUTS[:, 2])
TARGETS = {
    "classes": np.digitize(SIGNAL, [-0.4, 0.5]),
    "two classes": (SIGNAL > 0).astype(int),
    "labels": np.stack([SIGNAL > 0, INPUTS[:, 0] > 0.3], axis=1).astype(int),
    "number": SIGNAL,
    "numbers": np.stack([SIGNAL, INPUTS[:, 0] ** 2], axis=1),
    "counts": np.random.default_rng(1).poisson(np.exp(SIGNAL / 2)),
}
FUNCTIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "logistic": jax.nn.sigmoid, "softplus": jax.nn.softplus}
MANY = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))]


def draw_settings(rng, targets):
    """Settings of one estimator for such targets; of several networks, those that may differ in a search."""
    widths = [(3,), (4,), (3, 2), (2, 4, 3)][rng.integers(4)]
    one, *others = rng.choice(list(FUNCTIONS), 1 + len(widths)).tolist()
    settings = {
        "hidden_layer_sizes": widths,
        "activation": tuple(others) if rng.random() < 0.4 else one,
        "solver": ["sgd", "adam"][rng.integers(2)],
        "learning_rate": ["constant", "invscaling", "adaptive"][rng.integers(3)],
        "learning_rate_init": [0.01, 0.05, 0.2][rng.integers(3)],
        "power_t": 0.3,
        "momentum": [0.0, 0.9][rng.integers(2)],
        "nesterovs_momentum": bool(rng.integers(2)),
        "alpha": [0.0, 1e-3, 0.5][rng.integers(3)],
        "batch_size": ["auto", 7, 16][rng.integers(3)],
        "shuffle": bool(rng.integers(2)),
        "early_stopping": bool(rng.integers(2)),
        "validation_fraction": 0.25,
        "dropout": [0.0, 0.0, 0.3][rng.integers(3)],
        "max_iter": int(rng.integers(4, 14)),
        "tol": [1e-4, 0.02][rng.integers(2)],
        "n_iter_no_change": [1, 2, 10][rng.integers(3)],
        "random_state": int(rng.integers(100)),
        "dtype": "float64",
    }
    if targets == "counts":
        settings["loss"] = "poisson"
    if targets in ("classes", "two classes") and rng.random() < 0.4:
        settings["class_weight"] = ["balanced", {0: 1, 1: 3, 2: 0.5}][rng.integers(2)]
    return settings


def kind_of(targets):
    return BackpropRegressor if targets in ("number", "numbers", "counts") else BackpropClassifier


def as_columns(targets):
    y = TARGETS[targets]
    return np.eye(3)[y] if targets == "classes" else y.reshape(N, -1).astype(float)


def losses(targets, z, y):
    if targets == "classes":
        return -(jax.nn.log_softmax(z) * y).sum(axis=1)
    if targets in ("two classes", "labels"):
        return optax.sigmoid_binary_cross_entropy(z, y).sum(axis=1)
    return (jnp.exp(z) - y * z).sum(axis=1) if targets == "counts" else ((z - y) ** 2).sum(axis=1) / 2


@functools.cache
def gradient_of(targets, activations):
    """Of the mean loss and alpha's part of it, as scikit-learn shares it among the samples of a batch; and the loss as
    it is told, which for several numbers is their mean, where the steps descend their sum."""

    def outputs(params, X, masks):
        a = X
        for (weight, bias), f, mask in zip(params[:-1], activations, masks, strict=True):
            a = FUNCTIONS[f](a @ weight + bias) * mask
        return a @ params[-1][0] + params[-1][1]

    def mean_loss(params, X, y, w, alpha, masks):
        penalty = alpha / 2 * sum((weight**2).sum() for weight, _ in params)
        each = (losses(targets, outputs(params, X, masks), y) * w).sum()
        told = each / y.shape[1] if targets == "numbers" else each
        return (each + penalty) / w.sum(), (told + penalty) / w.sum()

    compiled = functools.partial(jax.jit, compiler_options=QUICKLY)
    return compiled(jax.grad(mean_loss, has_aux=True)), compiled(outputs)


class Plain:
    """One network, fitted by scikit-learn's rules."""

    def __init__(self, targets, settings, weights):
        self.targets, self.settings, self.weights = targets, settings, weights
        self.y, self.X = as_columns(targets), INPUTS
        widths, activation = settings["hidden_layer_sizes"], settings["activation"]
        self.activations = activation if isinstance(activation, tuple) else (activation,) * len(widths)
        rng, sizes, self.params = np.random.RandomState(settings["random_state"]), (3, *widths, self.y.shape[1]), []
        for (m, n), f in zip(pairwise(sizes), (*self.activations, self.activations[-1]), strict=True):
            bound = np.sqrt((2 if f == "logistic" else 6) / (m + n))
            self.params.append((rng.uniform(-bound, bound, (m, n)), rng.uniform(-bound, bound, n)))
        self.curve, self.scores, self.seen, self.stale, self.best = [], [], 0, 0, np.inf
        self.reset()

    def reset(self):
        """The optimizer's state: velocities, or moments and their number; and the rate."""
        zeros = [np.zeros_like(a) for pair in self.params for a in pair]
        self.first, self.second, self.times = zeros, zeros, 0
        self.rate = self.settings["learning_rate_init"]

    def step(self, gradient):
        old = [a for pair in self.params for a in pair]
        g = [np.asarray(a) for pair in gradient for a in pair]
        if self.settings["solver"] == "adam":
            self.times += 1
            self.first = [0.9 * m + 0.1 * a for m, a in zip(self.first, g, strict=True)]
            self.second = [0.999 * v + 0.001 * a**2 for v, a in zip(self.second, g, strict=True)]
            rate = self.rate * np.sqrt(1 - 0.999**self.times) / (1 - 0.9**self.times)
            moves = [-rate * m / (np.sqrt(v) + 1e-8) for m, v in zip(self.first, self.second, strict=True)]
        else:
            momentum = self.settings["momentum"]
            moves = self.first = [momentum * v - self.rate * a for v, a in zip(self.first, g, strict=True)]
            if self.settings["nesterovs_momentum"]:
                moves = [momentum * v - self.rate * a for v, a in zip(moves, g, strict=True)]
        new = [a + move for a, move in zip(old, moves, strict=True)]
        self.params = list(zip(new[::2], new[1::2], strict=True))

    def fit(self, epochs, *, masks_from):
        """Up to so many epochs. `masks_from` is the seed of the masks."""
        s, every = self.settings, np.arange(N)
        train, held_out = every, every[:0]
        if s["early_stopping"]:
            stratify = self.y.ravel() if self.targets == "two classes" else None
            train, held_out = train_test_split(
                every, test_size=s["validation_fraction"], random_state=s["random_state"], stratify=stratify
            )
        size = min(200 if s["batch_size"] == "auto" else s["batch_size"], len(train))
        gradient, outputs = gradient_of(self.targets, self.activations)
        adaptive = s["solver"] == "sgd" and s["learning_rate"] == "adaptive"
        kept, number, began = self.params, 0, self.seen
        for epoch in range(epochs):
            shuffled = s["shuffle"] and size < len(train)
            total = count = 0.0
            for batch in epoch_order(s["random_state"] if shuffled else None, epoch, train, size):
                i, w = np.maximum(batch, 0), self.weights[batch] * (batch >= 0)
                masks = [np.ones(()) for _ in self.activations]
                if s["dropout"]:
                    drawn = [
                        draw_mask(masks_from, number, l, s["dropout"], n, size, "float64")
                        for l, n in enumerate(s["hidden_layer_sizes"])
                    ]
                    masks = [np.asarray(mask).T for mask in drawn]
                slopes, value = gradient(self.params, self.X[i], self.y[i], w, s["alpha"], masks)
                self.step(slopes)
                total, count, number = total + float(value) * w.sum(), count + w.sum(), number + 1
            self.seen += len(train)
            self.curve.append(total / count)
            value = self.curve[-1]
            if s["solver"] == "sgd" and s["learning_rate"] == "invscaling":
                self.rate = s["learning_rate_init"] / (self.seen + 1) ** s["power_t"]
            if s["early_stopping"]:
                z = np.asarray(outputs(self.params, self.X[held_out], [np.ones(())] * len(self.activations)))
                self.scores.append(self.score(z, self.y[held_out], self.weights[held_out]))
                value = -self.scores[-1]
            self.stale = self.stale + 1 if value > self.best - s["tol"] else 0
            if value < self.best:
                self.best, kept = value, self.params
            if self.stale > s["n_iter_no_change"]:
                if not (adaptive and self.rate > 1e-6):
                    break
                self.rate, self.stale = self.rate / 5, 0
        assert self.seen > began
        if s["early_stopping"]:
            self.params = kept

    def score(self, z, y, w):
        if self.targets == "classes":
            return accuracy_score(y.argmax(axis=1), z.argmax(axis=1), sample_weight=w)
        if self.targets in ("two classes", "labels"):
            return accuracy_score(y, z > 0, sample_weight=w)
        return r2_score(y, np.exp(z) if self.targets == "counts" else z, sample_weight=w)


def check_network(ours, plain):
    np.testing.assert_allclose(ours.loss_curve_, plain.curve, rtol=1e-8)
    if plain.settings["early_stopping"]:
        np.testing.assert_allclose(ours.validation_scores_, plain.scores, rtol=1e-8, atol=1e-10)
    for coef, intercept, (weight, bias) in zip(ours.coefs_, ours.intercepts_, plain.params, strict=True):
        np.testing.assert_allclose(coef, weight, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(intercept, bias, rtol=1e-7, atol=1e-9)


def own_weights(settings, targets, given):
    """What each sample counts, with its class's part, as scikit-learn's `compute_class_weight` has it."""
    by_class = settings.get("class_weight")
    if by_class is None:
        return given
    y = TARGETS[targets]
    counts = np.bincount(y)
    share = N / len(counts) / counts if by_class == "balanced" else np.array([by_class[k] for k in range(len(counts))])
    return given * share[y]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", MANY)
@pytest.mark.parametrize("how", ["fit", "warm_start", "partial_fit"])
def test_a_drawn_network_is_what_a_plain_loop_makes_of_it(how, seed, float64):
    rng = np.random.default_rng([seed, 1])
    targets = list(TARGETS)[rng.integers(len(TARGETS))]
    settings = draw_settings(rng, targets)
    if how == "partial_fit":
        settings |= {"early_stopping": False}
        settings |= {"class_weight": None} if settings.get("class_weight") == "balanced" else {}
    weights = rng.uniform(0.3, 2, N) if rng.integers(2) else None
    counted = own_weights(settings, targets, np.ones(N) if weights is None else weights)
    plain, ours = Plain(targets, settings, counted), kind_of(targets)(**settings, warm_start=how == "warm_start")
    for call in range(1 if how == "fit" else 3):
        masks_from = settings["random_state"] + plain.seen
        if how == "partial_fit":
            classes = {} if kind_of(targets) is BackpropRegressor else {"classes": np.unique(TARGETS[targets])}
            ours.partial_fit(INPUTS, TARGETS[targets], sample_weight=weights, **classes)
            plain.fit(1, masks_from=masks_from)
        else:
            ours.fit(INPUTS, TARGETS[targets], sample_weight=weights)
            plain.reset()
            plain.fit(settings["max_iter"], masks_from=masks_from)
        check_network(ours, plain)
        assert ours.t_ == plain.seen, call


SEARCHED = {
    "hidden_layer_sizes": [(3,), (4,), (3, 2)],
    "activation": ["tanh", "relu", "logistic"],
    "solver": ["sgd", "adam", "lbfgs"],
    "learning_rate": ["constant", "invscaling", "adaptive"],
    "learning_rate_init": [0.01, 0.05, 0.2],
    "momentum": [0.0, 0.9],
    "alpha": [0.0, 1e-3, 0.5],
    "batch_size": [7, 16],
    "early_stopping": [False, True],
    "shuffle": [False, True],
    "dropout": [0.0, 0.3],
    "max_iter": [4, 9],
    "tol": [1e-4, 0.02],
    "n_iter_no_change": [1, 10],
    "random_state": [3, 5],
}


@pytest.mark.parametrize("seed", MANY)
def test_a_drawn_search_is_grid_search(seed):
    rng = np.random.default_rng([seed, 2])
    targets = list(TARGETS)[rng.integers(len(TARGETS))]
    settings = draw_settings(rng, targets)
    settings["activation"] = settings["activation"] if isinstance(settings["activation"], str) else "tanh"
    grid = {name: SEARCHED[name] for name in rng.choice(list(SEARCHED), 2, replace=False).tolist()}
    grid = {name: [values[k] for k in rng.permutation(len(values))[:2]] for name, values in grid.items()}
    if "lbfgs" in grid.get("solver", ()):
        settings["dropout"] = 0.0
        grid = {name: values for name, values in grid.items() if name != "dropout"}
    net, options = kind_of(targets)(**settings), {"cv": KFold(2, shuffle=True, random_state=seed), "refit": False}
    if rng.integers(2):
        net = make_pipeline(StandardScaler(), net)
        name = net.steps[-1][0]
        grid = {f"{name}__{key}": values for key, values in grid.items()}
    if targets in ("classes", "two classes", "labels"):
        options["scoring"] = "neg_log_loss" if targets != "labels" else "accuracy"
    weights = {"sample_weight": rng.uniform(0.3, 2, N)} if "steps" not in vars(net) and rng.integers(2) else {}
    options["return_train_score"] = bool(rng.integers(2))
    if targets in ("classes", "two classes") and rng.random() < 0.5:  # one of the training parts lacks a class
        some = np.flatnonzero(TARGETS[targets] != rng.integers(2))
        options |= {"cv": [(some, np.arange(0, N, 3)), *KFold(2).split(INPUTS)], "scoring": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Got `batch_size`")  # a part that lacks a class is small
        ours, theirs = (
            kind(net, grid, **options).fit(INPUTS, TARGETS[targets], **weights)
            for kind in (SweepSearchCV, GridSearchCV)
        )
    for key, values in theirs.cv_results_.items():
        if "_test_" in key or "_train_" in key:
            np.testing.assert_allclose(ours.cv_results_[key], values, rtol=1e-6, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_an_ensembles_sample_of_weight_two_is_the_sample_twice(seed):
    """Behind embeddings, with frames and early stopping: what is not told apart comes out the same."""
    rng = np.random.default_rng([seed, 3])
    kind, targets = [(SweepEnsembleClassifier, "classes"), (SweepEnsembleRegressor, "number")][seed % 2]
    times = rng.integers(0, 4, N)
    every = np.repeat(np.arange(N), times)
    fold = rng.permutation(N) % 2
    settings = {
        "n_candidates": 3,
        "space": {"hidden": [(4,)], "activation": ["tanh"], "learning_rate": [0.02, 0.1], "dropout": [0.0]},
        "max_iter": 30,
        "n_iter_no_change": int(rng.choice([3, 10])),
        "batch_size": None,
        "bags": 2,
        "numerical_embedding": [None, "periodic", "piecewise_linear"][(seed + 1 - seed // 3) % 3],
        "random_state": seed,
        "dtype": "float64",
    }
    inputs = np.c_[INPUTS, INPUTS[:, 0] > 0]  # and one of two values, which no embedding changes
    frame = pd.DataFrame(inputs, columns=list("abcd"), index=rng.permutation(N))
    found = []
    for rows, weights in ((np.arange(N), times.astype(float)), (every, None)):
        folds = [(np.flatnonzero(fold[rows] != k), np.flatnonzero(fold[rows] == k)) for k in (0, 1)]
        model = kind(**settings, cv=folds).fit(frame.iloc[rows], TARGETS[targets][rows], sample_weight=weights)
        found.append(model)
    for name in ("members_", "weights_", "oof_loss_", "oof_score_"):
        np.testing.assert_allclose(*(getattr(model, name) for model in found), rtol=1e-6, err_msg=name)
    answer = "predict_proba" if targets == "classes" else "predict"
    np.testing.assert_allclose(*(getattr(model, answer)(frame) for model in found), rtol=1e-6, atol=1e-8)
