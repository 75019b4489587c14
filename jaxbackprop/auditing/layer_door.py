"""The audit of a file of layers: each of them alone, by its own forward pass.

A layer hands on dL/dx, whatever the loss: with random numbers dout in the place of dL/d(output) its backward pass has
to give the gradient of sum(output * dout). A loss has a gradient itself.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import Unclear, plain
from jaxbackprop.auditing.hand_in import HandIn, told
from jaxbackprop.auditing.layer_form import Layer, layer_classes, probabilities, signed, ways_to_call
from jaxbackprop.auditing.pair_form import find_pairs, ways_to_call_pair
from jaxbackprop.auditing.pullback import audit_vjp
from jaxbackprop.auditing.refusals import call
from jaxbackprop.auditing.report import Report, listed, wrap
from jaxbackprop.auditing.whole import DESCRIBE, audit

# Whose own mistakes are looked for, by the name of the class; the forward pass must agree.
KNOWN = {
    "affine": r"(layer)?(affine|dense|linear|fullyconnected|fc)(layer)?",
    "relu": r"(activation|layer)?relu(activation|layer)?",
    "sigmoid": r"(activation|layer)?sigmoid(activation|layer)?",
    "tanh": r"(activation|layer)?tanh(activation|layer)?",
    "softmax": r"(activation|layer)?softmax(activation|layer)?",
    "batch_norm": r"(layer)?batchnorm(alization|1d)?(layer)?",
    "spatial_batch_norm": r"spatialbatchnorm",
    "layer_norm": r"layernorm(alization)?",
    "convolution": r"conv|conv2d|convolution",
    "max_pool": r"maxpool(ing)?(2d)?",
    "dropout": r"dropout(layer)?",
}


@dataclass(frozen=True)
class LayerOutcome:
    """One layer: how it was called, its report, and what of it has no gradient."""

    title: str
    report: Report
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.missing

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        if not self.missing:
            return self.report.headline
        rest = "the others are right" if self.report.ok else "of the others not all are right"
        names = listed(list(self.missing))
        return f"There is no gradient of {names}: backward neither returns nor keeps one; {rest}."


@dataclass(frozen=True)
class LayersReport:
    """The outcome for one file of layers; print it to read it. `failed` has those that could not be run, with why."""

    title: str
    outcomes: tuple[LayerOutcome, ...]
    failed: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether all layers are right."""
        return all(outcome.ok for outcome in self.outcomes) and not self.failed

    @property
    def mistakes(self) -> list[str]:
        """Codes; "unknown" for a wrong gradient without a name, "no_gradient" for one that is not there."""
        wrong = [f for outcome in self.outcomes for f in outcome.report.findings if not f.ok]
        codes = [finding.diagnosis or "unknown" for finding in wrong]
        return list(dict.fromkeys([*codes, *("no_gradient" for outcome in self.outcomes if outcome.missing)]))

    def __str__(self) -> str:
        blocks = [self.title]
        for outcome in self.outcomes:
            report = outcome.report
            said = [*([outcome.headline] if outcome.missing or report.ok else []), *(report.notes if report.ok else ())]
            body = [*map(wrap, said), *([] if report.ok else [str(report)])]
            blocks.append("\n".join([f"{outcome.title}:", *body]))
        blocks += [wrap(f"{name}: not audited: {reason}.") for name, reason in self.failed.items()]
        return "\n\n".join(blocks)


def audit_layers(hand_in: HandIn, name: str | None, seed: int) -> LayersReport:
    """The audit of all layers of a file, or of the one that is named; there may be none."""
    outcomes, failed = [], {}
    classes, pairs = layer_classes(hand_in), find_pairs(hand_in)
    ways = {title: partial(ways_to_call, hand_in, cls) for title, cls in classes.items()}
    ways |= {title: partial(ways_to_call_pair, hand_in, pair) for title, pair in pairs.items()}
    # What the others have in common is no layer itself; and a loss without a gradient is not to be audited.
    passed_over = {base.__name__ for cls in classes.values() for base in cls.__mro__[1:]}
    passed_over |= {title for title, pair in pairs.items() if pair.backward is None}
    halves = {title: {f.__name__ for f in (p.forward, p.backward) if f is not None} for title, p in pairs.items()}
    for title, ways_of_one in ways.items():
        if name not in (None, title, *halves.get(title, ())):
            continue
        try:
            outcomes.append(audit_layer(ways_of_one(), seed))
        except (Unclear, ValueError) as error:
            if title not in passed_over:
                failed[title] = str(error)
    count = f"{len(outcomes)} layer{'s' if len(outcomes) > 1 else ''}"
    return LayersReport(f"{count} of {hand_in.path.name}", tuple(outcomes), failed)


