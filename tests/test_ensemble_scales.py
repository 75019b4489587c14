"""Ensembles on samples and targets of any size and number: what is brought to scale, and the sizes of batches."""

import numpy as np
import pytest
from sklearn.datasets import load_iris, make_regression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler, scale

from jaxbackprop.estimators import SweepEnsembleClassifier, SweepEnsembleRegressor, ensemble

X, Y = load_iris(return_X_y=True)
X = scale(X)
SPACE = {"hidden": [(8,), (5,)], "activation": ["tanh", "relu"], "dropout": [0.0]}
SMALL = {"n_candidates": 4, "space": SPACE, "cv": 3, "max_iter": 40, "batch_size": None, "bags": 3, "random_state": 0}


@pytest.mark.parametrize(("center", "size"), [(1000, 1), (0, 1e-30), (0, 1e30)])
def test_moments_of_many_samples_and_of_any_size(center, size):
    """In single precision a mean of a million samples at 1000 would be 1008, and the square of 1e-30 is 0."""
    samples = np.random.default_rng(0).normal(center, size, (10**6, 2)).astype(np.float32)
    samples[:, 1] = center
    weights = np.arange(1e6) % 3
    right = StandardScaler().fit(samples.astype(float) / size, sample_weight=weights)
    found, deviation = ensemble.moments(samples, weights)
    np.testing.assert_allclose(found / size, right.mean_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(deviation, [size * right.scale_[0], 1], rtol=1e-6)


@pytest.mark.parametrize(("center", "size"), [(1e8, 1), (0, 1e-30), (0, 1e30), (-1e50, 1e45)])
def test_targets_of_any_size_are_learned_alike(center, size):
    model = SweepEnsembleRegressor(**SMALL)
    usual = model.fit(X, Y).predict(X)
    np.testing.assert_allclose((model.fit(X, center + size * Y).predict(X) - center) / size, usual, atol=1e-3)


@pytest.mark.parametrize("samples", [[100, 100, 101], [128, 129], [2040, 2050, 2048], [800, 1000], [6 * 10**5, 10**6]])
def test_batches_are_neither_few_nor_of_many_programs(samples):
    size = SweepEnsembleClassifier()._batch(samples)
    assert 4 <= min(samples) / size <= max(16, min(samples) / 256)
    if max(samples) - min(samples) <= 10:  # folds of groups may differ more
        assert len({len(range(0, n, size)) for n in samples}) == 1


def test_folds_of_masks_are_folds_of_positions():
    """A mask is as long as the data, whatever it lets through: batches of 100 are all of 96 samples."""
    X, y = make_regression(120, 3, random_state=0)
    parts = list(KFold(5).split(X))
    masks = [tuple(np.isin(np.arange(len(X)), part) for part in fold) for fold in parts]
    settings = {"n_candidates": 2, "max_iter": 3, "batch_size": 100, "random_state": 0}
    one, other = (SweepEnsembleRegressor(cv=cv, **settings).fit(X, y) for cv in (parts, masks))
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
