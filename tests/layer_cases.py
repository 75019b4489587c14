"""A case of each layer in which every mistake of its table can be made and shows, in both layouts."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from layer_mutants import MUTANTS
from reference import QUICKLY

from jaxbackprop.layers import ELEMENTWISE, FILES, Derived, find_layer
from jaxbackprop.layers.contract import turn, turn_back
from jaxbackprop.oracle import float64


def roomy(name):
    """Arguments and options of a case."""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.normal(size=shape)

    def inference(channels):
        return {"eps": 1e-2, "training": False, "running_mean": normal(channels), "running_var": normal(channels) ** 2}

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
        "batch_norm at inference": lambda: ((normal(5, 5), normal(5), normal(5)), inference(5)),
        "batch_norm of other lengths": lambda: ((normal(5, 7), normal(5), normal(5)), {"eps": 1e-2}),
        "spatial_batch_norm": lambda: ((normal(3, 2, 4, 5), normal(3), normal(3)), {"eps": 1e-2}),
        "spatial_batch_norm at inference": lambda: ((normal(3, 2, 4, 5), normal(3), normal(3)), inference(3)),
        "layer_norm": lambda: ((normal(5, 5), normal(5), normal(5)), {"eps": 1e-2}),
        "layer_norm of other lengths": lambda: ((normal(5, 7), normal(5), normal(5)), {"eps": 1e-2}),
        "layer_norm over two axes": lambda: (
            (normal(3, 4, 5), normal(3, 4), normal(3, 4)),
            {"eps": 1e-2, "axes": (0, 1)},
        ),
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
        "average_pool without padding": lambda: (
            (normal(3, 7, 9, 4),),
            {"size": 3, "stride": 2, "pad": 1, "count_padding": False},
        ),
        "rnn_step": lambda: ((normal(3, 5), normal(4, 5), normal(4, 3), normal(4, 4) / 2, normal(4)), {}),
        "rnn": lambda: ((normal(3, 4, 5), normal(4, 5), normal(4, 3) / 2, normal(4, 4) / 2, normal(4)), {}),
        "lstm": lambda: ((normal(3, 4, 5), normal(4, 5), normal(16, 3), normal(16, 4), normal(16)), {}),
        "gru": lambda: ((normal(3, 4, 5), normal(4, 5), normal(12, 3), normal(12, 4), normal(12), normal(12)), {}),
        "attention": lambda: (
            (normal(12, 5, 3), normal(6, 5, 3), normal(4, 5, 3)),
            {"heads": 4, "key_heads": 2, "causal": True},
        ),
        "positional_embedding": lambda: ((normal(3, 4, 5), normal(3, 6)), {}),
        "periodic": lambda: ((normal(3, 5), normal(3, 4)), {}),
        "residual": lambda: ((normal(3, 5), normal(3, 5)), {}),
    }[name]()


# Mistakes that a layer's usual case has no room for, in a case of their own: of another mode, of another rank, or of
# axes that must not have the same length, as they must for another mistake.
OTHER_MODES = {
    "batch_norm at inference": "as_in_training",
    "batch_norm of other lengths": "count_of_other_axes",
    "spatial_batch_norm at inference": "as_in_training",
    "layer_norm of other lengths": "count_of_other_axes",
    "layer_norm over two axes": "count_of_one_axis",
    "average_pool without padding": "divisor_counts_all",
}

# Rows of the normalisations' common table that one of them cannot make: its means run over one axis, or no two axes
# of its x can be taken for one another.
IMPOSSIBLE = {
    "batch_norm": {"count_of_one_axis"},
    "spatial_batch_norm": {"gamma_on_wrong_axis"},
    "group_norm": {"gamma_on_wrong_axis"},
}

CASES = (*FILES, *OTHER_MODES)


def layer_of(case):
    return case.split()[0]


def codes_of(case):
    """The mistakes that a case is for."""
    if case in OTHER_MODES:
        return [OTHER_MODES[case]]
    elsewhere = {code for other, code in OTHER_MODES.items() if layer_of(other) == case}
    codes = [mistake.code for mistake in find_layer(case).mistakes]
    return [code for code in codes if code not in elsewhere | IMPOSSIBLE.get(case, set())]


CODES = [(case, code) for case in CASES for code in codes_of(case)]


class Case(NamedTuple):
    """A layer with arguments, dL/dout, the right gradients and those of each mistake, by the package's tables."""

    layer: Derived
    arguments: tuple
    options: dict[str, Any]
    dout: Any
    right: tuple
    predictions: dict[str, tuple]


@functools.cache
def case_of(name):
    """All of one program."""
    with float64():
        layer = find_layer(layer_of(name))
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
        if code in codes_of(name)
    }
    return Case(layer, arguments, options, dout, right, predictions)


def in_courses_layout(case):
    """dout, the arguments and the options of a case as courses have them, samples first and weights [in, out]."""
    turned = [
        np.array(turn_back(np.asarray(a), axes))
        for a, axes in zip(case.arguments, case.layer.samples_first, strict=True)
    ]
    given = {key: np.asarray(value).T if isinstance(value, jax.Array) else value for key, value in case.options.items()}
    dout = turn_back(case.dout, case.layer.out_samples_first) if case.dout.ndim else float(case.dout)
    return dout, turned, given


def in_courses_words(name):
    """The options of a case as the further arguments of a course's forward pass."""
    _, arguments, options = in_courses_layout(case_of(name))
    if "target" in options or "index" in options:
        return list(options.values())
    if "dropout" in name:
        return [{"p": 1 - options["rate"], "mask": options["mask"]}]
    if "groups" in options:
        return [options["groups"], {"eps": options["eps"]}]
    if "axes" in options:
        return [arguments[0].shape[1:], {"eps": options["eps"]}]
    if "rms_norm" in name:
        return [options["eps"]]
    if "training" in options:
        return [{"mode": "test", **{key: value for key, value in options.items() if key != "training"}}]
    if "size" in options:
        size, names = options.pop("size"), {"count_padding": "count_include_pad"}
        renamed = {names.get(key, key): value for key, value in options.items()}
        return [{"pool_height": size, "pool_width": size, **renamed}]
    return [options] if options else []


def mutant_of(name, code):
    """What the mutant of a case gives with a mistake, or None for none: as it gives it."""
    dout, arguments, options = in_courses_layout(case_of(name))
    options.pop("causal", None)  # the mutant is
    return MUTANTS[layer_of(name)](dout, *arguments, **options, mistake=code)


def in_our_layout(name, gradients):
    return [turn(np.asarray(g), axes) for g, axes in zip(gradients, case_of(name).layer.samples_first, strict=True)]
