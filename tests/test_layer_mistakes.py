"""Every mistake of a layer's table is held by a mutant, is told from the others, and blames nothing that is right."""

import functools

import jax
import jax.numpy as jnp
import layer_mutants
import numpy as np
import pytest
from reference import QUICKLY

from jaxbackprop.layers import ELEMENTWISE, FILES, find_layer
from jaxbackprop.layers.contract import turn, turn_back
from jaxbackprop.oracle import float64

CLOSE = 1e-3  # of the discrepancy, and of the gradient


def roomy(name):
    """A case in which every mistake of the table can be made and shows."""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.normal(size=shape)

    if name in ELEMENTWISE:
        return (normal(4, 7),), {}
    return {
        "affine": lambda: ((normal(4, 5), normal(4, 4), normal(4)), {}),
        "softmax": lambda: ((normal(4, 5),), {}),
        "softmax_cross_entropy": lambda: ((normal(4, 5),), {"target": rng.uniform(size=(4, 5))}),
        "hinge": lambda: ((normal(5, 7),), {"target": rng.integers(0, 5, 7)}),
        "squared_error": lambda: ((normal(3, 5),), {"target": normal(3, 5)}),
        "dropout": lambda: ((normal(4, 6),), {"rate": 0.3, "mask": rng.uniform(size=(4, 6)) > 0.3}),
        "embedding": lambda: ((normal(3, 5),), {"index": rng.integers(0, 5, (3, 4))}),
        "batch_norm": lambda: ((normal(5, 5), normal(5), normal(5)), {"eps": 1e-2}),
        "spatial_batch_norm": lambda: ((normal(3, 2, 4, 5), normal(3), normal(3)), {"eps": 1e-2}),
        "layer_norm": lambda: ((normal(5, 5), normal(5), normal(5)), {"eps": 1e-2}),
        "rms_norm": lambda: ((normal(4, 6), normal(4)), {"eps": 1e-2}),
        "group_norm": lambda: ((normal(6, 2, 4, 5), normal(6), normal(6)), {"groups": 3, "eps": 1e-2}),
        "convolution": lambda: (
            (normal(3, 9, 8, 4), normal(3, 3, 3, 3), normal(3)),
            {"stride": 2, "pad": 1, "dilation": 2},
        ),
        "convolution_1d": lambda: (
            (normal(3, 13, 4), normal(3, 3, 3), normal(3)),
            {"stride": 2, "pad": 1, "dilation": 2},
        ),
        "max_pool": lambda: ((np.round(normal(3, 7, 9, 4)),), {"size": 3, "stride": 2, "pad": 1}),
        "average_pool": lambda: ((normal(3, 7, 9, 4),), {"size": 3, "stride": 2, "pad": 1}),
        "rnn_step": lambda: ((normal(3, 5), normal(4, 5), normal(4, 3), normal(4, 4) / 2, normal(4)), {}),
        "rnn": lambda: ((normal(3, 4, 5), normal(4, 5), normal(4, 3) / 2, normal(4, 4) / 2, normal(4)), {}),
        "lstm": lambda: ((normal(3, 4, 5), normal(4, 5), normal(16, 3), normal(16, 4), normal(16)), {}),
        "gru": lambda: ((normal(3, 4, 5), normal(4, 5), normal(12, 3), normal(12, 4), normal(12), normal(12)), {}),
        "attention": lambda: (
            (normal(12, 5, 3), normal(6, 5, 3), normal(4, 5, 3)),
            {"heads": 4, "key_heads": 2, "causal": True},
        ),
        "positional_embedding": lambda: ((normal(3, 4, 5), normal(3, 6)), {}),
        "residual": lambda: ((normal(3, 5), normal(3, 5)), {}),
    }[name]()


