"""The audit of a layer's backward pass, as courses, JAX and kernels write it; and of whole trees, in tests."""

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop import assert_gradient, audit_vjp
from jaxbackprop.auditing import AuditError

pytestmark = pytest.mark.usefixtures("as_users_run_it")

RNG = np.random.default_rng(0)
X, W, B = RNG.normal(size=(6, 4)), RNG.normal(size=(4, 3)), RNG.normal(size=3)
GAMMA, BETA = RNG.normal(size=4), RNG.normal(size=4)


def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w, b)


def affine_backward(dout, cache):
    x, w, _ = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)


def batchnorm_forward(x, gamma, beta, bn_param):
    """In NumPy alone, and with a dict that it writes into."""
    assert "running_mean" not in bn_param
    bn_param["running_mean"] = np.asarray(x).mean(axis=0)
    sigma = np.sqrt(np.var(x, axis=0) + bn_param.get("eps", 1e-5))
    x_hat = (x - np.mean(x, axis=0)) / sigma
    return gamma * x_hat + beta, (x_hat, gamma, sigma)


def batchnorm_backward(dout, cache, mean_path=True):
    x_hat, gamma, sigma = cache
    d = dout * gamma
    dx = (d - mean_path * d.mean(axis=0) - x_hat * (d * x_hat).mean(axis=0)) / sigma
    return dx, (dout * x_hat).sum(axis=0), dout.sum(axis=0)


def test_right_layers_are_right():
    report = audit_vjp(affine_forward, affine_backward, X, W, B, layer="affine")
    assert report.ok, report
    assert [finding.path for finding in report.findings] == ["x", "w", "b"]
    report = audit_vjp(batchnorm_forward, batchnorm_backward, X, GAMMA, BETA, {"mode": "train"}, layer="batch_norm")
    assert report.ok, report
    assert report.witness.startswith("central differences of forward")
    assert not any("is not the layer" in note for note in report.notes)


def spoiled(change):
    def backward(dout, cache):
        gradients = dict(zip("xwb", affine_backward(dout, cache), strict=True))
        return tuple((gradients | change(gradients, dout, cache)).values())

    return backward


@pytest.mark.parametrize(
    ("layer", "change", "path", "code"),
    [
        (None, lambda g, d, c: {"x": -g["x"]}, "x", "sign"),
        (None, lambda g, d, c: {"w": 2 * g["w"]}, "w", "double"),
        (None, lambda g, d, c: {"w": g["w"].T}, "w", "transposed"),
        (None, lambda g, d, c: {"b": d}, "b", "not_summed"),
        (None, lambda g, d, c: {"b": np.full(3, d.sum())}, "b", "summed_over_both"),
        (None, lambda g, d, c: {"x": 0 * g["x"]}, "x", "zero"),
        (None, lambda g, d, c: {"w": g["w"] + np.sin(9 * c[1])}, "w", None),
        ("affine", lambda g, d, c: {"w": g["w"] / len(d)}, "w", "weight_averaged"),
        ("affine", lambda g, d, c: {"b": g["b"] / len(d)}, "b", "bias_averaged"),
        ("affine", lambda g, d, c: {"b": d[-1]}, "b", "bias_overwritten"),
    ],
)
def test_wrong_layers_are_wrong_in_one_argument_and_named(layer, change, path, code):
    report = audit_vjp(affine_forward, spoiled(change), X, W, B, layer=layer)
    assert [finding.path for finding in report.findings if not finding.ok] == [path], report
    assert next(finding.diagnosis for finding in report.findings if not finding.ok) == code


def test_the_mean_path_of_a_batch_norm():
    def wrong(dout, cache):
        return batchnorm_backward(dout, cache, mean_path=False)

    report = audit_vjp(batchnorm_forward, wrong, X, GAMMA, BETA, {"mode": "train"}, layer="batch_norm")
    assert [(finding.ok, finding.diagnosis) for finding in report.findings] == [
        (False, "mean_path_forgotten"),
        (True, None),
        (True, None),
    ]


@pytest.mark.parametrize(
    ("layer", "old", "codes"), [("relu", lambda x: np.maximum(x, 0), (None,)), ("tanh", np.tanh, (None,))]
)
def test_activations_by_their_name(layer, old, codes):
    def forward(x):
        return old(x), x

    right = {"relu": lambda x: x > 0, "tanh": lambda x: 1 - np.tanh(x) ** 2}[layer]
    assert audit_vjp(forward, lambda dout, x: dout * right(x), X, layer=layer).ok
    report = audit_vjp(forward, lambda dout, x: dout, X, layer=layer)
    assert not report.ok
    assert report.findings[0].diagnosis is not None, report


