"""Homework as a class: an object with weights, a forward pass and a backward pass, as the course and CS231n have it."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import (
    Entry,
    Unclear,
    call,
    entries,
    fill,
    is_gradient,
    leaf_kind,
    plain,
    returned_names,
    role,
)
from jaxbackprop.auditing.hand_in import HandIn, NotRun, quiet
from jaxbackprop.auditing.slots import Slot, kept_gradients, parameters, walk
from jaxbackprop.auditing.stages_seen import one_array, seen_stages, snapshot, written
from jaxbackprop.auditing.subjects import SAMPLES, Run, Subject, Way, globals_set, settle, ways
from jaxbackprop.auditing.yardstick import Data, Leaves, draw_data

FORWARD = r"(feed)?forward\w*|fprop|forwardprop\w*"
BACKWARD = r"back\w*|bprop|gradients?|(compute|calc|calculate|get)?grad\w*|lossandgrad\w*|loss|costfunction"
TRAIN = r"train\w*|fit|learn"  # which go forward and back, and take the step, in one
LOSS = r"(calculate|compute|calc|get)?(loss|cost|crossentropy\w*)(function)?"
SIZES = ((3, 5, 2), (2, 3, 2))  # of equal shapes no two; but some write the two features of the course's data in
DATA = ("{X}", "{y}", "{samples}")  # what a constructor is given of the data, and how many there are
LISTS = r"(layers?|nn)?(dims?|sizes?|shapes?)|layers?|sizes|architecture|structure|layout|units|netsizes?|(nn)?layer\w*"


def class_subject(hand_in: HandIn, cls: type, classes: int, rng: np.random.Generator) -> Subject:
    """The class, ready to be audited.

    **Raises:** `Unclear` if it cannot be told how it is called; `NotRun` if its own code fails.
    """
    backward = backward_method(cls) or find_method(cls, TRAIN)
    if backward is None:
        raise Unclear(f"{cls.__name__} has no method backprop, backward, gradient, loss or train")
    reason: Unclear | None = None
    for sizes in (*SIZES, None):  # None: those that are written into the class
        for arguments in constructions(cls, (*(sizes or SIZES[0])[:-1], classes), hand_in):
            try:
                subject = build(hand_in, cls, backward, arguments, sizes and sizes[0], sizes and classes)
                rows = (True, False) if subject.samples_first else (False, True)
                options = ways(rows=rows, by_name=bool(subject.spelled))
                return settle(subject, options, hand_in, rng)
            except Unclear as error:
                reason = reason or error
    raise reason or Unclear(f"{cls.__name__} cannot be made: its arguments are {inspect.signature(cls)}")


def find_method(cls: type, pattern: str) -> str | None:
    """The method of that name; what the class defines itself and what is spelled shortest goes first."""
    names = [name for name in dir(cls) if not name.startswith("__") and inspect.isroutine(getattr(cls, name))]
    fitting = [name for name in names if re.fullmatch(pattern, plain(name))]
    rank = ["backprop", "backward", "backpropagation", "backwardpass"]
    return min(
        fitting, key=lambda n: (plain(n) not in rank, plain(n) == "loss", n not in vars(cls), len(n)), default=None
    )


def backward_method(cls: type) -> str | None:
    """The method that makes the gradient. One that is called loss does, as CS231n's, if it is given the inputs."""
    name = find_method(cls, BACKWARD)
    if name is None or not re.fullmatch(LOSS, plain(name)):
        return name
    return name if any(role(own) == "X" for own in inspect.signature(getattr(cls, name)).parameters) else None


def constructions(cls: type, sizes: tuple[int, ...], hand_in: HandIn) -> Iterator[dict[str, Any]]:
    """Arguments for the constructor, as they may be meant. "{activation}" stands for the activation's name, and
    those of `DATA` for what they say."""
    signature = inspect.signature(cls)
    deep = (sizes[0], sizes[1], sizes[1] - 1, sizes[-1])
    variants: list[tuple[Sequence[int], bool, int]] = [
        (sizes, False, 1),
        (deep, True, 3),
        (sizes, True, 2),
        (deep, False, 3),
    ]
    seen = []
    for widths, as_list, number in variants:
        try:
            arguments = {
                name: value
                for name, parameter in signature.parameters.items()
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                if (value := argument(name, parameter, widths, as_list, number)) is not None
            }
        except Unclear:
            continue
        if arguments not in seen:
            seen.append(arguments)
            yield arguments
    if not seen:
        for variant in variants[:1]:
            for name, parameter in signature.parameters.items():  # raises, and says for which argument
                argument(name, parameter, variant[0], variant[1], variant[2])


