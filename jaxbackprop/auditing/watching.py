"""What a function of somebody else had in its variables when it returned, and the lines in which these were made."""

import ast
import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import is_gradient, leaf_kind, name_of, plain


@contextlib.contextmanager
def watched(function: Callable[..., Any] | None) -> Iterator[dict[str, Any]]:
    """The local variables of a Python function as its last call leaves them."""
    code, seen = getattr(function, "__code__", None), dict[str, Any]()
    before = sys.getprofile()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            seen.clear()
            seen.update(frame.f_locals)

    if before is not None:  # a profiler is at work already: nothing is seen
        yield seen
        return
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def errors_seen(names: Mapping[str, Any], samples: int, units: list[int], rows: bool) -> dict[str, tuple[str, Any]]:
    """The deltas among variables, as dz1, dz2, …, each with the name that it has there.

    `units` are the widths of the layers from the first hidden one on. Numbers may start anywhere: the document's delta3
    belongs to z2.
    """
    depth, found = len(units), {}
    for name, value in names.items():
        match = re.fullmatch(r"(?:delta|dz|dscores|d)(\d|\w*out\w*|\w*hid\w*|)", plain(name))
        if not match or not isinstance(value, np.ndarray) or value.ndim != 2:
            continue
        array = np.array(value if rows else value.T, np.float64)
        if array.shape[0] == samples and not is_gradient(name):
            found[name] = (match[1], array)
    numbers = [int(mark) for mark, _ in found.values() if mark.isdigit()]
    shift = max(numbers, default=depth) - depth
    stages = {}
    for name, (mark, array) in found.items():
        l = (
            int(mark) - shift
            if mark.isdigit()
            else depth
            if "out" in mark
            else 1
            if "hid" in mark and depth == 2
            else 0
        )
        if 1 <= l <= depth and array.shape == (samples, units[l - 1]):
            stages[f"dz{l}"] = (name, array)
    return stages


def line_of(tree: ast.Module, function: str, name: str) -> int | None:
    """The line in a function or method that makes a variable, an attribute or an entry of that name.

    If several lines do it, the first: the others change what it made.
    """
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign | ast.AugAssign | ast.AnnAssign):
                    targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
                    parts = [p for t in targets for p in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
                    if any(name_of(part) == name for part in parts) and not is_blank(inner):
                        lines.append(inner.lineno)
    return min(lines, default=None)


def is_blank(node: ast.AST) -> bool:
    """Whether an assignment only makes room, as np.zeros_like(W1)."""
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and name_of(value.func) in ("zeros", "zeros_like", "empty", "empty_like")


def line_of_gradient(tree: ast.Module, function: str, leaf: str) -> tuple[str, int] | None:
    """The name in a function that stands for dL/dW1, say, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign | ast.AugAssign) and not is_blank(inner):
                    for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                        name = name_of(target)
                        if "".join(leaf_kind(name)) == leaf and (
                            is_gradient(name) or isinstance(target, ast.Subscript)
                        ):
                            return name, line_of(tree, function, name) or inner.lineno
    return None


def line_of_function(tree: ast.Module, name: str) -> int | None:
    """Where a function or method starts."""
    return next((n.lineno for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name), None)