def audit_layer(layers: list[Layer], seed: int) -> LayerOutcome:
    """One layer, in the layout that is its own; of the ways to hand over targets the one in which it is right.

    **Raises:** `Unclear` if it cannot be told how it is called; `ValueError` if its passes fail where they are judged.
    """
    if layers[0].targets is not None and [*layers[0].arguments] != ["x"]:
        of_its_own = listed([name for name in layers[0].arguments if name != "x"])
        raise Unclear(f"it is given targets and has parameters, {of_its_own}, as a network: it is no layer")
    first: LayerOutcome | None = None
    error: ValueError | None = None
    try:
        layers = in_its_layout(layers)
        check_fine(layers[0])
    except (ArithmeticError, LookupError, TypeError, ValueError) as refused:  # of its own code, at other numbers
        raise Unclear(told(refused)) from refused
    for layer in layers:
        try:
            for outcome in outcomes_of(layer, seed):
                # Another multiple than the loss's is a convention in the usual layout alone.
                if outcome.ok and (layer.shape == layers[0].shape or not outcome.report.convention):
                    return outcome
                first = first or outcome
        except ValueError as refused:
            error = error or refused
    if first is None:
        raise error or Unclear("it cannot be told how it is called")
    return first


def in_its_layout(layers: list[Layer]) -> list[Layer]:
    """The ways to call a layer in the first layout that it can be called in, with several samples if it can: one alone
    would hide what a sum over the samples gets wrong. Without parameters it is the first in which no sample's output
    depends on another sample. A loss, whose value is one of all samples, may be of any."""
    if layers[0].targets is not None:
        return layers
    several = [layer for layer in layers if layer.samples > 1]
    if all(len(layer.arguments) == 1 for layer in several):
        alone = [layer for layer in layers if layer.samples == 1]
        several = [layer for layer in several if not mixes_samples(layer)] or alone or several
    usual = (several or layers)[0]
    return [layer for layer in several or layers if usual.shape in (layer.shape, "one sample")]


def check_fine(layer: Layer) -> None:
    """**Raises:** `Unclear` for a forward pass that rounds to float32: its differences have no digits left."""
    arrays = list(layer.arguments.values())
    usual = layer.forward(*arrays)
    for k, (name, array) in enumerate(layer.arguments.items()):
        near, far = (layer.forward(*arrays[:k], array * (1 + step), *arrays[k + 1 :]) for step in (1e-10, 1e-3))
        if np.array_equal(near, usual) and not np.array_equal(far, usual):
            raise Unclear(f"its forward pass rounds {name} or the output to float32: without that it can be audited")


def mixes_samples(layer: Layer) -> bool:
    """Whether the output of a sample depends on another sample, as in a softmax over a whole array."""
    if "x" not in layer.arguments:
        return False
    x, *parameters = layer.arguments.values()
    other = x.copy()
    other[np.s_[0] if layer.samples_first else np.s_[..., 0]] += 1
    outs = [layer.forward(given, *parameters) for given in (x, other)]
    if outs[0].ndim < 2:
        return False
    rest = [out[1:] if layer.samples_first else out[..., 1:] for out in outs]
    return not np.array_equal(rest[0], rest[1])


def outcomes_of(layer: Layer, seed: int) -> Iterator[LayerOutcome]:
    """The report on a layer; then, if it is wrong, as what it would be right."""
    if layer.targets is not None:
        yield from outcomes_of_loss(layer, seed)
        return
    report = audit_by_dout(layer, seed)
    yield LayerOutcome(layer.title, report, layer.missing)
    if not report.ok and known_kind(layer) in ("softmax", "sigmoid") and hands_on(layer):
        note = (
            "It hands dL/d(output) on unchanged: right if the loss's own backward pass gives dL/dz, the gradient by "
            f"the scores before the {known_kind(layer)}."
        )
        unchanged = audit_by_dout(layer._replace(forward=lambda x: x), seed)
        yield LayerOutcome(layer.title, replace(unchanged, convention="a part of the loss", notes=(note,)))
    if report.ok:
        return
    readings = slope_readings(layer) if [*layer.arguments] == ["x"] else other_readings(layer)
    for other, convention, notes in readings:
        report = audit_by_dout(other, seed)
        yield LayerOutcome(layer.title, replace(report, convention=convention, notes=notes), layer.missing)


