"""Where an object of somebody else's class keeps its weights, biases and gradients."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import Unclear, is_gradient, leaf_kind, plain

LOOKED_FOR = (
    "W1, b1, W2, b2 (or w1, weights1, bias1, W_h, …), dicts as params['W1'], lists as weights[0], biases[0], "
    "and lists of layers with W and b"
)


class Slot(NamedTuple):
    """One array inside of an object: the attributes, keys and indices on the way to it."""

    path: tuple[Any, ...]
    value: np.ndarray

    @property
    def name(self) -> str:
        """The last name on the way, with the numbers behind it."""
        names = [i for i, part in enumerate(self.path) if isinstance(part, str)]
        before = "".join(f"{part:03d}" for part in self.path[: names[-1]] if isinstance(part, int))
        after = "".join(f"{part}" for part in self.path[names[-1] + 1 :])
        return f"{self.path[names[-1]]}{before}{after}"

    def read(self, holder: Any) -> Any:
        """What is there now."""
        return inside(holder, self.path)

    def put(self, holder: Any, value: np.ndarray) -> None:
        """Write another array there, of the same kind: into the one that is there, which others may hold, too."""
        holder = inside(holder, self.path[:-1])
        array = np.array(value, np.float64).reshape(self.value.shape)
        now = inside(holder, self.path[-1:])
        if isinstance(now, np.ndarray) and now.dtype == np.float64 and now.shape == array.shape and now.flags.writeable:
            now[...] = array
            return
        new = np.asmatrix(array) if isinstance(self.value, np.matrix) else array
        last = self.path[-1]
        if isinstance(last, str) and has_attributes(holder):
            setattr(holder, last, new)
        else:
            holder[last] = new


def inside(holder: Any, path: Sequence[Any]) -> Any:
    """What is at the end of a way through attributes, keys and indices."""
    for part in path:
        holder = getattr(holder, part) if has_attributes(holder) and isinstance(part, str) else holder[part]
    return holder


def has_attributes(holder: Any) -> bool:
    """Whether what an object holds are its attributes. (An OrderedDict has some, and holds its items.)"""
    return hasattr(holder, "__dict__") and not isinstance(holder, Mapping)


def walk(holder: Any, path: tuple[Any, ...] = ()) -> Iterator[Slot]:
    """All arrays of an object: its attributes, and in dicts, lists and further objects two levels down."""
    if isinstance(holder, np.ndarray) and holder.dtype != object:
        if path and holder.dtype.kind in "iuf":
            yield Slot(path, holder)
        return
    if len(path) > 3:
        return
    if isinstance(holder, Mapping):
        inner: Any = holder.items()
    elif isinstance(holder, list | tuple | np.ndarray):
        inner = enumerate(holder)
    elif hasattr(holder, "__dict__") and not isinstance(holder, type | FunctionType | MethodType | ModuleType):
        inner = vars(holder).items()
    else:
        return
    for key, value in inner:
        if isinstance(key, str | int):
            yield from walk(value, (*path, key))


def parameters(holder: Any, features: int | None, classes: int | None) -> tuple[dict[str, Slot], bool]:
    """The slots of W1, b1, W2, …, and whether a weight is (in, out). With None a chain may begin and end as it likes,
    if it is a chain in one direction only.

    **Raises:** `Unclear` if there is no chain of weights and biases from the features to the classes.
    """
    weights, biases = [], []
    known: list[np.ndarray] = []
    for slot in walk(holder):
        if any(slot.value is other for other in known):
            continue  # a layer's own array, which a list of parameters holds, too
        known.append(slot.value)
        if any(is_gradient(part) for part in slot.path if isinstance(part, str)) or slot.value.ndim > 2:
            continue
        kind = leaf_kind(slot.name)[0] or leaf_kind(str(slot.path[-1]))[0]
        if kind == "W" and slot.value.ndim == 2:
            weights.append(slot)
        elif kind == "b":
            biases.append(slot)
    chains = {rows: find_chain(weights, biases, features, classes, rows) for rows in (True, False)}
    for samples_first, chain in chains.items():
        if chain and (features is not None or not chains[not samples_first]):
            return chain, samples_first
    seen = ", ".join(f"{'.'.join(map(str, s.path))} {s.value.shape}" for s in [*weights, *biases]) or "none of them"
    ends = "" if features is None else f" from {features} features to {classes} classes"
    raise Unclear(f"it keeps no chain of weights{ends}: looked for {LOOKED_FOR}; found {seen}")


def find_chain(
    weights: Sequence[Slot], biases: Sequence[Slot], features: int | None, classes: int | None, samples_first: bool
) -> dict[str, Slot]:
    """The weights in an order in which each layer's outputs are the next one's inputs, with their biases."""
    if not weights or len(weights) != len(biases) or len(weights) > 6:
        return {}
    first = tuple(sorted(weights, key=natural))
    orders = [first, *(order for order in permutations(first) if len(first) <= 4)]
    for order in orders:
        shapes = [slot.value.shape if samples_first else slot.value.shape[::-1] for slot in order]
        inner = [a[1] == b[0] for a, b in pairwise(shapes)]
        ends = features in (None, shapes[0][0]) and (shapes[-1][1] > 1 if classes is None else shapes[-1][1] == classes)
        if not (all(inner) and ends):
            continue
        for others in permutations(sorted(biases, key=natural)):
            if all(bias.value.size == shape[1] for bias, shape in zip(others, shapes, strict=True)):
                pairs = enumerate(zip(order, others, strict=True), start=1)
                return {f"{kind}{l}": slot for l, pair in pairs for kind, slot in zip("Wb", pair, strict=True)}
    return {}


def natural(slot: Slot) -> list[tuple[int, str]]:
    """An order in which W2 comes before W10, and the hidden layer before the output."""
    text = plain(slot.name).replace("hidden", "1").replace("output", "2")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def kept_gradients(holder: Any) -> list[Slot]:
    """The arrays whose names are those of gradients."""
    return [
        slot
        for slot in walk(holder)
        if any(is_gradient(part) for part in slot.path if isinstance(part, str)) and leaf_kind(slot.name)[0]
    ]
