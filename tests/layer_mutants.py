"""Backward passes of layers in plain NumPy, samples first as courses have them, each right or with one mistake.

`mistake` is None, or a code of the layer's table. They share nothing with the package.
"""

import numpy as np


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


def normalization(dout, x, gamma, beta, axes, eps, mistake=None):
    """By parts, as in the paper of batch normalisation; gamma and beta have the rank of x."""
    m = np.prod([x.shape[a] for a in axes])
    mu, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    inv = 1 / np.sqrt(var + eps)
    right_hat = (x - mu) * inv
    if mistake == "eps_outside_root":
        inv = 1 / (np.sqrt(var) + eps)
    g = {"gamma_forgotten": 1, "gamma_on_wrong_axis": gamma.T}.get(mistake, gamma)
    dhat = dout * g
    count = {
        "sums_for_means": 1,
        "count_of_other_axes": x.size // m,
        "count_of_one_axis": x.shape[axes[-1]],
    }.get(mistake, m)
    dvar = np.sum(dhat * (x - mu), axes, keepdims=True) * -0.5 * inv**3
    dmu = -np.sum(dhat * inv, axes, keepdims=True)
    mean_path = (
        dmu / count * {"mean_path_forgotten": 0, "both_paths_forgotten": 0, "mean_path_twice": 2}.get(mistake, 1)
    )
    times = {
        "variance_path_forgotten": 0,
        "both_paths_forgotten": 0,
        "variance_path_twice": 2,
        "variance_path_added": -1,
    }
    dx = (
        dhat * inv
        + dvar * 2 * (x - mu) / (m - 1 if mistake == "unbiased" else count) * times.get(mistake, 1)
        + mean_path
    )
    if mistake == "std_forgotten":
        dx = dx / inv
    over = tuple(a for a, size in enumerate(gamma.shape) if size == 1)
    hat = {"input_for_normalized": x, "centred_for_normalized": x - mu}.get(mistake, right_hat)
    dgamma, dbeta = (dout * hat).sum(over, keepdims=True), dout.sum(over, keepdims=True)
    if mistake == "gamma_averaged":
        dgamma = (dout * hat).mean(over, keepdims=True)
    if mistake == "beta_averaged":
        dbeta = dout.mean(over, keepdims=True)
    if mistake == "beta_times_gamma":
        dbeta = (dout * gamma).sum(over, keepdims=True)
    if mistake == "gamma_and_beta_swapped":
        dgamma, dbeta = dbeta, dgamma
    return dx, dgamma, dbeta


def batch_norm(dout, x, gamma, beta, eps=None, mistake=None):
    dx, dgamma, dbeta = normalization(dout, x, gamma[None], beta[None], (0,), eps, mistake)
    return dx, dgamma[0], dbeta[0]


def layer_norm(dout, x, gamma, beta, eps=None, mistake=None):
    dx, dgamma, dbeta = normalization(dout, x, gamma[None], beta[None], (1,), eps, mistake)
    return dx, dgamma[0], dbeta[0]


def spatial_batch_norm(dout, x, gamma, beta, eps=None, mistake=None):
    """Samples last within, so that the last of the axes is the samples'."""
    turned, back = (1, 2, 3, 0), (3, 0, 1, 2)
    g, b = gamma[:, None, None, None], beta[:, None, None, None]
    args = dout.transpose(turned), x.transpose(turned), g, b
    dx, dgamma, dbeta = normalization(*args, (1, 2, 3), eps, mistake)
    return dx.transpose(back), dgamma.ravel(), dbeta.ravel()


def group_norm(dout, x, gamma, beta, groups=None, eps=None, mistake=None):
    n, c, h, w = x.shape
    shape = n, groups, c // groups, h, w
    g, b = gamma.reshape(1, groups, -1, 1, 1), beta.reshape(1, groups, -1, 1, 1)
    dx, dgamma, dbeta = normalization(dout.reshape(shape), x.reshape(shape), g, b, (2, 3, 4), eps, mistake)
    return dx.reshape(x.shape), dgamma.ravel(), dbeta.ravel()


