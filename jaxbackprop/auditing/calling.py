"""How code that was written by somebody else is called: what the names of its arguments and results stand for.

A name is read without its underscores and capitals. What an argument is to be told by its name; what a result is, by
its name where the `return` has one, else by its shape, else by trying.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

ROLES = {
    "X": r"x|xs|inputs?|data|features|xtrain|xbatch|a0|inputdata|inputx|images?",
    "y": r"ys?|labels?|targets?|t|ytrain|ytrue|ybatch|yonehot|onehot|truth|outputs?|yactual",
    "samples": r"n|m|numexamples|nsamples|numsamples|batchsize|samples|examples",
    "slope": r"(diff|d|deriv|derivative|grad)_?(act|activation)(fun|fn|func|function)?|"
    r"(act|activation)(prime|grad|deriv\w*)",
    "activation": r"(act|activation|nonlin\w*)(fun|fn|func|function|s)?",
    "kind": r"type|\w*(act|activation)\w*(type|name|kind|str)|kind",
    "penalty": r"\w*(reg|lambda|lamb|lam|l2|weightdecay)\w*",
    "rate": r"lr|eta|learn\w*rate\w*|stepsize",
    "momentum": r"momentum",
    "epochs": r"(n|num|max|no)?(epochs?|iterations?|iters?|passes)",
    "model": r"model|params?|parameters|weights|theta|p|net",
    "cache": r"caches?|forward\w*|memory|stored|acts|activations|outs?|state",
}
OUTPUT = r"outputs?"  # of the network, or what is wanted of it
NOT_A_GRADIENT = {"deltas", "dropout", "data", "depth", "dims", "dim"}


class Unclear(Exception):
    """It cannot be told how something is to be called."""


def plain(name: str) -> str:
    """A name without underscores and capitals."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def role(name: str) -> str:
    """What an argument of this name stands for; "" if that cannot be told."""
    return next((key for key, pattern in ROLES.items() if re.fullmatch(pattern, plain(name))), "")


def leaf_kind(name: str) -> tuple[str, str]:
    """Whether a name is that of a weight or a bias ("W", "b", else ""), and its number or what stands for it."""
    bare = plain(name)
    bare = re.sub(r"^(dld|dlossd|djd|dcostd|dl|gradients?|grads?|nabla|delta|deriv|d)(?=w|b|theta)", "", bare)
    bare = re.sub(r"(gradients?|grads?)$", "", bare)
    match = re.fullmatch(
        r"(weights?|w|thetas?|b|bias|biases)(\d*|h|o|ih|ho|hidden|output|out|hiddenoutput|inputhidden)s?", bare
    )
    if match:
        return ("b" if match[1].startswith("b") else "W"), match[2]
    match = re.fullmatch(r"(\w*?)(weights?|bias|biases)(\d*)", bare)  # hidden_weights, output_bias
    return (("b" if match[2].startswith("b") else "W"), match[1] + match[3]) if match else ("", "")


def is_gradient(name: str) -> bool:
    """Whether a name is that of a gradient: dW1, grad_b, nabla_w, W1_grad."""
    bare = plain(name)
    return bare not in NOT_A_GRADIENT and bool(
        re.match(r"(d|grad\w*|nabla\w*|deriv|delta)(w|b|theta)|(gradients?|grads?)$|d[wb]s?$|grads?\w*", bare)
        or re.search(r"(grad|gradient)s?$", bare)
    )


def fill(function: Callable[..., Any], resolve: Callable[[str], Any]) -> dict[str, Any]:
    """Arguments for a function by the names of its parameters.

    **Raises:** `Unclear` if one without a default is not known.
    """
    filled, parameters = {}, inspect.signature(function).parameters
    has_targets = any(role(name) == "y" and not re.fullmatch(OUTPUT, plain(name)) for name in parameters)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        try:  # an output beside the targets is the network's
            filled[name] = resolve("probs" if has_targets and re.fullmatch(OUTPUT, plain(name)) else name)
        except LookupError:
            if parameter.default is parameter.empty:
                title = getattr(function, "__name__", "it")
                raise Unclear(f"{title} asks for {name!r}, and it cannot be told what that is") from None
    return filled


