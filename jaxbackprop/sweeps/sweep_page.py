"""A sweep as a page to look at: its trials as a table and as lines through their settings, their loss curves, and the
plane as the chosen one sees it. What is drawn is worked out here; the script beside only draws and chooses.
"""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbackprop.pages import numeric, resource, rounded, save_page, text, whole_page

if TYPE_CHECKING:
    import pandas as pd

    from jaxbackprop.sweeps.result import SweepResult

FINE = 1000  # positions along a scale
MOST_TRIALS, MOST_RECORDS, MOST_PLANES, MOST_POINTS = 2000, 48, 20, 400
ACROSS = 72  # cells of the plane each way
SURE = 31  # levels of how sure a network is of a class
OUTCOMES = ("train_loss", "validation_loss")
SETTINGS = (
    "activation",
    "hidden",
    "learning_rate",
    "l2",
    "momentum",
    "weight_decay",
    "dropout",
    "seed",
    "optimizer",
    "batch_size",
)

FIXED = (*SETTINGS, "epochs")  # said once where all trials have the same


class Scale(NamedTuple):
    """Numbers along a line: where each is, 0 to FINE or None, and the marks with their labels."""

    at: list[int | None]
    ticks: list[tuple[int, str]]
    log: bool = False


def save_sweep(path: str | Path, result: "SweepResult", X: Any = None, y: Any = None) -> Path:
    """See `SweepResult.save_html`."""
    table = result.table
    ranked = by_loss(result)
    kept = np.sort(ranked[:MOST_TRIALS])
    data = {
        "trials": kept.tolist(),
        "best": int(ranked[0]),
        "rankedBy": loss_column(table).replace("_", " "),
        "columns": columns_of(table.iloc[kept]),
        "axes": axes_of(table.iloc[kept], ranks_of(ranked, kept)),
        "good": np.isin(kept, ranked[: max(1, len(ranked) // 10)]).astype(int).tolist(),
        "curves": curves_of(result, kept),
        "plane": None if X is None else planes_of(result, ranked, X, y),
    }
    scripts = [resource("sweep_page.js", "jaxbackprop.sweeps")]
    return save_page(path, whole_page("Sweep", body_of(result, data, len(table)), data=data, scripts=scripts))


def by_loss(result: "SweepResult") -> np.ndarray:
    """All trials, the best first, as `SweepResult.best` has it; those that diverged or did not finish at the end."""
    losses = result.table[loss_column(result.table)].to_numpy(float)
    fine = result.finished & np.isfinite(losses) & ~result.table["diverged"].to_numpy(bool)
    return np.lexsort((np.where(np.isfinite(losses), losses, np.inf), ~fine))


def loss_column(table: "pd.DataFrame") -> str:
    """The loss that trials are ranked by: held out, where there is one."""
    return "validation_loss" if table["validation_loss"].notna().any() else "train_loss"


def ranks_of(ranked: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Where each trial stands among all, 0 the best to 1 the worst."""
    ranks = np.empty(len(ranked))
    ranks[ranked] = np.arange(len(ranked)) / max(1, len(ranked) - 1)
    return ranks[kept]


def body_of(result: "SweepResult", data: dict[str, Any], trials: int) -> str:
    """The frame of the page, which the script fills."""
    table, best = result.table, data["best"]
    loss = loss_column(table)
    held = [
        f"{name.replace('_', ' ')} {shown_in(name, table[name].iloc[0])}" for name in FIXED if constant(table[name])
    ]
    score = next((name for name in map(str, table) if name.startswith("validation_") and name not in OUTCOMES), "")
    scored = (
        f", {score.replace('_', ' ')} {table[score].iloc[best]:.4g}" if score and table[score].notna().any() else ""
    )
    diverged = int(table["diverged"].sum())
    notes = [f"The same in all trials: {', '.join(held)}." if held else ""]
    notes.append(f"{diverged} diverged." if diverged else "")
    notes.append(f"The {MOST_TRIALS} best are shown." if trials > MOST_TRIALS else "")
    plane = data["plane"]
    return f"""<h1>{trials} trial{"s" * (trials != 1)}; the best is number {best}</h1>
<p>{text(loss.replace("_", " ").capitalize())} {table[loss].iloc[best]:.4g}{text(scored)}.</p>
<p class="quiet">{text(" ".join(filter(None, notes)))}</p>
<p id="chosen" class="chosen-line" aria-live="polite"></p>
<h2>Settings and outcomes</h2>
<p class="quiet">Each line is a trial, <span class="key good">the best tenth</span>
and <span class="key chosen">the chosen one</span> in colour; those of one setting lie beside each other, the better the
higher. Choose one here, among the curves, or in the table.</p>
<div id="parallel" class="chart"></div>
<div class="pair"><section><h2>Loss curves</h2>
<p class="quiet">Mean loss{" on a logarithmic scale" * data["curves"]["log"]}: <span class="key solid">validation</span>
<span class="key dashed">training</span> of the chosen trial; validation of the others behind.</p>
<div id="curves" class="chart"></div></section>
<section{" hidden" if plane is None else ""}><h2>Decision boundary</h2><p id="plane-note" class="quiet"></p>
<div id="plane" class="chart"></div></section></div>
<h2>Table</h2>
<p class="quiet">A column's head sorts by it, a row chooses its trial.</p>
<div class="scroll rows"><table id="table"></table></div>"""


def constant(column: "pd.Series") -> bool:
    return len({shown(value) for value in column}) == 1


def shown(value: Any) -> str:
    """A cell of the table as text."""
    if isinstance(value, tuple | list):
        return "–".join(map(str, value)) or "none"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def shown_in(name: str, value: Any) -> str:
    """The same, where a batch of no size is all samples."""
    return "all" if name == "batch_size" and shown(value) == "–" else shown(value)


def columns_of(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """The table, column by column: what is shown, and what it is sorted by."""
    columns = []
    for name in table:
        values = list(table[name])
        if name in FIXED and constant(table[name]):
            continue
        if name == "batch_size":
            cells = [shown_in(name, value) for value in values]
            keys: list[Any] = [None if cell == "all" else int(cell) for cell in cells]
        elif all(isinstance(value, bool | np.bool_) for value in values):
            if not any(values):
                continue
            cells, keys = ["yes" if value else "" for value in values], [int(value) for value in values]
        elif all(numeric(value) for value in values):
            cells, keys = [shown(value) for value in values], [rounded(value, 7) for value in values]
        else:
            cells = [shown(value) for value in values]
            sortable: list[Any] = list(map(tuple, values)) if name == "hidden" else cells
            order = {value: rank for rank, value in enumerate(sorted(set(sortable)))}
            keys = [order[value] for value in sortable]
        right = all(numeric(cell) or cell == "–" for cell in cells)
        columns.append({"name": str(name).replace("_", " "), "cells": cells, "keys": keys, "number": right})
    return columns


def axes_of(table: "pd.DataFrame", ranks: np.ndarray) -> list[dict[str, Any]]:
    """What lines run through: the settings that vary, then the loss and the score."""
    names = [name for name in SETTINGS if name in table and not constant(table[name])]
    names += [
        name
        for name in map(str, table)
        if (name == loss_column(table) or (name.split("_")[0] == "validation" and not name.endswith(("_loss", "_std"))))
        and table[name].notna().any()
    ]
    axes = []
    for name in names:
        values = list(table[name])
        scale = places(values, ranks) if name in SETTINGS else None
        scale = scale or scale_of(np.asarray(values, float))
        axes.append({"name": name.replace("_", " "), "at": scale.at, "ticks": scale.ticks})
    return axes


def places(values: Sequence[Any], ranks: np.ndarray) -> Scale | None:
    """Few settings side by side in their order, as far apart as each other; None if they are too many.

    The trials of one setting fan out a little, the better the higher: otherwise all of them were one line.
    """
    known: list[Any] = [None if shown(value) == "–" else value for value in values]
    numbers = all(value is None or numeric(value) for value in known)
    order = {shown(v): v for v in known}
    if len(order) > 10 and numbers:
        return None
    key = (
        (lambda v: (v is None, v or 0)) if numbers else (lambda v: tuple(v) if isinstance(v, list | tuple) else str(v))
    )
    ordered = [shown(value) for value in sorted(order.values(), key=key)]
    fan = 0.4 * FINE / max(3, len(ordered))
    step = (FINE - fan) / max(1, len(ordered) - 1)
    at: list[int | None] = [
        round(ordered.index(shown(value)) * step + fan * (1 - rank)) for value, rank in zip(known, ranks, strict=True)
    ]
    every = -(-len(ordered) // 12)
    labels = ["all" if label == "–" else short(label) for label in ordered]
    return Scale(at, [(round(i * step + fan / 2), label) for i, label in enumerate(labels) if i % every == 0])


def short(label: str, most: int = 14) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def scale_of(
    values: np.ndarray, *, low: float | None = None, high: float | None = None, linear: bool = False, span: float = 30
) -> Scale:
    """Numbers on a linear scale, or on a logarithmic one where they span more than a factor of `span`."""
    finite = values[np.isfinite(values)]
    low = float(finite.min(initial=np.inf)) if low is None else low
    high = float(finite.max(initial=-np.inf)) if high is None else high
    if not low < high:
        middle = low if math.isfinite(low) else 0.0
        low, high = middle - (abs(middle) or 1.0) / 2, middle + (abs(middle) or 1.0) / 2
    log = not linear and low > 0 and high / low > span
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ends = np.log10([low, high]) if log else np.array([low, high])
        place = ((np.log10(values) if log else values) - ends[0]) / (ends[1] - ends[0]) * FINE
    at = [None if not math.isfinite(p) else round(min(max(p, -FINE), 2 * FINE)) for p in place.ravel()]
    return Scale(at, ticks_of(low, high, log), log)


def ticks_of(low: float, high: float, log: bool) -> list[tuple[int, str]]:
    """Round numbers between two ends."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        few = len(decades) > 3
        step = -(-len(decades) // 7)
        numbers = [m * 10.0**d for d in decades if d % step == 0 or not few for m in ((1,) if few else (1, 2, 5))]
    else:
        rough = (high - low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step_size = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.99)
        first = math.ceil(low / step_size - 1e-9)
        numbers = [k * step_size for k in range(first, first + 8) if k * step_size <= high + 1e-9 * abs(high)]
    inside = [n for n in numbers if low * (1 - 1e-9) <= n <= high * (1 + 1e-9) or (not log and low <= n <= high)]
    ends = (math.log10(low), math.log10(high)) if log else (low, high)
    return [
        (round(((math.log10(n) if log else n) - ends[0]) / (ends[1] - ends[0]) * FINE), f"{n:.6g}".replace("-", "−"))
        for n in inside
    ]


def curves_of(result: "SweepResult", kept: np.ndarray) -> dict[str, Any]:
    """Loss curves, means over the splits, at few of the records where there are many."""
    records = len(result.epochs)
    chosen = np.unique(np.linspace(0, records - 1, min(records, MOST_RECORDS)).round().astype(int))
    curves = []
    for values in (result.train_loss, result.validation_loss):
        some = np.asarray(values, float)[kept][:, :, chosen]
        there = np.isfinite(some).any(axis=1)
        means = np.where(there, np.where(np.isfinite(some), some, 0).sum(axis=1), np.nan)
        curves.append(means / np.maximum(1, np.isfinite(some).sum(axis=1)))
    both = np.stack(curves)
    finite = both[np.isfinite(both)]
    # What climbs beyond the start of nearly all others has diverged, and would press the others together.
    high = float(np.quantile(finite, 0.99)) if finite.size else None
    scale = scale_of(both, high=high, span=8.0)
    at = np.array(scale.at, dtype=object).reshape(both.shape)
    across = scale_of(np.asarray(result.epochs, float)[chosen], linear=True)
    return {
        "x": across.at,
        "xTicks": across.ticks,
        "yTicks": scale.ticks,
        "log": scale.log,
        "train": at[0].tolist(),
        "validation": at[1].tolist(),
    }


def planes_of(result: "SweepResult", ranked: np.ndarray, X: Any, y: Any) -> dict[str, Any] | None:
    """The plane as the best trials see it, a byte a cell: the class and how sure; None if there is no plane, or
    samples have no single class.

    **Raises:** `ValueError` if X and y do not belong together.
    """
    names = [str(name) for name in getattr(X, "columns", ("x₁", "x₂"))]
    X = np.asarray(X, float)
    classes = np.zeros(0) if result.classes is None else result.classes
    if result.targets == "sigmoid":  # one label, which is there or not
        classes = np.arange(2 if len(classes) == 1 else 0)
    if X.ndim != 2 or X.shape[1] != 2 or len(classes) == 0:
        return None
    labels = np.zeros(len(X)) if y is None else np.asarray(y)
    if labels.shape != (len(X),):
        raise ValueError(f"y has the shape {labels.shape} where X has {len(X)} samples: give one label a sample")
    margin = 0.06 * (X.max(axis=0) - X.min(axis=0)) + 1e-9
    low, high = X.min(axis=0) - margin, X.max(axis=0) + margin
    axes = [np.linspace(low[i], high[i], ACROSS) for i in range(2)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    cells = {}
    for trial in ranked[:MOST_PLANES]:
        probabilities = result.predict_proba(int(trial), grid)
        if probabilities.shape[1] == 1:
            probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
        if not np.isfinite(probabilities).all():
            continue
        sure = (probabilities.max(axis=1) - 1 / len(classes)) / (1 - 1 / len(classes))
        packed = (probabilities.argmax(axis=1) % 8) * (SURE + 1) + np.rint(np.clip(sure, 0, 1) * SURE)
        cells[str(int(trial))] = base64.b64encode(packed.astype(np.uint8).tobytes()).decode()
    some = np.random.default_rng(0).permutation(len(X))[:MOST_POINTS]
    kinds = classes if np.isin(labels, classes).all() else np.unique(labels)
    numbers = np.searchsorted(kinds, labels)
    x1, x2 = (scale_of(X[some, i], low=float(low[i]), high=float(high[i]), linear=True) for i in range(2))
    return {
        "across": ACROSS,
        "cells": cells,
        "names": names,
        "x": x1.at,
        "y": x2.at,
        "xTicks": x1.ticks,
        "yTicks": x2.ticks,
        "kinds": [] if y is None else [str(kind) for kind in kinds],
        "kind": numbers[some].tolist(),
    }