def other_readings(layer: Layer) -> Iterator[tuple[Layer, str, tuple[str, ...]]]:
    """What else dL/d(output) may be meant as: the layer as it is then, what it is right as, and what is to be said."""
    mean = f"the gradient of a mean over {layer.samples} samples"
    divided = (
        f"The gradient of {listed([*layer.arguments][1:])} is divided by the {layer.samples} samples, that of x "
        "is not: right if dL/d(output) comes as each sample's own, wrong if the loss's backward pass has divided it by "
        f"{layer.samples} already."
    )
    by_scores = (
        "dL/d(output) is taken as dL/dz, the gradient by the scores, though the forward pass ends behind the "
        "activation: right if the caller has multiplied it by the activation's slope."
    )
    yield times_samples(layer), mean, (divided,)
    if (bare := without_penalty(layer)) is not None:
        penalty = (
            "A multiple of the parameters is in their gradient whatever dL/d(output) is: the derivative of a penalty "
            "on their squares. It is left out here: right if the loss has that penalty."
        )
        yield bare, "the gradient of a loss with a penalty", (penalty,)
        yield times_samples(bare), f"{mean}, with a penalty", (penalty, divided)
    if (scores := affine(layer)) is not None:
        yield scores, "a function of dL/dz", (by_scores,)
        yield times_samples(scores), f"a function of dL/dz, and {mean}", (by_scores, divided)


def slope_readings(layer: Layer) -> Iterator[tuple[Layer, str, tuple[str, ...]]]:
    """An activation whose backward pass is handed z, or a, and returns f' alone."""
    x = layer.arguments["x"]
    out = layer.forward(x)
    if out.shape != x.shape or np.array_equal(*(call("backward", layer.backward, x + k, x)["x"] for k in (0, 1))):
        return  # what does not depend on what it is handed has forgotten dL/d(output)
    for name, handed in {"z": lambda x: np.array(x), "a": layer.forward}.items():

        def backward(dout: np.ndarray, x: np.ndarray, handed: Callable[..., np.ndarray] = handed) -> dict[str, Any]:
            return {"x": dout * layer.backward(handed(x), x)["x"]}

        note = f"It is f'({name}), of the {name} that it is handed: right if the caller multiplies dL/d(output) by it."
        yield layer._replace(backward=backward), f"f'({name})", (note,)


