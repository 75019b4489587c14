"""Which of the arrays in a layer of somebody else's class are its output, its parameters, their gradients."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import Entry, Unclear, is_gradient, leaf_kind, plain
from jaxbackprop.auditing.slots import Slot, walk

OUTPUT = r"(layer)?out(put)?s?|outputdata|activations?|a|z|y|result|probs|probabilities|loss"
INPUT_GRADIENT = r"(d|grad|gradients?|deltas?)(loss)?(x|inp|ins?|inputs?|values?|a|prev|aprev|z)|(inp|inputs?)grad\w*"


def snapshot(layer: Any) -> dict[tuple[Any, ...], np.ndarray]:
    """Copies of all arrays in a layer."""
    return {slot.path: np.array(slot.value) for slot in arrays_in(layer)}


def arrays_in(layer: Any) -> Iterator[Slot]:
    """All arrays in a layer, with those that an array of a class of its own carries, as `W.grad`."""
    for slot in walk(layer):
        yield slot
        for name, value in vars(slot.value).items() if hasattr(slot.value, "__dict__") else ():
            if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
                yield Slot((*slot.path, name), value)


def changed(layer: Any, before: Mapping[tuple[Any, ...], np.ndarray]) -> list[Slot]:
    """The arrays that were not there before, or had other values."""
    return [
        slot
        for slot in arrays_in(layer)
        if slot.path not in before or not np.array_equal(before[slot.path], slot.value, equal_nan=True)
    ]


def kept_output(layer: Any) -> np.ndarray | None:
    """The output that a layer keeps, as `self.output`."""
    kept = [slot for slot in walk(layer) if len(slot.path) == 1 and re.fullmatch(OUTPUT, plain(slot.name))]
    return min(kept, key=lambda slot: "out" not in plain(slot.name)).value if kept else None


def output_of(result: Any, layer: Any) -> np.ndarray:
    """The output of a forward pass: what it returns, or what it leaves in the layer.

    **Raises:** `Unclear` if it does neither.
    """
    if isinstance(result, tuple | list) and result and isinstance(result[0], np.ndarray):
        result = result[0]  # and a cache
    if result is None:
        result = kept_output(layer)
    if result is None or np.asarray(result).dtype.kind not in "fiu":
        raise Unclear("its forward pass neither returns an output nor keeps one, as self.output")
    return np.asarray(result, np.float64).copy()


def parameters_of(layer: Any, forward: Callable[[Any], np.ndarray]) -> tuple[dict[str, Slot], set[str]]:
    """The arrays that the output depends on, weights before biases; with those that have the name of a weight or bias
    and that it does not depend on, which are named once more."""
    usual, found, idle = forward(copy.deepcopy(layer)), [], []
    for slot in walk(layer):
        if slot.value.dtype.kind != "f" or slot.value.ndim == 0:
            continue
        other = copy.deepcopy(layer)
        slot.put(other, slot.value + np.random.default_rng(1).uniform(0.5, 1, slot.value.shape))
        named = leaf_kind(slot.name)[0] and not any(is_gradient(str(part)) for part in slot.path)
        if not np.array_equal(forward(other), usual, equal_nan=True):
            found.append(slot)
        elif named:
            idle.append(slot)
    found = [*found, *idle]
    found.sort(key=lambda slot: leaf_kind(slot.name)[0] == "b")
    short = [slot.name for slot in found]
    names = [slot.name if short.count(slot.name) == 1 else "_".join(map(str, slot.path)) for slot in found]
    slots = dict(zip(names, found, strict=True))
    return slots, {name for name, slot in slots.items() if any(slot is other for other in idle)}


def told_apart(
    returned: Sequence[Entry], kept: Sequence[Entry], slots: Mapping[str, Slot], size: int
) -> dict[str, np.ndarray]:
    """Which of the arrays that a backward pass returns or leaves behind is which gradient: by name where it has one,
    then by the number of its entries; `size` is that of x."""
    found: dict[str, np.ndarray] = {}
    made = [*returned, *kept]
    named = [k for k, entry in enumerate(made) if re.fullmatch(INPUT_GRADIENT, plain(entry.name.split(".")[-1]))]
    if returned:
        named = [k for k in named if k < len(returned)] or of_the_input(made, len(returned), slots, size)
        if named:
            found["x"] = made.pop(named[0]).value
    elif named:
        found["x"] = made.pop(max(named, key=lambda k: made[k].value.size == size)).value
    for name, slot in slots.items():
        scores = [likeness(entry, slot) for entry in made]
        if scores and max(scores) > 1:
            found[name] = made.pop(scores.index(max(scores))).value
    return found


def of_the_input(made: Sequence[Entry], returned: int, slots: Mapping[str, Slot], size: int) -> list[int]:
    """Which of the arrays that are returned may be dL/dx, where none says so: none that has a parameter's name; one of
    x's size, else the first, unless it is as well a parameter's and there is none to spare."""
    others = [k for k in range(returned) if not any(same_name(made[k], slot) for slot in slots.values())]
    spare = len(made) > len(slots)
    shapes = [slot.value.shape for slot in slots.values()]
    return [k for k in others if made[k].value.size == size] or [
        k for k in others if spare or made[k].value.shape not in shapes
    ]


def steps_taken(layer: Any, before: Mapping[tuple[Any, ...], np.ndarray], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """By what a backward pass that takes the step itself, at a learning rate of 1, has moved the parameters."""
    now = {name: np.asarray(slot.read(layer)) for name, slot in slots.items()}
    return {
        name: before[slot.path] - now[name]
        for name, slot in slots.items()
        if not np.array_equal(now[name], before[slot.path])
    }


def likeness(entry: Entry, slot: Slot) -> int:
    """How much speaks for an array to be the gradient of a parameter; 1 is too little."""
    name = plain(entry.name.split(".")[-1])
    beside = entry.name.split(".")[:-1] == [str(part) for part in slot.path[:-1]] and "grad" in name
    listed = re.search(r"grad", plain(entry.name)) and entry.name.split(".")[-1] == str(slot.path[-1])
    size = entry.value.size == slot.value.size
    return 3 * same_name(entry, slot) + 2 * bool(beside or listed) + 2 * size + (entry.value.shape == slot.value.shape)


def same_name(entry: Entry, slot: Slot) -> bool:
    """Whether an array has the name of a parameter's gradient: dW, W_grad, or W for W, or another name of weights."""
    name = plain(entry.name.split(".")[-1])
    bare = re.sub(r"^(dld|dloss|dl|d|gradients?|grads?)|(gradients?|grads?)$", "", name)
    path = [plain(str(part)) for part in slot.path]
    return bare in path or (bool(leaf_kind(name)[0]) and leaf_kind(name)[0] == leaf_kind(slot.name)[0])