def rms_norm(dout, x, gamma, eps=None, mistake=None):
    n, d = x.shape
    square = np.mean(x * x, 1, keepdims=True)
    rms = np.sqrt(square) + eps if mistake == "eps_outside_root" else np.sqrt(square + eps)
    g = dout if mistake == "gamma_forgotten" else dout * gamma
    count = {"sum_for_mean": 1, "count_of_samples": n}.get(mistake, d)
    times = {"rms_path_forgotten": 0, "rms_path_twice": 2, "rms_path_added": -1}.get(mistake, 1)
    dx = g / rms - times * x * (g * x).sum(1, keepdims=True) / (count * rms**3)
    if mistake == "mean_path_added":
        dx = dx - g.mean(1, keepdims=True) / rms
    if mistake == "rms_forgotten":
        dx = dx * rms
    hat = x if mistake == "input_for_normalized" else x / np.sqrt(square + eps)
    dgamma = (dout * hat).sum(0)
    return dx, dgamma / n if mistake == "gamma_averaged" else dgamma


def convolution(dout, x, w, b, stride=None, pad=None, dilation=None, mistake=None):
    """CS231n's naive loops, one number for both dimensions."""
    n, _, height, width = x.shape
    k, l = w.shape[2:]
    s, d = (1 if mistake == "stride_ignored" else stride), (1 if mistake == "dilation_ignored" else dilation)
    edges = ((0, 0), (0, 0), (pad, pad + 20), (pad, pad + 20))
    padded = np.pad(x, edges)
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    kernel = w[:, :, ::-1, ::-1] if mistake == "kernel_not_flipped" else w
    kernel = w.transpose(1, 0, 2, 3) if mistake == "channels_not_exchanged" else kernel
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            rows, columns = slice(i * s, i * s + d * (k - 1) + 1, d), slice(j * s, j * s + d * (l - 1) + 1, d)
            window = np.einsum("nf,fckl->nckl", dout[:, :, i, j], kernel)
            if mistake == "overlaps_overwritten":
                dx[:, :, rows, columns] = window
            else:
                dx[:, :, rows, columns] += window
            part = slice(n - 1, n) if mistake == "last_sample_alone" else slice(n)
            dw += np.einsum("nf,nckl->fckl", dout[part, :, i, j], padded[part, :, rows, columns])
    start = pad + {"padding_too_small": -1, "padding_too_large": 1}.get(mistake, 0)
    db = dout.sum((0, 2, 3))
    if mistake == "bias_averaged":
        db = db / n
    if mistake == "bias_averaged_over_places":
        db = db / (dout.shape[2] * dout.shape[3])
    dw = {"kernel_gradient_flipped": dw[:, :, ::-1, ::-1], "kernel_averaged": dw / n}.get(mistake, dw)
    return dx[:, :, start : start + height, start : start + width], dw, db


def pooling(dout, x, size, stride, pad, average, mistake):
    n, c, height, width = x.shape
    fill = 0 if average else -np.inf
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad + 20), (pad, pad + 20)), constant_values=fill)
    dx = np.zeros_like(padded)
    s = 1 if mistake == "stride_ignored" else stride
    for a in range(n):
        for b in range(c):
            for i in range(dout.shape[2]):
                for j in range(dout.shape[3]):
                    seen = padded[a, b, i * stride : i * stride + size, j * stride : j * stride + size]
                    error = dout[a, b, i, j]
                    if average:
                        share = _average_share(mistake, error, size, i * stride - pad, j * stride - pad, x.shape)
                    else:
                        share = _max_share(mistake, error, seen)
                    rows, columns = slice(i * s, i * s + size), slice(j * s, j * s + size)
                    if mistake == "overlaps_overwritten":
                        dx[a, b, rows, columns] = share
                    elif mistake == "winners_overwritten":
                        dx[a, b, rows, columns] = np.where(share != 0, share, dx[a, b, rows, columns])
                    else:
                        dx[a, b, rows, columns] += share
    start = 0 if mistake == "padding_not_cut" else pad
    return (dx[:, :, start : start + height, start : start + width],)


def _max_share(mistake, error, seen):
    best = seen.max()
    if mistake == "all_of_the_window":
        return np.full(seen.shape, error)
    if mistake == "averaged":
        return np.full(seen.shape, error / seen.size)
    equal = (seen == best).astype(float)
    if mistake == "tie_to_all":
        return error * equal
    if mistake == "tie_shared":
        return error * equal / equal.sum()
    flat = np.flatnonzero(equal.ravel())
    row, column = divmod(flat[-1] if mistake == "tie_to_last" else flat[0], seen.shape[1])
    share = np.zeros(seen.shape)
    if mistake == "row_for_column":
        row, column = column, row
    share[row, column] = {"value_for_error": error * best, "error_forgotten": 1}.get(mistake, error)
    return share


