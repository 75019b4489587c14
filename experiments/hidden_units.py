"""How many hidden units does a data set need? Accuracy and loss against the width of the hidden layer.

Too few units cannot bend the boundary far enough; with enough of them more bring nothing but work. The spirals need
more than the moons. The widths are padded to a few shared ones, so that all of them are trained by a few programs.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from jaxbackprop import SweepResult, sweep, use_all_cores
from jaxbackprop.data import Dataset, load
from jaxbackprop.plotting import name_rows_and_columns, panels, plot_band, plot_decision_boundary, save_figure
from jaxbackprop.tables import mean_and_spread


def train(name: str, widths: tuple[int, ...], seeds: int, epochs: int) -> tuple[Dataset, SweepResult]:
    """All widths from all seeds on one data set, judged on 1,000 other samples of it."""
    data, held_out = load(name), load(name, samples=1000, seed=1)
    settings = {"hidden": [(width,) for width in widths], "seed": list(range(seeds)), "learning_rate": [0.01]}
    result = sweep(
        settings | {"optimizer": ["adam"]}, data.X, data.y, epochs=epochs, validation=(held_out.X, held_out.y)
    )
    return data, result


def draw_curves(results: dict[str, tuple[Dataset, SweepResult]], path: Path) -> Path:
    """Accuracy against the number of units, on the samples trained on and on new ones."""
    figure, axes = panels(1, len(results), width=4.4, height=3.2)
    for ax, (name, (_, result)) in zip(axes[0], results.items(), strict=True):
        table = result.table.assign(units=[hidden[0] for hidden in result.table["hidden"]])
        widths = np.sort(table["units"].unique())
        for order, (label, column) in enumerate([("training", "train_accuracy"), ("new", "validation_accuracy")]):
            values = table.pivot(index="seed", columns="units", values=column)[widths] * 100
            plot_band(widths, values, label=f"{label} samples", order=order, ax=ax)
        ax.set(xscale="log", xlabel="hidden units", title=name, ylim=(None, 101))
        ax.set_xticks(widths, [str(width) for width in widths])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[0, 0].legend(loc="lower right")
    return save_figure(figure, path)


def draw_boundaries(results: dict[str, tuple[Dataset, SweepResult]], path: Path) -> Path:
    """The plane as the median seed of each width divides it."""
    some = next(iter(results.values()))[1]
    widths = sorted(some.table["hidden"].unique())
    figure, axes = panels(len(results), len(widths), width=2.1, height=2.1)
    for row, (data, result) in zip(axes, results.values(), strict=True):
        for ax, hidden in zip(row, widths, strict=True):
            cell = result.table[result.table["hidden"] == hidden].sort_values("validation_accuracy")
            trial = int(cell.index[len(cell) // 2])
            plot_decision_boundary(lambda x, r=result, t=trial: r.predict_proba(t, x.T).T, data.X, data.y, ax=ax)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel(f"{result.table.loc[trial, 'validation_accuracy']:.1%} of new samples", fontsize=9)
    name_rows_and_columns(axes, list(results), [f"{w[0]} unit{'s' * (w[0] != 1)}" for w in widths])
    return save_figure(figure, path)


def main(
    out: Path = Path("results"),
    names: tuple[str, ...] = ("moons", "circles", "spirals"),
    widths: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50),
    seeds: int = 5,
    epochs: int = 2000,
) -> pd.DataFrame:
    """Train every width on every data set; print, draw and save what came of it.

    Args:
        out: Where the figures go.
        names: Data sets drawn in the plane.
        widths: Numbers of hidden units.
        seeds: How many initial networks of each width.
        epochs: Full-batch steps of Adam.
    """
    use_all_cores()
    results = {name: train(name, widths, seeds, epochs) for name in names}
    table = pd.concat([result.table.assign(data=name) for name, (_, result) in results.items()], ignore_index=True)
    table["units"] = [hidden[0] for hidden in table["hidden"]]
    print(f"accuracy on 1,000 new samples, mean ± standard deviation over {seeds} seeds; data sets across\n")
    print(mean_and_spread(table, "validation_accuracy", rows=["units"], columns="data"))
    print("saved", draw_curves(results, out / "hidden_units_accuracy.png"))
    print("saved", draw_boundaries(results, out / "hidden_units_boundaries.png"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
