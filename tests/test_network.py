"""Part 1c: parameters, the forward pass, the loss, and the refusal of what does not fit."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st

from jaxbackprop import ACTIVATIONS, Layer, init_params, network
from jaxbackprop.losses import OBJECTIVES

SCHEMES = {  # the distribution of a weight, from the papers
    "course": lambda fan_in, fan_out: scipy.stats.norm(0, 1 / np.sqrt(fan_in)),
    "glorot": lambda fan_in, fan_out: uniform(np.sqrt(6 / (fan_in + fan_out))),
    "he": lambda fan_in, fan_out: scipy.stats.norm(0, np.sqrt(2 / fan_in)),
    "lecun": lambda fan_in, fan_out: uniform(np.sqrt(3 / fan_in)),
}


def uniform(bound):
    return scipy.stats.uniform(-bound, 2 * bound)


def sizes_of(depth):
    return *(2, 3, 4, 5, 4)[:depth], 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_have_the_distribution_of_their_scheme(scheme):
    fan_in, fan_out = 100, 150
    expected = SCHEMES[scheme](fan_in, fan_out)
    (first, _), (second, _) = init_params(jax.random.key(1), (fan_in, fan_out, 7), scheme=scheme)
    draws = np.asarray(first).ravel()
    assert abs(draws.mean()) < 4 * expected.std() / np.sqrt(draws.size)
    assert draws.var() == pytest.approx(expected.var(), rel=4 * np.sqrt(2 / draws.size))
    assert scipy.stats.kstest(draws, expected.cdf).pvalue > 1e-3
    assert second.std() == pytest.approx(SCHEMES[scheme](fan_out, 7).std(), rel=0.1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_two_weights_are_the_same_draw(scheme):
    params = init_params(jax.random.key(0), (6, 6, 6, 6), scheme=scheme)
    others = init_params(jax.random.key(1), (6, 6, 6, 6), scheme=scheme)
    draws = np.concatenate([layer.weight.ravel() for layer in (*params, *others)])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parameters_chain_and_biases_are_zero(scheme):
    sizes = (2, 5, 1, 3)
    params = init_params(jax.random.key(0), sizes, scheme=scheme)
    chex.assert_trees_all_equal_structs(params, tuple(Layer(0, 0) for _ in sizes[1:]))
    for layer, (fan_in, fan_out) in zip(params, pairwise(sizes), strict=True):
        chex.assert_shape(layer.weight, (fan_out, fan_in))
        chex.assert_trees_all_equal(layer.bias, jnp.zeros(fan_out))
        assert layer.weight.dtype == layer.bias.dtype == jnp.float32
    chex.assert_trees_all_equal(params, init_params(jax.random.key(0), sizes, scheme=scheme))


def test_parameters_take_the_type_asked_for(float64):
    assert init_params(jax.random.key(0), (2, 2))[0].weight.dtype == jnp.float64
    assert init_params(jax.random.key(0), (2, 2), dtype=jnp.float32)[0].bias.dtype == jnp.float32


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_smaller_draw_is_the_corner_of_a_larger_one(scheme):
    """But for the scale, so that a network padded with units starts as the network itself."""
    small, large = (init_params(jax.random.key(3), sizes, scheme=scheme) for sizes in ((2, 3, 5, 2), (4, 8, 9, 2)))
    for l, (few, many) in enumerate(zip(small, large, strict=True)):
        rows, columns = few.weight.shape
        spread = [SCHEMES[scheme](*layer.weight.shape[::-1]).std() for layer in (few, many)]
        corner = many.weight[:rows, :columns] / spread[1]
        np.testing.assert_allclose(few.weight / spread[0], corner, rtol=1e-6, err_msg=f"layer {l + 1}")


def test_parameters_can_be_drawn_in_one_vmapped_program():
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    stacked = jax.jit(jax.vmap(lambda key: init_params(key, (2, 3, 2), scheme="glorot")))(keys)
    for i in range(3):
        single = init_params(jax.random.key(i), (2, 3, 2), scheme="glorot")
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), single, rtol=1e-6)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("sizes", "scheme", "message"),
    [
        ((2,), "he", r"sizes=\(2,\) must list at least two widths: features, hidden units …, outputs"),
        (2, "he", "sizes=2 must list at least two widths"),
        ("23", "he", "sizes='23' must list at least two widths"),
        ((2, 0, 2), "he", r"sizes\[1\]=0 must be an integer of at least 1"),
        ((2, -3, 2), "he", r"sizes\[1\]=-3 must be an integer of at least 1"),
        ((2, 3.0, 2), "he", r"sizes\[1\]=3.0 must be an integer of at least 1"),
        ((2, True), "he", r"sizes\[1\]=True must be an integer of at least 1"),
        ((2, 2), "Glorot", r"scheme='Glorot' is unknown; did you mean 'glorot'\? \(known: course, glorot, he, lecun\)"),
    ],
)
def test_sizes_and_schemes_that_are_refused(sizes, scheme, message):
    with pytest.raises(ValueError, match=message):
        init_params(jax.random.key(0), sizes, scheme=scheme)


@pytest.mark.usefixtures("float64")
class Forward(chex.TestCase):
    """Equations (1) to (5) for a network of any depth, against NumPy; with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(depth=(1, 3, 5), objective=tuple(OBJECTIVES))
    def test_forward_pass_and_loss(self, depth, objective):
        activation = "tanh"
        params, x, y, weights = reference.draw_problem(depth, sizes_of(depth), 6, objective=objective)

        @self.variant
        def run(params, x, y, weights):
            settings = {"activation": activation, "objective": objective}
            plain = network.loss(params, x, y, **settings)
            return (
                network.forward(params, x, **settings),
                plain,
                network.loss(params, x, y, weights=weights, **settings),
            )

        (zs, activations), plain, weighted = run(params, x, y, weights)
        chex.assert_equal(len(zs), depth)
        chex.assert_equal(len(activations), depth)
        predict, _ = reference.OBJECTIVES[objective]
        for n in range(6):
            right_zs, inputs = reference.forward(params, x[:, n], activation)
            right_as = [*inputs[1:], predict(right_zs[-1])]
            for got, right in zip((*zs, *activations), (*right_zs, *right_as), strict=True):
                np.testing.assert_allclose(got[:, n], right, rtol=1e-12, atol=1e-14)
        right, _ = reference.loss_and_grad(params, x, y, activation, objective=objective)
        np.testing.assert_allclose(plain, right, rtol=1e-12)
        right, _ = reference.loss_and_grad(params, x, y, activation, objective=objective, weights=weights)
        np.testing.assert_allclose(weighted, right, rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_follows_every_layer_but_the_last(activation, float64):
    params, x, _, _ = reference.draw_problem(0, (2, 3, 4, 3), 1)
    zs, activations = network.forward(params, x, activation=activation)
    right, inputs = reference.forward(params, x[:, 0], activation)
    chex.assert_trees_all_close([z[:, 0] for z in zs], right, rtol=1e-12, atol=1e-14)
    chex.assert_trees_all_close([a[:, 0] for a in activations[:-1]], inputs[1:], rtol=1e-12, atol=1e-14)


@given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_a_sample_is_predicted_alike_in_every_batch(float64, seed, order):
    params, x, y, weights = reference.draw_problem(seed, (2, 3, 3), 6)
    order = np.asarray(order)
    whole = network.forward(params, x, activation="tanh").activations[-1]
    moved = network.forward(params, x[:, order], activation="tanh").activations[-1]
    chex.assert_trees_all_close(moved, whole[:, order], rtol=1e-13)
    losses = [
        network.loss(params, x[:, o], y[:, o], weights=weights[o], activation="tanh") for o in (np.arange(6), order)
    ]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-13)


