"""The scores of a search over its grid, as a curve, a heat map, or parallel coordinates."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from jaxbackprop._checks import choose
from jaxbackprop.plotting import COLORS, panels

MANY = 12  # ticks on an axis, at most


def plot_search(search: Any, metric: str | None, ax: Axes | None) -> Axes:
    """See `SweepSearchCV.plot`."""
    check_is_fitted(search, "cv_results_")
    results = search.cv_results_
    metrics = [key.removeprefix("mean_test_") for key in results if key.startswith("mean_test_")]
    first = search.refit if isinstance(search.refit, str) and search.refit in metrics else metrics[0]
    metric = choose("metric", first if metric is None else metric, dict.fromkeys(metrics, "")) or metric or first
    scores, spread = (np.asarray(results[f"{kind}_test_{metric}"], float) for kind in ("mean", "std"))
    columns = {key.removeprefix("param_"): _shown(results[key]) for key in results if key.startswith("param_")}
    varying = {name.split("__")[-1]: values for name, values in columns.items() if len(set(values)) > 1}
    label = _score_name(search, metric)
    if len(varying) < 2:
        ((name, values),) = varying.items() or [("candidate", ["0"] * len(scores))]
        return _curve(name, values, scores, spread, label, ax)
    if len(varying) == 2:
        return _heat_map(varying, scores, label, ax)
    return _parallel(varying, scores, label, ax)


def _score_name(search: Any, metric: str) -> str:
    name = search.scoring if metric == "score" and isinstance(search.scoring, str) else metric
    usual = "R²" if is_regressor(search.estimator) else "accuracy"
    return f"mean test {usual if name == 'score' and not callable(search.scoring) else name}"


def _shown(column: Any) -> list[Any]:
    """A parameter's value for each candidate: numbers as they are, everything else as text."""
    values = np.ma.getdata(column)
    missing = np.ma.getmaskarray(column)
    if values.dtype.kind in "iuf" and not missing.any():
        return values.tolist()
    texts = [str(v) for v in values]
    return [
        "none" if gone else text.strip("()").rstrip(",") or "none" for text, gone in zip(texts, missing, strict=True)
    ]


def _levels(values: list[Any]) -> list[Any]:
    """The distinct values: numbers in their order, widths of layers by their numbers, names as they came."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=lambda v: v if not isinstance(v, str) else [int(w) for w in v.split(",")])
    except (ValueError, TypeError):
        return distinct


def _tick(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _is_logarithmic(values: list[Any]) -> bool:
    return all(not isinstance(v, str) and v > 0 for v in values) and max(values) >= 20 * min(values)


def _curve(name: str, values: list[Any], scores: np.ndarray, spread: np.ndarray, label: str, ax: Axes | None) -> Axes:
    ax = panels(width=5)[1][0, 0] if ax is None else ax
    levels = _levels(values)
    numbers = not any(isinstance(v, str) for v in levels)
    places = np.array(levels if numbers else range(len(levels)), float)
    order = [[v == level for v in values].index(True) for level in levels]
    style: Any = {"color": COLORS[0], "marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.8}
    ax.errorbar(places, scores[order], yerr=spread[order], linestyle="-" if numbers else "", **style)
    best = int(np.nanargmax(scores[order]))
    ax.plot(places[best], scores[order][best], "*", color=COLORS[5], markersize=14, zorder=3, label="best")
    if numbers and _is_logarithmic(levels):
        ax.set_xscale("log")
    elif not numbers:
        ax.set_xticks(places, [_tick(v) for v in levels])
    ax.set(xlabel=name, ylabel=f"{label}\n(bar: standard deviation over folds)")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _heat_map(varying: dict[str, list[Any]], scores: np.ndarray, label: str, ax: Axes | None) -> Axes:
    (across, columns), (down, rows) = sorted(varying.items(), key=lambda item: -len(set(item[1])))
    horizontal, vertical = _levels(columns), _levels(rows)
    table = np.full((len(vertical), len(horizontal)), np.nan)
    for column, row, score in zip(columns, rows, scores, strict=True):
        i, j = vertical.index(row), horizontal.index(column)
        table[i, j] = np.fmax(table[i, j], score)
    if ax is None:
        ax = panels(width=max(4.5, 1.6 + 0.75 * len(horizontal)), height=max(3.2, 1.2 + 0.45 * len(vertical)))[1][0, 0]
    image = ax.imshow(table, origin="lower", aspect="auto", cmap="viridis")
    ax.set_xticks(range(len(horizontal)), [_tick(v) for v in horizontal])
    ax.set_yticks(range(len(vertical)), [_tick(v) for v in vertical])
    ax.set(xlabel=across, ylabel=down)
    ax.spines[:].set_visible(False)
    if table.size <= MANY * MANY:
        low, high = np.nanmin(table), np.nanmax(table)
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                dark = value < low + 0.6 * (high - low)
                ax.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    best = np.unravel_index(np.nanargmax(table), table.shape)
    ax.plot(best[1] + 0.36, best[0] + 0.3, "*", color=COLORS[5], markersize=11, markeredgecolor="white")
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=ax, label=f"{label} (★ best)")
    return ax


def _parallel(varying: dict[str, list[Any]], scores: np.ndarray, label: str, ax: Axes | None) -> Axes:
    """One vertical line a parameter, one polyline a candidate, the better the brighter and the further in front."""
    ax = panels(width=1.7 * len(varying) + 2.2, height=3.8)[1][0, 0] if ax is None else ax
    finite = np.isfinite(scores)
    # Scores crowd at the top: the lower half of them shares the dark end of the colours.
    norm = Normalize(np.median(scores[finite]), scores[finite].max(), clip=True)
    colors = colormaps["viridis"]
    places, jitter = {}, np.random.default_rng(0)
    for name, values in varying.items():
        levels = _levels(values)
        numbers = not any(isinstance(v, str) for v in levels) and len(levels) > MANY
        heights = np.array(levels, float) if numbers else np.arange(len(levels), dtype=float)
        if numbers and _is_logarithmic(levels):
            heights = np.log(heights)
        heights = (heights - heights[0]) / (heights[-1] - heights[0])
        where = dict(zip(levels, heights, strict=True))
        # Candidates with the same value would hide one another.
        places[name] = np.array([where[v] for v in values]) + jitter.uniform(-0.025, 0.025, len(values))
        shown = np.unique(np.linspace(0, len(levels) - 1, min(len(levels), MANY)).astype(int))
        for k in shown:
            ax.text(
                len(places) - 1 - 0.05, heights[k], _tick(levels[k]), ha="right", va="center", fontsize=9, zorder=6,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        ax.axvline(len(places) - 1, color="black", linewidth=0.8, zorder=3)
    lines = np.stack(list(places.values()))
    best = int(np.nanargmax(scores))
    for k in np.argsort(np.where(finite, scores, -np.inf)):
        if finite[k]:
            width, alpha = (0.8, 0.35) if norm(scores[k]) < 0.8 else (1.3, 0.9)
            ax.plot(lines[:, k], color=colors(norm(scores[k])), linewidth=width, alpha=alpha)
    ax.plot(lines[:, best], color=COLORS[5], linewidth=2.6, label=f"best, {scores[best]:.3f}", zorder=5)
    ax.set_xticks(range(len(places)), list(places))
    ax.set(xlim=(-0.45, len(places) - 0.85), ylim=(-0.08, 1.08), yticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(ScalarMappable(norm, colors), ax=ax, label=label, extend="min")
    return ax
