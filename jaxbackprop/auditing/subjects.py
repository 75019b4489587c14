"""What is audited on the command line, however it was written: something that makes a gradient out of W1, b1, W2, …

Code can be called in several ways - labels or one-hot, samples in rows or in columns. Each way is tried on random data;
the one is taken whose results fit best, the usual ways first.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import Entry, Unclear, assignments, plain, role
from jaxbackprop.auditing.hand_in import HandIn, NotRun, quiet, told
from jaxbackprop.auditing.yardstick import Data, Leaves, draw_data, draw_leaves, is_sum, right_leaves, yardstick
from jaxbackprop.losses import Objective

SAMPLES = 20
SPELLINGS = {
    "tanh": ("tanh", "hyperbolictangent"),
    "sigmoid": ("sigmoid", "logistic", "sig", "sigm", "logsig"),
    "relu": ("relu", "rectifier", "rectifiedlinear"),
    "leaky_relu": ("leakyrelu", "lrelu"),
    "elu": ("elu",),
    "softplus": ("softplus",),
    "silu": ("silu", "swish"),
    "gelu": ("gelu",),
}
ABSENT = object()
GUESSED = ("tanh", "sigmoid", "relu", "leaky_relu")  # where the code has one activation and does not say which


class Way(NamedTuple):
    """How the data and the activation are handed over."""

    rows: bool = True  # X is (samples, features)
    targets: str = "labels"  # or "one-hot", "column" for labels (samples, 1)
    by_name: bool = False  # the activation as a string, not as a function
    as_dict: bool = True  # the parameters as a dictionary, not as a list

    def hand_over(self, data: Data, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies, in this way."""
        y = {"labels": data.y, "one-hot": np.eye(classes)[data.y], "column": data.y[:, None]}[self.targets]
        X = data.X if self.rows else data.X.T
        y = y.T if y.ndim == 2 and not self.rows else y
        return X.copy(), y.copy()


@dataclass(frozen=True)
class Run:
    """What one call made: at which parameters, what came back, and what was seen on the way.

    `stages` are z1, a1, …, probs, samples first. `writes` names what the backward pass changed.
    """

    leaves: Leaves
    found: list[Entry]
    stages: dict[str, np.ndarray]
    writes: tuple[str, ...] = ()
    loss: Callable[[], float] | None = None
    named: Mapping[str, Any] = field(default_factory=dict)  # what else it keeps by name
    told: Mapping[str, Any] = field(default_factory=dict)  # what it returned by name
    same: tuple[tuple[str, str], ...] = ()  # stages that are one array
    step: bool = False  # whether the gradient is the step that was taken with a learning rate of 1


@dataclass(frozen=True)
class Subject:
    """Something that can be audited.

    - `title`: how it is called, with a place for the activation as the file spells it.
    - `shapes` of W1, b1, …; `samples_first` whether a weight is (in, out).
    - `spelled`: the activations on offer, as the file spells them; empty if it has one of its own.
    - `call`: called as `call(leaves, data, way, spelled, penalty)`, with None for what is to stay as it is.
    - `slope`, `value`: the file's own f' and f, called as `slope(z, spelled, activation)`, if it has them.
    - `penalty`: the strength of its l2 term if it can be set, else None.
    - `function`: the backward pass, named `backward`, to look at its variables; `slope_name` is what f' is called.
    """

    title: str
    shapes: Mapping[str, tuple[int, ...]]
    samples_first: bool
    call: Callable[[Leaves, Data, Way, Any, float | None], Run]
    spelled: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    slope: Callable[[np.ndarray, Any, str], Any] | None = None
    value: Callable[[np.ndarray, Any, str], Any] | None = None
    penalty: float | None = None
    function: Callable[..., Any] | None = None
    backward: str = ""
    slope_name: str = ""
    way: Way = field(default_factory=Way)
    number: int = 0  # of the assignment of results to leaves that fits
    objective: str | Objective = "softmax"

    @property
    def classes(self) -> int:
        return int(np.prod(list(self.shapes.values())[-1]))

    @property
    def features(self) -> int:
        first = next(iter(self.shapes.values()))
        return first[0] if self.samples_first else first[-1]

    def gradient(self, run: Run) -> dict[str, np.ndarray]:
        """The results by leaf.

        **Raises:** `Unclear` if there are not as many as leaves.
        """
        for number, assigned in enumerate(assignments(run.found, self.shapes)):
            if number == self.number:
                return {name: np.asarray(assigned[name], np.float64) for name in self.shapes}
        got = ", ".join(f"{entry.name or 'an array'} {entry.value.shape}" for entry in run.found) or "nothing"
        raise Unclear(f"{self.title} must make a gradient for each of {', '.join(self.shapes)}, got {got}")


