"""What an audit hands back: one finding a leaf, a table to read, and the mistakes in sentences."""

import html
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Finding:
    """One leaf of a gradient.

    - `path`, `shape`: of the leaf in the parameters.
    - `relative_error`: the largest over the points, relative to the leaf's largest entry; infinite where shapes differ.
    - `ok`: whether the leaf is right.
    - `diagnosis`: the code of the mistake; None if the leaf is right, or wrong in a way that is not known.
    - `explanation`: a sentence; empty if there is nothing to say.
    - `explained`: the share of the difference that the diagnosis explains.
    - `got`, `right`: the gradient handed in and the right one, at the first of the points where they differ most; None
      where their shapes differ.
    """

    path: str
    shape: tuple[int, ...]
    relative_error: float
    ok: bool
    diagnosis: str | None = None
    explanation: str = ""
    explained: float | None = None
    got: np.ndarray | None = field(default=None, compare=False, repr=False)
    right: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def verdict(self) -> str:
        return "right" if self.ok else self.diagnosis or "wrong, unknown"


@dataclass(frozen=True)
class Report:
    """The outcome of `audit`; print it to read it.

    - `findings`: one `Finding` for each leaf of the parameters.
    - `witness`: what the gradient was compared with, in words.
    - `points`: at how many parameters.
    - `notes`: what else was seen, a sentence each.
    - `convention`: what the gradient is right as, where that is not simply the gradient of the loss.
    """

    findings: tuple[Finding, ...]
    witness: str
    points: int
    notes: tuple[str, ...] = ()
    convention: str = ""

    @property
    def ok(self) -> bool:
        """Whether the whole gradient is right."""
        return all(finding.ok for finding in self.findings)

    def raise_if_wrong(self) -> None:
        """For tests. **Raises:** `AssertionError` with the report if the gradient is wrong."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        return "\n".join([self.headline, "", *table(self.rows()), *("\n" + wrap(text) for text in self.remarks())])

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_text(self.headline, self.rows(), [finding.ok for finding in self.findings], self.remarks())

    def save_html(self, path: str | Path) -> Path:
        """A page to look at, in one file; the path is returned."""
        from jaxbackprop.auditing.page import save_reports

        return save_reports(path, [self])

    @property
    def headline(self) -> str:
        wrong, leaves = sum(not finding.ok for finding in self.findings), len(self.findings)
        if not wrong:
            return f"The gradient is right{self.convention and f', as {self.convention}'}."
        if wrong == leaves:
            return f"The gradient is wrong in all {leaves} leaves." if leaves > 1 else "The gradient is wrong."
        return f"The gradient is wrong in {wrong} of {leaves} leaves."

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, the head first."""
        cells = [(f.path, shape_text(f.shape), error_text(f.relative_error), f.verdict) for f in self.findings]
        return [("leaf", "shape", "relative error", "verdict"), *cells]

    def remarks(self) -> list[str]:
        """Each mistake once, with the leaves that it is in, and how it was found."""
        leaves: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.explanation:
                leaves.setdefault(finding.explanation, []).append(finding.path)
        mistakes = [f"{listed(paths)}: {text}." for text, paths in leaves.items()]
        where = f"at {self.points} points" if self.points > 1 else "at one point"
        return [*mistakes, f"Compared with {self.witness}, {where}.", *self.notes]


@dataclass(frozen=True)
class StageFinding:
    """One stage of a forward and backward pass: "right", "wrong", or the "consequence" of an earlier stage."""

    name: str
    shape: tuple[int, ...]
    relative_error: float
    verdict: str
    explanation: str


@dataclass(frozen=True)
class StageReport:
    """The outcome of `audit_stages`; print it to read it."""

    findings: tuple[StageFinding, ...]
    points: int

    @property
    def ok(self) -> bool:
        return all(finding.verdict == "right" for finding in self.findings)

    @property
    def first_wrong(self) -> str | None:
        """The name of the first stage that is wrong."""
        return next((finding.name for finding in self.findings if finding.verdict == "wrong"), None)

    def raise_if_wrong(self) -> None:
        """For tests. **Raises:** `AssertionError` with the report if some stage is wrong."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def rows(self) -> list[tuple[str, ...]]:
        cells = [(f.name, shape_text(f.shape), error_text(f.relative_error), f.verdict) for f in self.findings]
        return [("stage", "shape", "relative error", "verdict"), *cells]

    def remarks(self) -> list[str]:
        wrong = [f"{f.name}: {f.explanation}." for f in self.findings if f.verdict == "wrong"]
        later = [f.name for f in self.findings if f.verdict == "consequence"]
        causes = listed([f.name for f in self.findings if f.verdict == "wrong"]) if later else ""
        return wrong + ([f"{listed(later)}: right, given {causes}; nothing to change here."] if later else [])

    def save_html(self, path: str | Path) -> Path:
        """A page to look at, in one file; the path is returned."""
        from jaxbackprop.auditing.page import save_reports

        return save_reports(path, [self])

    @property
    def headline(self) -> str:
        if self.ok:
            return "Every stage is right."
        return f"The first wrong stage is {self.first_wrong}."

    def __str__(self) -> str:
        return "\n".join([self.headline, "", *table(self.rows()), *("\n" + wrap(text) for text in self.remarks())])

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_text(self.headline, self.rows(), [f.verdict == "right" for f in self.findings], self.remarks())


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns aligned, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [
            cell.rjust(width) if j == 2 else cell.ljust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in aligned]


def html_text(headline: str, rows: list[tuple[str, ...]], fine: list[bool], remarks: list[str]) -> str:
    """The same for a notebook, the wrong rows in another colour."""
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    for row, ok in zip(body, fine, strict=True):
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        lines.append(f'<tr style="color:{"#009E73" if ok else "#D55E00"}">{cells}</tr>')
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in remarks)
    return f"<p><b>{html.escape(headline)}</b></p><table>{''.join(lines)}</table>{texts}"


def error_text(error: float) -> str:
    """A relative error; none where shapes differ, or where the right gradient is zero and the other one is not."""
    return f"{error:.1e}" if np.isfinite(error) else "-"


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def listed(names: list[str]) -> str:
    """W1, b1 and W2."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def wrap(text: str, width: int = 88) -> str:
    """A paragraph of lines that a terminal shows whole, indented after the first."""
    import textwrap

    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
