"""Figures: each function draws on the Axes it is given, or on new ones, and returns them.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; classes differ by marker and curves by dash
too. Nothing here touches pyplot's global state: figures are plain objects, saved by `save_figure`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from jaxbackprop.data import ArrayLike
from jaxbackprop.files import whole_file

# Okabe and Ito 2008, in an order in which neighbours differ in lightness too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">")
DASHES = ("-", "--", "-.", ":")


def panels(
    rows: int = 1, columns: int = 1, *, width: float | int = 4, height: float | int = 3.2, share: bool = False
) -> tuple[Figure, Shaped[np.ndarray, "rows columns"]]:
    """A new figure of `rows` x `columns` Axes, `width` x `height` inches each; with `share` on common scales."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def name_rows_and_columns(
    axes: Shaped[np.ndarray, "rows columns"], rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> None:
    """Write what the rows of a grid differ in at its left, and what the columns differ in at its top."""
    for ax, name in zip(axes[:, 0], rows, strict=False):
        below = ax.get_ylabel()
        ax.set_ylabel(f"{name}\n{below}" if below else name, fontsize="large")
    for ax, name in zip(axes[0], columns, strict=False):
        ax.set_title(name, fontsize="large")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all: under another name first, then renamed.

    **Returns:** the path. Directories that do not exist are made.
    """
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
    return Path(path)


def plot_points(X: ArrayLike, y: ArrayLike, *, class_names: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """Samples (n_samples, 2), each class with its own colour and marker; a legend if the classes have names."""
    ax = _axes(ax)
    X, y = np.asarray(X), np.asarray(y)
    for k, label in enumerate(np.unique(y)):
        color, marker = COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)]
        name = class_names[k] if class_names else None
        x1, x2 = X[y == label].T
        ax.scatter(x1, x2, s=22, c=color, marker=marker, label=name, edgecolors="white", linewidths=0.6, zorder=3)
    if class_names:
        ax.legend(loc="best", fontsize="small", framealpha=0.9)
    return ax


def plot_decision_boundary(
    predict: Callable[[np.ndarray], ArrayLike],
    X: ArrayLike,
    y: ArrayLike,
    *,
    class_names: Sequence[str] = (),
    margin: float | int = 0.4,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """The plane as a network sees it: shaded by its most probable class, the stronger the surer, white where it
    cannot tell, with a line where two classes are equally probable, and the samples on top.

    **Arguments:**
    - `predict`: from x [2, points] to probabilities [classes, points], features first, such as
      `lambda x: forward(params, x, activation="tanh").activations[-1]`.
    - `X`, `y`: the samples, (n_samples, 2), and their labels; row k of the probabilities is the k-th label in order.
    - `margin`: how far the plane reaches beyond the samples, in the units of X.
    """
    ax = _axes(ax)
    X = np.asarray(X)
    low, high = X.min(axis=0) - margin, X.max(axis=0) + margin
    horizontal, vertical = (np.linspace(low[i], high[i], resolution) for i in range(2))
    plane = np.stack([axis.ravel() for axis in np.meshgrid(horizontal, vertical)])
    probabilities = np.asarray(predict(plane)).reshape(-1, resolution, resolution)

    classes = len(probabilities)
    winner = probabilities.argmax(axis=0)
    sureness = (probabilities.max(axis=0) - 1 / classes) / (1 - 1 / classes)
    colors = np.array([to_rgb(color) for color in COLORS])[winner % len(COLORS)]
    shade = 1 - 0.55 * sureness[..., None] * (1 - colors)
    ax.imshow(shade, origin="lower", extent=(low[0], high[0], low[1], high[1]), aspect="auto", interpolation="bilinear")
    for k in range(classes if classes > 2 else 1):
        lead = probabilities[k] - np.delete(probabilities, k, axis=0).max(axis=0)
        if lead.min() < 0 < lead.max():
            ax.contour(horizontal, vertical, lead, levels=[0], colors="black", linewidths=1.2)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return plot_points(X, y, class_names=class_names, ax=ax)


def plot_loss_curves(steps: ArrayLike, curves: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Loss against the number of updates, one curve a name, on a logarithmic scale."""
    ax = _axes(ax)
    for k, (name, curve) in enumerate(curves.items()):
        ax.plot(steps, curve, DASHES[k % len(DASHES)], color=COLORS[k % len(COLORS)], linewidth=1.8, label=name)
    ax.set(xlabel="updates", ylabel="loss", yscale="log")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_band(
    x: ArrayLike, values: ArrayLike, *, label: str | None = None, order: int = 0, ax: Axes | None = None
) -> Axes:
    """The mean over seeds, and a band one standard deviation to each side, cut to the range of the seeds.

    Without the cut the band of a loss would reach below zero, off a logarithmic scale.

    **Arguments:** `x`, (points,); `values`, (seeds, points), of which those that are not finite are left out; `order`,
    which colour, marker and dash to use.
    """
    ax = _axes(ax)
    values = np.ma.masked_invalid(np.asarray(values, float))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    low, high = np.maximum(mean - spread, values.min(axis=0)), np.minimum(mean + spread, values.max(axis=0))
    color, marker = COLORS[order % len(COLORS)], MARKERS[order % len(MARKERS)]
    few = marker if len(mean) <= 20 else None
    ax.plot(x, mean, DASHES[order % len(DASHES)], color=color, marker=few, markersize=5, linewidth=1.8, label=label)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    return ax


def plot_confusion_matrix(
    y: ArrayLike, predicted: ArrayLike, *, class_names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """How many samples of each class (down) were taken for which class (across)."""
    ax = _axes(ax)
    ConfusionMatrixDisplay.from_predictions(
        y, predicted, display_labels=class_names, cmap="Blues", colorbar=False, ax=ax
    )
    ax.spines[:].set_visible(True)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


def plot_images(images: ArrayLike, titles: Sequence[str], axes: Shaped[np.ndarray, "..."]) -> None:
    """Grey-scale images (n, height, width), dark ink on white, one on each of `axes`; what is left over is hidden."""
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, np.asarray(images), titles, strict=False):
        ax.imshow(image, cmap="gray_r")
        ax.set_title(title)


def _axes(ax: Axes | None) -> Axes:
    return panels()[1][0, 0] if ax is None else ax
