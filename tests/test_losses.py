"""Equations (4) and (5): predictions and losses from the logits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.special
import sklearn.metrics
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st

from jaxbackprop import losses, oracle
from jaxbackprop.losses import OBJECTIVES, get_objective, mean_loss, sample_shares, softmax

pytestmark = pytest.mark.usefixtures("float64")

CLASSES = (1, 2, 3, 4, 5, 10)  # up to FEW_CLASSES the reductions are written out, beyond it they are not
SAMPLES = 7


def draw(classes, objective="softmax", samples=SAMPLES, seed=0):
    """Logits, targets and sample weights."""
    problem = reference.draw_problem(seed, (3, classes), samples, objective=objective)
    z = jnp.asarray(3 * np.random.default_rng(seed).normal(size=(classes, samples)))
    return z, problem.y, problem.weights


def test_both_ways_to_reduce_are_tested():
    assert min(CLASSES) <= losses.FEW_CLASSES < max(CLASSES)


class Losses(chex.TestCase):
    """With and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*CLASSES)
    def test_softmax_is_equation_4(self, classes):
        z, _, _ = draw(classes)
        y_hat = self.variant(softmax)(z)
        literal = np.exp(z) / np.sum(np.exp(z), axis=0)
        np.testing.assert_allclose(y_hat, literal, rtol=1e-13)
        np.testing.assert_allclose(y_hat, scipy.special.softmax(z, axis=0), rtol=1e-13)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*CLASSES)
    def test_loss_is_equation_5(self, classes):
        """-(1/N) sum_n sum_i y_ni log y-hat_ni, summed as it is written."""
        z, y, _ = draw(classes)
        y_hat = scipy.special.softmax(z, axis=0)
        literal = -1 / SAMPLES * sum(y[i, n] * np.log(y_hat[i, n]) for n in range(SAMPLES) for i in range(classes))
        np.testing.assert_allclose(self.variant(mean_loss)(z, y), literal, rtol=1e-13, atol=1e-15)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(2, 3, 10)
    def test_loss_is_that_of_scikit_learn(self, classes):
        z, y, weights = draw(classes)
        labels, y_hat = np.argmax(y, axis=0), scipy.special.softmax(z, axis=0).T
        for w in (None, weights):
            expected = sklearn.metrics.log_loss(labels, y_hat, sample_weight=w, labels=np.arange(classes))
            np.testing.assert_allclose(self.variant(mean_loss)(z, y, weights=w), expected, rtol=1e-12)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(objective=tuple(OBJECTIVES), classes=(1, 3, 5))
    def test_every_objective(self, objective, classes):
        """Prediction, mean loss and weighted mean, against those of one sample after another."""

        @self.variant
        def predict_and_score(z, y, weights):
            mean = mean_loss(z, y, objective=objective)
            return get_objective(objective).predict(z), mean, mean_loss(z, y, weights=weights, objective=objective)

        z, y, weights = draw(classes, objective)
        predict, per_sample = reference.OBJECTIVES[objective]
        columns = list(zip(np.asarray(z).T, np.asarray(y).T, strict=True))
        each = np.array([per_sample(*column) for column in columns])
        y_hat, mean, weighted = predict_and_score(z, y, weights)
        np.testing.assert_allclose(y_hat.T, [predict(column) for column, _ in columns], rtol=1e-12)
        np.testing.assert_allclose(mean, np.mean(each), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(weighted, np.average(each, weights=weights), rtol=1e-12, atol=1e-15)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(objective=tuple(OBJECTIVES), dtype=(jnp.float32, jnp.float64))
    def test_error_of_every_objective_is_prediction_minus_target(self, objective, dtype):
        """dL/dz = (y-hat - y) / N, for which the objectives are made."""
        z, y, _ = (jnp.asarray(array, dtype) for array in draw(3, objective))
        error = self.variant(jax.grad(lambda z: mean_loss(z, y, objective=objective)))(z)
        by_hand = (get_objective(objective).predict(z) - y) / SAMPLES
        chex.assert_equal(error.dtype, dtype)
        assert oracle.relative_error(by_hand, error) <= (1e-12 if dtype == jnp.float64 else 1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(classes=(2, 10), dtype=(jnp.float32, jnp.float64))
    def test_softmax_is_stable_for_logits_of_ten_thousand(self, classes, dtype):
        """The right class leads by 2e4 or trails by as much: the loss is 0 or 2e4, and every derivative is finite."""

        @self.variant
        def predict_and_score(z, y):
            return softmax(z), OBJECTIVES["softmax"].per_sample(z, y), jax.grad(mean_loss)(z, y)

        first = np.eye(classes, dtype=dtype)[:, [0, 0]]
        right = np.eye(classes, dtype=dtype)[:, [0, 1]]
        y_hat, per_sample, gradient = predict_and_score(jnp.asarray(2e4 * first - 1e4), jnp.asarray(right))
        np.testing.assert_array_equal(y_hat, first)
        np.testing.assert_array_equal(per_sample, [0, 2e4])
        np.testing.assert_array_equal(gradient, (first - right) / 2)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(jnp.float32, jnp.float64)
    def test_sigmoid_is_stable_for_logits_of_ten_thousand(self, dtype):
        @self.variant
        def score(z, y):
            return OBJECTIVES["sigmoid"].per_sample(z, y), jax.grad(mean_loss)(z, y, objective="sigmoid")

        z, y = jnp.asarray([[1e4, 1e4, -1e4, -1e4]], dtype), jnp.asarray([[1, 0, 1, 0]], dtype)
        per_sample, gradient = score(z, y)
        np.testing.assert_array_equal(per_sample, [0, 1e4, 1e4, 0])
        np.testing.assert_array_equal(gradient, [[0, 0.25, -0.25, 0]])


def test_sigmoid_cross_entropy_is_one_log_loss_for_each_label():
    z, y, weights = draw(4, "sigmoid")
    each = [
        sklearn.metrics.log_loss(y[i], scipy.special.expit(z[i]), sample_weight=weights, labels=[0, 1])
        for i in range(len(z))
    ]
    np.testing.assert_allclose(mean_loss(z, y, weights=weights, objective="sigmoid"), sum(each), rtol=1e-12)


def test_squared_error_is_half_of_scikit_learns():
    z, y, weights = draw(4, "squared")
    expected = sklearn.metrics.mean_squared_error(y.T, z.T, sample_weight=weights) * len(z) / 2
    np.testing.assert_allclose(mean_loss(z, y, weights=weights, objective="squared"), expected, rtol=1e-12)


@given(
    classes=st.sampled_from(CLASSES),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_softmax_is_a_distribution_that_no_shift_changes(classes, shift, seed):
    z, y, _ = draw(classes, seed=seed)
    y_hat = softmax(z)
    assert (y_hat >= 0).all()
    np.testing.assert_allclose(jnp.sum(y_hat, axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(softmax(z + shift), y_hat, rtol=1e-11)
    np.testing.assert_allclose(mean_loss(z + shift, y), mean_loss(z, y), rtol=1e-11, atol=1e-12)


def test_two_classes_are_a_sigmoid_of_the_difference():
    z, _, _ = draw(2)
    np.testing.assert_allclose(softmax(z)[0], scipy.special.expit(z[0] - z[1]), rtol=1e-13)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(counts=st.lists(st.integers(0, 3), min_size=SAMPLES, max_size=SAMPLES).filter(any), scale=st.floats(1e-3, 1e3))
def test_a_weight_is_a_number_of_copies(objective, counts, scale):
    """Weight 2 is the sample twice, weight 0 is the sample left out; only the ratios of weights count."""
    z, y, _ = draw(3, objective)
    copies = np.repeat(get_objective(objective).per_sample(z, y), counts)
    got = mean_loss(z, y, weights=scale * jnp.asarray(counts, float), objective=objective)
    np.testing.assert_allclose(got, np.mean(copies), rtol=1e-12)


def test_shares_add_up_to_1_unless_no_sample_counts():
    assert sample_shares(SAMPLES, None) * SAMPLES == pytest.approx(1)
    _, _, weights = draw(2)
    np.testing.assert_allclose(sample_shares(SAMPLES, weights), weights / np.sum(weights), rtol=1e-14)
    np.testing.assert_array_equal(sample_shares(SAMPLES, jnp.zeros(SAMPLES)), np.zeros(SAMPLES))


def test_names():
    assert get_objective("softmax") is OBJECTIVES["softmax"]
    assert get_objective(OBJECTIVES["sigmoid"]) is OBJECTIVES["sigmoid"]
    with pytest.raises(ValueError, match=r"objective='sofmax' is unknown; did you mean 'softmax'\? \(known: softmax, "):
        get_objective("sofmax")
