"""Why something cannot be audited, in one line."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGE = str(Path(__file__).resolve().parent.parent)


class AuditError(ValueError):
    """A function under audit raised: the message has its error, where that was, and what the function got."""


def call(name: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """`function(*args)`.

    **Raises:** `AuditError` if it raises, with its error as the cause; its own `AuditError` is passed on.
    """
    try:
        return function(*args, **keywords)
    except AuditError:
        raise
    except Exception as error:
        raise AuditError(f"{name} raised {told(error)}; it got {', '.join(map(kind, args)) or 'nothing'}") from error


def told(error: BaseException) -> str:
    """An error in a line, with the last place outside of libraries that it passed through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(PACKAGE)
    ]
    if not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})"


def kind(value: Any) -> str:
    """An argument in a few words: float64 (2, 3), or what its parts are."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype} {tuple(shape)}"
    leaves: Sequence[Any] = jax.tree.leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return type(value).__name__ if len(repr(value)) > 20 else repr(value)
    return f"{type(value).__name__} of [{', '.join(map(kind, leaves[:6]))}{', ...' * (len(leaves) > 6)}]"
