"""Settings and fitted attributes as JSON holds them, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped


def plain(name: str, value: Any) -> Any:
    """A setting or fitted attribute as JSON holds it; tuples and numbers as keys are marked."""
    if isinstance(value, np.random.RandomState):
        return None  # a generator is no setting that could be read again
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {"tuple": [plain(name, item) for item in value]}
    if isinstance(value, Mapping):
        return {"pairs": [[plain(name, key), plain(name, item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return plain(name, tuple(value.tolist()))
    if isinstance(value, list):
        return [plain(name, item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{name}={value!r} is nothing that JSON can hold")


def restored(value: Any) -> Any:
    """The inverse of `plain`."""
    if isinstance(value, list):
        return [restored(item) for item in value]
    if isinstance(value, dict) and "tuple" in value:
        return tuple(restored(item) for item in value["tuple"])
    if isinstance(value, dict):
        return {restored(key): restored(item) for key, item in value["pairs"]}
    return value


def plain_labels(classes: Shaped[np.ndarray, " classes"]) -> dict[str, Any]:
    """The classes' labels as JSON holds them."""
    return {"classes": classes.tolist(), "dtype": classes.dtype.str}


def restored_labels(labels: Mapping[str, Any]) -> Shaped[np.ndarray, " classes"]:
    """The inverse of `plain_labels`."""
    return np.array(labels["classes"], dtype=np.dtype(labels["dtype"]))
