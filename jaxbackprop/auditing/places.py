"""Where in somebody's code a wrong gradient is made: their f', the first wrong stage, and the line of either."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxbackprop.auditing.calling import name_of, plain
from jaxbackprop.auditing.hand_in import HandIn
from jaxbackprop.auditing.layered import Steps, backward
from jaxbackprop.auditing.parts import PartFinding, values_of
from jaxbackprop.auditing.report import Report, StageReport
from jaxbackprop.auditing.stages import known_errors, look_at_stages
from jaxbackprop.auditing.subjects import Run, Subject, our_name
from jaxbackprop.auditing.watching import errors_seen, line_of, line_of_function, line_of_gradient, watched
from jaxbackprop.auditing.yardstick import Leaves, Yardstick, right_leaves

BECAUSE = "because of your {f}' (see above)"


def name_by_slope(
    report: Report, subject: Subject, right: Yardstick, leaves: Leaves, got: Leaves, activation: str, word: Any,
    parts: list[PartFinding],
) -> Report:  # fmt: skip
    """The report, in which leaves that are wrong without a name are named if the file's own f' makes them so.

    `got` is the gradient at `leaves`.
    """
    if not any(part.code == "slope" for part in parts):
        return report
    t = right.trace(leaves)
    for points in (t.z, t.a):
        slopes = [values_of(subject.slope, word, activation, values) for values in points[1:-1]]
        if any(slope is None for slope in slopes):
            continue
        for factor in (1.0, float(t.samples)):
            steps = with_slopes(slopes, factor)
            for l2 in (t.l2, factor * t.l2):
                made = right.layout.leaves(backward(t._replace(l2=l2), steps))
                if len(right_leaves(got, dict(zip(leaves, made, strict=True)))) == len(leaves):
                    text = BECAUSE.format(f=activation)
                    findings = [
                        finding
                        if finding.ok or finding.diagnosis
                        else replace(finding, diagnosis="wrong_slope", explanation=text, explained=1.0)
                        for finding in report.findings
                    ]
                    return replace(report, findings=tuple(findings))
    return report


def with_slopes(slopes: Sequence[Any], factor: float) -> Steps:
    """A backward pass that multiplies by these slopes, one array a hidden layer, and its data term by a factor."""
    return Steps(
        error=lambda t: factor * t.error / t.samples,
        slope=lambda t, l: slopes[l - 1],
    )


def wrong_stage(
    subject: Subject,
    right: Yardstick,
    leaves: Leaves,
    run_at: Callable[[Leaves], Run],
    all_of: bool = False,
) -> StageReport | None:
    """What is found stage by stage, by the names of the file, as far as it keeps its stages; None if it keeps no delta.

    A delta from which its layer's gradients do not follow is something else by that name, and not looked at; unless
    `all_of` them are to be right.
    """
    units = [z.shape[0] for z in right.trace(leaves).z[1:]]
    samples, theirs = right.trace(leaves).samples, dict[str, str]()

    def stages_fn(params: Any, *_: Any) -> dict[str, Any]:
        with watched(subject.function) as seen:
            run = run_at(params._asdict())
        gradient = subject.gradient(run)
        errors = errors_seen({**run.named, **seen, **run.told}, samples, units, subject.way.rows)
        theirs.update({stage: name for stage, (name, _) in errors.items()})
        first = {name: array for name, array in run.stages.items() if name != "probs" and int(name[1:]) <= len(units)}
        first = {name: array for name, array in first.items() if array.shape == (samples, units[int(name[1:]) - 1])}
        if "probs" in run.stages:
            first[f"a{len(units)}"] = run.stages["probs"]
        stages = first | {stage: array for stage, (_, array) in errors.items() if stage not in left_out}
        if not subject.samples_first:
            stages = {name: array.T for name, array in stages.items()}
        return stages | {f"d{name}": leaf for name, leaf in gradient.items()}

    left_out: set[str] = set()
    try:
        report = look_at_stages(stages_fn, right.network, right.structure, right.args, errors=known_errors)
        verdicts = {finding.name: finding.verdict for finding in report.findings}
        for stage in [name for name in verdicts if name.startswith("dz") and verdicts[name] == "wrong"]:
            if "wrong" in (verdicts.get(f"dW{stage[2:]}"), verdicts.get(f"db{stage[2:]}")):
                left_out.add(stage)
        if left_out and not all_of:
            report = look_at_stages(stages_fn, right.network, right.structure, right.args, errors=known_errors)
    except Exception:  # somebody's stages may be anything
        return None
    if not any(finding.name.startswith("dz") for finding in report.findings):
        return None
    return StageReport(
        tuple(
            replace(
                finding,
                name=theirs.get(finding.name, finding.name),
                explanation=renamed(finding.explanation, theirs),
            )
            for finding in report.findings
        ),
        report.points,
    )


def renamed(text: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        text = text.replace(ours, theirs)
    return text


def add_lines(
    hand_in: HandIn, subject: Subject, activation: str, parts: list[PartFinding], report: Report,
    stages: StageReport | None,
) -> tuple[list[PartFinding], Report]:  # fmt: skip
    """The parts and the report, with the lines of the file in which what is wrong is made, where that can be told."""

    def at(name: str, line: int | None) -> str:
        return "" if line is None else f" ({name} is made in {hand_in.path.name}, line {line})"

    told_of = []
    for part in parts:
        if part.code == "slope" and (line := line_of_branch(hand_in.tree, subject.slope_name, activation)):
            part = part._replace(sentence=f"{part.sentence} ({hand_in.path.name}, line {line})")
        if part.code == "forward":
            name = part.sentence.rpartition(" ")[2]
            part = part._replace(sentence=part.sentence + at(name, line_anywhere(hand_in.tree, name)))
        told_of.append(part)
    fine = {finding.path: finding.ok for finding in report.findings}
    first = None if stages is None else stages.first_wrong
    findings = []
    for finding in report.findings:
        kind, l = finding.path[0], finding.path[1:]
        sibling = f"{'b' if kind == 'W' else 'W'}{l}"
        where = ""
        if not finding.ok and finding.explanation and not any(part.code in ("forward", "slope") for part in parts):
            if fine.get(sibling):
                found = line_of_gradient(hand_in.tree, subject.backward, finding.path)
                where = at(*found) if found else ""
            elif first is not None and not first.startswith(("dW", "db")):
                where = at(first, line_of(hand_in.tree, subject.backward, first) or line_anywhere(hand_in.tree, first))
        findings.append(replace(finding, explanation=finding.explanation + where))
    return told_of, replace(report, findings=tuple(findings))


def line_anywhere(tree: ast.Module, name: str) -> int | None:
    """The line that makes a variable or an attribute of that name, if it is one alone."""
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(plain(name_of(target)) == plain(name) for target in node.targets)
    ]
    return lines[0] if len(lines) == 1 else None


def line_of_branch(tree: ast.Module, function: str, activation: str) -> int | None:
    """The line of a function that is for one activation: below an `if` that has its name; else where it starts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for branch in ast.walk(node):
                if isinstance(branch, ast.If):
                    words = [part.value for part in ast.walk(branch.test) if isinstance(part, ast.Constant)]
                    if any(isinstance(word, str) and our_name(word) == activation for word in words):
                        return branch.body[0].lineno
    return line_of_function(tree, function) if function else None