def argument(name: str, parameter: inspect.Parameter, sizes: Sequence[int], as_list: bool, number: int) -> Any:
    """A value for one argument of a constructor; None to leave its default."""
    bare, default = plain(name), parameter.default
    optional = default is not parameter.empty
    counts = "num" in bare or bare.startswith("nlayer") or "layernum" in bare or "depth" in bare or bare == "nnlayers"
    if counts and ("layer" in bare or "depth" in bare):
        return number
    if "act" in bare and not optional:  # of the hidden layers; that of the output is no matter of choice here
        return "{activation}"
    if "act" in bare and role(name) not in ("kind", "activation"):
        return None
    if re.search(r"hid|^hdim$|^nh$|^h$|^nnh|^units$|^d?h$", bare):
        listed = as_list or isinstance(default, list | tuple)
        return list(sizes[1:-1]) if listed else sizes[1]
    if re.search(
        r"^(nn)?(n|d|num|size)?in(put)?s?(dim|size|features|nodes|units|neurons|layer)?s?$|input|feature|^nx$|^d$", bare
    ):
        return sizes[0]
    if re.search(r"out|class|^ny$|^k$|^c$", bare):
        return sizes[-1]
    if role(name) in ("kind", "activation") and (not optional or isinstance(default, str)):
        return "{activation}"
    if re.fullmatch(LISTS, bare) and (not optional or isinstance(default, list | tuple)):
        return list(sizes)
    if optional:
        return None
    if (given := f"{{{role(name)}}}") in DATA:
        return given
    if role(name) == "penalty":
        return 0.0
    if bare in ("seed", "rng", "randomstate"):
        return 0
    if re.search(r"rate|lr|alpha|eta|eps|std|scale|momentum", bare):
        return 0.1
    if re.search(r"iter|epoch|pass|batch", bare):
        return 1
    raise Unclear(f"its constructor asks for {name!r}, and it cannot be told what that is")


