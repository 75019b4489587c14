"""Homework as layers: classes with a forward and a backward pass of their own, as frameworks written from scratch have.

What can be seen is not told by names: a layer's parameters are the arrays that its forward pass depends on; their
gradients are what the backward pass returns or leaves behind, or the step that it takes at a learning rate of 1.
"""

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import Entry, Unclear, entries, leaf_kind, plain, returned_names, role
from jaxbackprop.auditing.hand_in import HandIn, quiet, told
from jaxbackprop.auditing.layer_arrays import (
    changed,
    kept_output,
    output_of,
    parameters_of,
    snapshot,
    steps_taken,
    told_apart,
)
from jaxbackprop.auditing.layered import predicted

SAMPLES, INPUTS, OUTPUTS = 5, 4, 3  # so that x, W, b and dout have different numbers of entries
SHAPES = {  # of x, the usual ones first
    "samples in rows": (SAMPLES, INPUTS),
    "samples in columns": (INPUTS, SAMPLES),
    "one sample": (INPUTS, 1),
    "one vector": (INPUTS,),
    "images": (2, 2, 6, 6),
    "one image": (2, 6, 6),
}
FORWARD = r"(feed)?forward(pass|prop\w*)?|fprop|loss|(calc|calculate|compute)(loss|cost)|call"
BACKWARD = r"back(ward|prop\w*|propagate|wardpass|wardprop\w*)|bprop|gradients?|grad"
CONSTRUCTIONS = 80  # ways to call a constructor that are tried


class Layer(NamedTuple):
    """One class, or pair of functions, of a file, and one way in which it can be called.

    - `arguments`: x and the parameters that it makes a gradient of; `missing` are the others.
    - `forward(*arrays)`: the output at these arguments; `backward(dout, *arrays)` the gradients by their names.
    - `targets`: those that a loss is given beside x, and that the two functions know; None for any other layer.
    """

    title: str
    name: str
    shape: str
    arguments: Mapping[str, np.ndarray]
    missing: tuple[str, ...]
    forward: Callable[..., np.ndarray]
    backward: Callable[..., dict[str, np.ndarray]]
    targets: np.ndarray | None

    @property
    def samples(self) -> int:
        return samples_in(self.shape)[0]

    @property
    def samples_first(self) -> bool:
        return samples_in(self.shape)[1]


def probabilities(objective: str, scores: np.ndarray, samples_first: bool) -> np.ndarray:
    """What a softmax, or a sigmoid, makes of a batch of scores in a layer's own layout."""
    return predicted(objective, scores.T).T if samples_first else predicted(objective, scores)


def layer_classes(hand_in: HandIn) -> dict[str, type]:
    """The classes of a file that have a forward and a backward pass."""
    classes = defined(hand_in, type)
    return {name: cls for name, cls in classes.items() if passes(cls) is not None and not inspect.isabstract(cls)}


def defined(hand_in: HandIn, kind: type) -> dict[str, Any]:
    """What of a kind the file itself defines; if nothing, what it imports from the files beside it."""
    found = hand_in.own(kind)
    return {name: it for name, it in found.items() if it.__module__ == hand_in.module.__name__} or found


def passes(cls: type) -> tuple[str, str] | None:
    """The names of the two methods."""
    names = [name for name in dir(cls) if inspect.isroutine(getattr(cls, name)) and (name[0] != "_" or "call" in name)]
    found = [[n for n in names if re.fullmatch(pattern, plain(n))] for pattern in (FORWARD, BACKWARD)]
    if not all(found):
        return None
    forward, backward = (min(group, key=lambda n: ("ward" not in n, "call" in n, len(n))) for group in found)
    return forward, backward


def ways_to_call(hand_in: HandIn, cls: type) -> list[Layer]:
    """The ways in which a layer can be called, the usual ones first.

    **Raises:** `Unclear` if there is none, with why.
    """
    reason = f"its constructor {inspect.signature(cls)} asks for what cannot be told"
    shapes = shapes_for(cls.__name__, SHAPES)
    handed = [(shape, *pair) for shape in shapes for pair in targets_for(cls, shape)]
    for number, arguments in enumerate(constructions(cls)):
        layers, why = tried(partial(called, hand_in, cls, arguments, *way) for way in handed)
        if layers:
            return layers
        reason = why if number == 0 and why else reason
    raise Unclear(reason)


