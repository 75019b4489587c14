"""The witnesses themselves, the comparison of every stage, and that a planted mistake does not get past it."""

import functools
import importlib.util
import itertools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from jaxbackprop import ACTIVATIONS, oracle
from jaxbackprop.oracle import finite_difference_gradient, finite_difference_jacobian, relative_error, stages

SCRIPT = Path(__file__).parents[1] / "experiments" / "gradient_check.py"


def test_relative_error_is_measured_by_the_largest_entry():
    right = np.array([0.0, 2.0])
    assert relative_error(right, right) == 0
    assert relative_error(np.array([0.0, 2.2]), right) == pytest.approx(0.1)
    assert relative_error(np.array([0.1, -2.0]), -right) == pytest.approx(0.05)
    assert relative_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert relative_error(np.array(1e-300), np.array(0.0)) == np.inf
    assert relative_error(np.array([]), np.array([])) == 0
    assert np.isnan(relative_error(np.array([np.nan, 2.0]), right))
    with pytest.raises(ValueError, match=r"got has shape \(2,\) and right \(1,\); only arrays of one shape"):
        relative_error(right, np.ones(1))


@given(
    scale=st.floats(1e-100, 1e100),
    right=st.lists(st.floats(-1e3, 1e3).filter(lambda value: abs(value) > 1e-3), min_size=1),
    error=st.floats(1e-10, 1),
)
def test_relative_error_does_not_depend_on_the_scale(scale, right, error):
    right = np.array(right)
    assert relative_error(scale * right * (1 + error), scale * right) == pytest.approx(error, rel=1e-4)


def closed_form(p):
    """A function of a pytree, and its gradient as a mathematician writes it."""
    a, b = p["a"], p["b"]
    return jnp.sum(jnp.sin(a)) + jnp.exp(b) * a[0, 1] ** 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_differences_of_a_closed_form(dtype):
    """In float64 and to nine digits, whether or not float64 is enabled outside."""
    a, b = np.array([[0.5, -1.5], [2.0, 0.0]], dtype), np.array(0.25, dtype)
    right = {"a": np.cos(a.astype(float)), "b": np.exp(float(b)) * float(a[0, 1]) ** 3}
    right["a"][0, 1] += 3 * float(a[0, 1]) ** 2 * np.exp(float(b))
    got = finite_difference_gradient(closed_form, {"a": jnp.asarray(a), "b": jnp.asarray(b)})
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(got))
    chex.assert_trees_all_close(got, right, rtol=1e-9, atol=1e-9)
    assert jnp.ones(()).dtype == jnp.float32


def test_finite_differences_are_exact_for_parabolas():
    """Their error begins with the third derivative; what is left is rounding."""
    rng = np.random.default_rng(0)
    A, p = rng.normal(size=(4, 4)), rng.normal(size=4)
    got = finite_difference_gradient(lambda p: p @ A @ p, p)
    np.testing.assert_allclose(got, (A + A.T) @ p, rtol=1e-9)


def test_jacobians_have_the_shapes_of_jax():
    params, x, _, _ = reference.draw_problem(0, (2, 3), 4, dtype=np.float32)

    def z(point):
        (weight, bias), x = point
        return weight @ x + bias[:, None]

    with oracle.float64():
        chex.assert_trees_all_close(
            finite_difference_jacobian(z, (params[0], x)), jax.jacobian(z)((params[0], x)), rtol=1e-6, atol=1e-9
        )