def test_another_layer_is_told_and_judged_all_the_same():
    report = audit_vjp(lambda x: (np.sin(x), x), lambda dout, x: -dout * np.cos(x), X, layer="tanh")
    assert report.findings[0].diagnosis == "sign"
    assert any("is not the layer 'tanh'" in note for note in report.notes)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_what_a_tie_excuses_and_what_not(array):
    x = np.zeros((1, 1, 2, 4))
    x[..., 1, 3] = 1.0

    def forward(x, pool_param):
        return array(x).reshape(1, 1, 1, 2, 2, 2).max(axis=(3, 5)), x

    def to_all(dout, x):
        windows = x.reshape(1, 1, 1, 2, 2, 2)
        return ((windows == windows.max(axis=(3, 5), keepdims=True)) * dout[:, :, :, None, :, None]).reshape(x.shape)

    def shared(dout, x):
        windows = x.reshape(1, 1, 1, 2, 2, 2)
        equal = windows == windows.max(axis=(3, 5), keepdims=True)
        return (equal / equal.sum(axis=(3, 5), keepdims=True) * dout[:, :, :, None, :, None]).reshape(x.shape)

    param = {"pool_height": 2, "pool_width": 2, "stride": 2}
    report = audit_vjp(forward, to_all, x, param, layer="max_pool")
    assert [finding.diagnosis for finding in report.findings] == ["tie_to_all"], report
    report = audit_vjp(forward, shared, x, param, layer="max_pool")
    assert report.ok, report
    x += RNG.normal(size=x.shape)
    assert audit_vjp(forward, to_all, x, param, layer="max_pool").ok


def test_dropout_draws_the_mask_of_the_course():
    def forward(x, dropout_param):
        mask = (np.random.RandomState(dropout_param["seed"]).rand(*x.shape) < dropout_param["p"]) / dropout_param["p"]
        return x * mask, (dropout_param, mask)

    param = {"mode": "train", "p": 0.7, "seed": 231}
    report = audit_vjp(forward, lambda dout, cache: dout * (cache[1] > 0), X, param, layer="dropout")
    assert [finding.diagnosis for finding in report.findings] == ["scale_forgotten"], report


@pytest.mark.parametrize("samples_first", [True, False])
def test_targets_follow_the_layout(samples_first):
    z, y = RNG.normal(size=(6, 3)), RNG.uniform(size=(6, 3))
    axis, given = (1, (z, y)) if samples_first else (0, (z.T, y.T))

    def forward(z, y):
        shifted = z - z.max(axis=axis, keepdims=True)
        return -(y * (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))).sum() / 6, (z, y)

    def backward(dout, cache):
        e = np.exp(cache[0])
        return dout * (e / e.sum(axis=axis, keepdims=True) - cache[1]) / 6

    report = audit_vjp(forward, backward, *given, layer="softmax_cross_entropy", samples_first=samples_first)
    assert [finding.diagnosis for finding in report.findings] == ["sum_dropped"], report


def test_a_backward_pass_may_give_the_first_gradients_alone():
    report = audit_vjp(affine_forward, lambda dout, cache: dout @ cache[1].T / 6, X, W, B, layer="affine")
    assert [finding.diagnosis for finding in report.findings] == ["input_averaged"], report


def test_one_mistake_that_explains_all_leaves_goes_before_several():
    """Where only the initial state's gradient is wrong, nothing was forgotten between the steps."""

    def forward(x, h, wx, wh, b):
        hs = [h]
        for t in range(x.shape[1]):
            hs.append(np.tanh(x[:, t] @ wx + hs[-1] @ wh + b))
        return np.stack(hs[1:], axis=1), (x, hs, wx, wh)

    def backward(dout, cache):
        x, hs, wx, wh = cache
        dx, dwx, dwh, db, carry = np.zeros_like(x), 0 * wx, 0 * wh, 0, 0
        for t in reversed(range(x.shape[1])):
            dz = (dout[:, t] + carry) * (1 - hs[t + 1] ** 2)
            dx[:, t], carry = dz @ wx.T, dz @ wh.T
            dwx, dwh, db = dwx + x[:, t].T @ dz, dwh + hs[t].T @ dz, db + dz.sum(0)
        return dx, 0 * carry, dwx, dwh, db

    shapes = [(4, 3, 2), (4, 5), (2, 5), (5, 5), 5]
    report = audit_vjp(forward, backward, *(RNG.normal(size=shape) / 2 for shape in shapes), layer="rnn")
    assert [finding.diagnosis for finding in report.findings] == [None, "initial_state_forgotten", None, None, None]