def call(function: Callable[..., Any], filled: Mapping[str, Any]) -> Any:
    """The call, by position where that is the only way."""
    parameters = inspect.signature(function).parameters
    positional = [n for n in filled if parameters[n].kind is parameters[n].POSITIONAL_ONLY]
    return function(*(filled[n] for n in positional), **{n: v for n, v in filled.items() if n not in positional})


def returned_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names in the last `return` of a function, "" for what has none; empty if they cannot be told."""
    if hasattr(function, "returned_names"):  # made by us
        return function.returned_names
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    if not returns:
        return ()
    value = max(returns, key=lambda node: node.lineno).value
    values = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
    return tuple(name_of(node) for node in values)


def name_of(node: ast.expr | None) -> str:
    """W1 of `W1`, `self.W1`, `grads["W1"]`, and of `dW1 / N`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mult):
        return name_of(node.left) or name_of(node.right)
    return ""


class Entry(NamedTuple):
    """One array among the results, and its name as far as it has one."""

    name: str
    value: np.ndarray


def entries(result: Any, names: Sequence[str] = ()) -> list[Entry]:
    """All arrays in what a function returns, with names; strings, functions and nothing are left out."""
    if isinstance(result, tuple | list) and names and len(names) == len(result):
        return [entry for name, value in zip(names, result, strict=True) for entry in named(name, value)]
    return list(named(names[0] if len(names) == 1 else "", result))


def named(name: str, value: Any) -> Iterator[Entry]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from named(str(key), inner)
    elif isinstance(value, tuple | list) and not all(np.isscalar(item) for item in value):
        for number, inner in enumerate(value):
            yield from named(f"{name}{number}" if name else "", inner)
    elif value is not None and not isinstance(value, str) and not callable(value):
        array = np.asarray(value)
        if array.dtype == object and array.ndim == 1:
            yield from named(name, list(array))
        elif array.dtype.kind in "biuf":
            yield Entry(name, array)


def assignments(found: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, np.ndarray]]:
    """Which result is which leaf's gradient, as it may be meant: by name, by shape, by the usual orders.

    `shapes` are those of the leaves W1, b1, W2, …
    """
    depth = len(shapes) // 2
    kinds: dict[str, list[Entry]] = {"W": [], "b": []}
    for entry in found:
        if kind := leaf_kind(entry.name)[0]:
            kinds[kind].append(entry)
    if all(len(group) == depth for group in kinds.values()):
        ranked = {kind: sorted(group, key=lambda entry: place(entry.name)) for kind, group in kinds.items()}
        for turn in (1, -1):
            yield {
                f"{kind}{l}": entry.value
                for kind, group in ranked.items()
                for l, entry in enumerate(group[::turn], start=1)
            }
    arrays = [entry.value for entry in found if entry.value.ndim or len(found) == len(shapes)]
    if len(arrays) < len(shapes):
        return
    by_shape, left = {}, list(arrays)
    for leaf, shape in shapes.items():
        same = [array for array in left if squeezed(array.shape) == squeezed(shape)]
        if len(same) == 1:
            by_shape[leaf] = same[0]
            left = [array for array in left if array is not same[0]]
    rest = [leaf for leaf in shapes if leaf not in by_shape]
    for order in list(permutations(left, len(rest)))[:24]:
        yield by_shape | dict(zip(rest, order, strict=True))
    usual = [[f"W{l}" for l in range(1, depth + 1)] + [f"b{l}" for l in range(1, depth + 1)], list(shapes)]
    for names in (*usual, usual[1][::-1]):
        if len(arrays) == len(names):
            yield dict(zip(names, arrays, strict=True))


def place(name: str) -> tuple[int, str]:
    """Where a leaf stands among its kind: by its number, hidden before output."""
    suffix = leaf_kind(name)[1]
    if digits := re.sub(r"\D", "", suffix):
        return int(digits), ""
    return (1 if "out" in suffix or suffix in ("o", "ho", "hiddenoutput") else 0), suffix


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
