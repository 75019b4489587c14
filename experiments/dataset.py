"""Part 1a: what do the data sets look like?

The drawn sets lie in the plane; of the measured ones the figure shows the two directions in which the standardised
samples vary most (principal components, with their share of the variance), and of digits the images themselves.
Diabetes, the one to regress, is coloured by its target.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

from jaxbackprop.data import DATASETS, Dataset, load, standardize
from jaxbackprop.plotting import panels, plot_images, plot_points, save_figure


def describe(data: Dataset) -> dict[str, object]:
    """One row of the table."""
    samples, features = data.X.shape
    row = {"data set": data.name, "task": data.task, "samples": samples, "features": features}
    if data.task == "regression":
        return row | {"classes": "", "samples a class": f"target {data.y.min():g} to {data.y.max():g}"}
    counts = np.bincount(data.y)
    even = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts[0]}"
    return row | {"classes": len(counts), "samples a class": even}


def draw(data: Dataset, ax: Axes) -> None:
    """The samples in two dimensions; of digits some of the images themselves."""
    ax.set_title(data.name)
    if data.name == "digits":
        spaced = np.pad(data.X.reshape(-1, 8, 8), ((0, 0), (1, 2), (1, 1)))
        rows = [np.hstack(spaced[data.y == k][:10]) for k in range(10)]
        plot_images([np.vstack(rows)], ["digits: the first ten of each"], np.array([ax]))
        return
    if data.X.shape[1] == 2:
        plot_points(data.X, data.y, class_names=data.class_names if data.name == "moons" else (), ax=ax)
        ax.set_aspect("equal", adjustable="datalim")
        ax.set(xlabel=data.feature_names[0], ylabel=data.feature_names[1])
        return
    components = PCA(2)
    X = components.fit_transform(standardize(data.X)[0])
    shares = [f"component {i} ({share:.0%})" for i, share in enumerate(components.explained_variance_ratio_, start=1)]
    ax.set(xlabel=shares[0], ylabel=shares[1])
    ax.margins(y=0.2)  # room for the legend
    if data.task == "classification":
        plot_points(X, data.y, class_names=data.class_names, ax=ax)
    else:
        points = ax.scatter(*X.T, c=data.y, cmap="cividis", s=16)
        ax.figure.colorbar(points, ax=ax, label="disease progression after a year")


def main(out: Path = Path("results"), seed: int = 0) -> pd.DataFrame:
    """Tabulate and draw every data set.

    Args:
        out: Where the figure goes.
        seed: Of the drawn sets; with 0 the moons are those of the course.
    """
    sets = [load(name, seed=seed) for name in DATASETS]
    table = pd.DataFrame([describe(data) for data in sets])
    print(table.to_string(index=False))
    figure, axes = panels(3, 3, width=4.0, height=3.4)
    for data, ax in zip(sets, axes.flat, strict=True):
        draw(data, ax)
    print("saved", save_figure(figure, out / "dataset.png"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
