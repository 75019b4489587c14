"""Homework as functions: one of W1, b1, W2, b2, X and y, or of a dictionary `model`; a forward and a backward pass;
or a training loop, as WildML's tutorial has it, of which one step is taken.
"""

import ast
import builtins
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import (
    Unclear,
    call,
    entries,
    fill,
    is_gradient,
    leaf_kind,
    name_of,
    place,
    plain,
    returned_names,
    role,
)
from jaxbackprop.auditing.class_form import BACKWARD, FORWARD, LOSS, PROBS, SIZES, argument
from jaxbackprop.auditing.hand_in import HandIn, NotRun, quiet
from jaxbackprop.auditing.slots import parameters
from jaxbackprop.auditing.spellings import find_spellings
from jaxbackprop.auditing.stages_seen import seen_stages
from jaxbackprop.auditing.subjects import Run, Subject, Way, globals_set, our_name, settle, ways
from jaxbackprop.auditing.yardstick import Data, Leaves

LEAVES = ("W1", "b1", "W2", "b2")
SLOPE_OF = r"(?:d|diff|grad|deriv|derivative)?({0})(?:prime|derivative|deriv|grad|gradient|slope|der|d)?"


def function_subject(
    hand_in: HandIn, function: Callable[..., Any], classes: int, rng: np.random.Generator, one_hot: bool
) -> Subject:
    """The function, ready to be audited.

    **Raises:** `Unclear` if it cannot be told how it is called; `NotRun` if its own code fails.
    """
    reason: Unclear | NotRun | None = None
    for sizes, samples_first in forms(hand_in, classes):
        subject = build(hand_in, function, sizes, samples_first)
        options = ways(rows=(samples_first,), by_name=bool(subject.spelled))
        try:
            return settle(subject, (way for way in options if not one_hot or way.targets == "one-hot"), hand_in, rng)
        except (Unclear, NotRun) as error:
            reason = reason or error
    assert reason is not None
    raise reason


def forms(hand_in: HandIn, classes: int) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Features, hidden units and classes to try, and whether a weight is (in, out): the usual ones, and then those of
    the parameters that the file's own `init_params()` makes, as there are files that expect no others."""
    for sizes in SIZES:
        yield from (((*sizes[:-1], classes), samples_first) for samples_first in (True, False))
    for name, function in hand_in.own(types.FunctionType).items():
        if not plain(name).startswith("init"):
            continue
        try:
            with quiet(hand_in.printed):
                made = entries(function(), returned_names(function))
            slots, samples_first = parameters({entry.name: entry.value for entry in made}, None, None)
        except (Exception, SystemExit):
            continue
        if len(slots) == len(LEAVES):
            shape = slots["W1"].value.shape
            features, hidden = shape if samples_first else shape[::-1]
            yield (features, hidden, slots["b2"].value.size), samples_first


def choose_function(hand_in: HandIn, name: str | None) -> Callable[..., Any] | None:
    """The function that is named, else one that makes a gradient, told by its arguments or by its loop."""
    from jaxbackprop._checks import choose

    functions = {key: f for key, f in hand_in.own(types.FunctionType).items() if not key.startswith("_")}
    if name is not None:
        try:
            chosen = choose("function", name, functions | hand_in.own(type))
        except ValueError as error:
            raise NotRun(f"{hand_in.path}: {error}") from error
        return one_step(hand_in, chosen) or chosen
    fitting = [f for key, f in functions.items() if takes_parameters(f) and not re.fullmatch(LOSS, plain(key))]
    named = [f for f in fitting if re.fullmatch(BACKWARD, plain(f.__name__))]
    full = [f for f in fitting if sorted(inspect.signature(f).parameters) == sorted([*LEAVES, "X", "y"])]
    steps = [step for f in functions.values() if (step := one_step(hand_in, f)) is not None]
    return next(iter([*named, *full, *steps]), None)


def takes_parameters(function: Callable[..., Any]) -> bool:
    """Whether a function takes W1, b1, … or a dictionary of them, and the labels or what its forward pass kept."""
    names = list(inspect.signature(function).parameters)
    kinds = {role(name) for name in names}
    weights = [name for name in names if leaf_kind(name)[0] == "W" and not is_gradient(name)]
    return "y" in kinds and ("model" in kinds or bool(weights) or "cache" in kinds)


