"""Every layer's backward pass against autodiff of the same forward pass, and against finite differences."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_mutants_spatial import convolution
from reference import QUICKLY

from jaxbackprop import oracle
from jaxbackprop.layers import FILES, find_layer
from jaxbackprop.layers.examples import example
from jaxbackprop.oracle import finite_difference_gradient, float64, relative_error


def case_of(name, seed, dtype):
    return case_with(name, np.random.default_rng([seed, zlib.crc32(name.encode())]), dtype)


def case_with(name, rng, dtype):
    arguments, options = example(name, rng, dtype)
    shape = jax.eval_shape(lambda *a: find_layer(name).forward(*a, **options)[0], *arguments).shape
    return arguments, options, jnp.asarray(rng.normal(size=shape), dtype)


def both_gradients(name, arguments, options, dout):
    """By hand, and by autodiff of the same forward pass."""
    layer = find_layer(name)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def both(arguments, dout):
        _, cache = layer.forward(*arguments, **options)
        _, pull = jax.vjp(lambda *a: layer.forward(*a, **options)[0], *arguments)
        return layer.backward(dout, cache), pull(dout)

    return jax.tree.map(np.asarray, both(arguments, dout))


@functools.cache
def first_case(name):
    """One case in double precision with its gradient by hand, and by autodiff; what is compiled for it serves all."""
    with float64():
        arguments, options, dout = case_of(name, 0, "float64")
        if name == "max_pool":  # finite differences mean nothing where entries tie
            arguments = (arguments[0] + np.random.default_rng(5).normal(size=arguments[0].shape),)
        return arguments, options, dout, *both_gradients(name, arguments, options, dout)


def worst_error(gradients, right):
    """Relative to the largest entry of each; one that is zero but for rounding is measured by the others."""
    scale = max(np.max(np.abs(g)) for g in right)
    tiny = np.finfo(right[0].dtype).tiny
    errors = [
        np.max(np.abs(got - expected)) / max(np.max(np.abs(expected)), 1e-3 * scale, tiny)
        for got, expected in zip(gradients, right, strict=True)
    ]
    return float(np.max(errors))  # NaN if one is


def check_against_autodiff(arguments, options, by_hand, right, tolerance):
    for argument, got in zip(arguments, by_hand, strict=True):
        assert (got.shape, got.dtype) == (argument.shape, argument.dtype)
    error = worst_error(by_hand, right)
    assert error <= tolerance, (error, [a.shape for a in arguments], options)


@pytest.mark.parametrize("name", FILES)
def test_float64_against_autodiff(name):
    arguments, options, _, by_hand, right = first_case(name)
    check_against_autodiff(arguments, options, by_hand, right, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_float32_against_autodiff(name):
    arguments, options, dout = case_of(name, 3, "float32")
    check_against_autodiff(arguments, options, *both_gradients(name, arguments, options, dout), 1e-5)


class Drawn(np.random.Generator):
    """A generator whose integers, that is all shapes, strides, labels and choices, are hypothesis's, which can make
    them as small as possible."""

    def __init__(self, draw, seed):
        super().__init__(np.random.PCG64(seed))
        self.draw = draw

    def integers(self, low, high=None, size=None):
        within = st.integers(0, low - 1) if high is None else st.integers(low, high - 1)
        if size is None:
            return self.draw(within)
        return np.reshape([self.draw(within) for _ in range(np.prod(size))], size)


def ends_xla(arguments, options):
    """Whether XLA's simplifier ends the process over autodiff of that convolution; ours pads such ones otherwise."""
    kernel, rows = arguments[1].shape[2:], (options[key] for key in ("stride", "pad", "dilation"))
    return (2, 2, 1, 1) in zip(kernel, *rows, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float64", "float32"]))
def test_many_shapes_against_autodiff(name, data, seed, dtype):
    with oracle.float64():
        arguments, options, dout = case_with(name, Drawn(data.draw, seed), dtype)
        assume(not (name.startswith("convolution") and ends_xla(arguments, options)))
        by_hand, right = both_gradients(name, arguments, options, dout)
        tolerance = {"float64": 1e-12, "float32": 1e-5}[dtype]
        if dtype == "float32" and worst_error(by_hand, right) > tolerance:
            # Where terms cancel, autodiff keeps fewer digits, too, and nothing could keep more than a change of the
            # arguments in their last place leaves: in double precision both tell how many.
            wider = [np.asarray(a, "float64") for a in arguments]
            rng = np.random.default_rng(seed)
            moved = [a * (1 + np.finfo("float32").eps * rng.choice([-1, 1], a.shape)) for a in wider]
            (_, exact), (_, beside) = (
                both_gradients(name, list(map(jnp.asarray, point)), options, dout.astype("float64"))
                for point in (wider, moved)
            )
            tolerance = max(tolerance, 4 * worst_error(right, exact), 4 * worst_error(beside, exact))
        check_against_autodiff(arguments, options, by_hand, right, tolerance)


@pytest.mark.parametrize("name", FILES)
def test_against_finite_differences(name, float64):
    arguments, options, dout, by_hand, _ = first_case(name)
    forward = find_layer(name).forward
    right = finite_difference_gradient(lambda a: jnp.sum(dout * forward(*a, **options)[0]), arguments)
    scale = max(np.max(np.abs(g)) for g in right)
    for got, expected in zip(by_hand, right, strict=True):
        assert np.max(np.abs(got - expected)) <= 1e-7 * max(scale, 1e-2)


def test_attention_has_several_keys_to_choose_from(float64):
    """A single one gets all attention, whatever the query: dL/dq and dL/dk are 0, and to check them proves nothing."""
    for seed in range(20):
        query, key, _ = example("attention", np.random.default_rng(seed)).arguments
        assert min(query.shape[1], key.shape[1]) > 1
    by_hand, _ = both_gradients("attention", *case_with("attention", np.random.default_rng(0), "float64"))
    assert all(np.max(np.abs(gradient)) > 0.01 for gradient in by_hand)


@pytest.mark.parametrize("name", FILES)
def test_a_cache_may_leave_a_compiled_function_and_be_mapped(name, float64):
    layer = find_layer(name)
    arguments, options, dout, by_hand, _ = first_case(name)
    (two, douts) = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (arguments, dout))
    _, caches = jax.jit(jax.vmap(lambda a: layer.forward(*a, **options)), compiler_options=QUICKLY)(two)
    mapped = jax.jit(jax.vmap(layer.backward), compiler_options=QUICKLY)(douts, caches)
    for one, many in zip(by_hand, mapped, strict=True):
        np.testing.assert_allclose(np.asarray(many)[1], one, rtol=1e-11, atol=1e-12)


