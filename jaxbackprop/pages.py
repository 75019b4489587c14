"""Self-contained pages of HTML: one file that opens without a network, by day and by night, on a telephone and a desk.

What people called their parameters, files and functions goes through `text`; data for a page's script goes through
`embedded`, where nothing can end the script. Colours are those of `plotting`.
"""

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from jaxbackprop.files import whole_file

LEVELS = 20  # of a colour on each side of zero
# Minus, zero and plus: blue and vermilion of Okabe and Ito, which colour-blind readers tell apart.
LIGHT = ((0, 90, 155), (246, 246, 243), (200, 80, 0))
DARK = ((110, 195, 250), (38, 42, 48), (255, 150, 60))
MOST_CELLS = 48  # of a heat map along one side; larger matrices are shown by blocks
NUMBERED = 48  # entries at most whose values are written into their cells
# Nothing is loaded from anywhere: the browser itself is told to refuse it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
MARKS = {"right": "✓", "wrong": "✗", "consequence": "↳", "unseen": "·"}
WORDS = {"right": "right", "wrong": "wrong", "consequence": "follows from a wrong one", "unseen": "not looked at"}


def text(value: Any) -> str:
    """Anything as text that stays text inside of HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def prose(sentence: str) -> str:
    """A sentence with its indices raised: z^1, (W^2)^T, a^(l-1)."""
    return re.sub(r"\^(\d+|T|\w|\([^()]{1,9}\))", r"<sup>\1</sup>", text(sentence))


def whole_page(title: str, body: str, *, data: Any = None, scripts: Sequence[str] = ()) -> str:
    """A whole page. `data` is for the scripts, which find it as JSON in the element with the id "data"."""
    embedded_data = "" if data is None else f'<script type="application/json" id="data">{embedded(data)}</script>\n'
    code = "".join(f"<script>\n{script}</script>\n" for script in scripts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>\n{resource('pages.css')}{heat_colors()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{embedded_data}{code}</body>\n</html>\n"
    )


def save_page(path: str | Path, content: str) -> Path:
    """Write a page, whole or not at all.

    **Returns:** the path. Directories that do not exist are made.
    """
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8")
    return Path(path)


def resource(name: str, package: str = "jaxbackprop") -> str:
    """A style sheet or script that lies beside the modules."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """JSON that may stand inside of a script: no sign in it can end one."""
    plain = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return plain


def rounded(value: Any, digits: int = 4) -> float | int | None:
    """A number of few digits, for `embedded`; None where it is not finite."""
    number = float(value)
    if not math.isfinite(number):
        return None
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def mark(verdict: str) -> str:
    """A sign and a word for one of `MARKS`."""
    return f'<span class="mark {verdict}">{MARKS[verdict]} {WORDS[verdict]}</span>'


def html_table(rows: Sequence[Sequence[Any]], classes: Iterable[str] = ()) -> str:
    """A table, the head first; numbers are set to the right; each further row may have a class."""
    head, *body = rows
    right = [all(numeric(row[i]) for row in body) for i in range(len(head))]
    lines = [f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in head)}</tr>"]
    names = [*classes, *[""] * len(body)]
    for row, name in zip(body, names, strict=False):
        kinds = [' class="number"' if to_right else "" for to_right in right]
        cells = "".join(f"<td{kind}>{text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        lines.append(f'<tr class="{name}">{cells}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def numeric(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return cell in ("", "-")
    return True


# Heat maps.


def heat_colors() -> str:
    """The colours of the levels, -LEVELS to LEVELS, as style rules: one scale by day and one by night."""
    rules: dict[str, list[str]] = {name: [] for name in ("day", "night")}
    for level in range(-LEVELS, LEVELS + 1):
        for name, (low, middle, high) in zip(rules, (LIGHT, DARK), strict=True):
            share, end = (abs(level) / LEVELS) ** 0.8, high if level > 0 else low
            color = "".join(f"{round(m + share * (e - m)):02x}" for m, e in zip(middle, end, strict=True))
            rules[name].append(f".{level_class(level)}{{fill:#{color}}}")
    return f"{''.join(rules['day'])}\n@media (prefers-color-scheme: dark){{{''.join(rules['night'])}}}\n"


def level_class(level: int) -> str:
    return f"h{'m' if level < 0 else ''}{abs(level)}"


def level_of(value: float, largest: float) -> int:
    """The level of a value on a scale that ends at `largest`; no value but 0 itself is shown as 0."""
    if value == 0 or largest == 0:
        return 0
    level = round(LEVELS * max(-1.0, min(1.0, value / largest)))
    return level or int(np.sign(value)) * (abs(value) > 1e-9 * largest)


def as_blocks(values: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A matrix of at most MOST_CELLS rows and columns, and how many entries a cell stands for each way: that one of
    them is shown which is farthest from zero, so that a single wrong entry is not lost.
    """
    steps = -(-values.shape[0] // MOST_CELLS), -(-values.shape[1] // MOST_CELLS)
    if steps == (1, 1):
        return values, steps
    rows, columns = (range(0, length, step) for length, step in zip(values.shape, steps, strict=True))
    chosen = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            block = values[row : row + steps[0], column : column + steps[1]]
            bad = block[~np.isfinite(block)]
            chosen[i, j] = bad[0] if bad.size else block.flat[np.argmax(np.abs(block))]
    return chosen, steps


def as_matrix(values: np.ndarray) -> np.ndarray:
    """Two axes of any number: a vector is a row, further axes go into the rows."""
    values = np.asarray(values, float)
    return values.reshape(1, -1) if values.ndim < 2 or not values.size else values.reshape(-1, values.shape[-1])


def heat_map(values: np.ndarray, largest: float, caption: str) -> str:
    """A matrix as coloured cells on the scale that ends at `largest`; small ones with their numbers.

    NaN and infinity are hatched.
    """
    if not values.size:
        return f'<figure class="heat"><figcaption>{text(caption)}</figcaption><small>no entries</small></figure>'
    cells, steps = as_blocks(as_matrix(values))
    rows, columns = cells.shape
    numbered = cells.size <= NUMBERED and columns <= 8
    decimals, power = decimals_of(largest)
    wide, high = (62, 30) if numbered else (max(6, min(24, 300 // columns)),) * 2
    parts = []
    for (i, j), value in np.ndenumerate(cells):
        finite = bool(np.isfinite(value))
        level = level_of(float(value), largest) if finite else 0
        shown = f"{value / 10.0**power:z.{decimals}f}".replace("-", "−") if finite else f"{value}"
        name = level_class(level) if finite else "hatched"
        place = f"row {i * steps[0]}, column {j * steps[1]}: {value:.6g}"
        parts.append(
            f'<rect x="{j * wide}" y="{i * high}" width="{wide}" height="{high}" class="{name}"><title>{place}</title>'
            "</rect>"
        )
        if numbered:
            strong = " strong" if abs(level) > 0.5 * LEVELS else ""
            parts.append(f'<text class="cell{strong}" x="{(j + 0.5) * wide:g}" y="{(i + 0.5) * high:g}">{shown}</text>')
    width, height = wide * columns, high * rows
    factor = f"Numbers × 10<sup>{power}</sup>. " if numbered and power else ""
    blocks = "" if steps == (1, 1) else f"A cell is {steps[0]}×{steps[1]} entries, by the one farthest from 0."
    return (
        f'<figure class="heat"><figcaption>{text(caption)}</figcaption><svg class="cells" role="img" '
        f'aria-label="{text(caption)}" viewBox="-1 -1 {width + 2} {height + 2}" style="width:{width + 2}px">'
        f"{''.join(parts)}</svg>{f'<small>{factor}{blocks}</small>' if factor or blocks else ''}</figure>"
    )


def decimals_of(largest: float) -> tuple[int, int]:
    """How many decimals show three digits of the largest entry, and the power of ten to take out before."""
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return (max(0, 2 - exponent), 0) if -3 < exponent < 4 else (2, exponent)


def heat_legend(largest: float) -> str:
    """The scale of the heat maps beside it, with numbers."""
    wide = 6
    cells = "".join(
        f'<rect x="{(level + LEVELS) * wide}" y="0" width="{wide + 0.5}" height="12" class="{level_class(level)}"/>'
        for level in range(-LEVELS, LEVELS + 1)
    )
    width = (2 * LEVELS + 1) * wide
    ticks = "".join(
        f'<text class="tick" x="{x}" y="27" text-anchor="{anchor}">{label}</text>'
        for x, anchor, label in (
            (0, "start", f"−{largest:.3g}"),
            (width / 2, "middle", "0"),
            (width, "end", f"+{largest:.3g}"),
        )
    )
    return (
        f'<svg class="legend" role="img" aria-label="colour scale" viewBox="0 0 {width} 32" style="width:{width}px">'
        f"{cells}{ticks}</svg>"
    )
