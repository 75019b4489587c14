"""Homework as pairs of functions: affine_forward(x, w, b) and affine_backward(dout, cache), as CS231n and others have;
tanh(z) and tanh_prime(z); mse(y_true, y_pred) and mse_prime(y_true, y_pred).
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import Unclear, entries, leaf_kind, plain, returned_names, role
from jaxbackprop.auditing.hand_in import HandIn, quiet
from jaxbackprop.auditing.layer_arrays import told_apart
from jaxbackprop.auditing.layer_form import (
    INPUTS,
    OUTPUTS,
    SHAPES,
    Layer,
    defined,
    one_hot_and_labels,
    required,
    samples_in,
    shapes_for,
    signed,
    tried,
)
from jaxbackprop.auditing.slots import Slot

FORWARD, BACKWARD = r"(\w*?)_?(?:forward|fprop)_?(\w*)", r"(\w*?)_?(?:backward|bprop|back)_?(\w*)"
SLOPE = r"(\w+?)_?(?:prime|derivative|deriv|der|grad|gradient)|(?:d|deriv|derivative|grad|gradient)_?(\w+)"
SETTINGS = {  # by what the dictionary's name holds; CS231n's words
    "conv": {"stride": 1, "pad": 1},
    "pool": {"pool_height": 2, "pool_width": 2, "stride": 2},
    "drop": {"mode": "train", "p": 0.5, "seed": 1},
    "": {"mode": "train"},
}
CHANNELS = 2
VALUES = {  # of W, b and what scales and shifts, beside x of each shape
    "samples in rows": ((INPUTS, OUTPUTS), (OUTPUTS,), (INPUTS,)),
    "samples in columns": ((OUTPUTS, INPUTS), (OUTPUTS, 1), (INPUTS, 1)),
    "images": ((OUTPUTS, CHANNELS, 3, 3), (OUTPUTS,), (CHANNELS,)),
}


class Pair(NamedTuple):
    """Two functions of a file, and the name of the layer. `backward` may be f' instead, or the gradient of a loss; of a
    loss that returns its value and its gradient there is none. `word` is the activation that they are told by name."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    is_loss: bool = False
    word: str = ""


def find_pairs(hand_in: HandIn) -> dict[str, Pair]:
    """The pairs of a file, by the name of the backward pass, and its losses with a gradient."""
    functions = defined(hand_in, FunctionType)
    forwards = {name: match.groups() for name in functions if (match := re.fullmatch(FORWARD, name))}
    found: dict[str, Pair] = {}
    for name, function in functions.items():
        arguments = len(required(function))
        if (match := re.fullmatch(BACKWARD, name)) and arguments > 1 and any(match.groups()):
            stem, suffix = match.groups()
            others = sorted((n for n, (s, _) in forwards.items() if s == stem), key=lambda n: forwards[n][1] != suffix)
            others += [n for n in (stem,) if n in functions]  # relu(Z) beside relu_backward(dA, cache)
            if others:
                forward = functions[others[0]]
                for word in words_in(forward):
                    found[f"{name} for {word!r}" if word else name] = Pair(stem or suffix, forward, function, word=word)
        elif (match := re.fullmatch(SLOPE, name)) and arguments in (1, 2):
            stem = match[1] or match[2]
            if stem in functions and len(required(functions[stem])) == arguments:
                found[name] = Pair(stem, functions[stem], function, is_loss=arguments == 2)
        elif re.fullmatch(r"\w+_loss", name) and arguments == 2:
            found[name] = Pair(name, function, None, is_loss=True)
    return found


def ways_to_call_pair(hand_in: HandIn, pair: Pair) -> list[Layer]:
    """The ways in which a pair can be called, the usual ones first.

    **Raises:** `Unclear` if there is none, with why.
    """
    shapes = shapes_for(pair.name, VALUES)
    make = called_loss if pair.is_loss else called_pair
    layers, reason = tried(partial(make, hand_in, pair, shape, word) for shape in shapes for word in words_of(pair))
    if not layers:
        raise Unclear(reason)
    return layers


def words_of(pair: Pair) -> list[str]:
    """What is tried one after the other: how a loss gets its targets, what f' is handed; else the activation's name."""
    if pair.is_loss:
        return ["labels", "one-hot"]
    if pair.backward is not None and len(required(pair.backward)) == 1:
        return ["z", "a"]
    return [pair.word]


def words_in(function: Callable[..., Any]) -> list[str]:
    """The activations that a function knows by name, where it is told one; else one empty word."""
    if not any("act" in plain(name) for name in required(function)):
        return [""]
    constants = {str(constant) for constant in function.__code__.co_consts}
    return [word for word in ("relu", "sigmoid", "tanh") if word in constants] or [""]


