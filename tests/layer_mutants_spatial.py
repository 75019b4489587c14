"""Mutants of `layer_mutants`: normalisation, convolution and pooling."""

import numpy as np


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


def batch_norm(dout, x, gamma, beta, eps=None, training=True, running_mean=None, running_var=None, mistake=None):
    if not training:
        return inference(dout, x, gamma, running_mean, running_var + eps, mistake)
    dx, dgamma, dbeta = normalization(dout, x, gamma[None], beta[None], (0,), eps, mistake)
    return dx, dgamma[0], dbeta[0]


def inference(dout, x, gamma, mean, variance, mistake):
    """[..., channels]: mean and variance are constants."""
    over = tuple(range(x.ndim - 1))
    x_hat = (x - mean) / np.sqrt(variance)
    dhat = dout * gamma
    if mistake == "as_in_training":
        dhat = dhat - dhat.mean(over) - x_hat * (dhat * x_hat).mean(over)
    return dhat / np.sqrt(variance), (dout * x_hat).sum(over), dout.sum(over)


def layer_norm(dout, x, gamma, beta, eps=None, axes=(0,), mistake=None):
    """Over all but the samples; `axes` are counted from the last one, as transposing leaves them."""
    assert len(axes) == x.ndim - 1
    within = tuple(x.ndim - 1 - axis for axis in axes)
    dx, dgamma, dbeta = normalization(dout, x, gamma[None], beta[None], within, eps, mistake)
    return dx, dgamma[0], dbeta[0]


def spatial_batch_norm(
    dout, x, gamma, beta, eps=None, training=True, running_mean=None, running_var=None, mistake=None
):
    """Samples last within, so that the last of the axes is the samples'."""
    if not training:
        args = dout.transpose(0, 2, 3, 1), x.transpose(0, 2, 3, 1), gamma
        dx, dgamma, dbeta = inference(*args, running_mean, running_var + eps, mistake)
        return dx.transpose(0, 3, 1, 2), dgamma, dbeta
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


def convolution_1d(dout, x, w, b, stride=None, pad=None, dilation=None, mistake=None):
    """One product for each place of the output and of the kernel."""
    n, _, length = x.shape
    s, d = (1 if mistake == "stride_ignored" else stride), (1 if mistake == "dilation_ignored" else dilation)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad + 20)))
    dx, dw, db = np.zeros_like(padded), np.zeros_like(w), np.zeros_like(b)
    for p in range(dout.shape[2]):
        error = dout[:, :, p]
        for k in range(w.shape[2]):
            kernel = w[:, :, -1 - k] if mistake == "kernel_not_flipped" else w[:, :, k]
            kernel = kernel.T if mistake == "channels_not_exchanged" else kernel
            place = s * p + d * k
            dx[:, :, place] = error @ kernel + (0 if mistake == "overlaps_overwritten" else dx[:, :, place])
            for sample in range(n - 1 if mistake == "last_sample_alone" else 0, n):
                dw[:, :, k] += np.outer(error[sample], padded[sample, :, place])
        db += error.sum(0)
    start = pad + {"padding_too_small": -1, "padding_too_large": 1}.get(mistake, 0)
    if mistake == "kernel_gradient_flipped":
        dw = dw[:, :, ::-1]
    if mistake == "kernel_averaged":
        dw = dw / n
    db = db / {"bias_averaged": n, "bias_averaged_over_places": dout.shape[2]}.get(mistake, 1)
    return dx[:, :, start : start + length], dw, db


def pooling(dout, x, size, stride, pad, average, mistake, count_padding=True):
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
                        corner = i * stride - pad, j * stride - pad
                        share = _average_share(mistake, error, size, *corner, x.shape, count_padding)
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


def _average_share(mistake, error, size, top, left, shape, count_padding):
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
        "divisor_counts_all": error / m,
        "divisor_twice": error / m / m,
        "divisor_multiplied": error * m,
    }.get(mistake, error / (m if count_padding else inside))
    return share


def max_pool(dout, x, size=None, stride=None, pad=None, mistake=None):
    return pooling(dout, x, size, stride, pad, False, mistake)


def average_pool(dout, x, size=None, stride=None, pad=None, count_padding=True, mistake=None):
    return pooling(dout, x, size, stride, pad, True, mistake, count_padding)