@functools.cache
def case_of(name):
    """The roomy case, its right gradients and each mistake's, all of one program."""
    with float64():
        layer = find_layer(name)
        arguments, options = roomy(name)
        arrays = {key: jnp.asarray(value) for key, value in options.items() if isinstance(value, np.ndarray)}
        options = {**options, **arrays}
        shape = jax.eval_shape(lambda *a: layer.forward(*a, **options)[0], *arguments).shape
        dout = np.random.default_rng(2).normal(size=shape) if shape else np.asarray(0.7)

        @functools.partial(jax.jit, compiler_options=QUICKLY)
        def every_gradient(arguments, dout):
            cache = layer.forward(*arguments, **options)[1]
            predictions = {mistake.code: mistake.predict(dout, cache) for mistake in layer.mistakes}
            return layer.backward(dout, cache), {
                code: p for code, p in predictions.items() if any(q is not None for q in p)
            }

        right, predictions = jax.tree.map(np.asarray, every_gradient(arguments, dout))
    predictions = {
        code: tuple(r if p is None else p for p, r in zip(prediction, right, strict=True))
        for code, prediction in predictions.items()
    }
    return layer, arguments, options, dout, right, predictions


def distance(some, others):
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(some, others, strict=True))


def explained_by(got, right, predictions):
    """The codes by the simplest rule: what is left is small beside the discrepancy and the gradient; nearest first."""
    wrong, size = distance(got, right), max(float(np.max(np.abs(r))) for r in right)
    left = {code: distance(got, prediction) for code, prediction in predictions.items()}
    return [code for code in sorted(left, key=left.get) if left[code] < CLOSE * min(wrong, size)]


# What cannot be made in the roomy case: another mode, or a rank that has no second axis.
ELSEWHERE = {
    "batch_norm": {"as_in_training", "count_of_one_axis", "count_of_other_axes"},
    "layer_norm": {"count_of_one_axis", "count_of_other_axes"},
    "spatial_batch_norm": {"as_in_training", "gamma_on_wrong_axis"},
    "group_norm": {"gamma_on_wrong_axis"},
    "convolution_1d": set(),
    "average_pool": {"divisor_counts_all"},  # no window sticks out past the padding
}


@pytest.mark.parametrize("name", FILES)
def test_every_mistake_is_told_from_what_is_right_and_from_the_others(name):
    *_, right, predictions = case_of(name)
    assert {m.code for m in find_layer(name).mistakes} - ELSEWHERE.get(name, set()) <= set(predictions)
    for code, got in predictions.items():
        if code in ELSEWHERE.get(name, ()):
            continue
        assert distance(got, right) > 1e-6, code
        assert explained_by(got, right, predictions) == [code]
    rounded = [np.asarray(r) * (1 + 1e-12) for r in right]
    assert explained_by(rounded, right, predictions) == []


def in_courses_layout(layer, arguments, options, dout):
    turned = [
        np.asarray(turn_back(np.asarray(a), axes)) for a, axes in zip(arguments, layer.samples_first, strict=True)
    ]
    given = {key: np.asarray(v).T if key in ("target", "index", "mask") else v for key, v in options.items()}
    given.pop("causal", None)
    dout = np.asarray(dout)
    return turned, given, turn_back(dout, layer.out_samples_first) if dout.ndim else float(dout)


MUTANTS = [name for name in FILES if hasattr(layer_mutants, name)]
CODES = [(name, m.code) for name in MUTANTS for m in find_layer(name).mistakes if m.code not in ELSEWHERE.get(name, ())]


def mutant_of(name, code):
    layer, arguments, options, dout, right, predictions = case_of(name)
    turned, given, error = in_courses_layout(layer, arguments, options, dout)
    got = getattr(layer_mutants, name)(error, *turned, **given, mistake=code)
    return [turn(np.asarray(g), axes) for g, axes in zip(got, layer.samples_first, strict=True)], right, predictions


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutants_without_a_mistake_are_right(name):
    got, right, predictions = mutant_of(name, None)
    assert distance(got, right) < 1e-10
    assert explained_by(got, right, predictions) == []


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_mutant_gets_its_own_diagnosis(name, code):
    got, right, predictions = mutant_of(name, code)
    assert distance(got, predictions[code]) < 1e-8 * max(1, distance(got, right))
    assert explained_by(got, right, predictions) == [code]


def test_there_are_six_a_layer_and_far_more_than_120():
    assert all(len(find_layer(name).mistakes) >= 6 for name in FILES)
    assert sum(len(find_layer(name).mistakes) for name in FILES) > 250
    assert len(CODES) > 120
