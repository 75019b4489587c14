"""What the audits of many networks say together: which cases are wrong, and what tells them from the right ones."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxbackprop.auditing.report import Report, listed, table, wrap

# How a sentence speaks of a value, in the order in which it looks for what the wrong cases share.
ATTRIBUTES = {
    "activation": "{}",
    "layers": "{} layers",
    "samples": "batches of {}",
    "classes": "{} classes",
    "width": "width {}",
}
# Mistakes whose explanation has numbers of the case, in words that hold for all of them.
IN_GENERAL = {
    "sum_not_mean": "it is the gradient of the sum over the samples, the loss is their mean",
    "mean_twice": "the mean over the samples is taken twice",
    "sign": "its sign is turned",
    "zero": "it is zero",
    "slope_missing": "the derivative of the activation is missing",
    "slope_at_a": "the derivative of the activation is taken at a, not at z",
    "slope_formula_of_z": "the derivative of the activation is written in terms of a and given z",
    "slope_is_a": "a stands in the place of the derivative of the activation",
    "slope_is_1_minus_a": "1 - a stands in the place of the derivative of the activation",
    "slope_twice": "the derivative of the activation is multiplied in twice",
    "shape": "it has another shape than the parameters",
    "not_summed": "it is not summed over the samples",
    "transposed": "it is transposed",
}


@dataclass(frozen=True)
class Outcome:
    """One case: its attributes, and the report of its audit, or the error that the backward pass raised."""

    case: dict[str, Any]
    report: Report | None
    error: str | None

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok

    @property
    def mistake(self) -> str:
        """What is wrong, without the numbers of this case."""
        if self.report is None:
            return f"it raises {self.error}"
        wrong = [finding for finding in self.report.findings if not finding.ok]
        finding = next((finding for finding in wrong if finding.diagnosis), wrong[0])
        if finding.diagnosis is None:
            return "the mistake is none that is known here"
        return IN_GENERAL.get(finding.diagnosis, finding.explanation.split(":")[0])


@dataclass(frozen=True)
class NetworkReport:
    """The outcome of `audit_network`; print it to read it."""

    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether the backward pass is right in every case."""
        return all(outcome.ok for outcome in self.outcomes)

    @property
    def summary(self) -> str:
        """In which cases it fails, in a sentence."""
        return self._told()[0]

    def _told(self) -> tuple[str, list[str]]:
        """The summary, and the mistakes that it names."""
        right, wrong = [o for o in self.outcomes if o.ok], [o for o in self.outcomes if not o.ok]
        if not wrong:
            summed = any(o.report is not None and "sum" in o.report.convention for o in right)
            return f"Right in all {len(right)} cases{', as the gradient of the sum over the samples' * summed}.", []
        if not right:
            return f"Wrong in all {len(wrong)} cases: {', or '.join(usual(wrong))}.", usual(wrong)
        attribute = separating(self.outcomes)
        if attribute is not None:
            return contrast(attribute, self.outcomes)
        for aside in ATTRIBUTES:  # what is always right is set aside: a batch of one has no mean, one layer no slope
            good = [value for value, (_, no) in counts(self.outcomes, aside).items() if not no]
            rest = [o for o in self.outcomes if o.case[aside] not in good]
            attribute = separating(rest) if good else None
            if attribute is not None:
                text, mistakes = contrast(attribute, rest)
                return f"{text[:-1]} (but right for {in_words(aside, good)}).", mistakes
        where = f"Wrong in {len(wrong)} of {len(self.outcomes)} cases"
        return f"{where}: {', or '.join(usual(wrong))}.", usual(wrong)

    def raise_if_wrong(self) -> None:
        """For tests. **Raises:** `AssertionError` with the report if some case is wrong."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        return "\n".join([wrap(self.summary), "", *table(self.rows()), *("\n" + text for text in self.examples())])

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows()]
        texts = "".join(f"<pre>{html.escape(text)}</pre>" for text in self.examples())
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<p><b>{html.escape(self.summary)}</b></p><table>{body}</table>{texts}"

    def save_html(self, path: str | Path) -> Path:
        """A page to look at, in one file; the path is returned."""
        from jaxbackprop.auditing.page import save_reports

        return save_reports(path, [self])

    def rows(self) -> list[tuple[str, ...]]:
        """For each value of each attribute, in how many of its cases the backward pass is right."""
        rows: list[tuple[str, ...]] = [("attribute", "value", "right", "")]
        for attribute in ATTRIBUTES:
            for value, (yes, no) in counts(self.outcomes, attribute).items():
                mark = "" if not no else "wrong" if not yes else "some wrong"
                rows.append((attribute, str(value), f"{yes} of {yes + no}", mark))
        return rows

    def examples(self) -> list[str]:
        """One case in full for each mistake that the summary names."""
        texts = []
        for mistake in self._told()[1]:
            one = next(outcome for outcome in self.outcomes if not outcome.ok and outcome.mistake == mistake)
            words = ", ".join(ATTRIBUTES[k].format(v) for k, v in one.case.items() if v is not None)
            text = str(one.report) if one.report is not None else wrap(f"It raises {one.error}")
            texts.append(f"--- {words.replace('1 layers', '1 layer')} ---\n{text}")
        return texts


def counts(outcomes: Iterable[Outcome], attribute: str) -> dict[Any, tuple[int, int]]:
    """For each value of an attribute, how many cases are right and how many are wrong."""
    found: dict[Any, tuple[int, int]] = {}
    for outcome in outcomes:
        value = outcome.case[attribute]
        if value is not None:
            yes, no = found.get(value, (0, 0))
            found[value] = (yes + outcome.ok, no + (not outcome.ok))
    return dict(sorted(found.items()) if attribute != "activation" else found)


def separating(outcomes: Sequence[Outcome]) -> str | None:
    """The attribute whose value alone tells whether a case is right, if there is one."""
    for attribute in ATTRIBUTES:
        found = counts(outcomes, attribute).values()
        pure = all(not (yes and no) for yes, no in found)
        without = [o.ok for o in outcomes if o.case[attribute] is None]  # as the activation of one layer: to be right
        if pure and all(without) and any(yes for yes, _ in found) and any(no for _, no in found):
            return attribute
    return None


def contrast(attribute: str, outcomes: Sequence[Outcome]) -> tuple[str, list[str]]:
    """Right for tanh; wrong for sigmoid and relu: why. And the mistakes that it names."""
    found = counts(outcomes, attribute)
    right = [value for value, (yes, _) in found.items() if yes]
    reasons: dict[tuple[str, ...], list[Any]] = {}
    for value in (value for value, (_, no) in found.items() if no):
        reason = tuple(usual([o for o in outcomes if o.case[attribute] == value]))
        reasons.setdefault(reason, []).append(value)
    parts = []
    for reason, values in reasons.items():
        used = reason[0].removeprefix("the derivative of ").removesuffix(" is used")
        for_all = " for all" if used in right else ""
        parts.append(f"wrong for {in_words(attribute, values)}: {', or '.join(reason)}{for_all}")
    text = "; ".join([f"Right for {in_words(attribute, right)}", *parts]) + "."
    return text, list(dict.fromkeys(mistake for reason in reasons for mistake in reason))


def usual(outcomes: Sequence[Outcome]) -> list[str]:
    """The most frequent mistake among these cases, and any that is nearly as frequent."""
    found = Counter(outcome.mistake for outcome in outcomes if not outcome.ok).most_common()
    return [mistake for mistake, times in found if times > 0.3 * found[0][1] or times == found[0][1]]


def in_words(attribute: str, values: Iterable[Any]) -> str:
    return ATTRIBUTES[attribute].format(listed([str(value) for value in values])).replace("1 layers", "1 layer")