def build(hand_in: HandIn, function: Callable[..., Any], sizes: tuple[int, ...], samples_first: bool) -> Subject:
    """A subject for parameters of these sizes."""
    features, hidden, classes = sizes
    pairs = [(features, hidden), (hidden, classes)]
    shapes = {}
    for l, (fan_in, fan_out) in enumerate(pairs, start=1):
        shapes[f"W{l}"] = (fan_in, fan_out) if samples_first else (fan_out, fan_in)
        shapes[f"b{l}"] = (1, fan_out) if samples_first else (fan_out, 1)
    functions = hand_in.own(types.FunctionType)
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    forward = companion(functions, FORWARD, function) if not complete(names) else None
    loss = companion(functions, LOSS, function)
    free = free_names(function, hand_in)
    has_knob = any(role(name) == "kind" for name in names)
    spelled = find_spellings(hand_in) if has_knob else {}
    by_argument = any(role(name) == "penalty" for name in names)
    strengths = [v for n, v in hand_in.namespace.items() if role(n) == "penalty" and isinstance(v, int | float)]
    positional = len(names) == 6 and not complete(names) and forward is None
    keys = model_keys(hand_in.tree)

    def run(leaves: Leaves, data: Data, way: Way, word: Any, penalty: float | None) -> Run:
        X, y = way.hand_over(data, classes)
        arrays = {name: np.array(leaf) for name, leaf in leaves.items()}
        before = X.copy(), y.copy()
        seen: dict[str, Any] = {}
        resolve = resolver(arrays, X, y, way, word, penalty, seen)
        with globals_set(hand_in, X, y, data.samples, penalty, {n: resolve(n) for n in free}):
            out = None
            if forward is not None:
                out = call(forward, fill(forward, resolve))
                returned = returned_names(forward)
                if isinstance(out, tuple) and len(returned) == len(out):
                    seen.update(zip(returned, out, strict=True))
                seen[""] = (
                    next((v for v in out if isinstance(v, Mapping | tuple)), out) if isinstance(out, tuple) else out
                )
            stages = seen_stages(None, out, seen, data, classes, way.rows)
            result = function(*arrays.values(), X, y) if positional else call(function, fill(function, resolve))
        found = entries(result, returned_names(function))
        given = result if isinstance(result, Mapping) else {}
        stages |= seen_stages(None, None, given, data, classes, way.rows)
        changed = [n for n, old, new in zip(("X", "y"), before, (X, y), strict=True) if not np.array_equal(old, new)]
        scalars = [entry.value for entry in found if entry.value.ndim == 0]
        gradients = [entry for entry in found if entry.value.ndim and is_for_a_leaf(entry.name)]
        own = loss_of(leaves, data, way, word, penalty)
        if own is None and len(scalars) == 1:
            own = lambda: float(scalars[0])  # noqa: E731
        return Run(dict(leaves), gradients or found, stages, tuple(changed), own, given, given)

    def resolver(
        arrays: Mapping[str, np.ndarray], X: np.ndarray, y: np.ndarray, way: Way, word: Any, penalty: float | None,
        seen: Mapping[str, Any],
    ) -> Callable[[str], Any]:  # fmt: skip
        def resolve(name: str) -> Any:
            if name in seen:
                return seen[name]
            kind, leaf = role(name), leaf_kind(name)
            if leaf[0] and not is_gradient(name) and (number := place(name)[0]) in (1, 2):
                return arrays[f"{leaf[0]}{number}"]
            if kind in ("X", "y"):
                return X if kind == "X" else y
            if kind == "model":
                return {key: arrays[leaf] for key, leaf in keys.items()}
            if kind == "samples":
                return X.shape[0 if way.rows else 1]
            if kind == "penalty" and penalty is not None:
                return penalty
            if kind == "kind" and word:
                return word
            if kind == "cache" and "" in seen:
                return seen[""]
            if re.fullmatch(PROBS, plain(name)) and "" in seen and not isinstance(seen[""], Mapping):
                return seen[""]
            for value in seen.values():
                if isinstance(value, Mapping) and name in value:
                    return value[name]
            if re.search(r"dim|size|hidden|iter|pass|epoch|rate|print|verbose", plain(name)):
                parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                try:
                    return argument(name, parameter, sizes, False, 1)
                except Unclear:
                    pass
            raise LookupError(name)

        return resolve

    def loss_of(leaves: Leaves, data: Data, way: Way, word: Any, penalty: float | None) -> Callable[[], float] | None:
        if loss is None:
            return None
        X, y = way.hand_over(data, classes)
        seen: dict[str, Any] = {}
        resolve = resolver({name: np.array(leaf) for name, leaf in leaves.items()}, X, y, way, word, penalty, seen)
        try:
            fill(loss, resolve)
        except Unclear:
            return None

        def value_of_loss() -> float:
            with globals_set(hand_in, X, y, data.samples, penalty, {n: resolve(n) for n in free_names(loss, hand_in)}):
                return float(np.asarray(call(loss, fill(loss, resolve))).reshape(()))

        return value_of_loss

    title = getattr(function, "title", f"{function.__name__}({', '.join(names)})") + f" of {hand_in.path.name}"
    strength = 0.0 if by_argument else next(iter(strengths), None)
    return Subject(
        title, shapes, samples_first, run, spelled, of_activation(hand_in, True), of_activation(hand_in, False),
        None if strength is None else float(strength), function=function, backward=function.__name__,
    )  # fmt: skip


