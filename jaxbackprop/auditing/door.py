"""The audit of a class as it is handed in: how it is called, its parts, then its gradient, for all its activations."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbackprop.auditing.calling import Unclear
from jaxbackprop.auditing.class_form import class_subjects
from jaxbackprop.auditing.hand_in import HandIn, NotRun, quiet, told
from jaxbackprop.auditing.parts import PartFinding, look_at_parts
from jaxbackprop.auditing.report import Report, wrap
from jaxbackprop.auditing.spellings import words_used
from jaxbackprop.auditing.subjects import SAMPLES, Subject, guess_activation, titled
from jaxbackprop.auditing.whole import examine
from jaxbackprop.auditing.yardstick import draw_data, draw_leaves, in_order, is_sum, right_leaves, yardstick


@dataclass(frozen=True)
class HandInReport:
    """The outcome for one file: how it was called, and for each activation its parts and the report of its gradient."""

    title: str
    parts: dict[str, list[PartFinding]]
    reports: dict[str, Report]
    failed: dict[str, str]

    @property
    def ok(self) -> bool:
        parts = not any(part.wrong for found in self.parts.values() for part in found)
        return parts and all(report.ok for report in self.reports.values())

    @property
    def mistakes(self) -> list[str]:
        """Codes, those of the parts first; "unknown" for a wrong leaf without a name."""
        found = [part.code for parts in self.parts.values() for part in parts if part.wrong]
        for report in self.reports.values():
            found += [finding.diagnosis or "unknown" for finding in report.findings if not finding.ok]
        return list(dict.fromkeys(found))

    def __str__(self) -> str:
        blocks = [self.title]
        for name, report in self.reports.items():
            parts = [wrap(("Wrong: " if part.wrong else "Note: ") + part.sentence + ".") for part in self.parts[name]]
            body = str(report) if not report.ok or len(self.reports) == 1 else report.headline
            blocks.append("\n".join([f"{name}:", *parts, body]))
        blocks += [f"{name}: could not be run: {error}" for name, error in self.failed.items()]
        return "\n\n".join(blocks)


def audit_class(hand_in: HandIn, cls: type, *, classes: int, only: str | None, seed: int) -> HandInReport:
    """The audit of one class.

    **Raises:** `Unclear` if it cannot be told how it is called; `NotRun` if its own code fails.
    """
    rng = np.random.default_rng(seed)
    subject = class_subjects(hand_in, cls, classes, rng)
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    data = draw_data(subject.features, subject.classes, SAMPLES, rng)
    spelled: dict[str, tuple[Any, ...]] = dict(subject.spelled)
    if not spelled:
        with quiet(hand_in.printed):
            run = subject.call(leaves, data, subject.way, None, 0.0)
        spelled = {only or guess_activation(subject, run, data, words_used(hand_in))[0]: (None,)}
    if only and only in spelled:
        spelled = {only: spelled[only]}
    parts, reports, failed, shown = {}, {}, {}, None
    for name, words in spelled.items():
        for word in words:
            try:
                parts[name], reports[name] = audit_one(hand_in, subject, name, word, seed)
            except (Exception, SystemExit) as error:
                failed[name] = told(error)
                continue
            failed.pop(name, None)
            shown = shown or word
            break
    if not reports:
        raise NotRun(f"{titled(subject, None)} raised {next(iter(failed.values()))}")
    return HandInReport(titled(subject, shown), parts, reports, failed)


def audit_one(hand_in: HandIn, subject: Subject, name: str, word: Any, seed: int) -> tuple[list[PartFinding], Report]:
    """The parts and the gradient with one activation."""
    rng = np.random.default_rng(seed)
    leaves = draw_leaves(subject.shapes, subject.samples_first, rng)
    data = draw_data(subject.features, subject.classes, SAMPLES, rng)
    right = yardstick(leaves, data, name, subject.samples_first)

    def gradient(params: Any, *_: Any) -> Any:
        with quiet(hand_in.printed):
            run = subject.call(params._asdict(), data, subject.way, word, 0.0)
        return in_order(subject.gradient(run))

    with quiet(hand_in.printed):
        run = subject.call(leaves, data, subject.way, word, 0.0)
        parts = look_at_parts(subject, run, right, name, word)
    report = examine(gradient, right.witness(), right.structure, right.args, rng, points=4, network=right.network,
                     layout=right.layout)  # fmt: skip
    if report.ok:
        parts += other_batch(hand_in, subject, name, word, rng)
    return parts, report


def other_batch(hand_in: HandIn, subject: Subject, name: str, word: Any, rng: np.random.Generator) -> list[PartFinding]:
    """Whether the gradient is right for another number of samples, too."""
    leaves, data = draw_leaves(subject.shapes, subject.samples_first, rng), None
    data = draw_data(subject.features, subject.classes, 7, rng)
    with quiet(hand_in.printed):
        got = subject.gradient(subject.call(leaves, data, subject.way, word, 0.0))
    right = yardstick(leaves, data, name, subject.samples_first).gradient(leaves)
    factor = data.samples if is_sum(got, right, data.samples) else 1
    if len(right_leaves(got, right, factor)) == len(right):
        return []
    return [PartFinding("batch", f"right for batches of {SAMPLES} samples, wrong for batches of 7", True)]


def choose_class(hand_in: HandIn, name: str | None) -> type | None:
    """The class to audit: the one that is named, else the last that has a backward pass."""
    from jaxbackprop.auditing.class_form import BACKWARD, find_method

    classes = hand_in.own(type)
    if name is not None:
        return classes.get(name)
    fitting = [cls for cls in classes.values() if find_method(cls, BACKWARD) and cls.__name__.lower() != "layer"]
    return fitting[0] if fitting else None


__all__ = ["HandInReport", "Unclear", "audit_class", "choose_class"]