def _average_share(mistake, error, size, top, left, shape):
    share = np.zeros((size, size))
    if mistake in ("first_alone", "centre_alone"):
        place = 0 if mistake == "first_alone" else size // 2
        share[place, place] = error
        return share
    inside = (min(top + size, shape[2]) - max(top, 0)) * (min(left + size, shape[3]) - max(left, 0))
    m = size * size
    share[:] = {
        "divisor_forgotten": error,
        "divisor_counts_inside": error / inside,
        "divisor_twice": error / m / m,
        "divisor_multiplied": error * m,
    }.get(mistake, error / m)
    return share


def max_pool(dout, x, size=None, stride=None, pad=None, mistake=None):
    return pooling(dout, x, size, stride, pad, False, mistake)


def average_pool(dout, x, size=None, stride=None, pad=None, mistake=None):
    return pooling(dout, x, size, stride, pad, True, mistake)


def rnn(dout, x, h0, wx, wh, b, mistake=None):
    n, steps, _ = x.shape
    zs, hs = [], [h0]
    for t in range(steps):
        zs.append(x[:, t] @ wx + hs[-1] @ wh + b)
        hs.append(np.tanh(zs[-1]))
    dx, dwx, dwh, db, carry = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh), np.zeros_like(b), 0 * h0
    for t in reversed(range(steps)):
        dh = dout[:, t] + carry
        h, z = hs[t + 1], zs[t]
        slopes = {"slope_forgotten": 1, "slope_at_preactivation": 1 - z**2, "slope_of_sigmoid": h * (1 - h)}
        dz = dh * slopes.get(mistake, 1 - h**2)
        dx[:, t] = dz @ wx.T
        before = hs[t + 1] if mistake == "next_state_for_previous" else hs[t]
        keep = 0 if mistake == "weights_overwritten" else 1
        dwx, dwh, db = keep * dwx + x[:, t].T @ dz, keep * dwh + before.T @ dz, keep * db + dz.sum(0)
        carry = {
            "state_gradient_forgotten": 0 * dh,
            "state_path_without_slope": dh @ wh.T,
            "state_weight_not_transposed": dz @ wh,
        }.get(mistake, dz @ wh.T)
    if mistake == "initial_state_forgotten":
        carry = 0 * carry
    if mistake == "averaged_over_time":
        dwx, dwh, db = dwx / steps, dwh / steps, db / steps
    if mistake == "bias_averaged":
        db = db / n
    return dx, carry, dwx, dwh, db


def lstm(dout, x, h0, wx, wh, b, mistake=None):
    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    units, steps = h0.shape[1], x.shape[1]
    h, c, memory, hs = h0, 0 * h0, [], [h0]
    for t in range(steps):
        a = np.split(x[:, t] @ wx + h @ wh + b, 4, axis=1)
        i, f, o, g = sigmoid(a[0]), sigmoid(a[1]), sigmoid(a[2]), np.tanh(a[3])
        new = f * c + i * g
        h = o * np.tanh(new)
        memory.append((a, i, f, o, g, c, new))
        hs.append(h)
        c = new
    assert units == c.shape[1]
    dx, dwx, dwh, db, dh_next, dc_next = np.zeros_like(x), 0 * wx, 0 * wh, 0 * b, 0 * h0, 0 * h0
    for t in reversed(range(steps)):
        a, i, f, o, g, before, c = memory[t]
        dh = dout[:, t] + dh_next
        dc = dh * o * (1 if mistake == "cell_tanh_forgotten" else 1 - np.tanh(c) ** 2)
        if mistake == "output_path_forgotten":
            dc = 0 * dc
        if mistake != "cell_path_forgotten":
            dc = dc + dc_next
        gates = [dc * g, dc * (c if mistake == "cell_for_previous" else before), dh * np.tanh(c), dc * i]
        slopes = [i * (1 - i), f * (1 - f), o * (1 - o), 1 - g**2]
        if mistake == "slopes_at_preactivation":
            slopes = [a[0] * (1 - a[0]), a[1] * (1 - a[1]), a[2] * (1 - a[2]), 1 - a[3] ** 2]
        if mistake == "slopes_forgotten":
            slopes = [1, 1, 1, 1]
        if mistake == "candidate_as_gate":
            slopes[3] = g * (1 - g)
        parts = [gate * slope for gate, slope in zip(gates, slopes, strict=True)]
        if mistake == "gates_exchanged":
            parts[0], parts[1] = parts[1], parts[0]
        da = np.concatenate(parts, axis=1)
        dx[:, t] = da @ wx.T
        keep = 0 if mistake == "weights_overwritten" else 1
        state = hs[t + 1] if mistake == "next_state_for_previous" else hs[t]
        dwx, dwh, db = keep * dwx + x[:, t].T @ da, keep * dwh + state.T @ da, keep * db + da.sum(0)
        dh_next = 0 * h0 if mistake == "state_gradient_forgotten" else da @ wh.T
        dc_next = dc if mistake == "forget_gate_forgotten" else dc * f
    return dx, dh_next, dwx, dwh, db