def complete(names: list[str]) -> bool:
    """Whether arguments are all that a gradient is made of."""
    kinds = {role(name) for name in names}
    weights = [name for name in names if leaf_kind(name)[0] and not is_gradient(name)]
    return ({"X", "y"} <= kinds and (len(weights) == 4 or ("model" in kinds and "cache" not in kinds))) or (
        not names or all(role(name) in ("", "samples") for name in names)
    )


def is_for_a_leaf(name: str) -> bool:
    """Whether a result may be a gradient: no z, a or delta."""
    return bool(leaf_kind(name)[0]) or not re.fullmatch(r"([za]|delta|dz)\d|yhat|probs?", plain(name))


def companion(functions: Mapping[str, Any], pattern: str, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The forward pass or the loss that goes with a function."""
    fitting = [f for name, f in functions.items() if re.fullmatch(pattern, plain(name)) and f is not function]
    return min(fitting, key=lambda f: len(f.__name__), default=None)


def model_keys(tree: ast.Module) -> dict[str, str]:
    """The keys by which a file finds W1, b1, … in a dictionary, and which leaf each of them is."""
    keys = {leaf: leaf for leaf in LEAVES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not is_gradient(node.value):
            kind, number = leaf_kind(node.value)[0], place(node.value)[0] if leaf_kind(node.value)[0] else 0
            if kind and number in (1, 2) and len(node.value) < 20:
                keys[node.value] = f"{kind}{number}"
    return keys


def of_activation(hand_in: HandIn, derivative: bool) -> Callable[[np.ndarray, Any, str], Any] | None:
    """The file's own f or f', by the activation's name: sigmoid, sigmoid_prime, d_tanh."""
    used = {name_of(node.func) for node in ast.walk(hand_in.tree) if isinstance(node, ast.Call)}
    found = {}
    for name, function in hand_in.own(types.FunctionType).items():
        if name not in used or len(inspect.signature(function).parameters) != 1:
            continue
        if our_name(name):
            if not derivative:
                found[our_name(name)] = function
            continue
        for word in ("tanh", "sigmoid", "relu", "sigm"):
            if derivative and re.fullmatch(SLOPE_OF.format(word), plain(name)):
                found[our_name(word)] = function
    if not found:
        return None
    return lambda z, word, activation: found[activation](z)


def free_names(function: Callable[..., Any], hand_in: HandIn) -> list[str]:
    """Global names that a function reads as its data and that the file does not have."""
    code = getattr(function, "__code__", None)
    names = () if code is None else code.co_names
    missing = [n for n in names if n not in hand_in.namespace and not hasattr(builtins, n)]
    return [name for name in missing if role(name) in ("X", "y", "samples")]


def one_step(hand_in: HandIn, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function that trains, cut off where its loop changes the parameters: it takes these, and returns gradients.

    None if it has no such loop.
    """
    node = next(
        (
            n
            for n in hand_in.tree.body
            if isinstance(n, ast.FunctionDef) and n.name == getattr(function, "__name__", "")
        ),
        None,
    )
    if node is None:
        return None
    for number, statement in enumerate(node.body):
        if not isinstance(statement, ast.For | ast.While):
            continue
        made = [name for part in statement.body for name in assigned(part)]
        gradients = list(dict.fromkeys(name for name in made if is_gradient(name) and leaf_kind(name)[0]))
        leaves = {name for before in node.body[:number] for name in assigned(before) if is_leaf(name)}
        leaves |= {a.arg for a in node.args.args if is_leaf(a.arg)}
        if len(gradients) < len(LEAVES) or len(leaves) < len(LEAVES):
            continue
        end = next((n for n, part in enumerate(statement.body) if leaves & set(assigned(part))), len(statement.body))
        prelude = [part for part in node.body[:number] if not leaves & set(assigned(part))]
        returned = ast.Return(ast.Tuple([ast.Name(name, ast.Load()) for name in gradients], ast.Load()))
        known = [a.arg for a in node.args.args]
        extra = [ast.arg(name) for name in sorted(leaves) if name not in known]
        step = ast.FunctionDef(
            node.name, ast.arguments([], [*extra, *node.args.args], None, [], [], None, node.args.defaults),
            [*prelude, *statement.body[:end], returned], [], None,
        )  # fmt: skip
        if isinstance(statement, ast.For):
            target = ast.Assign([statement.target], ast.Constant(0))
            step.body.insert(len(prelude), target)
        tree = ast.fix_missing_locations(ast.Module([ast.copy_location(step, node)], []))
        namespace = hand_in.namespace
        before = namespace.get(node.name)
        exec(compile(tree, str(hand_in.path), "exec"), namespace)
        cut, namespace[node.name] = namespace[node.name], before
        cut.returned_names = tuple(gradients)
        cut.title = f"one step of the loop in {node.name}({', '.join(known)})"
        return cut
    return None


def assigned(node: ast.AST) -> Iterator[str]:
    """The names that a statement assigns to."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign | ast.AugAssign):
            for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                    if name := name_of(part):
                        yield name


def is_leaf(name: str) -> bool:
    return bool(leaf_kind(name)[0]) and not is_gradient(name)
