"""The audit of homework as it is handed in: how it is called, its parts, then its gradient, for all its activations."""

import contextlib
import inspect
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.auditing.calling import Unclear, is_gradient, plain, role
from jaxbackprop.auditing.class_form import TRAIN, backward_method, find_method
from jaxbackprop.auditing.hand_in import HandIn, NotRun, quiet, told
from jaxbackprop.auditing.parts import PartFinding, forward_stages, look_at_parts
from jaxbackprop.auditing.penalties import Penalty, find_penalty, usual_strength
from jaxbackprop.auditing.places import add_lines, name_by_slope, wrong_stage
from jaxbackprop.auditing.report import Report, StageReport, wrap
from jaxbackprop.auditing.spellings import words_used
from jaxbackprop.auditing.subjects import GUESSED, SAMPLES, Run, Subject, guess_activation, parallel, titled
from jaxbackprop.auditing.trained_for import told_objective
from jaxbackprop.auditing.watching import watched
from jaxbackprop.auditing.whole import examine
from jaxbackprop.auditing.yardstick import (
    Data,
    Leaves,
    draw_data,
    draw_leaves,
    in_order,
    is_sum,
    right_leaves,
    yardstick,
)


class Outcome(NamedTuple):
    """What is found with one activation; `forward` says whether the stages of the forward pass are right, as far as
    they were seen."""

    parts: list[PartFinding]
    forward: dict[str, bool]
    report: Report
    stages: StageReport | None = None


@dataclass(frozen=True)
class HandInReport:
    """The outcome for one file: how it was called, and for each activation its parts and the report of its gradient.

    `failed` has the activations that could not be run, with the error.
    """

    title: str
    outcomes: dict[str, Outcome]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all is right that the file offers."""
        wrong = any(part.wrong for outcome in self.outcomes.values() for part in outcome.parts)
        gradients = all(o.report.ok and (o.stages is None or o.stages.ok) for o in self.outcomes.values())
        return not wrong and not self.failed and gradients

    @property
    def mistakes(self) -> list[str]:
        """Codes, those of the parts first; "unknown" for a wrong leaf without a name."""
        found = [part.code for outcome in self.outcomes.values() for part in outcome.parts if part.wrong]
        for outcome in self.outcomes.values():
            found += [finding.diagnosis or "unknown" for finding in outcome.report.findings if not finding.ok]
            if outcome.report.ok and outcome.stages is not None and not outcome.stages.ok:
                found.append("stage")
        return list(dict.fromkeys([*found, *(["raises"] if self.failed else [])]))

    def __str__(self) -> str:
        blocks, signs = [self.title], dict[str, list[tuple[str, str | None]]]()
        known: set[PartFinding] = set()  # a note is told once
        for name, (parts, _, report, stages) in self.outcomes.items():
            new = [part for part in parts if part.wrong or part not in known]
            known.update(parts)
            told_of = [wrap(("Wrong: " if part.wrong else "Note: ") + part.sentence + ".") for part in new]
            body = str(report) if not report.ok or len(self.outcomes) == 1 else report.headline
            blocks.append("\n".join([f"{name}:", *told_of, body]))
            same = next(
                (other for other, found in signs.items() if not report.ok and found and found == sign(report)), None
            )
            if same is not None:
                blocks[-1] = "\n".join([f"{name}:", *told_of, f"{report.headline} The mistakes are those of {same}."])
                continue
            signs[name] = sign(report)
            if stages is not None and not stages.ok:
                blocks.append(str(stages))
        blocks += [wrap(f"{name}: could not be run: {error}.") for name, error in self.failed.items()]
        return "\n\n".join(blocks)


def sign(report: Report) -> list[tuple[str, str | None]]:
    """By what two activations' reports are the same: named mistakes in the same leaves; what has no name never is."""
    return [(finding.path, finding.diagnosis) for finding in report.findings if finding.diagnosis]


def audit_subject(hand_in: HandIn, subject: Subject, *, only: str | None, l2: float, seed: int) -> HandInReport:
    """The audit of one class or function; `l2` is the penalty of its loss if it cannot be found out.

    **Raises:** `Unclear` if it cannot be told how it is called; `NotRun` if its own code fails.
    """
    rng = np.random.default_rng(seed)
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    data = draw_data(subject.features, subject.classes, SAMPLES, rng)
    spelled: dict[str, tuple[Any, ...]] = dict(subject.spelled)
    names = list(dict.fromkeys([*spelled, *words_used(hand_in), *GUESSED]))
    run, word = None, next((words[0] for words in spelled.values()), None)
    # What fails with one of several activations fails again below, where it is told.
    with quiet(hand_in.printed), contextlib.suppress(*([Exception, SystemExit] if spelled else [])):
        run = subject.call(leaves, data, subject.way, word, 0.0)
        subject = replace(subject, objective=told_objective(hand_in, subject, run, data, names))
    if run is not None and run.step and not one_step(subject, run, data, names):
        where = f"{titled(subject, None)} updates the weights"
        raise Unclear(f"{where}, and not once along a gradient of all samples: hand in the method of one step")
    if not spelled and run is not None:
        spelled = {only or guess_activation(subject, run, data, words_used(hand_in))[0]: (None,)}
    if only and only in spelled:
        spelled = {only: spelled[only]}
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, tuple[int, str]] = {}
    shown = None
    for name, words in spelled.items():
        for word in words:
            try:
                outcomes[name] = audit_one(hand_in, subject, name, word, l2, seed)
            except (Exception, SystemExit) as error:
                # Of several spellings the right one comes farthest.
                failed[name] = max(failed.get(name, (0, "")), (last_line(error), told(error)))
                continue
            failed.pop(name, None)
            shown = shown or word
            break
    if not outcomes:
        raise NotRun(f"{titled(subject, None)} raised {next(iter(failed.values()))[1]}")
    errors = {name: error for name, (_, error) in failed.items()}
    return HandInReport(titled(subject, shown), outcomes, errors)


