"""Part 1b: values and hand-derived derivatives of the activation functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from jaxbackprop import ACTIVATIONS, Activation, oracle
from jaxbackprop.activations import SELU_ALPHA, SELU_SCALE, get_activation

# Dense where the functions bend, and out to where they must stay finite.
WIDE = np.union1d(np.linspace(-40, 40, 4001), np.outer([-1, 1], np.geomspace(1e-30, 1e4, 400)))

# What the text says f' is where the left and the right derivative differ: the value of the "otherwise" branch.
AT_KINKS = {
    "relu": {0.0: 0.0},
    "leaky_relu": {0.0: 0.01},
    "selu": {0.0: SELU_SCALE * SELU_ALPHA},
    "hardshrink": {-0.5: 0.0, 0.5: 0.0},
}


def away_from_kinks(activation, z):
    return np.setdiff1d(z, activation.kinks)


def test_every_activation_of_the_text_is_there():
    assert set(ACTIVATIONS) == set(reference.ACTIVATIONS)
    assert all(name == activation.name for name, activation in ACTIVATIONS.items())


@pytest.mark.usefixtures("float64")
class Derivatives(chex.TestCase):
    """With and without jit, in float64."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*ACTIVATIONS)
    def test_value_and_derivative_are_those_of_other_formulas(self, name):
        activation, (value, derivative) = ACTIVATIONS[name], reference.ACTIVATIONS[name]
        got = self.variant(lambda z: (activation.value(z), activation.derivative(z)))(jnp.asarray(WIDE))
        chex.assert_trees_all_equal_shapes_and_dtypes(got, (jnp.asarray(WIDE),) * 2)
        np.testing.assert_allclose(got[0], value(WIDE), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got[1], derivative(WIDE), rtol=1e-12, atol=1e-12)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*ACTIVATIONS)
    def test_derivative_is_that_of_autodiff(self, name):
        activation = ACTIVATIONS[name]
        z = jnp.asarray(away_from_kinks(activation, WIDE))
        by_hand = self.variant(activation.derivative)(z)
        autodiff = self.variant(jax.vmap(jax.grad(activation.value)))(z)
        chex.assert_tree_all_finite(autodiff)
        assert np.abs(by_hand - autodiff).max() <= 1e-12

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*AT_KINKS)
    def test_derivative_at_a_kink_is_the_one_stated(self, name):
        for z, stated in AT_KINKS[name].items():
            for dtype in (jnp.float64, jnp.float32):
                got = self.variant(ACTIVATIONS[name].derivative)(jnp.asarray(z, dtype))
                chex.assert_trees_all_close(got, jnp.asarray(stated, dtype), rtol=1e-7)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kinks_are_listed_and_no_others(name):
    """The slopes of secants to the left and to the right of a point differ at the kinks and nowhere else."""
    activation, step = ACTIVATIONS[name], 1e-5
    z = np.union1d(np.linspace(-8, 8, 257), activation.kinks)
    left, middle, right = (np.asarray(activation.value(jnp.asarray(z + move))) for move in (-step, 0, step))
    bends = np.abs((right - middle) - (middle - left)) / step
    assert set(z[bends > 1e-3]) == set(activation.kinks)
    assert set(activation.kinks) == set(AT_KINKS.get(name, ()))


@pytest.mark.parametrize("jit", [jax.jit, lambda function: function])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_finite_and_accurate_in_float32_up_to_ten_thousand(name, jit):
    activation, (value, derivative) = ACTIVATIONS[name], reference.ACTIVATIONS[name]
    z = np.float32(WIDE)
    got = jit(lambda z: (activation.value(z), activation.derivative(z)))(jnp.asarray(z))
    chex.assert_tree_all_finite(got)
    assert all(array.dtype == jnp.float32 for array in got)
    exact = value(z.astype(float)), derivative(z.astype(float))
    np.testing.assert_allclose(got[0], exact[0], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(got[1], exact[1], rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_series_of_softplus_is_right_to_the_last_bits_where_it_is_tiny_too(dtype):
    z = np.linspace(-80, 80, 20_001).astype(dtype)
    wide = z.astype(np.longdouble)
    right = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    found = np.asarray(ACTIVATIONS["softplus"].value(jnp.asarray(z)))
    assert found.dtype == dtype
    assert np.max(np.abs(found / right - 1)) <= 4 * np.finfo(dtype).eps


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_that_of_finite_differences(name):
    activation, rng = ACTIVATIONS[name], np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=40), rng.uniform(-30, 30, 20)])
    bends = np.array([0, *activation.kinks])  # the second derivative of elu jumps at 0, which a difference sees too
    z = jnp.asarray(z[np.abs(z[:, None] - bends).min(axis=1) > 1e-3])
    jacobian = oracle.finite_difference_jacobian(activation.value, z)
    np.testing.assert_allclose(jnp.diag(activation.derivative(z)), jacobian, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("float64")
@given(z=st.floats(-300, 300))
def test_the_documents_identities(z):
    """sigmoid' = e^-z / (1 + e^-z)^2 = f (1 - f), and tanh' = 1 - (sinh / cosh)^2."""
    e = np.exp(-z)
    f = 1 / (1 + e)
    assert float(ACTIVATIONS["sigmoid"].derivative(jnp.asarray(z))) == pytest.approx(e / (1 + e) ** 2, abs=1e-15)
    assert float(ACTIVATIONS["sigmoid"].derivative(jnp.asarray(z))) == pytest.approx(f * (1 - f), abs=1e-15)
    quotient = np.sinh(z) / np.cosh(z)
    assert float(ACTIVATIONS["tanh"].derivative(jnp.asarray(z))) == pytest.approx(1 - quotient**2, abs=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_takes_what_the_forward_pass_has_computed(name):
    """slope(z, a) with a = f(z), in any shape."""
    activation, (_, derivative) = ACTIVATIONS[name], reference.ACTIVATIONS[name]
    z = jnp.linspace(-3, 3, 24).reshape(2, 3, 4)
    slope = activation.slope(z, activation.value(z))
    chex.assert_shape(slope, z.shape)
    np.testing.assert_allclose(slope, derivative(np.float64(z)), rtol=1e-5, atol=1e-6)


def test_selu_keeps_mean_0_and_variance_1():
    """Its two constants are defined by this fixed point."""
    value, _ = reference.ACTIVATIONS["selu"]

    def moment(k):
        parts = [
            quad(lambda z: value(z) ** k * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), *ends, epsabs=1e-13)[0]
            for ends in ((-np.inf, 0), (0, np.inf))
        ]
        return sum(parts)

    assert (SELU_ALPHA, SELU_SCALE) == (reference.ALPHA, reference.SCALE)
    assert moment(1) == pytest.approx(0, abs=1e-10)
    assert moment(2) == pytest.approx(1, abs=1e-10)


@pytest.mark.usefixtures("as_users_run_it")
def test_names():
    assert get_activation("tanh") is ACTIVATIONS["tanh"]
    own = Activation("square", lambda z: z * z, lambda z, a: 2 * z)
    assert get_activation(own) is own
    with pytest.raises(ValueError, match=r"activation='tahn' is unknown; did you mean 'tanh'\? \(known: sigmoid, tanh"):
        get_activation("tahn")
    with pytest.raises(ValueError, match=r"activation='ReLU' is unknown; did you mean 'relu'\?"):
        get_activation("ReLU")
    with pytest.raises(ValueError, match="activation=3 is unknown"):
        get_activation(3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan(name):
    """A network that diverged must not look finite behind its activation."""
    assert jnp.isnan(ACTIVATIONS[name].value(jnp.array([jnp.nan, 1.0])))[0]
