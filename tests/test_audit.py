"""The audit of one gradient: whatever the parameters are made of, whoever is the witness; its reports and refusals."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbackprop import Layer, Network, audit, audit_stages, init_params, loss, loss_and_grad
from jaxbackprop.auditing.differences import differentiate

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class Pair(NamedTuple):
    W: object
    b: object


def squares(params, X):
    """A loss of any tree with a W and a b somewhere: mean((X W + b)^2) / 2."""
    W, b = jax.tree.leaves(params)
    return 0.5 * ((X @ W + b) ** 2).mean()


def gradient_of_squares(params, X):
    W, b = map(np.asarray, jax.tree.leaves(params))
    e = (X @ W + b) / (len(X) * W.shape[1])
    return e, X.T @ e, e.sum(axis=0).reshape(np.shape(b))


W0, B0 = np.array([[0.5, -1.0, 0.2], [0.3, 0.8, -0.7]]), np.array([0.1, -0.2, 0.4])
X0 = np.array([[1.0, 2.0], [0.5, -1.0], [-0.3, 0.7], [2.0, 0.1]])


@pytest.mark.parametrize(
    ("params", "build"),
    [
        ({"W": W0, "b": B0}, lambda W, b: {"b": b, "W": W}),
        ((W0, B0), lambda W, b: (W, b)),
        ((W0, B0), lambda W, b: [W, b]),
        ([W0, B0], lambda W, b: (W, b)),
        (Pair(W0, B0), Pair),
        (Pair(W0, B0), lambda W, b: (W, b)),
        ((W0, B0[None]), lambda W, b: (W, b)),
        ((W0, B0), lambda W, b: (W, b[None])),
        ({"layer": [{"W": W0, "b": B0}]}, lambda W, b: {"layer": [{"W": W, "b": b}]}),
        ((jnp.asarray(W0), jnp.asarray(B0)), lambda W, b: (W.astype(np.float32), b.astype(np.float32))),
        ((W0.astype(np.float32), B0.astype(np.float32)), lambda W, b: (W, b)),
    ],
)
def test_parameters_of_all_kinds(params, build):
    right = audit(lambda p, X: build(*gradient_of_squares(p, X)[1:]), squares, params, X0)
    assert right.ok, right
    right.raise_if_wrong()
    # A mistake of one leaf is told by the path of that leaf.
    report = audit(lambda p, X: build(gradient_of_squares(p, X)[1], -gradient_of_squares(p, X)[2]), squares, params, X0)
    wrong = [finding for finding in report.findings if not finding.ok]
    assert [(finding.diagnosis, finding.shape) for finding in wrong] == [("sign", np.shape(jax.tree.leaves(params)[1]))]
    assert not report.ok
    with pytest.raises(AssertionError, match="its sign is turned"):
        report.raise_if_wrong()


def test_a_single_number_is_a_parameter():
    assert audit(lambda p: 3 * p**2, lambda p: p**3, 1.5).ok
    report = audit(lambda p: 2 * p**2, lambda p: p**3, 1.5)
    assert [finding.path for finding in report.findings] == ["params"]
    assert report.findings[0].diagnosis == "factor"
    assert "0.6667 times" in report.findings[0].explanation


def test_the_explanation_has_the_measured_factor():
    X = np.random.default_rng(0).normal(size=(200, 2))

    def of_the_sum(params, X):
        _, W, b = gradient_of_squares(params, X)
        return {"W": W * len(X), "b": b * len(X)}

    report = audit(of_the_sum, squares, {"W": W0, "b": B0}, X, reduction="mean")
    for finding in report.findings:
        assert finding.diagnosis == "sum_not_mean"
        assert finding.relative_error == pytest.approx(199, rel=1e-6)
        assert finding.explained == pytest.approx(1)
        assert finding.explanation == (
            "equal to 200 times the gradient of the loss: it is the gradient of the sum over 200 samples, the loss is "
            "their mean; divide by 200"
        )
    # Both leaves share one sentence.
    assert str(report).count("equal to 200 times") == 1


def test_a_mistake_without_a_name_is_described_and_not_guessed_at():
    def odd(params, X):
        _, W, b = gradient_of_squares(params, X)
        return {"W": W + 0.1 * np.sin(W0 * 7), "b": b}

    report = audit(odd, squares, {"W": W0, "b": B0}, X0)
    finding = report.findings[0]
    assert not finding.ok
    assert finding.diagnosis is None
    assert "none of the mistakes known here" in finding.explanation
    assert "times as long as the right gradient" in finding.explanation
    assert "degrees off the right direction" in finding.explanation
    assert "Network(" in report.notes[-1]  # what would help


def test_float32_on_the_way_is_told_by_the_size_of_its_error():
    def rough(params, X):
        e, _, b = gradient_of_squares(params, X)
        return {
            "W": X.T @ e.astype(np.float16).astype(np.float64),
            "b": b + 3e-6 * np.abs(b).max() * np.array([1, 0, -1]),
        }

    report = audit(rough, squares, {"W": W0, "b": B0}, X0)
    assert "what float32 leaves" not in report.findings[0].explanation
    assert "what float32 leaves" in report.findings[1].explanation


def test_a_single_wrong_entry_is_located():
    def off(params, X):
        _, W, b = gradient_of_squares(params, X)
        W[1, 2] += 0.5
        return {"W": W, "b": b}

    report = audit(off, squares, {"W": W0, "b": B0}, X0)
    assert "only row 1 of 2 is wrong" in report.findings[0].explanation


def test_right_at_a_lucky_point_is_still_wrong():
    at_given = gradient_of_squares((W0, B0), X0)[1:]
    report = audit(lambda p, X: at_given, squares, (W0, B0), X0)
    assert not report.ok
    assert {finding.diagnosis for finding in report.findings} == {"stale"}
    # One point alone cannot tell.
    assert audit(lambda p, X: at_given, squares, (W0, B0), X0, points=1).ok


def in_numpy(params, X):
    """A loss that JAX cannot trace."""
    W, b = (np.asarray(leaf) for leaf in params)
    return float(np.mean((X @ W + b) ** 2) / 2)


def test_a_loss_that_cannot_be_traced_is_judged_by_its_differences():
    report = audit(lambda p, X: gradient_of_squares(p, X)[1:], in_numpy, (W0, B0), X0)
    assert report.ok
    assert report.witness == "central differences of the loss, in float64"
    wrong = audit(
        lambda p, X: (gradient_of_squares(p, X)[1] * 1.001, gradient_of_squares(p, X)[2]), in_numpy, (W0, B0), X0
    )
    assert [finding.ok for finding in wrong.findings] == [False, True]


def test_of_many_entries_some_are_sampled_and_the_rest_is_checked_together():
    rng = np.random.default_rng(0)
    W, b, X = rng.normal(size=(60, 70)), rng.normal(size=70), rng.normal(size=(5, 60))
    assert audit(lambda p, X: gradient_of_squares(p, X)[1:], in_numpy, (W, b), X).ok

    def wrong_in_one_of_4200(params, X):
        _, W, b = gradient_of_squares(params, X)
        W[17, 3] += np.abs(W).max()
        return W, b

    report = audit(wrong_in_one_of_4200, in_numpy, (W, b), X)
    assert [finding.ok for finding in report.findings] == [False, True]


def test_a_loss_with_a_wrong_custom_derivative_does_not_confirm_itself():
    @jax.custom_vjp
    def square(z):
        return z**2

    square.defvjp(lambda z: (z**2, z), lambda z, g: (g * z,))  # without the 2
    report = audit(jax.grad(lambda p: square(p).sum()), lambda p: square(p).sum(), jnp.array([1.0, -2.0]))
    assert report.findings[0].diagnosis == "half"
    assert report.witness.startswith("central differences")
    assert any("jax.grad of the loss is not the slope of the loss" in note for note in report.notes)


def test_kinks_are_recognised_and_not_blamed():
    """With W^1 and b^1 zero every z^1 is exactly 0: any slope of relu between 0 and 1 is right there, but not 2."""
    x, y = np.random.default_rng(0).normal(size=(2, 6)), np.eye(2)[:, [0, 1, 0, 1, 1, 0]]
    params = (Layer(np.zeros((3, 2)), np.zeros(3)), Layer(np.array([[1.0, -1.0, 0.5], [0.3, 0.2, -0.6]]), np.zeros(2)))

    def relu_loss(params, x, y):
        return loss(jax.tree.map(jnp.asarray, params), x, y, activation="relu")

    def with_slope_at_zero(value):
        def gradient(params, x, y):
            (W1, b1), (W2, b2) = params
            z1 = W1 @ x + b1[:, None]
            a1 = np.maximum(z1, 0)
            e = np.exp(W2 @ a1 + b2[:, None])
            y_hat = e / e.sum(axis=0)
            e2 = (y_hat - y) / y.shape[1]
            e1 = W2.T @ e2 * np.where(z1 == 0, value, z1 > 0)
            return (e1 @ x.T, e1.sum(axis=1)), (e2 @ a1.T, e2.sum(axis=1))

        return gradient

    for value in (0.0, 0.5, 1.0):
        report = audit(with_slope_at_zero(value), relu_loss, params, x, y)
        assert report.ok, report
    assert any("Not judged" in note and "kink" in note for note in report.notes)


def test_points_outside_of_the_loss_s_domain_are_not_visited():
    visited = []

    def gradient(p):
        visited.append(p.copy())
        return 1 / p

    report = audit(
        gradient, lambda p: jnp.log(p).sum() if isinstance(p, jax.Array) else np.log(p).sum(), np.array([0.1, 4.0])
    )
    assert report.ok
    assert all((p > 0).all() for p in visited)


def test_a_gradient_that_writes_into_its_parameters_is_told_off_and_harms_nothing():
    params, X = (W0.copy(), B0.copy()), X0.copy()

    def greedy(params, X):
        gradient = gradient_of_squares(params, X)[1:]
        params[0][:] -= 0.1 * gradient[0]
        X[:] = 0
        return gradient

    report = audit(greedy, squares, params, X)
    assert report.ok
    assert "writes into the parameters that it is handed (0)" in report.notes[-1]
    np.testing.assert_array_equal(params[0], W0)
    np.testing.assert_array_equal(X, X0)


def test_our_own_gradient_is_right_and_training_types_are_respected():
    params = init_params(jax.random.key(0), (4, 5, 3))
    x, y = np.random.default_rng(0).normal(size=(4, 9)), np.eye(3)[:, np.arange(9) % 3]

    def gradient(p, x, y):
        return loss_and_grad(p, x, y, activation="mish", l2=0.1)[1]

    report = audit(
        gradient,
        lambda p, x, y: loss(p, x, y, activation="mish", l2=0.1),
        params,
        x,
        y,
        network=Network("mish", l2=0.1),
    )
    assert report.ok
    assert [finding.path for finding in report.findings] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_report_is_an_aligned_table_and_safe_html():
    params = {"W<1>": W0, "b": B0}
    report = audit(lambda p, X: {"W<1>": -gradient_of_squares(p, X)[1], "b": np.ones(3)}, squares, params, X0)
    lines = str(report).splitlines()
    assert lines[0] == "The gradient is wrong in all 2 leaves."
    head, *rows = lines[2:5]
    assert [head.index(word) for word in ("leaf", "shape", "verdict")] == [
        0,
        rows[0].index("2x3"),
        rows[0].index("sign"),
    ]
    assert max(map(len, lines)) <= 88
    page = report._repr_html_()
    assert page.count("<tr") == 3
    assert "W&lt;1&gt;" in page
    assert "W<1>" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"W": np.ones((2, 3), int), "b": B0}}, "floating-point arrays, got int64 at W"),
        ({"params": {"W": W0, "b": np.array([1.0, np.nan, 0])}}, "params at b"),
        ({"params": {}}, "no leaf"),
        ({"loss_fn": lambda p, X: (X @ p["W"]).sum(axis=0)}, "one number"),
        ({"loss_fn": lambda p, X: jnp.log(-(p["W"] ** 2).sum())}, "loss_fn is nan at params"),
        ({"gradient_fn": lambda p, X: (p["W"], p["b"], 0)}, "structure of params"),
        ({"gradient_fn": lambda p, X: {"W": p["W"]}}, "structure of params"),
        ({"gradient_fn": lambda p, X: {"W": p["W"] * 1j, "b": p["b"]}}, "real numbers, got complex128 for W"),
        ({"points": 0}, "points"),
        ({"seed": -1}, "seed"),
        ({"l2": -0.1}, "l2"),
        ({"network": Network("tanh", samples_first=True)}, "is not what loss_fn computes|targets"),
        ({"network": Network("tanh")}, r"weights \[out, in\].*samples_first=True"),
    ],
)
def test_what_cannot_be_audited_is_refused(change, message):
    arguments = {
        "gradient_fn": lambda p, X: dict(zip("Wb", gradient_of_squares(p, X)[1:], strict=True)),
        "loss_fn": squares,
        "params": {"W": W0, "b": B0},
    } | change
    args = [arguments.pop(name) for name in ("gradient_fn", "loss_fn", "params")]
    with pytest.raises(ValueError, match=message):
        audit(*args, X0, **arguments)


def test_a_loss_that_is_random_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two values at the same params"):
        audit(lambda p: p, lambda p: float(np.asarray(p).sum() + rng.normal()), np.ones(2))


def test_a_network_with_another_activation_than_the_loss_is_refused():
    params = init_params(jax.random.key(0), (4, 5, 3))
    x, y = np.ones((4, 3)), np.eye(3)
    with pytest.raises(ValueError, match=r"network=.*is not what loss_fn computes"):
        audit(
            lambda p, x, y: loss_and_grad(p, x, y, activation="tanh")[1],
            lambda p, x, y: loss(p, x, y, activation="tanh"),
            params,
            x,
            y,
            network=Network("relu"),
        )


@pytest.mark.parametrize("bad", [{"activation": "tan"}, {"objective": "hinge"}, {"l2": -1.0}, {"l2": math.nan}])
def test_a_network_that_does_not_exist_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Network(**({"activation": "tanh"} | bad))


def test_a_name_is_no_network():
    arguments = init_params(jax.random.key(0), (4, 5, 3)), np.ones((4, 3)), np.eye(3)
    with pytest.raises(ValueError, match="network='tanh' must be a Network"):
        audit(lambda *_: None, lambda *_: 0.0, *arguments, network="tanh")
    with pytest.raises(ValueError, match="network='tanh' must be a Network"):
        audit_stages(lambda *_: {}, "tanh", *arguments)


@given(
    st.sampled_from(
        [
            (np.sin, np.cos),
            (np.exp, np.exp),
            (lambda t: t**3, lambda t: 3 * t**2),
            (np.tanh, lambda t: 1 / np.cosh(t) ** 2),
        ]
    ),
    st.floats(-3, 3),
    st.floats(1e-2, 1e2),
)
def test_differences_know_their_error(pair, at, scale):
    f, slope = pair
    found = differentiate(lambda t: scale * float(f(at + t)), 1e-3, scale * float(f(at)))
    assert not found.kink
    assert abs(found.value - scale * slope(at)) <= found.error + 1e-15 * scale
    assert found.error <= 1e-6 * scale * max(1, abs(float(f(at))))


@pytest.mark.parametrize("kinked", [abs, lambda t: max(t, 0.0), lambda t: 3 * t + abs(t)])
def test_differences_see_a_kink(kinked):
    assert differentiate(kinked, 1e-3, kinked(0.0)).kink