def tried(ways: Iterable[Callable[[], Layer]]) -> tuple[list[Layer], str]:
    """The layers that can be called so; and why the first one cannot that cannot."""
    layers, reason = [], ""
    for way in ways:
        try:
            layers.append(way())
        except Unclear as error:
            reason = reason or str(error)
        except (Exception, SystemExit) as error:  # of its own code
            reason = reason or told(error)
    return layers, reason


def shapes_for(name: str, shapes: Iterable[str]) -> list[str]:
    """Images first for what is called a convolution or pooling."""
    of_images = bool(re.search(r"conv|pool|spatial|2d", plain(name)))
    return sorted(shapes, key=lambda shape: ("image" in shape) != of_images)


def targets_for(cls: type, shape: str) -> list[tuple[np.ndarray | None, bool]]:
    """None for a layer; for a loss its targets, one-hot and as labels, and whether backward is given the output."""
    methods = passes(cls)
    assert methods is not None
    names = [name for name in required(getattr(cls, methods[0])) if option(name) is None]
    if len(names) < 2:
        return [(None, False)]
    if len(returned_names(getattr(cls, methods[1]))) > 1:
        raise Unclear(f"{methods[0]}({', '.join(names)}) has more than one input")
    if shape not in ("samples in rows", "samples in columns"):
        return []
    return list(product(one_hot_and_labels(shape), (False, True)))


