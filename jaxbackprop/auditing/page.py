"""An audit as a page to look at: the network with its verdicts, each mistake beside its formula, each leaf as a map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbackprop.auditing.drawing import Pairs, draw_network, find_pairs, verdicts_of
from jaxbackprop.auditing.formulas import formulas_of, in_every_layer, of_a_leaf
from jaxbackprop.auditing.layer_door import LayersReport
from jaxbackprop.auditing.report import Finding, Report, StageFinding, StageReport, error_text, listed, shape_text
from jaxbackprop.auditing.summary import NetworkReport
from jaxbackprop.pages import (
    MARKS,
    as_matrix,
    heat_legend,
    heat_map,
    html_table,
    mark,
    prose,
    save_page,
    text,
    whole_page,
)

TITLE = "Audit of a gradient"


def save_reports(path: str | Path, reports: Sequence[Any], title: str = "") -> Path:
    """One page of what audits found: reports of a gradient, of stages, of many networks, or of a file as handed in.

    **Returns:** the path.
    """
    reports = list(reports)
    stages = [finding for report in reports if isinstance(report, StageReport) for finding in report.findings]
    first = reports[0]
    parts = [f'<p class="quiet">{text(title)}</p>' if title else ""]
    for report in reports:
        if isinstance(report, Report):
            parts += [headline(report.headline, report.ok), gradient_part(report, stages)]
        elif isinstance(report, StageReport):
            parts.append(stages_part(report, alone=report is first))
        elif isinstance(report, NetworkReport):
            parts.append(networks_part(report, alone=report is first))
        elif isinstance(report, LayersReport):
            parts.append(layers_part(report))
        else:
            parts.append(hand_in_part(report))
    return save_page(path, whole_page(title or TITLE, "\n".join(parts)))


def gradient_part(
    report: Report,
    stages: Sequence[StageFinding] = (),
    forward: Mapping[str, bool] | None = None,
    *,
    within: bool = False,
) -> str:
    """One gradient without its headline: the network, the mistakes, the leaves; `within` a part of the page."""
    pairs = find_pairs(report.findings)
    parts = []
    parts += [f'<p class="quiet">{text(remark)}</p>' for remark in report.remarks()[len(mistakes(report)) :]]
    if pairs is not None:
        verdicts = verdicts_of(pairs, stages, forward)
        everything = 5 * pairs.depth <= len(verdicts)  # z, a, delta, dW and db of each layer
        used = [name for name in MARKS if name in verdicts.values() or (name == "unseen" and not everything)]
        parts.append(subheading("The network, stage by stage", within))
        parts.append(f'<div class="scroll">{draw_network(pairs.depth, verdicts)}</div>')
        parts.append(f'<p class="marks">{"".join(map(mark, used))}</p>')
    if mistakes(report):
        parts.append(subheading("What is wrong" if not report.ok else "What is to be said", within))
        parts += [mistake_part(findings, pairs) for findings in mistakes(report)]
    parts.append(subheading("The gradient, leaf by leaf", within))
    parts += [leaf_part(finding) for finding in report.findings]
    return "\n".join(parts)


def headline(sentence: str, ok: bool) -> str:
    verdict = "right" if ok else "wrong"
    return f'<h1 class="{verdict}">{MARKS[verdict]} {text(sentence)}</h1>'


def subheading(words: str, within: bool) -> str:
    return f'<h3 class="part">{text(words)}</h3>' if within else f"<h2>{text(words)}</h2>"


def mistakes(report: Report) -> list[list[Finding]]:
    """The findings with something to say, those of the same explanation together."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.explanation:
            found.setdefault(finding.explanation, []).append(finding)
    return list(found.values())


def mistake_part(findings: Sequence[Finding], pairs: Pairs | None) -> str:
    """The formula with the wrong term lit up, and in its margin what is wrong with it."""
    first = findings[0]
    if pairs is None:
        formulas = [of_a_leaf(finding.path) for finding in findings[:4]]
    else:
        places, everywhere = [pairs.place(finding) for finding in findings], in_every_layer(first.explanation)
        formulas = formulas_of(places, pairs.depth, first.diagnosis, everywhere=everywhere)
    names = listed([finding.path for finding in findings])
    # Where in the file the wrong value is made, if it can be told.
    lines = dict.fromkeys(filter(None, (getattr(finding, "line", None) for finding in findings)))
    parts = [f"<p><strong>{text(names)}</strong>: {prose(first.explanation)}.</p>"]
    parts += [f"<pre>{text(line)}</pre>" for line in lines]
    if first.diagnosis is not None:
        share = f", explains {100 * first.explained:.4g} % of the difference" if first.explained is not None else ""
        parts.append(f"<small>{text(first.diagnosis)}{share}</small>")
    return (
        f'<section class="mistake"><div class="formula">{"".join(formulas)}</div>'
        f'<div class="note">{"".join(parts)}</div></section>'
    )


