"""Mutants of `layer_mutants`: affine, activations, losses, dropout, embeddings and the residual connection."""

import numpy as np
from scipy.special import expit, ndtr


def affine(dout, x, w, b, mistake=None):
    n = len(x)
    dx, dw, db = dout @ w.T, x.T @ dout, dout.sum(0)
    if mistake == "weight_not_transposed":
        dx = dout @ w
    if mistake == "weight_transposed":
        dw = dout.T @ x
    if mistake == "input_averaged":
        dx = dx / n
    if mistake == "weight_averaged":
        dw = dw / n
    if mistake == "bias_averaged":
        db = dout.mean(0)
    if mistake in ("weight_overwritten", "bias_overwritten"):
        for row, error in zip(x, dout, strict=True):
            if mistake == "weight_overwritten":
                dw = np.outer(row, error)
            else:
                db = error
    if mistake == "bias_summed_over_outputs":
        db = np.full(len(b), dout.sum())
    return dx, dw, db


ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805


def mish_factor(z):
    return np.tanh(np.log1p(np.exp(z)))


# f(z), and f' as courses write it, from z and a = f(z).
ACTIVATIONS = {
    "sigmoid": (expit, lambda z, a: a - a**2),
    "tanh": (np.tanh, lambda z, a: (1 - a) * (1 + a)),
    "relu": (lambda z: np.maximum(z, 0), lambda z, a: np.sign(a)),
    "identity": (lambda z: z, lambda z, a: np.ones_like(z)),
    "leaky_relu": (lambda z: np.maximum(z, z / 100), lambda z, a: np.where(z < 0, 0.01, 1)),
    "elu": (lambda z: np.where(z > 0, z, np.exp(z) - 1), lambda z, a: np.minimum(a, 0) + 1),
    "selu": (
        lambda z: SCALE * np.where(z > 0, z, ALPHA * (np.exp(z) - 1)),
        lambda z, a: np.where(a > 0, SCALE, a + SCALE * ALPHA),
    ),
    "softplus": (lambda z: np.log1p(np.exp(z)), lambda z, a: 1 - np.exp(-a)),
    "silu": (lambda z: z / (1 + np.exp(-z)), lambda z, a: a + expit(z) * (1 - a)),
    "gelu": (lambda z: z * ndtr(z), lambda z, a: ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)),
    "mish": (
        lambda z: z * mish_factor(z),
        lambda z, a: mish_factor(z) + z * expit(z) / np.cosh(np.log1p(np.exp(z))) ** 2,
    ),
    "hardshrink": (lambda z: z * (abs(z) > 0.5), lambda z, a: (a != 0) * 1.0),
}

# f(z) = z times this
FACTORS = {"silu": expit, "gelu": ndtr, "mish": mish_factor}


def gelu_by_tanh(z):
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def activation(name, dout, z, mistake=None):
    f, slope = ACTIVATIONS[name]
    a = f(z)
    if mistake == "slope_forgotten":
        return (dout,)
    if mistake == "error_forgotten":
        return (slope(z, a),)
    if mistake == "value_for_slope":
        return (dout * a,)
    if mistake == "slope_at_output":
        return (dout * slope(a, f(a)),)
    if mistake == "input_for_output":
        return (dout * slope(z, z),)
    if mistake == "leak_forgotten":
        return (np.where(z > 0, dout, 0),)
    if mistake == "second_term_forgotten":
        return (dout * FACTORS[name](z),)
    if mistake == "tanh_form":  # by the complex step, which takes no difference and rounds nothing away
        return (dout * np.imag(gelu_by_tanh(z + 1e-30j)) / 1e-30,)
    dz = dout * slope(z, a)
    if mistake == "slope_twice":
        dz = dz * slope(z, a)
    if mistake == "slope_inverted":
        dz = dout - dz
    if mistake == "mask_of_error":
        dz[dout < 0] = 0
    if mistake == "averaged":
        dz = dz / len(z)
    return (-dz if mistake == "sign_flipped" else dz,)


def softmax(dout, z, mistake=None):
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    if mistake == "diagonal_alone":
        return (dout * p * (1 - p),)
    if mistake == "input_for_output":
        p = z
    if mistake == "error_forgotten":
        return (p * (1 - p),)
    inner = (dout * p).sum(1, keepdims=True)
    if mistake == "sum_forgotten":
        inner = 0
    if mistake == "sum_unweighted":
        inner = dout.sum(1, keepdims=True)
    if mistake == "sum_over_samples":
        inner = (dout * p).sum(0, keepdims=True)
    if mistake == "sum_averaged":
        inner = (dout * p).mean(1, keepdims=True)
    return (p * (dout + inner if mistake == "sum_added" else dout - inner),)


def softmax_cross_entropy(dout, z, target=None, mistake=None):
    y = np.asarray(target)
    n, c = z.shape
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    total = y.sum(1, keepdims=True)
    if mistake == "softmax_twice":
        e = np.exp(p)
        p = e / e.sum(1, keepdims=True)
    if mistake == "diagonal_alone":
        return (-dout * y * (1 - p) / n,)
    if mistake == "prediction_gradient":
        return (-dout * y / p / n,)
    p = {"input_for_output": z, "logarithm_for_output": np.log(p)}.get(mistake, p)
    grad = p * (1 if mistake == "sum_dropped" else total) - (0 if mistake == "target_forgotten" else y)
    grad = -grad if mistake == "sign_flipped" else grad
    share = {"not_averaged": 1, "averaged_twice": n * n, "averaged_over_entries": n * c}.get(mistake, n)
    return (dout * grad / share,)