def attention(dout, q, k, v, heads=None, key_heads=None, mistake=None):
    """[samples, time, heads * features], causal; head after head."""

    def apart(a, number):
        return a.reshape(*a.shape[:2], number, -1).transpose(0, 2, 1, 3)

    shapes = q.shape, k.shape, v.shape
    shared = heads // key_heads
    q, dout = apart(q, heads), apart(dout, heads)
    k, v = (np.repeat(apart(a, key_heads), shared, axis=1) for a in (k, v))
    d, times = q.shape[-1], q.shape[2]
    s = q @ k.swapaxes(2, 3) / np.sqrt(d)
    allowed = np.tril(np.ones((times, times), bool))
    e = np.where(allowed, np.exp(s), 0)
    a = e / e.sum(-1, keepdims=True)
    if mistake == "mask_forgotten":
        a = np.exp(s) / e.sum(-1, keepdims=True)
    if mistake == "softmax_without_mask":
        a = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    dv = a.swapaxes(2, 3) @ dout
    if mistake == "value_not_transposed":
        dv = a @ dout
    if mistake == "scores_for_attention":
        dv = np.where(allowed, s, 0).swapaxes(2, 3) @ dout
    da = dout @ v.swapaxes(2, 3)
    axis = -2 if mistake == "sum_over_queries" else -1
    ds = a * (da - (da * a).sum(axis, keepdims=True))
    ds = {"softmax_diagonal_alone": da * a * (1 - a), "softmax_sum_forgotten": da * a, "softmax_forgotten": da}.get(
        mistake, ds
    )
    ds = ds * {"scale_forgotten": 1, "scale_twice": 1 / d}.get(mistake, 1 / np.sqrt(d))
    dq, dk = ds @ k, (ds if mistake == "key_not_transposed" else ds.swapaxes(2, 3)) @ q

    def together(g, shape):
        g = g.reshape(g.shape[0], key_heads, shared, *g.shape[2:])
        g = {"shared_heads_overwritten": g[:, :, -1], "shared_heads_first": g[:, :, 0]}.get(mistake, g.sum(2))
        g = g / shared if mistake == "shared_heads_averaged" else g
        return g.transpose(0, 2, 1, 3).reshape(shape)

    return dq.transpose(0, 2, 1, 3).reshape(shapes[0]), together(dk, shapes[1]), together(dv, shapes[2])


def rnn_step(dout, x, h0, wx, wh, b, mistake=None):
    z = x @ wx + h0 @ wh + b
    h, n = np.tanh(z), len(x)
    slopes = {"slope_forgotten": 1, "slope_at_preactivation": 1 - z**2, "slope_of_sigmoid": h * (1 - h)}
    dz = dout * slopes.get(mistake, 1 - h**2)
    dstate = {"state_weight_not_transposed": dz @ wh, "state_forgotten": 0 * h0}.get(mistake, dz @ wh.T)
    before = h if mistake == "next_state_for_previous" else h0
    share = n if mistake == "weights_averaged" else 1
    db = dz.mean(0) if mistake == "bias_averaged" else dz.sum(0)
    return dz @ wx.T, dstate, x.T @ dz / share, before.T @ dz / share, db


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