def test_finite_differences_know_no_autodiff():
    @jax.custom_jvp
    def square(z):
        return z * z

    @square.defjvp
    def wrong(primals, tangents):
        return square(primals[0]), 1e6 * tangents[0]

    loss = lambda p: jnp.sum(square(p))  # noqa: E731
    p = jnp.arange(3.0)
    np.testing.assert_allclose(finite_difference_gradient(loss, p), 2 * p, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(oracle.autodiff_gradient(loss, p), 1e6)


def compiled_stages(params, x, y, **settings):
    """`stages` as one program, compiled anew each time, whatever has been planted in it."""
    return jax.jit(functools.partial(stages, **settings), compiler_options=reference.QUICKLY)(params, x, y)


@pytest.fixture(scope="module")
def three_layers():
    """Every stage of the document's network; tanh in float64."""
    with oracle.float64():
        params, x, y, _ = reference.draw_problem(0, (2, 3, 4), 6)
        return compiled_stages(params, x, y, activation="tanh", l2=0.1)


def test_stages_are_those_of_the_document(three_layers):
    shapes = {stage.name: stage.by_hand.shape for stage in three_layers}
    assert shapes == {
        "dz^1/dW^1": (3, 6, 3, 2),
        "dz^1/db^1": (3, 6, 3),
        "da^1/dz^1": (3, 3, 6),
        "dz^2/dW^2": (4, 6, 4, 3),
        "dz^2/db^2": (4, 6, 4),
        "dz^2/da^1": (4, 3, 6),
        "dy-hat_i/dz^2_j, j = i": (4, 4, 6),
        "dy-hat_i/dz^2_j, j != i": (4, 4, 6),
        "dL/dy-hat": (4, 6),
        "dL/dz^2 = delta^3/N": (4, 6),
        "dL/da^1": (3, 6),
        "dL/dz^1 = delta^2/N": (3, 6),
        "dL/dW^2": (4, 3),
        "dL/db^2": (4,),
        "dL/dW^1": (3, 2),
        "dL/db^1": (3,),
    }


def test_no_stage_is_compared_with_itself_or_with_nothing(three_layers):
    """None is zero, and rounding tells the three sources apart wherever they compute anything."""
    for stage in three_layers:
        assert np.abs(stage.by_hand).max() > 1e-3, stage.name
        assert relative_error(stage.by_hand, stage.finite_difference) > 0, stage.name


def test_the_stages_multiply_to_the_gradients(three_layers):
    """The chain rule as the document writes it, factor by factor, without the shortcut of delta."""
    factor = {stage.name.split(" = delta")[0]: np.asarray(stage.by_hand) for stage in three_layers}
    softmax = factor["dy-hat_i/dz^2_j, j = i"] + factor["dy-hat_i/dz^2_j, j != i"]
    to_z2 = np.einsum("in,ijn->jn", factor["dL/dy-hat"], softmax)
    to_z1 = np.einsum("in,ijn,jkn->kn", to_z2, factor["dz^2/da^1"], factor["da^1/dz^1"])
    np.testing.assert_allclose(to_z2, factor["dL/dz^2"], rtol=1e-12)
    np.testing.assert_allclose(to_z1, factor["dL/dz^1"], rtol=1e-12)
    with oracle.float64():
        params, *_ = reference.draw_problem(0, (2, 3, 4), 6)
    for l, error in ((1, to_z1), (2, to_z2)):
        weight = np.einsum("in,injk->jk", error, factor[f"dz^{l}/dW^{l}"]) + 0.1 * np.asarray(params[l - 1].weight)
        np.testing.assert_allclose(weight, factor[f"dL/dW^{l}"], rtol=1e-12)
        bias = np.einsum("in,inj->j", error, factor[f"dz^{l}/db^{l}"])
        np.testing.assert_allclose(bias, factor[f"dL/db^{l}"], rtol=1e-12)


def test_stages_in_single_precision_keep_a_witness_in_double():
    """Where float64 is not enabled."""
    params, x, y, _ = reference.draw_problem(0, (2, 3), 6, dtype=np.float32)
    for stage in stages(params, x, y, activation="tanh"):
        assert stage.by_hand.dtype == stage.autodiff.dtype == np.float32
        assert stage.finite_difference.dtype == np.float64
        assert relative_error(stage.by_hand, stage.autodiff) <= 1e-5
        assert relative_error(stage.by_hand, stage.finite_difference) <= 1e-5


# Mistakes that a student makes, and the stages that they spoil.
MISTAKES = {
    "delta has the wrong sign": ("delta", lambda y_hat, y: y - y_hat, {"dL/dz^2", "dL/da^1", "dL/dz^1"}),
    "the error forgets f'": ("delta_hidden", lambda weight, error, slope: weight.T @ error, {"dL/dz^1"}),
    "W is not transposed": ("delta_hidden", lambda W, error, slope: W @ error * slope, {"dL/da^1", "dL/dz^1"}),
    "the Jacobian forgets j != i": (
        "softmax_jacobian",
        lambda y_hat: (y_hat * (1 - y_hat))[:, None] * jnp.eye(3)[:, :, None],
        {"dy-hat_i/dz^2_j, j != i"},
    ),
    "the mean forgets N": ("prediction_gradient", lambda y_hat, y: -y / y_hat, {"dL/dy-hat"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_where_it_is(monkeypatch, float64, mistake):
    name, wrong, spoiled = MISTAKES[mistake]
    monkeypatch.setattr(oracle, name, wrong)
    params, x, y, _ = reference.draw_problem(0, (2, 3, 3), 6)
    found = compiled_stages(params, x, y, activation="tanh")
    for judge in ("autodiff", "finite_difference"):
        errors = {
            stage.name.split(" = delta")[0]: relative_error(stage.by_hand, getattr(stage, judge)) for stage in found
        }
        assert {name for name, error in errors.items() if error > 1e-6} == spoiled


@pytest.mark.usefixtures("as_users_run_it")
def test_misfits_are_refused():
    params, x, y, _ = reference.draw_problem(0, (2, 3, 3), 6, dtype=np.float32)
    with pytest.raises(ValueError, match=r"y must be \[classes, samples\] = \(3, 6\), got shape \(6, 3\)"):
        stages(params, x, y.T, activation="tanh")
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        stages(params, x, y, activation="than")


@pytest.fixture(scope="module")
def gradient_check():
    spec = importlib.util.spec_from_file_location("gradient_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_compares_every_stage_and_activation(gradient_check, tmp_path, capsys):
    table = gradient_check.main(out=tmp_path, layers=(2,), samples=5)
    printed = capsys.readouterr().out
    assert "All 768 comparisons are within their tolerance." in printed
    saved = pd.read_csv(tmp_path / "gradient_check.csv")
    assert len(saved) == len(table) == 16 * len(ACTIVATIONS) * 2 * 2
    cells = itertools.product(ACTIVATIONS, saved["stage"].unique(), ["float64", "float32"], ["autodiff", "differences"])
    assert set(saved[["activation", "stage", "precision", "witness"]].itertuples(index=False, name=None)) == set(cells)
    assert saved["ok"].all()
    assert (saved["relative error"] <= saved["tolerance"]).all()
    limits = saved.groupby(["precision", "witness"])["tolerance"].max()
    assert limits["float64", "autodiff"] == 1e-12
    assert limits["float32", "autodiff"] == 1e-5
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.slow
def test_the_script_fails_if_a_derivative_is_wrong(gradient_check, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(oracle, "delta", lambda y_hat, y: y - y_hat)
    with pytest.raises(SystemExit) as stopped:
        gradient_check.main(out=tmp_path, layers=(1,), samples=5)
    assert stopped.value.code not in (None, 0)
    assert "comparisons are off by more than their tolerance" in str(stopped.value.code)
    assert not pd.read_csv(tmp_path / "gradient_check.csv")["ok"].all()