def test_a_convolution_that_autodiff_does_not_survive(float64):
    layer, rng = find_layer("convolution"), np.random.default_rng(0)
    arguments = [rng.normal(size=shape) for shape in [(2, 6, 4, 3), (2, 2, 2, 3), (2,)]]
    assert ends_xla(arguments, {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1)})
    dout = rng.normal(size=(2, 4, 2, 3))

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def by_hand(arguments, dout):
        return layer.backward(dout, layer.forward(*arguments, stride=2, pad=1)[1])

    first = (3, 0, 1, 2)
    right = convolution(
        dout.transpose(first), arguments[0].transpose(first), *arguments[1:], stride=2, pad=1, dilation=1
    )
    dx, *rest = by_hand(arguments, dout)
    for got, expected in zip((np.transpose(dx, first), *rest), right, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("truncate", [1, 2])
def test_truncated_is_autodiff_with_the_state_held_constant(name, truncate, float64):
    layer = find_layer(name)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[name]
    rng = np.random.default_rng(0)
    shapes = [(2, 1, 3), (4, 3), (4 * gates, 2), (4 * gates, 4), *[(4 * gates,)] * (2 if name == "gru" else 1)]
    arguments = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    arguments[0] = jnp.asarray(rng.normal(size=(2, 5, 3)))
    dout = jnp.asarray(rng.normal(size=(4, 5, 3)))
    _, cache = layer.forward(*arguments, truncate=truncate)
    by_hand = layer.backward(dout, cache)
    if name == "lstm":  # its cell is carried, too, and starts at 0: only the first stretch can be run alone
        alone = layer.forward(arguments[0][:, :truncate], *arguments[1:])[1]
        np.testing.assert_allclose(by_hand[1], layer.backward(dout[:, :truncate], alone)[1], rtol=1e-12)
        return

    def in_stretches(x, state, *rest):
        outs = []
        for start in range(0, x.shape[1], truncate):
            outs.append(layer.forward(x[:, start : start + truncate], state, *rest)[0])
            state = jax.lax.stop_gradient(outs[-1][:, -1])
        return jnp.concatenate(outs, axis=1)

    for got, right in zip(by_hand, jax.vjp(in_stretches, *arguments)[1](dout), strict=True):
        assert relative_error(got, right) <= 1e-12


def test_both_forms_of_the_normalisation_agree(float64):
    layer = find_layer("batch_norm")
    arguments, _, dout = case_of("spatial_batch_norm", 1, "float64")
    _, cache = layer.forward(*arguments)
    for short, long in zip(layer.backward(dout, cache), layer.backward(dout, cache, short=False), strict=True):
        np.testing.assert_allclose(short, long, rtol=1e-11, atol=1e-12)


def test_dropout_draws_its_mask_from_the_key():
    dropout = find_layer("dropout")
    x = jnp.ones((50, 40))
    out, cache = dropout.forward(x, key=jax.random.key(1), rate=0.25)
    assert abs(float(out.mean()) - 1) < 0.05
    np.testing.assert_array_equal(dropout.backward(x, cache)[0], out)
    with pytest.raises(ValueError, match="key"):
        dropout.forward(x)