def one_step(subject: Subject, run: Run, data: Data, activations: Iterable[str]) -> bool:
    """Whether a method that does the whole training, which may take many steps, or those of batches, took a single one:
    some weight has moved along its gradient. One that has backprop's name is believed to."""
    if not re.fullmatch(TRAIN, plain(subject.backward)):
        return True
    got = subject.gradient(run)
    for name in activations:
        right = yardstick(run.leaves, data, name, subject.samples_first, objective=subject.objective)
        if any(leaf[0] == "W" and parallel(got[leaf], g) for leaf, g in right.gradient(run.leaves).items()):
            return True
    return False


def last_line(error: BaseException) -> int:
    """How far down an error was raised, as the line of its last place."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].lineno or 0


def audit_one(hand_in: HandIn, subject: Subject, name: str, word: Any, l2: float, seed: int) -> Outcome:
    """The parts and the gradient with one activation."""
    rng = np.random.default_rng(seed)
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    data = draw_data(subject.features, subject.classes, SAMPLES, rng)
    penalty = Penalty(0.0, l2) if l2 else own_penalty(hand_in, subject, name, word, leaves, data)
    right = yardstick(leaves, data, name, subject.samples_first, penalty.l2, subject.objective)

    def run_at(point: Leaves) -> Any:
        with quiet(hand_in.printed):
            return subject.call(point, data, subject.way, word, penalty.strength)

    def gradient(params: Any, *_: Any) -> Any:
        return in_order(subject.gradient(run_at(params._asdict())))

    with watched(subject.function):
        run = run_at(leaves)
    with quiet(hand_in.printed):
        forward = forward_stages(run, right)
        parts = look_at_parts(subject, run, right, forward, name, word)
    if penalty.note:
        parts.append(PartFinding("penalty", penalty.note, False))
    report = examine(gradient, right.witness(), right.structure, right.args, rng, points=4, network=right.network,
                     layout=right.layout)  # fmt: skip
    if report.ok:
        parts += other_sizes(hand_in, subject, name, word, l2, rng)
        told_of = any(name.startswith("d") and not is_gradient(name) for name in run.told)
        stages = wrong_stage(subject, right, leaves, run_at, all_of=True) if told_of else None
        return Outcome(parts, forward, report, stages)
    with quiet(hand_in.printed):
        report = name_by_slope(report, subject, right, leaves, subject.gradient(run), name, word, parts)
        by_slope = any(part.code == "slope" for part in parts)
        stages = None if by_slope else wrong_stage(subject, right, leaves, run_at)
        if stages is not None and (stages.first_wrong or "dW").startswith(("dW", "db")):
            stages = None  # the gradient's own report says as much
    parts, report = add_lines(hand_in, subject, name, parts, report, stages)
    return Outcome(parts, forward, report, stages)


def own_penalty(hand_in: HandIn, subject: Subject, name: str, word: Any, leaves: Leaves, data: Data) -> Penalty:
    """The l2 term of code whose strength can be set."""
    if subject.penalty is None:
        return Penalty()
    strength = usual_strength(subject.penalty)
    with quiet(hand_in.printed):
        runs = [subject.call(leaves, data, subject.way, word, value) for value in (0.0, strength)]
        mean = yardstick(leaves, data, name, subject.samples_first, objective=subject.objective).loss(leaves)
        gradients = subject.gradient(runs[0]), subject.gradient(runs[1])
        return find_penalty(hand_in, runs[0], strength, runs[1], data.samples, mean, gradients, subject.backward)


def other_sizes(
    hand_in: HandIn, subject: Subject, name: str, word: Any, l2: float, rng: np.random.Generator
) -> list[PartFinding]:
    """Whether the gradient is right for another number of samples, too."""
    found = []
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    for samples in dict.fromkeys(max(n, subject.classes) for n in (7, 2)):  # each class is there
        data = draw_data(subject.features, subject.classes, samples, rng)
        text = f"right for batches of {SAMPLES} samples, wrong for batches of {samples}"
        try:
            with quiet(hand_in.printed):
                got = subject.gradient(subject.call(leaves, data, subject.way, word, 0.0))
        except (Exception, SystemExit) as error:
            found.append(PartFinding("batch", f"{text}: it raised {told(error)}", True))
            continue
        right = yardstick(leaves, data, name, subject.samples_first, objective=subject.objective).gradient(leaves)
        fitting = [
            {leaf: factor * value + strength * leaves[leaf] * (leaf[0] == "W") for leaf, value in right.items()}
            for factor in (1.0, *([float(samples)] if is_sum(got, right, samples) else []))
            for strength in {l2, factor * l2}
        ]
        if not any(len(right_leaves(got, good)) == len(right) for good in fitting):
            found.append(PartFinding("batch", text, True))
    return found[:1]


def choose_classes(hand_in: HandIn, name: str | None) -> list[type]:
    """The classes that may be the network: the one that is named, else the first that has a backward pass, and those
    whose backward pass is given inputs and targets, as that of a network behind its layers."""
    classes = hand_in.own(type)
    if name is not None:
        return [classes[name]] if name in classes else []
    own = [cls for cls in classes.values() if cls.__name__.lower() != "layer"]
    backward = {cls: method for cls in own if (method := backward_method(cls))}
    if not backward:
        return [cls for cls in own if find_method(cls, TRAIN)][:1]
    first, *others = backward
    given = {cls: set(map(role, inspect.signature(getattr(cls, backward[cls])).parameters)) for cls in others}
    return [first, *(cls for cls in others if {"X", "y"} <= given[cls])]
