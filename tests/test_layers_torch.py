"""Forward passes against PyTorch, so that a layer is what people mean by its name."""

import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop.layers import find_layer
from jaxbackprop.layers.contract import turn_back
from jaxbackprop.layers.examples import example

torch = pytest.importorskip("torch", reason="the forward passes are compared with PyTorch where it is installed")
F = torch.nn.functional


def t(array):
    return torch.tensor(np.array(array))


def batch_first(array):
    return t(np.moveaxis(np.asarray(array), -1, 0))


def theirs(name, arguments, options):
    x, *rest = arguments
    if name == "affine":
        return F.linear(batch_first(x), t(rest[0]), t(rest[1]))
    if name in ("convolution", "convolution_1d"):
        run = F.conv2d if x.ndim == 4 else F.conv1d
        kept = {"stride": options["stride"], "padding": options["pad"], "dilation": options["dilation"]}
        return run(batch_first(x), t(rest[0]), t(rest[1]), groups=options["groups"], **kept)
    if name in ("max_pool", "average_pool"):
        kept = {"stride": options["stride"], "padding": options["pad"], "ceil_mode": options["sticking_out"]}
        if name == "max_pool":
            run = F.max_pool2d if x.ndim == 4 else F.max_pool1d
        else:
            run = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
            kept["count_include_pad"] = options["count_padding"]
        return run(batch_first(x), options["size"], **kept)
    if name == "spatial_batch_norm":
        return F.batch_norm(batch_first(x), None, None, t(rest[0]), t(rest[1]), training=True, eps=options["eps"])
    if name == "layer_norm":
        return F.layer_norm(batch_first(x), rest[0].shape, t(rest[0]), t(rest[1]), options["eps"])
    if name == "rms_norm":
        return F.rms_norm(batch_first(x), rest[0].shape, t(rest[0]), options["eps"])
    if name == "group_norm":
        return F.group_norm(batch_first(x), options["groups"], t(rest[0]), t(rest[1]), options["eps"])
    if name == "softmax_cross_entropy":
        target = np.asarray(options["target"])
        return F.cross_entropy(batch_first(x), t(target.T if target.ndim == 2 else target))
    if name == "periodic":
        return periodic(batch_first(x), t(rest[0]))
    activations = {"leaky_relu": lambda z: F.leaky_relu(z, 0.01), "hardshrink": lambda z: F.hardshrink(z, 0.5)}
    return activations.get(name, getattr(F, name, None))(batch_first(x))


def periodic(x, c):
    """concat[sin(v), cos(v)], v = [2 pi c_1 x, ..., 2 pi c_k x]: section 3.3 of Gorishniy et al. 2022."""
    v = 2 * torch.pi * c * x[..., None]
    return torch.cat([torch.sin(v), torch.cos(v)], dim=-1)


ACTIVATIONS = ["sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "softplus", "silu", "gelu", "mish", "hardshrink"]
NORMS = ["spatial_batch_norm", "layer_norm", "rms_norm", "group_norm"]
OTHERS = ["affine", "convolution", "convolution_1d", "max_pool", "average_pool", "softmax_cross_entropy", "periodic"]


@pytest.mark.parametrize("name", ACTIVATIONS + NORMS + OTHERS)
def test_forward(name, float64):
    for seed in range(3):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        arguments, options = example(name, rng)
        out = np.asarray(find_layer(name).forward(*arguments, **options)[0])
        out = np.moveaxis(out, -1, 0) if out.ndim else out
        np.testing.assert_allclose(out, theirs(name, arguments, options).numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal, float64):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(heads, 4, 5, 2))) for heads in (4, 2, 2))
    out, _ = find_layer("attention").forward(q, k, v, causal=causal)
    rows = [t(np.transpose(a, (3, 0, 2, 1))) for a in (q, k, v)]
    right = F.scaled_dot_product_attention(*rows, is_causal=causal, enable_gqa=True).numpy()
    np.testing.assert_allclose(np.transpose(out, (3, 0, 2, 1)), right, rtol=1e-10)


def test_gru(float64):
    rng = np.random.default_rng(0)
    x, h, *weights = (jnp.asarray(rng.normal(size=s)) for s in [(3, 4, 2), (5, 2), (15, 3), (15, 5), (15,), (15,)])
    gru = torch.nn.GRU(3, 5, batch_first=True).double()
    for parameter, weight in zip(gru.parameters(), weights, strict=True):
        parameter.data = t(weight)
    right = gru(t(turn_back(x, (2, 1, 0))), t(h.T[None]))[0].detach().numpy()
    out, _ = find_layer("gru").forward(x, h, *weights)
    np.testing.assert_allclose(np.transpose(out, (2, 1, 0)), right, rtol=1e-10)


def test_gradients_of_periodic(float64):
    rng = np.random.default_rng(0)
    x, c, dout = rng.normal(size=(3, 6)), rng.normal(size=(3, 4)), rng.normal(size=(3, 8, 6))
    samples, frequency = batch_first(x).requires_grad_(), t(c).requires_grad_()
    periodic(samples, frequency).backward(batch_first(dout))
    layer = find_layer("periodic")
    dx, dc = layer.backward(jnp.asarray(dout), layer.forward(jnp.asarray(x), jnp.asarray(c))[1])
    np.testing.assert_allclose(dx.T, samples.grad.numpy(), rtol=1e-10)
    np.testing.assert_allclose(dc, frequency.grad.numpy(), rtol=1e-10)