def build(
    hand_in: HandIn, cls: type, backward: str, arguments: dict[str, Any], features: int | None, classes: int | None
) -> Subject:
    """A subject out of a class whose constructor takes these arguments; None for features and classes of its own."""
    has_knob = "{activation}" in arguments.values()
    spelled = hand_in_spellings(hand_in) if has_knob else {}
    a_word = next((spelling for words in spelled.values() for spelling in words), "tanh")

    def construct(word: Any, X: np.ndarray, y: np.ndarray, way: Way) -> Any:
        meant = {"{activation}": word or a_word, "{X}": X, "{y}": y, "{samples}": X.shape[0 if way.rows else 1]}
        values = {k: meant.get(v, v) if isinstance(v, str) else v for k, v in arguments.items()}
        with quiet(hand_in.printed):
            return cls(**{k: list(v) if isinstance(v, list) else v for k, v in values.items()})

    trial = draw_data(features or SIZES[0][0], classes or SIZES[0][-1], SAMPLES, np.random.default_rng(0))
    takes_data = any(value in DATA for value in arguments.values())
    reason: Exception | None = None
    for way in ways(rows=(True, False)) if takes_data else [Way()]:
        given = *way.hand_over(trial, classes or SIZES[0][-1]), way
        try:
            example = construct(None, *given)
            slots, samples_first = parameters(example, features, classes)
            break
        except Exception as error:
            reason = reason or error
    else:
        assert reason is not None
        if isinstance(reason, Unclear):
            raise reason
        told_of = f"{type(reason).__name__}: {reason}".rstrip(".")
        raise Unclear(f"{cls.__name__}({shown(arguments, cls)}) raised {told_of}") from reason
    shapes = {name: slot.value.shape for name, slot in slots.items()}
    classes = int(np.prod(list(shapes.values())[-1]))
    if not has_knob and any(role(name) == "kind" and isinstance(v, str) for name, v in vars(example).items()):
        spelled = hand_in_spellings(hand_in)
    forward = find_method(cls, FORWARD)
    loss = find_method(cls, LOSS)
    slope, value = find_method(cls, DIFF), find_method(cls, ACT)
    knobs = {name: float(role(name) == "rate") for name, v in vars(example).items()
             if role(name) in ("rate", "momentum") and isinstance(v, int | float)}  # fmt: skip
    penalties = {name: v for name, v in vars(example).items() if role(name) == "penalty" and isinstance(v, int | float)}
    rates = [name for name, v in hand_in.namespace.items() if role(name) == "rate" and isinstance(v, int | float)]
    by_argument = any(role(name) == "penalty" for name in inspect.signature(getattr(cls, backward)).parameters)

    def prepared(leaves: Leaves, word: Any, penalty: float | None, X: np.ndarray, y: np.ndarray, way: Way) -> Any:
        thing = construct(word, X, y, way)
        for name, slot in slots.items():
            slot.put(thing, leaves[name])
        for name, number in (knobs | (dict.fromkeys(penalties, penalty) if penalty is not None else {})).items():
            setattr(thing, name, number)
        for name in [n for n, v in vars(thing).items() if role(n) == "kind" and isinstance(v, str) and word]:
            setattr(thing, name, word)
        return thing

    def resolver(
        thing: Any, X: np.ndarray, y: np.ndarray, way: Way, word: Any, penalty: float | None, seen: dict[str, Any]
    ) -> Callable[[str], Any]:
        def resolve(name: str) -> Any:
            if name in seen:
                return seen[name]
            kind = role(name)
            if kind in ("X", "y"):
                return X if kind == "X" else y
            if kind == "samples":
                return X.shape[0 if way.rows else 1]
            if kind == "penalty" and penalty is not None:
                return penalty
            if kind in ("rate", "momentum", "epochs"):
                return {"rate": 1.0, "momentum": 0.0, "epochs": 1}[kind]
            if kind == "kind" and (word or hasattr(thing, "actFun_type")):
                return word or thing.actFun_type
            method = value if kind == "activation" else slope if kind == "slope" else None
            if method and not way.by_name:
                return lambda z, *_, **__: elementwise_call(thing, method, z, word)
            if kind == "activation" and way.by_name and word:
                return word
            if kind == "cache" and "" in seen:
                return seen[""]
            if re.fullmatch(PROBS, plain(name)) and "probs" in seen:
                return seen["probs"]
            raise LookupError(name)

        return resolve

    def run(leaves: Leaves, data: Data, way: Way, word: Any, penalty: float | None) -> Run:
        X, y = way.hand_over(data, classes)
        thing = prepared(leaves, word, penalty, X, y, way)
        seen: dict[str, Any] = {}
        resolve = resolver(thing, X, y, way, word, penalty, seen)
        out = None
        if forward is not None:
            method = getattr(thing, forward)
            out = call(method, fill(method, resolve))
            names = returned_names(method)
            if isinstance(out, tuple) and len(names) == len(out):
                seen.update(zip(names, out, strict=True))
            elif out is not None:
                seen.update({names[0] if len(names) == 1 and names[0] else "": out, "": out})
        stages = seen_stages(thing, out, seen, data, classes, way.rows)
        if "probs" in stages:
            seen.setdefault("probs", stages["probs"] if way.rows else stages["probs"].T)
        elif isinstance(out, np.ndarray):
            seen.setdefault("probs", out)
        shared = one_array(thing)
        before = snapshot(thing, X, y)
        method = getattr(thing, backward)
        with globals_set(hand_in, None, None, None, None, dict.fromkeys(rates, 1.0)):
            result = call(method, fill(method, resolve))
        changed = written(before, thing, X, y, list(slots.values()))
        found = entries(result, returned_names(method))
        scalars = [entry.value for entry in found if entry.value.ndim == 0]
        own_loss = loss_of(leaves, data, way, word, penalty)
        if own_loss is None and len(scalars) == 1:
            own_loss = lambda: float(scalars[0])  # noqa: E731
        step = False
        if sum(bool(entry.value.ndim) for entry in found) < len(slots):
            found = entries({slot.name: slot.value for slot in kept_gradients(thing)}) or found
            moved = moves(thing, slots, leaves)
            step = len(found) < len(slots) and bool(moved)
            if step:
                named = rates or {"rate"} & set(map(role, [*knobs, *inspect.signature(method).parameters]))
                found = gradient_of_step(f"{cls.__name__}.{backward}", moved, bool(named))
                changed = tuple(name for name in changed if name in ("X", "y"))
        kept = {str(slot.path[-1]): slot.value for slot in walk(thing)}
        return Run(dict(leaves), found, stages, changed, own_loss, kept, same=shared, step=step)

    def loss_of(leaves: Leaves, data: Data, way: Way, word: Any, penalty: float | None) -> Callable[[], float] | None:
        if loss is None or loss == backward:
            return None

        def value_of_loss() -> float:
            X, y = way.hand_over(data, classes)
            thing = prepared(leaves, word, penalty, X, y, way)
            seen: dict[str, Any] = {}
            resolve = resolver(thing, X, y, way, word, penalty, seen)
            if forward is not None:
                method = getattr(thing, forward)
                out = call(method, fill(method, resolve))
                seen.update({"probs": out, "": out} if out is not None else {})
                if (
                    "probs" not in seen
                    and (made := seen_stages(thing, out, seen, data, classes, way.rows).get("probs")) is not None
                ):
                    seen["probs"] = made
            method = getattr(thing, loss)
            return float(np.asarray(call(method, fill(method, resolve))).reshape(()))

        return value_of_loss

    def by_method(name: str | None) -> Callable[[np.ndarray, Any, str], Any] | None:
        if name is None:
            return None
        return lambda z, word, activation: elementwise_call(construct(word, *given), name, z, word)

    strength = next(iter(penalties.values()), 0.0 if by_argument else None)
    title = f"{cls.__name__}({shown(arguments, cls)}) of {hand_in.path.name}, {backward}{shown_call(cls, backward)}"
    return Subject(
        title, shapes, samples_first, run, spelled, by_method(slope), by_method(value),
        None if strength is None else float(strength), function=getattr(cls, backward), backward=backward,
        slope_name=slope or "",
    )  # fmt: skip


