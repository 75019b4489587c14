"""The choice of an ensemble's members, held against plain loops over scikit-learn's losses."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import log_loss, mean_poisson_deviance, mean_squared_error

from jaxbackprop.sweeps import mixing
from jaxbackprop.sweeps.greedy import greedy_weights


def mean_squares(y):
    return lambda means: ((means - y) ** 2).mean(axis=-1)


def test_greedy_selection_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    y, predictions = generator.normal(size=50), generator.normal(size=(12, 50))
    predictions += y
    chosen, errors = [], []
    for _ in range(15):
        each = [np.mean((np.mean([*chosen, p], axis=0) - y) ** 2) for p in predictions]
        chosen.append(predictions[np.argmin(each)])
        errors.append(min(each))
    counts = np.zeros(12)
    for own in chosen[: np.argmin(errors) + 1]:
        counts[np.flatnonzero((predictions == own).all(axis=1))] += 1
    weights = greedy_weights(predictions, mean_squares(y), rounds=15, bags=1)
    np.testing.assert_allclose(weights, counts / counts.sum())


def drawn_predictions(targets, generator, models=60, samples=40):
    """Targets, and predictions of models good and bad that err alike, some of them twice or sure of what is wrong."""
    skill = generator.uniform(0.3, 3, size=(models, 1, 1))
    shape = (samples, 3 if targets == "softmax" else 2)
    error = generator.normal(size=shape) + generator.normal(size=(models, *shape)) / 2
    if targets == "softmax":
        y = np.eye(3)[generator.integers(0, 3, samples)]
        p = np.exp(log_softmax(skill * (4 * y + 2 * error), axis=-1))
    elif targets == "sigmoid":
        y = generator.integers(0, 2, shape).astype(float)
        p = 1 / (1 + np.exp(-skill * (4 * y - 2 + 2 * error)))
    else:
        y = generator.poisson(4.0, shape).astype(float)
        p = np.abs(y + 2 * error / skill)
    if targets in ("softmax", "sigmoid"):
        p[3:6, :2] = 1.0 - y[:2]
    p[models // 2 :: 5] = p[: len(p[models // 2 :: 5])]
    return y, p.astype(np.float32)


BY_SCIKIT_LEARN = {
    "softmax": lambda y, mean, w: log_loss(y.argmax(axis=1), mean, sample_weight=w),
    "sigmoid": lambda y, mean, w: sum(log_loss(y[:, k], mean[:, k], sample_weight=w, labels=[0, 1]) for k in (0, 1)),
    "squared": lambda y, mean, w: 2 * mean_squared_error(y, mean, sample_weight=w),
    "poisson": lambda y, mean, w: sum(mean_poisson_deviance(y[:, k], mean[:, k], sample_weight=w) for k in (0, 1)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("targets", list(BY_SCIKIT_LEARN))
def test_members_are_those_that_scikit_learns_losses_choose_one_by_one(targets, seed):
    generator = np.random.default_rng(seed)
    y, p = drawn_predictions(targets, generator, models=20)
    p = np.clip(p.astype(float), 1e-6, None)  # as scikit-learn's losses take none of 0
    p = p / p.sum(axis=-1, keepdims=True) if targets == "softmax" else p
    p = np.minimum(p, 1 - 1e-6) if targets == "sigmoid" else p
    weights = generator.uniform(0, 2, len(y))
    chosen, found = [], []
    for _ in range(10):
        each = [BY_SCIKIT_LEARN[targets](y, p[[*chosen, k]].mean(axis=0), weights) for k in range(len(p))]
        chosen.append(int(np.argmin(np.round(each, 12))))
        found.append(min(each))
    counts = np.bincount(chosen[: int(np.argmin(found)) + 1], minlength=len(p))
    choice = mixing.choose_members(mixing.HeldOut(y, weights, targets, lambda k: p[k]), range(20), rounds=10, bags=1)
    expected = np.sort(counts[counts > 0] / counts.sum())[::-1]
    np.testing.assert_allclose(choice.weights, expected)
    assert {tuple(p[k].ravel()) for k in choice.members} == {tuple(p[k].ravel()) for k in np.flatnonzero(counts)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("targets", list(BY_SCIKIT_LEARN))
def test_models_passed_over_would_not_have_been_chosen(targets, seed):
    generator = np.random.default_rng(seed)
    y, p = drawn_predictions(targets, generator)
    shares = generator.dirichlet(np.ones(len(y)))
    kept = np.stack([mixing._contribution(one, y, targets) for one in p])
    tried = []

    def loss(means):
        tried.append(len(means))
        return mixing._losses(means, y, shares, targets)

    plain = greedy_weights(kept, loss, bags=5, seed=seed)
    of_all = sum(tried)
    tried.clear()
    quick = greedy_weights(kept, loss, lambda means: mixing._slopes(means, y, shares, targets), bags=5, seed=seed)
    twins = np.unique(p.reshape(len(p), -1), axis=0, return_inverse=True)[1].ravel()  # either of two may be taken
    np.testing.assert_allclose(np.bincount(twins, quick), np.bincount(twins, plain), atol=1e-12)
    assert sum(tried) < 0.7 * of_all


@pytest.mark.parametrize("targets", list(BY_SCIKIT_LEARN))
def test_slopes_are_those_of_the_losses(targets):
    y, p = drawn_predictions(targets, np.random.default_rng(0), models=2, samples=5)
    shares = np.arange(1.0, 6)
    means = np.stack([mixing._contribution(np.clip(one.astype(float), 0.1, 9), y, targets) for one in p])
    slopes = mixing._slopes(means, y, shares, targets)
    for place in np.ndindex(means.shape):
        step = np.zeros(means.shape)
        step[place] = 1e-5
        up, down = (mixing._losses(means + sign * step, y, shares, targets)[place[0]] for sign in (1, -1))
        assert slopes[place] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


def test_bags_are_averaged_and_what_is_not_finite_left_out():
    generator = np.random.default_rng(1)
    y, predictions = np.zeros(40), generator.normal(size=(30, 40))
    predictions[3, 7] = np.nan
    weights = greedy_weights(predictions, mean_squares(y), bags=20)
    assert weights[3] == 0
    assert weights.sum() == pytest.approx(1)
    assert np.count_nonzero(weights) > np.count_nonzero(greedy_weights(predictions, mean_squares(y), rounds=2, bags=1))
    few = greedy_weights(predictions, mean_squares(y), library=4)
    best = np.argsort(np.where(np.isfinite(predictions).all(axis=1), (predictions**2).mean(axis=1), np.inf))[:4]
    assert set(np.flatnonzero(few)) <= set(best)
    with pytest.raises(ValueError, match="none of 2 models has finite predictions"):
        greedy_weights(np.full((2, 3), np.nan), mean_squares(np.zeros(3)))
