"""scikit-learn's callbacks, which it has from 1.9 on: who is told what of a training, and when.

A fit is a task with an epoch (or an iteration of L-BFGS) a subtask; a search is one with a subtask for each candidate
on each fold. Of candidates that are trained together each is told to be over when its share of all the work is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sklearn.utils.metaestimators import _safe_split

try:
    from sklearn.callback import AutoPropagatedCallback, CallbackSupportMixin, ProgressBar
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """There are no callbacks yet."""


Attributes = Callable[[], Mapping[str, Any]]
AfterEpoch = Callable[[Attributes, bool], bool]


@contextmanager
def watched(estimator: Any, X: Any, y: Any, sample_weight: Any, epochs: int, task: str) -> Iterator[AfterEpoch | None]:
    """Around the training of one estimator: its callbacks are told of beginning and end.

    Yields what is to be called after each epoch, or None if there are no callbacks: with a function that gives the
    fitted attributes as they would be now, and whether another epoch follows; it returns whether to stop.
    """
    if not getattr(estimator, "_skl_callbacks", ()):
        yield None
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
    whole = estimator._init_callback_context(max_subtasks=epochs).call_on_fit_task_begin(**told)
    now = whole.subcontext(task_name=task).call_on_fit_task_begin(**told)

    def after(attributes: Attributes, goes_on: bool) -> bool:
        nonlocal now
        stop = now.call_on_fit_task_end(**told, reconstruction_attributes=attributes)
        goes_on = goes_on and not stop
        now = whole.subcontext(task_name=task).call_on_fit_task_begin(**told) if goes_on else None
        return stop

    yield after
    if now is not None:  # an epoch that was begun and never came
        now.call_on_fit_task_end(estimator=estimator)
    whole.call_on_fit_task_end(**told, reconstruction_attributes={})


def looks_inside(search: Any, network: Any) -> bool:
    """Whether a callback wants to be told of the epochs of every single candidate: one of the network's own, or one of
    the search's that is handed down to it, but for a progress bar."""
    if getattr(network, "_skl_callbacks", ()):
        return True
    return any(
        isinstance(callback, AutoPropagatedCallback) and not isinstance(callback, ProgressBar)
        for callback in getattr(search, "_skl_callbacks", ())
    )


@contextmanager
def told_of_candidates(
    search: Any, context: Any, X: Any, y: Any, sample_weight: Any, splits: Sequence[Any], candidates: int
) -> Iterator[Callable[[float], None]]:
    """Around the training of all candidates: the search's callbacks are told of each of them on each fold.

    Yields what is to be called as the work goes on, with the part of it that is done.
    """
    if context is None or not getattr(search, "_skl_callbacks", ()):
        yield lambda done: None
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    parts = [_safe_split(search.estimator, X, y, train) for train, _ in splits]
    told = [{"estimator": search, "X": X, "y": y, "metadata": metadata} for _ in range(candidates) for X, y in parts]
    tasks = [
        context.subcontext(task_name="candidate-split-evaluation", task_id=number).call_on_fit_task_begin(**what)
        for number, what in enumerate(told)
    ]
    over = 0

    def advance(done: float) -> None:
        nonlocal over
        for number in range(over, int(done * len(tasks))):
            tasks[number].call_on_fit_task_end(**told[number])
            over = number + 1

    try:
        yield advance
    finally:
        advance(1.0)
