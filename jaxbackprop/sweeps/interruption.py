"""Ctrl-C ends a training where it stands, in all processes that take part in it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxbackprop.sweeps.transfer import spans_processes


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While it lasts, the first Ctrl-C only sets a flag, which the function that it yields reads; the second one
    interrupts at once. Outside the main thread, where signals cannot be caught, nothing changes."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def agree(flag: bool, mesh: Mesh) -> bool:
    """Whether it is so in any of the processes that train together: all of them have to take the same way."""
    if not spans_processes(mesh):
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))