def leaf_part(finding: Finding) -> str:
    """One leaf: yours, right, and their difference, on one scale; a right one is folded up."""
    verdict = "right" if finding.ok else "wrong"
    error = f"relative error {error_text(finding.relative_error)}" if np.isfinite(finding.relative_error) else ""
    head = (
        f'<h3><code>{text(finding.path)}</code></h3>{mark(verdict)}<span class="quiet">'
        f"{text(shape_text(finding.shape))}</span>"
        f'<span class="quiet">{text(error)}</span>'
    )
    if finding.got is None or finding.right is None:
        maps = '<p class="quiet">Its shape is another one, and so there is nothing to lay side by side.</p>'
    else:
        got, right = as_matrix(finding.got), as_matrix(finding.right)
        with np.errstate(invalid="ignore"):
            difference = got - right
        both = np.abs(np.concatenate([got.ravel(), right.ravel(), difference.ravel()]))
        largest = float(np.max(both[np.isfinite(both)], initial=0.0))
        maps = (
            f'<div class="maps">{heat_map(got, largest, "yours")}{heat_map(right, largest, "right")}'
            f"{heat_map(difference, largest, 'yours − right')}"
            f"<figure><figcaption>scale</figcaption>{heat_legend(largest)}</figure></div>"
        )
    opened = "" if finding.ok else " open"
    return f'<details class="leaf {verdict}"{opened}><summary>{head}</summary>{maps}</details>'


def stages_part(report: StageReport, *, alone: bool) -> str:
    """What was told of each stage."""
    parts = [headline(report.headline, report.ok) if alone else f"<h2>{text(report.headline)}</h2>"]
    names = [finding.verdict for finding in report.findings]
    parts.append(html_table(report.rows(), names))
    parts += [f"<p>{prose(remark)}</p>" for remark in report.remarks()]
    return "\n".join(parts)


def networks_part(report: NetworkReport, *, alone: bool) -> str:
    """In which networks it is right; and a case in full for each mistake."""
    wrong = sum(not outcome.ok for outcome in report.outcomes)
    words = f"Wrong in {wrong} of {len(report.outcomes)} networks." if wrong else "Right in all networks."
    parts = [headline(words, report.ok) if alone else f"<h2>{text(words)}</h2>", f"<p>{prose(report.summary)}</p>"]
    rows = report.rows()
    parts.append(html_table(rows, ["wrong" if row[-1] else "" for row in rows[1:]]))
    shown: set[str] = set()
    for outcome in report.outcomes:
        if outcome.ok or outcome.mistake in shown or len(shown) == 3:
            continue
        shown.add(outcome.mistake)
        words = ", ".join(f"{key} {value}" for key, value in outcome.case.items() if value is not None)
        if outcome.report is not None:
            parts += [f"<h2>{text(words)}</h2>", gradient_part(outcome.report, within=True)]
        else:
            parts.append(f"<h2>{text(words)}</h2><p>It raises {text(outcome.error)}</p>")
    return "\n".join(parts)


def hand_in_part(report: Any) -> str:
    """A file as it was handed in: for each activation its parts, then its gradient and its stages."""
    wrong = [name for name, outcome in report.outcomes.items() if not is_right(outcome)]
    names = list(report.outcomes)
    if len(names) == 1 and (not wrong or not report.outcomes[names[0]].report.ok):
        sentence = f"{names[0]}: {report.outcomes[names[0]].report.headline}"
    else:
        among = f" ({len(names)} activations tried)" if len(names) > 1 else ""
        sentence = f"Wrong for {listed(wrong)}{among}." if wrong else f"Right for {listed(names)}."
    parts = [headline(sentence, report.ok)]
    for name, (found, forward, one, stages) in report.outcomes.items():
        said = [f"<p><b>{'Wrong' if part.wrong else 'Note'}:</b> {prose(part.sentence)}.</p>" for part in found]
        seen = () if stages is None else stages.findings
        body = "".join([*said, gradient_part(one, seen, forward, within=len(names) > 1)])
        body += "" if stages is None else stages_part(stages, alone=False)
        if len(names) == 1:
            parts.append(body)
            continue
        bad = name in wrong
        parts.append(folded(name, not bad, one.headline, body))
    parts += [f"<p><b>{text(name)}</b> could not be run: {text(error)}</p>" for name, error in report.failed.items()]
    return "\n".join(parts)


def layers_part(report: LayersReport) -> str:
    """A file of layers: each of them folded, the wrong ones open."""
    wrong = [outcome.title for outcome in report.outcomes if not outcome.ok]
    sentence = f"Wrong: {listed(wrong)}." if wrong else f"Right: {listed([o.title for o in report.outcomes])}."
    parts = [headline(sentence, not wrong)]
    for outcome in report.outcomes:
        body = gradient_part(outcome.report, within=True)
        parts.append(folded(outcome.title, outcome.ok, outcome.headline, body))
    parts += [f"<p><b>{text(name)}</b> was not audited: {text(reason)}</p>" for name, reason in report.failed.items()]
    return "\n".join(parts)


def folded(name: str, right: bool, said: str, body: str) -> str:
    """One part of a file under its verdict, open if it is wrong."""
    summary = f'{text(name)} {mark("right" if right else "wrong")} <span class="quiet">{text(said)}</span>'
    return f'<details class="hand-in"{" open" * (not right)}><summary>{summary}</summary>{body}</details>'


def is_right(outcome: Any) -> bool:
    """Whether nothing is wrong with one activation."""
    stages = outcome.stages is None or outcome.stages.ok
    return outcome.report.ok and stages and not any(part.wrong for part in outcome.parts)