def one_hot_and_labels(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """The targets of a loss that is handed x of this shape."""
    samples, samples_first = samples_in(shape)
    labels = np.arange(samples) * 7 % INPUTS
    one_hot = np.eye(INPUTS)[labels]
    return one_hot if samples_first else one_hot.T, labels


def required(function: Callable[..., Any]) -> list[str]:
    """The arguments without a default, but for self."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]


def option(name: str) -> Any:
    """What a switch or number beside the data is given; None for data."""
    bare = plain(name)
    if re.search(r"train", bare):
        return True
    if bare == "mode":
        return "train"
    return {"rate": 1.0, "momentum": 0.0, "penalty": 0.0}.get(role(name))


def constructions(cls: type) -> Iterator[dict[str, Any]]:
    """Arguments for the constructor as they may be meant; at last with sizes for what is None by default, too."""
    parameters = list(inspect.signature(cls).parameters.values())
    parameters = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in parameters if p.default is p.empty]
    empty = [p.name for p in parameters if p.default is None and possible(p.name)]
    for names in (needed, [*needed, *empty]) if empty else (needed,):
        for values in islice(product(*map(possible, names)), CONSTRUCTIONS):
            yield dict(zip(names, values, strict=True))


def possible(name: str) -> list[Any]:
    """What an argument of a constructor may be."""
    bare, rng = plain(name), np.random.default_rng([*name.encode()])
    kind = leaf_kind(name)[0]
    if kind:
        shapes: dict[str, list[tuple[int, ...]]] = {
            "W": [(INPUTS, OUTPUTS), (OUTPUTS, INPUTS), (OUTPUTS, 2, 3, 3)],
            "b": [(OUTPUTS,), (1, OUTPUTS), (OUTPUTS, 1)],
        }
        return [rng.normal(size=shape) for shape in shapes[kind]]
    if re.fullmatch(r"gamma|beta|scale|shift", bare):
        return [rng.normal(size=shape) for shape in ((INPUTS,), (1, INPUTS), (INPUTS, 1))]
    if role(name) == "slope":
        return [lambda z: 1 - np.tanh(z) ** 2]
    if "act" in bare or bare in ("func", "function", "f"):
        return [np.tanh, "tanh", "relu"]
    if "shape" in bare:
        return [(INPUTS,), (2, 6, 6)]
    if re.search(r"rate|ratio|prob|^p$|keep|momentum|eps|alpha|slope|decay|reg|lambda", bare):
        return [0.5]
    if re.search(r"kernel|filter|pool|stride|pad|channel|depth|^[hw]$|height|width|kh|kw", bare):
        return [2, 3, 1]
    if re.search(r"out|neuron|unit|node|hidden", bare):
        return [OUTPUTS, INPUTS]
    return [INPUTS, OUTPUTS]


def called(
    hand_in: HandIn,
    cls: type,
    arguments: Mapping[str, Any],
    shape: str,
    targets: np.ndarray | None,
    hands_output: bool,
) -> Layer:
    """A layer that is made and called so, once. `hands_output`: a loss's backward pass is given the output that the
    layer keeps, as that of the softmax in it, and not x.

    **Raises:** what its code raises; `Unclear` if it cannot be told what is what.
    """
    methods = passes(cls)
    assert methods is not None
    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPES[shape])
    if targets is not None:  # probabilities, which a loss of scores takes, too
        x = probabilities("softmax", x, shape == "samples in rows")

    def made() -> Any:
        with quiet(hand_in.printed):
            np.random.seed(0)  # noqa: NPY002  (`quiet` puts NumPy's own numbers back)
            return cls(**copy.deepcopy(dict(arguments)))

    def forward(layer: Any, given: np.ndarray) -> np.ndarray:
        method = getattr(layer, methods[0])
        with quiet(hand_in.printed):
            np.random.seed(0)  # noqa: NPY002  (the same mask of dropout each time)
            result = method(**forward_arguments(method, given, targets))
        return output_of(result, layer)

    def backward(layer: Any, given: np.ndarray, out: np.ndarray, dout: np.ndarray) -> list[Entry]:
        method = getattr(layer, methods[1])
        with quiet(hand_in.printed):
            handed = kept_output(layer) if hands_output else given
            if handed is None or handed.shape != given.shape:
                raise Unclear("it keeps no output")
            result = method(**backward_arguments(method, handed, out, dout, targets))
        return entries(result, returned_names(getattr(cls, methods[1])))

    prototype = made()
    first = forward(prototype, x.copy())
    slots, unused = parameters_of(prototype, lambda layer: forward(layer, x.copy()))
    values = {name: rng.normal(size=slot.value.shape) for name, slot in slots.items()}

    def at(arrays: Sequence[Any]) -> Any:
        layer = copy.deepcopy(prototype)
        for name in own_rates(layer):
            setattr(layer, name, 1.0)
        for slot, array in zip(slots.values(), arrays, strict=True):
            slot.put(layer, np.asarray(array))
        return layer

    def gradients(dout: np.ndarray, given: np.ndarray, *arrays: Any) -> dict[str, np.ndarray]:
        layer = at(arrays)
        out = forward(layer, given)
        before = snapshot(layer)
        returned = backward(layer, given, out, dout)
        steps = steps_taken(layer, before, slots)
        if (
            steps
            and not own_rates(layer)
            and not any(map(is_rate, inspect.signature(getattr(cls, methods[1])).parameters))
        ):
            raise Unclear(f"{methods[1]} changes {', '.join(steps)} by itself, and by no learning rate that can be set")
        rest = {name: slot for name, slot in slots.items() if name not in steps}
        own = {slot.path for slot in slots.values()}
        news = [slot for slot in changed(layer, before) if slot.path not in own]
        kept = [Entry(".".join(map(str, slot.path)), np.array(slot.value)) for slot in news]
        return steps | told_apart(returned, kept, rest, given.size)

    found = gradients(rng.normal(size=np.shape(first)), x.copy(), *values.values())
    for name in [name for name in slots if name in unused and name not in found]:
        del slots[name], values[name]
    missing = tuple(name for name in ("x", *slots) if name not in found)
    fixed = {name: value for name, value in values.items() if name in missing}

    def whole(given: Sequence[Any]) -> list[Any]:
        """All parameters, of which those without a gradient stay as they are."""
        known = dict(zip(names[has_x:], given, strict=True)) | fixed
        return [known[name] for name in slots]

    names = [name for name in ("x", *slots) if name in found]
    has_x = int("x" in found)

    def run_forward(*arrays: Any) -> np.ndarray:
        arrays = tuple(np.array(array) for array in arrays)  # it may write into them
        return forward(at(whole(arrays[has_x:])), arrays[0] if has_x else x.copy())

    def run_backward(dout: np.ndarray, *arrays: Any) -> dict[str, np.ndarray]:
        made = gradients(np.asarray(dout), arrays[0] if has_x else x.copy(), *whole(arrays[has_x:]))
        return {name: made[name] for name in names}

    if not names:
        raise Unclear(f"{methods[1]} neither returns a gradient nor keeps one, as self.dW")
    title = f"{cls.__name__}({', '.join(map(as_typed, arguments.items()))}), {shape}"
    all_values = {"x": x, **values}
    audited = {name: all_values[name] for name in names}
    return Layer(
        title,
        cls.__name__,
        shape,
        audited,
        missing,
        signed(run_forward, names),
        run_backward,
        targets,
    )


def own_rates(layer: Any) -> list[str]:
    """The learning rates that a layer has as attributes."""
    return [name for name, value in vars(layer).items() if is_rate(name) and isinstance(value, int | float)]


def is_rate(name: str) -> bool:
    return role(name) == "rate"


def signed(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """The function with arguments of these names."""
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    )
    return function


def samples_in(shape: str) -> tuple[int, bool]:
    """How many samples there are, and whether their axis is the first."""
    return {"samples in rows": (SAMPLES, True), "samples in columns": (SAMPLES, False), "images": (2, True)}.get(
        shape, (1, False)
    )


def as_typed(argument: tuple[str, Any]) -> str:
    """An argument of a constructor: a number as it is, anything larger by its name."""
    name, value = argument
    return repr(value) if isinstance(value, int | float | str | tuple) else name


def forward_arguments(method: Callable[..., Any], x: np.ndarray, targets: np.ndarray | None) -> dict[str, Any]:
    """x, the targets of a loss, and switches.

    **Raises:** `Unclear` if there is an argument that cannot be told.
    """
    names = required(method)
    data = [name for name in names if option(name) is None]
    filled = {name: option(name) for name in inspect.signature(method).parameters if re.search(r"train", plain(name))}
    filled |= {name: option(name) for name in names if option(name) is not None}
    if targets is not None:
        last = next((name for name in data if role(name) == "y"), data[-1])
        filled[last] = targets.copy()
        data.remove(last)
    if len(data) != 1:
        raise Unclear(f"{method.__name__}({', '.join(names)}) asks for what cannot be told")
    return filled | {data[0]: x}


def backward_arguments(
    method: Callable[..., Any], x: np.ndarray, out: np.ndarray, dout: np.ndarray, targets: np.ndarray | None
) -> dict[str, Any]:
    """dout; for a loss its x and targets, as it asks for them.

    **Raises:** `Unclear` if there is an argument that cannot be told.
    """
    names = required(method)
    filled = {name: option(name) for name in names if option(name) is not None}
    filled |= {name: 1.0 for name in inspect.signature(method).parameters if is_rate(name)}
    data = [name for name in names if name not in filled]
    if targets is not None:
        if len(data) == 1 and role(data[0]) != "y":
            return filled | {data[0]: np.ones_like(out)[()]}  # dL/dL
        return filled | {name: targets.copy() if role(name) == "y" else x.copy() for name in data}
    inputs = [name for name in data if role(name) == "X" and len(data) > 1]
    filled |= dict.fromkeys(inputs, x)
    data = [name for name in data if name not in inputs]
    if len(data) != 1 or (role(data[0]) == "y" and plain(data[0]) not in ("outputs", "output")):
        raise Unclear(f"{method.__name__}({', '.join(names)}) asks for more than dL/d(output)")
    return filled | {data[0]: dout}