def with_rule(slope):
    @jax.custom_vjp
    def layer(x, w):
        return jnp.tanh(x @ w)

    def back(cache, dout):
        x, w = cache
        error = dout * slope(jnp.tanh(x @ w))
        return error @ w.T, x.T @ error

    layer.defvjp(lambda x, w: (layer(x, w), (x, w)), back)
    return layer


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_custom_vjp_is_judged_by_what_is_under_it(array):
    report = audit_vjp(with_rule(lambda a: 1 - a**2), None, array(X), array(W))
    assert report.ok, report
    assert report.witness.startswith("jax.grad of forward")
    report = audit_vjp(with_rule(lambda a: -1 + a**2), None, array(X), array(W))
    assert [(finding.path, finding.diagnosis) for finding in report.findings] == [("x", "sign"), ("w", "sign")]


def test_a_custom_vjp_that_hides_another_is_judged_by_differences():
    inner = with_rule(lambda a: 2 - 2 * a**2)
    report = audit_vjp(lambda x, w: inner(x, w), None, X, W)
    assert not report.ok
    assert report.witness.startswith("central differences")
    assert {finding.diagnosis for finding in report.findings} == {"double"}


def test_pairs_without_a_cache_and_gradients_by_name():
    assert audit_vjp(lambda x, w: x @ w, lambda dout, x, w: (dout @ w.T, x.T @ dout), X, W).ok
    report = audit_vjp(lambda x, w: x @ w, lambda dout, x, w: {"dx": dout @ w.T, "dw": -x.T @ dout}, X, W)
    assert [finding.diagnosis for finding in report.findings] == [None, "sign"]


def test_rounding_is_told_in_units_of_the_last_place():
    report = audit_vjp(affine_forward, affine_backward, X, W, B)
    assert any(note.startswith("Rounding, not error") for note in report.notes) or all(
        finding.relative_error == 0 for finding in report.findings
    )

    def other_order(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        return dx, dw, db * (1 + 1e-15)

    report = audit_vjp(affine_forward, other_order, X, W, B)
    assert report.ok
    assert any("b by" in note and "units in the last place" in note for note in report.notes)


def test_what_is_no_layer_is_refused():
    with pytest.raises(ValueError, match="no floating-point array"):
        audit_vjp(lambda k: (k, k), lambda dout, k: dout, np.arange(3))
    with pytest.raises(ValueError, match="layer"):
        audit_vjp(affine_forward, affine_backward, X, W, B, layer="afine")
    with pytest.raises(ValueError, match="two values"):
        audit_vjp(lambda x: (x * np.random.default_rng().normal(), x), lambda dout, x: dout, X)
    with pytest.raises(AuditError, match=r"backward raised ZeroDivisionError: .*test_audit_layers.py"):
        audit_vjp(lambda x: (x, x), lambda dout, x: dout * (1 / 0), X)
    with pytest.raises(ValueError, match="in this order"):
        audit_vjp(lambda x: (x, x), lambda dout, x: (dout, dout), X)
    assert list(inspect.signature(audit_vjp).parameters)[:3] == ["forward", "backward", "args"]


def squares(params, X):
    return 0.5 * ((X @ params["w"] + params["b"]) ** 2).mean()


def test_assert_gradient():
    params = {"w": W, "b": B}
    assert_gradient(jax.grad(squares), squares, params, X)
    with pytest.raises(AssertionError, match="its sign is turned"):
        assert_gradient(lambda p, X: jax.tree.map(lambda leaf: -leaf, jax.grad(squares)(p, X)), squares, params, X)


def test_leaves_that_are_no_numbers_stay():
    Module = collections.namedtuple("Module", ["w", "activation", "steps", "b"])
    params = Module(jnp.asarray(W), jnp.tanh, 3, jnp.asarray(B))

    def loss_fn(params, X):
        return (params.activation(X @ params.w + params.b) ** 2).sum() * params.steps

    def gradient_fn(params, X):
        w, b = jax.grad(lambda w, b: loss_fn(params._replace(w=w, b=b), X), argnums=(0, 1))(params.w, params.b)
        return Module(w, None, None, b)

    assert_gradient(gradient_fn, loss_fn, params, X)
    with pytest.raises(AssertionError, match="half"):
        assert_gradient(lambda p, X: gradient_fn(p, X)._replace(b=gradient_fn(p, X).b / 2), loss_fn, params, X)