@given(l2=st.floats(0, 10), seed=st.integers(0, 1000))
def test_l2_adds_the_squares_of_weights_and_not_of_biases(float64, l2, seed):
    params, x, y, weights = reference.draw_problem(seed, (2, 3, 3), 6)
    without, with_l2 = (network.loss(params, x, y, activation="tanh", l2=value, weights=weights) for value in (0.0, l2))
    squares = sum(np.sum(np.square(layer.weight)) for layer in params)
    assert float(with_l2 - without) == pytest.approx(l2 / 2 * squares, rel=1e-12, abs=1e-14)


def test_float32_stays_float32_where_float64_is_enabled(float64):
    params, x, y, weights = reference.draw_problem(0, (2, 3, 3), 6, dtype=np.float32)
    outputs = network.forward(params, x, activation="gelu"), network.loss(params, x, y, activation="selu", l2=0.1)
    chex.assert_trees_all_equal_dtypes(*jax.tree.leaves(outputs), weights)


def spoil(**changes):
    """A network that fits its batch, but for the changes."""
    problem = {
        "params": init_params(jax.random.key(0), (2, 3, 4)),
        "x": jnp.ones((2, 5)),
        "y": jnp.ones((4, 5)),
        "weights": None,
        "activation": "tanh",
        "objective": "softmax",
    }
    return problem | changes


