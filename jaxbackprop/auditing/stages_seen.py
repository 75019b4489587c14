"""What code of somebody else leaves behind on the way: its z1, a1, …, y-hat, and what its backward pass writes into."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import is_gradient, plain
from jaxbackprop.auditing.slots import Slot, walk
from jaxbackprop.auditing.yardstick import Data

OUTPUT = r"probs?|probabilities|yhat|yh|ypred|predictions?|softmax\w*|outputs?|out"


def seen_stages(
    thing: Any, out: Any, named: Mapping[str, Any], data: Data, classes: int, rows: bool
) -> dict[str, np.ndarray]:
    """z1, a1, z2, … and probs, samples first, from an object's attributes and what its forward pass returned."""
    arrays: dict[str, np.ndarray] = {}
    sources = {str(slot.path[-1]): slot.value for slot in walk(thing)} if thing is not None else {}
    for name, value in named.items():
        if isinstance(value, Mapping):
            sources |= {str(key): inner for key, inner in value.items()}
        elif name:
            sources[name] = value
    for name, value in sources.items():
        match = re.fullmatch(r"([za])(\d)", plain(name))
        key = (
            f"{match[1]}{match[2]}"
            if match and match[2] != "0"
            else "probs"
            if re.fullmatch(OUTPUT, plain(name))
            else ""
        )
        if key and (array := samples_first(value, data.samples, rows)) is not None:
            arrays[key] = array
    if "a1" in arrays and np.array_equal(arrays["a1"], data.X):  # some call the inputs a1
        arrays = {f"{name[0]}{int(name[1]) - 1}" if name[1:].isdigit() else name: a for name, a in arrays.items()}
    whole, array = (data.samples, classes), samples_first(out, data.samples, rows)
    if "probs" not in arrays and array is not None and array.shape == whole:
        arrays["probs"] = array
    # Logits, or something else: only what looks like probabilities may be held against y-hat, unless it says so.
    says_so = any(re.fullmatch(r"probs?|probabilities|yhat|yh", plain(name)) for name in sources)
    if "probs" in arrays and not says_so and (arrays["probs"].shape != whole or not adds_up(arrays["probs"])):
        arrays["outputs"] = arrays.pop("probs")
    return arrays


def adds_up(probs: np.ndarray) -> bool:
    return bool(np.allclose(probs.sum(axis=1), 1))


def samples_first(value: Any, samples: int, rows: bool) -> np.ndarray | None:
    """A copy with the samples first, if it has them."""
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        return None
    array = np.array(value, np.float64)
    array = array if rows else array.T
    return array if array.shape[0] == samples else None


def snapshot(thing: Any, X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Copies of all arrays before the backward pass."""
    kept = {".".join(map(str, slot.path)): np.array(slot.value) for slot in walk(thing)} if thing is not None else {}
    return kept | {"X": X.copy(), "y": y.copy()}


def written(
    before: Mapping[str, np.ndarray], thing: Any, X: np.ndarray, y: np.ndarray, slots: Sequence[Slot]
) -> tuple[str, ...]:
    """What is not as it was: the inputs, the parameters, and cached z and a."""
    now = {".".join(map(str, slot.path)): np.array(slot.value) for slot in walk(thing)} if thing is not None else {}
    now |= {"X": X, "y": y}
    parameters = {".".join(map(str, slot.path)) for slot in slots}
    changed = []
    for name, value in before.items():
        last = plain(name.split(".")[-1])
        watched = name in ("X", "y") or name in parameters or re.fullmatch(rf"[za]\d|{OUTPUT}", last)
        if watched and not is_gradient(last) and name in now and not same(now[name], value):
            changed.append(name)
    return tuple(changed)


def one_array(thing: Any) -> tuple[tuple[str, str], ...]:
    """The pairs of z and a that share their memory: what is written into one changes the other."""
    kept = {plain(str(slot.path[-1])): slot.value for slot in walk(thing)}
    pairs = [(f"z{l}", f"a{l}") for l in range(1, 10)]
    return tuple((z, a) for z, a in pairs if z in kept and a in kept and np.shares_memory(kept[z], kept[a]))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