def settle(subject: Subject, ways: Iterable[Way], hand_in: HandIn, rng: np.random.Generator) -> Subject:
    """The subject with the way of calling it that fits best.

    **Raises:** `NotRun` if all of them fail.
    """
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    data = draw_data(subject.features, subject.classes, SAMPLES, rng)
    options = [(name, spelling) for name, spellings in subject.spelled.items() for spelling in spellings]
    first_error: BaseException | None = None
    best, best_score = None, (-1, -1, -1, -1)
    for way in ways:
        for name, spelling in options or [("", None)]:
            try:
                with quiet(hand_in.printed):
                    run = subject.call(leaves, data, way, spelling, 0.0)
                found = list(assignments(run.found, subject.shapes))
            except (Exception, SystemExit) as error:
                if first_error is None or isinstance(first_error, Unclear) or isinstance(error, NotRun):
                    first_error = error
                continue
            for number, assigned in enumerate(found):
                score = fitness(subject, run, assigned, data, (name,) if name else GUESSED)
                if score > best_score:
                    best, best_score = replace(subject, way=way, number=number), score
            if not found and first_error is None:
                first_error = Unclear(missing(subject, run))
            if best_score[0] == len(subject.shapes):
                return best or subject
            if found and name:
                break  # the others are called alike
    if best is None:
        assert first_error is not None
        if isinstance(first_error, Unclear | NotRun):
            raise first_error
        raise NotRun(f"{titled(subject, None)} raised {told(first_error)}") from first_error
    return best


def missing(subject: Subject, run: Run) -> str:
    got = ", ".join(f"{entry.name or 'an array'} {entry.value.shape}" for entry in run.found) or "no array"
    wanted = ", ".join(f"d{name}" for name in subject.shapes)
    return f"{titled(subject, None)} must make {wanted}, or a dict of them, got {got}"


def fitness(
    subject: Subject, run: Run, assigned: Mapping[str, np.ndarray], data: Data, names: Iterable[str]
) -> tuple[int, int, int, int]:
    """How well results fit: the leaves that are right, whether y-hat is, the leaves that are a multiple of what is
    right, and those whose shapes are.
    """
    best = (0, 0, 0, 0)
    for name in names:
        scale = yardstick(run.leaves, data, name, subject.samples_first, objective=subject.objective)
        right = scale.gradient(run.leaves)
        factor = data.samples if is_sum(assigned, right, data.samples) else 1
        probs, known = run.stages.get("probs"), scale.trace(run.leaves).a[-1].T
        same = probs is not None and probs.shape == known.shape and np.allclose(probs, known)
        shapes = sum(np.shape(assigned[leaf]) == right[leaf].shape for leaf in right)
        best = max(
            best,
            (
                len(right_leaves(assigned, right, factor)),
                int(same),
                sum(parallel(assigned[n], leaf) for n, leaf in right.items()),
                shapes,
            ),
        )
    return best


def parallel(got: np.ndarray, right: np.ndarray) -> bool:
    """Whether one is a multiple of the other: a turned sign, a sum for a mean."""
    if np.size(got) != right.size or not np.isfinite(got).all():
        return False
    a, b = np.asarray(got, np.float64).reshape(-1), right.reshape(-1)
    return bool(abs(a @ b) > (1 - 1e-6) * np.linalg.norm(a) * np.linalg.norm(b) > 0)


def guess_activation(subject: Subject, run: Run, data: Data, spelled_in_file: Iterable[str]) -> tuple[str, bool]:
    """Which activation the code has, told by what it computes, and whether that is sure."""
    names = list(dict.fromkeys([*spelled_in_file, *GUESSED]))
    assigned = subject.gradient(run)
    scores = {name: fitness(subject, run, assigned, data, [name])[:2] for name in names}
    hidden = run.stages.get("a1")
    for name in names:
        right = yardstick(run.leaves, data, name, subject.samples_first).trace(run.leaves).a[1].T
        if hidden is not None and right.shape == hidden.shape and np.allclose(right, hidden):
            return name, True
    best = max(names, key=lambda name: (scores[name][1], scores[name][0]))
    return best, scores[best] > (0, 0)


def ways(*, rows: Iterable[bool], by_name: bool = False, as_list: bool = False) -> Iterator[Way]:
    """All ways to hand over, the usual ones first."""
    for direction, named, as_dict, targets in product(
        rows,
        (False, True) if by_name else (False,),
        (True, False) if as_list else (True,),
        ("labels", "one-hot", "column"),
    ):
        yield Way(direction, targets, named, as_dict)


def titled(subject: Subject, spelled: Any) -> str:
    """How it was called, with the activation as the file spells it."""
    return subject.title.replace("{activation}", repr(spelled) if spelled is not None else "...")


def our_name(spelling: str) -> str | None:
    """The activation that a file's word means."""
    return next((name for name, words in SPELLINGS.items() if plain(spelling) in words), None)


@contextlib.contextmanager
def globals_set(
    hand_in: HandIn,
    X: np.ndarray | None,
    y: np.ndarray | None,
    samples: int | None,
    penalty: float | None,
    more: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """The file's own global X, y, num_examples and reg_lambda, as functions of notebooks read them."""
    namespace = hand_in.namespace
    values: dict[str, Any] = {"X": X, "y": y, "samples": samples, "penalty": penalty}
    before: dict[str, Any] = {}
    for name, value in list(namespace.items()):
        kind = role(name)
        data = isinstance(value, np.ndarray) and kind in ("X", "y")
        number = isinstance(value, int | float) and not isinstance(value, bool) and kind in ("samples", "penalty")
        if (data or number) and values[kind] is not None:
            before[name], namespace[name] = value, values[kind]
    for name, value in (more or {}).items():
        before.setdefault(name, namespace.get(name, ABSENT))
        namespace[name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            if value is ABSENT:
                namespace.pop(name, None)
            else:
                namespace[name] = value