FIRST, SECOND = spoil()["params"]
MISFITS = {
    "no layer": ({"params": ()}, r"params=\(\) has no layer; init_params\(key, sizes\) makes them"),
    "x is a vector": ({"x": jnp.ones(2)}, r"x must be \[features, samples\], got shape \(2,\)"),
    "x is empty": ({"x": jnp.ones((2, 0))}, r"x has no samples: its shape \[features, samples\] is \(2, 0\)"),
    "x is samples first": ({"x": jnp.ones((5, 2))}, r"W\^1 must be \[out, 5\].*was x handed over as \(samples, feat"),
    "x has more features": ({"x": jnp.ones((3, 5))}, r"W\^1 must be \[out, 3\] to follow x, .* got shape \(3, 2\)"),
    "layers do not chain": (
        {"params": (FIRST, SECOND._replace(weight=jnp.ones((4, 2))))},
        r"W\^2 must be \[out, 3\] to follow W\^1, which is \(3, 2\), got shape \(4, 2\)",
    ),
    "bias too long": (
        {"params": (FIRST._replace(bias=jnp.ones(4)), SECOND)},
        r"b\^1 must have shape \(3,\), one a row of W\^1, got \(4,\)",
    ),
    "y has fewer classes": ({"y": jnp.ones((3, 5))}, r"y must be \[classes, samples\] = \(4, 5\), got shape \(3, 5\)"),
    "y has fewer samples": ({"y": jnp.ones((4, 4))}, r"y must be \[classes, samples\] = \(4, 5\), got shape \(4, 4\)"),
    "y is a vector": ({"y": jnp.ones(5)}, r"y must be \[classes, samples\] = \(4, 5\), got shape \(5,\)"),
    "weights too few": ({"weights": jnp.ones(4)}, r"weights must have shape \(5,\), one a sample, got \(4,\)"),
    "unknown activation": ({"activation": "sigmiod"}, "activation='sigmiod' is unknown; did you mean 'sigmoid'"),
    "unknown objective": ({"objective": "square"}, "objective='square' is unknown; did you mean 'squared'"),
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_refused_before_anything_is_computed(case):
    """Shapes and names are enough to tell, as under `jax.eval_shape` and inside `jax.jit`."""
    changes, message = MISFITS[case]
    arguments = spoil(**changes)
    names = {key: arguments.pop(key) for key in ("activation", "objective")}
    for run in (network.loss, jax.jit(network.loss, static_argnames=tuple(names))):
        with pytest.raises(ValueError, match=message):
            run(**arguments, **names)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda arrays: network.loss(**arrays, **names), arguments)


def test_what_fits_is_not_refused():
    assert np.isfinite(network.loss(**spoil()))
    assert np.isfinite(network.loss(**spoil(weights=jnp.ones(5))))