def without_penalty(layer: Layer) -> Layer | None:
    """The layer without what its gradients have that is not linear in dL/d(output), if that is a positive multiple of
    the parameters."""

    def once_and_twice(dout: np.ndarray, *arrays: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        once, twice = (layer.backward(times * dout, *arrays) for times in (1, 2))
        return ((name, once[name], twice[name]) for name in once)

    def backward(dout: np.ndarray, *arrays: Any) -> dict[str, np.ndarray]:
        return {name: twice - once for name, once, twice in once_and_twice(dout, *arrays)}

    arrays = layer.arguments
    penalized = False
    for name, once, twice in once_and_twice(np.ones_like(layer.forward(*arrays.values())), *arrays.values()):
        added, rounding = 2 * once - twice, 1e-9 * np.abs(once).max()
        if np.abs(added).max() <= rounding:
            continue
        square = np.vdot(arrays[name], arrays[name])
        share = np.vdot(added, arrays[name]) / square if added.shape == arrays[name].shape and square else 0.0
        if name == "x" or share <= 0 or not np.allclose(added, share * arrays[name], rtol=1e-5, atol=rounding):
            return None
        penalized = True
    return layer._replace(backward=backward) if penalized else None


def times_samples(layer: Layer) -> Layer:
    """The layer with gradients of its parameters that are N times as large."""

    def backward(dout: np.ndarray, *arrays: Any) -> dict[str, np.ndarray]:
        made = layer.backward(dout, *arrays)
        return {name: value if name == "x" else layer.samples * value for name, value in made.items()}

    return layer._replace(backward=backward)


def affine(layer: Layer) -> Layer | None:
    """The layer with x W + b, as its arrays' shapes have it, for its forward pass; None if its output is no function of
    that."""
    x, *weights = layer.arguments.values()
    if len(weights) != 2 or x.ndim != 2 or weights[0].ndim != 2:
        return None
    if layer.samples_first and weights[0].shape[0] == x.shape[1]:

        def scores(x: Any, W: Any, b: Any) -> Any:
            return x @ W + b.reshape(1, -1)

    elif not layer.samples_first and weights[0].shape[1] == x.shape[0]:

        def scores(x: Any, W: Any, b: Any) -> Any:
            return W @ x + b.reshape(-1, 1)

    else:
        return None
    # The output has to be a function of them: x = 0 and a bias that makes up for it give the first sample's again.
    z = scores(x, *weights)
    of_first = z[0] if layer.samples_first else z[:, 0]
    again = layer.forward(0 * x, weights[0], of_first.reshape(weights[1].shape))
    out = layer.forward(x, *weights)
    first = np.s_[0] if layer.samples_first else np.s_[:, 0]
    if out.shape != z.shape or not np.allclose(again[first], out[first]):
        return None
    return layer._replace(forward=signed(scores, [*layer.arguments]))


def known_kind(layer: Layer) -> str | None:
    """Which layer it is by its name."""
    kind = next((kind for kind, pattern in KNOWN.items() if re.fullmatch(pattern, plain(layer.name))), None)
    return kind if next(iter(layer.arguments)) == "x" else None


def hands_on(layer: Layer) -> bool:
    """Whether dL/dx is dL/d(output) as it came."""
    x = layer.arguments["x"]
    dout = np.random.default_rng(0).normal(size=x.shape)
    return np.array_equal(layer.backward(dout, *layer.arguments.values())["x"], dout)


def audit_by_dout(layer: Layer, seed: int) -> Report:
    """Each argument's gradient against differences of sum(output * dout)."""
    known = known_kind(layer)
    report = audit_vjp(layer.forward, layer.backward, *layer.arguments.values(), layer=known, seed=seed,
                       samples_first=layer.samples_first)  # fmt: skip
    return replace(report, notes=tuple(note for note in report.notes if "is not the layer" not in note))


def outcomes_of_loss(layer: Layer, seed: int) -> Iterator[LayerOutcome]:
    """The gradient of a loss by its inputs; if it is wrong, of the sum over the outputs; then by the scores of a
    softmax, or a sigmoid, before it."""
    x = layer.arguments["x"]
    outputs = x.shape[1 if layer.samples_first else 0]

    def report(before: Callable[[Any], np.ndarray], point: np.ndarray, factor: float = 1.0, points: int = 4) -> Report:
        def loss(params: dict[str, np.ndarray], _: Any) -> float:
            out = layer.forward(before(params["x"]))
            return float(np.sum(out)) / (layer.samples if np.size(out) > 1 else 1)

        def gradient(params: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
            given = before(params["x"])
            return {"x": factor * layer.backward(np.ones_like(layer.forward(given)), given)["x"]}

        found = audit(gradient, loss, {"x": point}, layer.targets, points=points, seed=seed)
        return replace(found, notes=tuple(note for note in found.notes if note != DESCRIBE))

    plainly = report(np.asarray, x, points=1)  # around it probabilities may be negative
    yield LayerOutcome(layer.title, plainly)
    if plainly.ok:
        return
    note = (
        f"The loss is a mean over its {outputs} outputs too, this the gradient of their sum, {outputs} times as large; "
        "with one output they are the same."
    )
    by_sum = report(np.asarray, x, 1 / outputs, points=1)
    if not by_sum.convention:
        yield LayerOutcome(
            layer.title, replace(by_sum, convention="the gradient of the sum over outputs", notes=(note,))
        )
    for name, point in (("softmax", np.log(x)), ("sigmoid", x)):
        before = partial(probabilities, name, samples_first=layer.samples_first)
        note = (
            f"This is dL/dz, the gradient by the scores z before a {name}, though the {name}'s outputs are handed in: "
            f"right if the {name}'s own backward pass hands it on unchanged."
        )
        combined = report(before, point)
        yield LayerOutcome(layer.title, replace(combined, convention="dL/dz", notes=(note,)))