def called_pair(hand_in: HandIn, pair: Pair, shape: str, word: str) -> Layer:
    """A pair that is called so, once; `word` is one of `words_of`.

    **Raises:** what its code raises; `Unclear` if it cannot be told what is what.
    """
    rng = np.random.default_rng(0)
    names = required(pair.forward)
    values = {name: value_of(name, shape, rng, word) for name in names[1:]}
    x = rng.normal(size=SHAPES[shape])
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    slots = {name: Slot((name,), value) for name, value in arrays.items()}
    backward = pair.backward
    assert backward is not None

    def weights_of(given: Sequence[Any]) -> dict[str, Any]:
        """All that is handed over beside x, with the given arrays in their places."""
        return {n: copy.deepcopy(v) for n, v in values.items()} | dict(zip(audited, given, strict=True))

    def run(given: np.ndarray, weights: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        with quiet(hand_in.printed):
            np.random.seed(0)  # noqa: NPY002  (`quiet` puts NumPy's own numbers back)
            result = pair.forward(*copy.deepcopy((given, *weights.values())))  # it may write into them
        out, cache = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if np.asarray(out).dtype.kind not in "fiu" or not np.ndim(out):
            raise Unclear(f"{pair.forward.__name__} returns neither an output nor (output, cache)")
        return np.array(out, np.float64), cache

    def gradients(dout: np.ndarray, given: np.ndarray, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
        out, cache = run(given, weights)
        if word in ("z", "a"):  # f' alone
            with quiet(hand_in.printed):
                return {"x": dout * backward(given if word == "z" else out)}
        known = {"a": out, "out": out, "output": out, **weights}
        filled: dict[str, Any] = {}
        for number, name in enumerate(required(backward)):
            if number < 2 and (number == 0 or cache is not None):
                filled[name] = dout if number == 0 else cache
            else:
                filled[name] = word if "act" in plain(name) else known.get(name, known.get(plain(name), given))
        with quiet(hand_in.printed):
            result = backward(**filled)
        return told_apart(entries(result, returned_names(backward)), (), slots, given.size)

    audited = [*arrays]
    found = gradients(rng.normal(size=run(x, values)[0].shape), x.copy(), values)
    missing = tuple(name for name in arrays if name not in found)
    audited = [name for name in arrays if name in found]
    if "x" not in found:
        raise Unclear(f"{backward.__name__} returns no gradient")

    def forward_of(*given: Any) -> np.ndarray:
        first, *rest = map(np.asarray, given)
        return run(first, weights_of(rest))[0]

    def backward_of(dout: np.ndarray, *given: np.ndarray) -> dict[str, np.ndarray]:
        made = gradients(np.asarray(dout), given[0], weights_of(given[1:]))
        return {name: made[name] for name in ("x", *audited)}

    spelled = {"z": "(z)", "a": "(a)", "": ""}.get(word, f" for {word!r}")
    return Layer(
        f"{pair.forward.__name__}, {backward.__name__}{spelled}, {shape}",
        pair.name,
        shape,
        {"x": x} | {name: arrays[name] for name in audited},
        missing,
        signed(forward_of, ("x", *audited)),
        backward_of,
        None,
    )


def called_loss(hand_in: HandIn, pair: Pair, shape: str, word: str) -> Layer:
    """A loss, called with probabilities, which may stand for scores, and labels or one-hot targets.

    **Raises:** what its code raises; `Unclear` if it is none.
    """
    samples, samples_first = samples_in(shape)
    if len(SHAPES[shape]) > 2:
        raise Unclear(f"{pair.forward.__name__} is handed scores")
    x = np.random.default_rng(0).dirichlet(np.ones(INPUTS), size=samples)
    x = x if samples_first else x.T
    one_hot, labels = one_hot_and_labels(shape)
    targets = labels if word == "labels" else one_hot

    def handed(function: Callable[..., Any], given: Any) -> Any:
        names = required(function)
        target = next((name for name in names if role(name) == "y"), names[-1])
        both = [targets.copy() if name == target else np.array(given) for name in names]
        with quiet(hand_in.printed):
            return function(*both)

    def value_and_gradient(given: Any) -> tuple[Any, Any]:
        result = handed(pair.forward, given)
        if pair.backward is not None:
            return result, handed(pair.backward, given)
        return result if isinstance(result, tuple) and len(result) == 2 else (None, None)

    value, gradient = map(np.asarray, value_and_gradient(x))
    if value.dtype.kind not in "fiu" or gradient.shape != x.shape:
        raise Unclear(f"{pair.forward.__name__} has no value and a gradient of the shape of what it is handed")
    names = ", ".join(f.__name__ for f in (pair.forward, pair.backward) if f is not None)
    return Layer(
        f"{names}, {shape}",
        pair.name,
        shape,
        {"x": x},
        (),
        lambda given: np.asarray(value_and_gradient(given)[0], np.float64),
        lambda dout, given: {"x": np.asarray(value_and_gradient(given)[1])},
        targets,
    )


def value_of(name: str, shape: str, rng: np.random.Generator, word: str) -> Any:
    """What an argument beside x is given.

    **Raises:** `Unclear` if it cannot be told.
    """
    bare, kind = plain(name), leaf_kind(name)[0]
    weights, biases, scales = VALUES[shape]
    if kind:
        return rng.normal(size=weights if kind == "W" else biases)
    if bare in ("gamma", "beta", "scale", "shift"):
        return rng.normal(size=scales)
    if "act" in bare:
        return word
    if "param" in bare or bare.endswith(("config", "settings")):
        return copy.deepcopy(next(value for key, value in SETTINGS.items() if key in bare))
    if bare in ("g", "groups"):
        return CHANNELS
    raise Unclear(f"it asks for {name!r}, and it cannot be told what that is")