def moves(thing: Any, slots: Mapping[str, Slot], leaves: Leaves) -> dict[str, np.ndarray]:
    """How far each leaf has gone down from where it was put; nothing if all are where they were."""
    moved = {f"d{name}": leaves[name] - np.asarray(slot.read(thing)) for name, slot in slots.items()}
    return moved if any(move.any() for move in moved.values()) else {}


def gradient_of_step(title: str, moved: Mapping[str, np.ndarray], has_rate: bool) -> list[Entry]:
    """The gradient that weights have gone along, at a learning rate of 1.

    **Raises:** `NotRun` if the learning rate could not be set to 1, or if the step says nothing of the gradient's size.
    """
    if not has_rate:
        reason = "updates the weights by a learning rate that has no name: let it be learning_rate, an argument"
        raise NotRun(f"{title} {reason} or an attribute, or return the gradient")
    if np.allclose(np.concatenate([np.abs(move).reshape(-1) for move in moved.values()]), 1, rtol=1e-3):
        reason = "takes steps of one size in every weight, as adam's first, which tell no gradient"
        raise NotRun(f"{title} {reason}: let it return the gradient")
    return entries(moved)


DIFF = r"(diff|d|deriv\w*|grad)_?(act|activation)\w*|(act|activation)\w*(prime|grad\w*|deriv\w*|diff)"
ACT = r"(act|activation)(fun|fn|func|function)?|activate"
PROBS = r"probs?|yhat|yh|ypred|pred\w*|output(pred\w*)?|a2|scores|softmax\w*"


def elementwise_call(thing: Any, method: str, z: np.ndarray, word: Any) -> Any:
    """f or f' of somebody else's object, which may ask for the activation's name."""
    function = getattr(thing, method)
    names = list(inspect.signature(function).parameters)
    kind = word if word is not None else next((v for n, v in vars(thing).items() if role(n) == "kind"), None)
    return function(z) if len(names) == 1 or kind is None else function(z, kind)


def hand_in_spellings(hand_in: HandIn) -> dict[str, tuple[str, ...]]:
    from jaxbackprop.auditing.spellings import find_spellings

    return find_spellings(hand_in)


def shown(arguments: dict[str, Any], cls: type) -> str:
    """The arguments as they would be typed."""
    parameters_ = inspect.signature(cls).parameters
    texts, positional = [], True
    for name in parameters_:
        if name not in arguments:
            positional = False
            continue
        value = arguments[name]
        text = value if value == "{activation}" else value.strip("{}") if value in DATA else repr(value)
        texts.append(text if positional else f"{name}={text}")
    return ", ".join(texts)


def shown_call(cls: type, method: str) -> str:
    names = [name for name in inspect.signature(getattr(cls, method)).parameters if name != "self"]
    returned = [n for n in returned_names(getattr(cls, method)) if leaf_kind(n)[0] or is_gradient(n)]
    arrow = f" -> {', '.join(returned)}" if returned else ""
    return f"({', '.join(names)}){arrow}"
