"""Mutants of `layer_mutants`: recurrent steps and sequences, and attention."""

import numpy as np


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


def gru(dout, x, h0, wx, wh, bx, bh, mistake=None):
    """The gates r, z and the candidate n in turn, as PyTorch has them."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    steps, h, memory = x.shape[1], h0, []
    for t in range(steps):
        (pr, pz, pn), (qr, qz, u) = np.split(x[:, t] @ wx + bx, 3, axis=1), np.split(h @ wh + bh, 3, axis=1)
        r, z = sigmoid(pr + qr), sigmoid(pz + qz)
        n = np.tanh(pn + r * u)
        after = (1 - z) * n + z * h
        memory.append((pr + qr, pz + qz, pn + r * u, r, z, n, u, h, after))
        h = after
    dx, dwx, dwh, dbx, dbh, carry = np.zeros_like(x), 0 * wx, 0 * wh, 0 * bx, 0 * bh, 0 * h0
    for t in reversed(range(steps)):
        ar, az, an, r, z, n, u, before, after = memory[t]
        slopes = r * (1 - r), z * (1 - z), 1 - n**2
        if mistake == "slopes_at_preactivation":
            slopes = ar * (1 - ar), az * (1 - az), 1 - an**2
        if mistake == "slopes_forgotten":
            slopes = 1, 1, 1
        dh = dout[:, t] + carry
        new, old = (z, 1 - z) if mistake == "update_gate_inverted" else (1 - z, z)
        dz = dh * (-n if mistake == "previous_state_forgotten" else before - n)
        da_n = dh * new * slopes[2]
        dr = da_n * (before if mistake == "reset_of_state" else u)
        du = da_n if mistake == "reset_gate_forgotten" else da_n * r
        dp = np.concatenate([dr * slopes[0], dz * slopes[1], da_n], axis=1)
        dq = np.concatenate([dr * slopes[0], dz * slopes[1], du], axis=1)
        dx[:, t] = dp @ wx.T
        keep = 0 if mistake == "weights_overwritten" else 1
        state = after if mistake == "next_state_for_previous" else before
        dwx, dbx = keep * dwx + x[:, t].T @ dp, keep * dbx + dp.sum(0)
        dwh, dbh = keep * dwh + state.T @ dq, keep * dbh + dq.sum(0)
        carry = 0 if mistake == "state_path_forgotten" else dq @ wh.T
        carry = carry + (0 if mistake == "direct_path_forgotten" else dh * old)
    return dx, carry, dwx, dwh, dbx, dbh


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
