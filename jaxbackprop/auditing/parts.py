"""The parts before the whole: the forward pass, the loss and f' of somebody else's code, each held against its own."""

from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.activations import get_activation
from jaxbackprop.auditing.hand_in import told
from jaxbackprop.auditing.layered import elementwise
from jaxbackprop.auditing.subjects import Run, Subject
from jaxbackprop.auditing.trained_for import HALVES
from jaxbackprop.auditing.yardstick import Yardstick
from jaxbackprop.losses import get_objective

POINTS = np.array([[-1.7, -0.8, -0.3], [0.5, 0.9, 1.6]])


class PartFinding(NamedTuple):
    """What is to be said of a part: a code, a sentence, and whether it is a mistake or a note."""

    code: str
    sentence: str
    wrong: bool


def look_at_parts(
    subject: Subject, run: Run, right: Yardstick, forward: dict[str, bool], activation: str, spelled: Any
) -> list[PartFinding]:
    """The parts in the order of their computation; `forward` is that of `forward_stages`."""
    return [*activation_values(subject, activation, spelled), *forward_pass(forward), *own_loss(run, right),
            *slope_values(subject, activation, spelled), *writes(run), *step_taken(run)]  # fmt: skip


def activation_values(subject: Subject, activation: str, spelled: Any) -> list[PartFinding]:
    """f alone."""
    got = values_of(subject.value, spelled, activation)
    right = elementwise(get_activation(activation).value, POINTS)
    return [] if got is None or np.allclose(got, right) else [
        PartFinding("activation", f"your {activation}({z:g}) is {g:.4f}, right is {r:.4f}", True)
        for z, g, r in farthest(got, right)
    ]  # fmt: skip


def slope_values(subject: Subject, activation: str, spelled: Any) -> list[PartFinding]:
    """f' alone, against f'; one that is written in terms of a = f(z) is right where it is given a."""
    got = values_of(subject.slope, spelled, activation)
    if got is None:
        return []
    function = get_activation(activation)
    a = elementwise(function.value, POINTS)
    right = elementwise(function.slope, POINTS, a)
    if np.allclose(got, right):
        return at_kink(subject, activation, spelled)
    of_a = values_of(subject.slope, spelled, activation, a)
    if of_a is not None and np.allclose(of_a, right):
        return [PartFinding("slope_of_a", f"your {activation}' is written in terms of a = {activation}(z)", False)]
    return [
        PartFinding("slope", f"your {activation}'({z:g}) is {g:.4f}, right is {r:.4f}", True)
        for z, g, r in farthest(got, right)
    ]


def at_kink(subject: Subject, activation: str, spelled: Any) -> list[PartFinding]:
    """Which slope is taken exactly at a kink: a convention."""
    if (
        activation != "relu"
        or (got := values_of(subject.slope, spelled, activation, np.zeros((2, 3)))) is None
        or not got.any()
    ):
        return []
    return [PartFinding("slope_at_kink", f"your relu'(0) is {got.flat[0]:g}, the course takes 0; both will do", False)]


def step_taken(run: Run) -> list[PartFinding]:
    """Where the gradient is from, if none came back."""
    text = "backprop hands back no gradient: the step that it takes, with a learning rate of 1, is held against it"
    return [PartFinding("step", text, False)] if run.step else []


def forward_pass(forward: dict[str, bool]) -> list[PartFinding]:
    """The first of z1, a1, …, y-hat that is not right."""
    wrong = [name for name, ok in forward.items() if not ok]
    return [
        PartFinding("forward", f"the forward pass differs from the course's, first in {name}", True)
        for name in wrong[:1]
    ]


def forward_stages(run: Run, right: Yardstick) -> dict[str, bool]:
    """z1, a1, …, probs, as far as they can be seen, and whether each is right."""
    t = right.trace(run.leaves)
    known = {f"z{l}": t.z[l].T for l in range(1, t.depth + 1)} | {f"a{l}": t.a[l].T for l in range(1, t.depth)}
    known["probs"] = t.a[-1].T
    order = [f"{kind}{l}" for l in range(1, t.depth + 1) for kind in "za"] + ["probs"]
    found = {}
    for name in order:
        got = run.stages.get(name)
        if got is None or name not in known:
            continue
        as_its_a = (name, f"a{name[1:]}") in run.same and np.allclose(got, known.get(f"a{name[1:]}", got))
        close = got.shape == known[name].shape and np.allclose(got, known[name], rtol=1e-5, atol=1e-8)
        found[name] = bool(close or as_its_a)
    return found


def own_loss(run: Run, right: Yardstick) -> list[PartFinding]:
    """The file's own loss against the mean cross-entropy; the sum is a convention."""
    if run.loss is None:
        return []
    try:
        got = run.loss()
    except Exception as error:
        return [PartFinding("loss", f"your loss could not be compared: it raised {told(error)}", False)]
    mean, samples = right.loss(run.leaves), run.stages.get("probs", np.empty((20, 0))).shape[0]
    if np.isclose(got, mean, rtol=1e-5):
        return []
    if np.isclose(got, samples * mean, rtol=1e-5):
        return [PartFinding("loss_sum", f"your loss is the sum over the {samples} samples", False)]
    if right.network.objective != "softmax":
        name, outputs = get_objective(right.network.objective).name, right.trace(run.leaves).y.shape[0]
        usual = [a * b for a in HALVES for b in (1.0, outputs, 1 / outputs)]
        factor = next((c for c in usual if np.isclose(mean, c * got, rtol=1e-5)), None)
        text = f"your gradient is that of the {name}, {mean:.4f} here; your loss, {got:.4f}, is another function"
        if factor is not None:
            text = f"your gradient is {factor:g} times that of your loss: the learning rate takes a constant up"
        return [PartFinding("loss_constant" if factor else "other_loss", text, False)]
    return [PartFinding("loss", f"your loss is {got:.4f} where the mean cross-entropy is {mean:.4f}", True)]


def writes(run: Run) -> list[PartFinding]:
    """What the backward pass changed on the way."""
    inputs = [name for name in run.writes if name in ("X", "y")]
    kept = [name for name in run.writes if name not in inputs]
    found = [
        PartFinding(
            "aliasing", f"{z} is {a}: both names are one array, and what is written into {a} changes {z}", False
        )
        for z, a in run.same
    ]
    if inputs:
        found.append(PartFinding("writes_input", f"backprop changes its own inputs: {', '.join(inputs)}", True))
    if kept:
        text = f"backprop writes into {', '.join(kept)}, which the forward pass left; call it twice and it is wrong"
        found.append(PartFinding("writes_kept", text, False))
    return found


def values_of(function: Any, spelled: Any, activation: str, z: np.ndarray = POINTS) -> np.ndarray | None:
    """What an elementwise function of the file gives; None if it cannot be called alone."""
    if function is None:
        return None
    try:
        got = np.asarray(function(z.copy(), spelled, activation), np.float64)
    except Exception:
        return None
    return got if got.shape == z.shape else None


def farthest(got: np.ndarray, right: np.ndarray) -> list[tuple[float, float, float]]:
    """Where two tables differ most: at 0.5 if they differ there."""
    off = np.abs(got - right)
    place = (1, 0) if off[1, 0] > 1e-3 else np.unravel_index(int(np.argmax(off)), off.shape)
    return [(float(POINTS[place]), float(got[place]), float(right[place]))]