def hinge(dout, z, target=None, mistake=None):
    n = len(z)
    rows = np.arange(n)
    margins = np.maximum(0, z - z[rows, target][:, None] + (0 if mistake == "margin_forgotten" else 1))
    margins[rows, target] = 0
    mask = margins if mistake == "margin_for_indicator" else (margins > 0).astype(float)
    count = mask.sum(1)
    if mistake == "own_margin_counted":
        count = count + 1
    if mistake == "own_class_once":
        count = 1
    if mistake == "own_class_forgotten":
        count = 0
    mask[rows, target] = 0
    mask[rows, target] -= count
    share = {"not_averaged": 1, "averaged_twice": n * n}.get(mistake, n)
    return (dout * mask / share * (-1 if mistake == "sign_flipped" else 1),)


def squared_error(dout, z, target=None, mistake=None):
    n, c = z.shape
    y = np.asarray(target)
    grad = {"target_forgotten": z, "absolute_error": np.sign(z - y), "sign_flipped": y - z}.get(mistake, z - y)
    factor = {"half_forgotten": 2, "halved": 0.5}.get(mistake, 1)
    share = {"not_averaged": 1, "averaged_twice": n * n, "averaged_over_entries": n * c}.get(mistake, n)
    return (dout * factor * grad / share,)


def dropout(dout, x, mask=None, rate=None, mistake=None):
    keep = 1 - rate
    return (
        {
            "mask_forgotten": dout / keep,
            "scale_forgotten": dout * mask,
            "dropout_forgotten": dout,
            "scale_inverted": dout * mask * keep,
            "scale_twice": dout * mask / keep / keep,
            "mask_inverted": dout * (1 - mask) / keep,
            "scale_of_dropped_share": dout * mask / rate,
            "error_forgotten": mask / keep,
        }.get(mistake, dout * mask / keep),
    )


def embedding(dout, w, index=None, mistake=None):
    dw = w.copy() if mistake == "started_at_weight" else np.zeros_like(w)
    flat, errors = index.ravel(), dout.reshape(-1, w.shape[1])
    for i, error in zip(flat, errors, strict=True):
        if mistake == "repeats_overwritten":
            dw[i] = error
        elif mistake == "first_use_alone":
            dw[i] = dw[i] if dw[i].any() else error
        elif mistake == "error_forgotten":
            dw[i] += 1
        elif mistake == "index_shifted":
            dw[(i + 1) % len(w)] += error
        else:
            dw[i] += error
    if mistake == "repeats_averaged":
        dw = dw / np.maximum(np.bincount(flat, minlength=len(w)), 1)[:, None]
    if mistake == "averaged":
        dw = dw / len(index)
    return (-dw if mistake == "sign_flipped" else dw,)


def positional_embedding(dout, x, w, mistake=None):
    dw = np.zeros_like(w)
    steps = x.shape[1]
    dw[:steps] = {
        "averaged": dout.mean(0),
        "last_sample_alone": dout[-1],
        "time_reversed": dout.sum(0)[::-1],
    }.get(mistake, dout.sum(0))
    if mistake == "summed_over_time":
        dw[:] = dout.sum((0, 1))
    if mistake == "started_at_weight":
        dw = dw + w
    return (0 * dout if mistake == "input_forgotten" else dout), dw


def periodic(dout, x, c, mistake=None):
    dx, dc = np.zeros_like(x), np.zeros_like(c)
    waves, factor = c.shape[1], 1 if mistake == "two_pi_forgotten" else 2 * np.pi
    for d, k in np.ndindex(c.shape):
        v = 2 * np.pi * c[d, k] * x[:, d]
        of_sin, of_cos = np.cos(v), -np.sin(v)
        if mistake == "cosine_added":
            of_cos = -of_cos
        if mistake == "cosine_forgotten":
            of_cos = 0 * of_cos
        if mistake == "not_differentiated":
            of_sin, of_cos = np.sin(v), np.cos(v)
        dv = of_sin * dout[:, d, k] + of_cos * dout[:, d, waves + k]
        dx[:, d] += factor * c[d, k] * dv
        dc[d, k] = factor * (x[:, d] * dv).sum()
    if mistake == "averaged":
        dc = dc / len(x)
    return (0 * dx if mistake == "input_forgotten" else dx), dc


def residual(dout, x, branch, mistake=None):
    mask = dout * (x + branch > 0)
    return {
        "skip_forgotten": (0 * dout, dout),
        "branch_forgotten": (dout, 0 * dout),
        "halved": (dout / 2, dout / 2),
        "skip_twice": (2 * dout, dout),
        "multiplied": (dout * branch, dout * x),
        "mask_of_sum": (mask, mask),
    }.get(mistake, (dout, dout))
