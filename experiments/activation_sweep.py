"""Which activation, how many hidden units, which learning rate? Every combination on the moons, from several seeds.

Each network has one hidden layer and is trained on the course's 200 points for 20,000 full-batch passes, as the course
does; another 1,000 points judge it. All of them are trained together: a few compiled programs hold the whole grid.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from jaxbackprop import SweepResult, sweep, use_all_cores
from jaxbackprop.data import Dataset, load
from jaxbackprop.plotting import name_rows_and_columns, panels, plot_band, plot_decision_boundary, save_figure
from jaxbackprop.tables import mean_and_spread, save_table

NOTE = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.25"}


def typical(cell: pd.DataFrame) -> int:
    """The trial of a cell's best learning rate whose validation loss is the median over the seeds."""
    losses = cell.groupby("learning_rate")["validation_loss"].median()
    at_best = cell[cell["learning_rate"] == losses.idxmin()].sort_values("validation_loss")
    return int(at_best.index[(len(at_best) - 1) // 2])


def draw_boundaries(result: SweepResult, data: Dataset, path: Path) -> Path:
    """What each kind of network makes of the plane: activations down, widths across."""
    table = result.table
    activations, widths = table["activation"].unique(), sorted(table["hidden"].unique())
    figure, axes = panels(len(activations), len(widths), width=2.6, height=2.3, share=True)
    for row, activation in zip(axes, activations, strict=True):
        for ax, hidden in zip(row, widths, strict=True):
            cell = table[(table["activation"] == activation) & (table["hidden"] == hidden)]
            trial = typical(cell)
            plot_decision_boundary(lambda x, t=trial: result.predict_proba(t, x.T).T, data.X, data.y, ax=ax)
            best = table.loc[trial]
            note = f"{best['validation_accuracy']:.1%} at rate {best['learning_rate']:g}"
            ax.text(0.5, 0.02, note, transform=ax.transAxes, ha="center", va="bottom", bbox=NOTE, fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("x1")
    for ax in axes[:, 0]:
        ax.set_ylabel("x2")
    name_rows_and_columns(axes, list(activations), [units(hidden) for hidden in widths])
    figure.suptitle("What the median seed learns at its best learning rate; accuracy on 1,000 new points", fontsize=12)
    return save_figure(figure, path)


def units(hidden: tuple[int, ...]) -> str:
    """A layer's width in words."""
    return f"{hidden[0]} hidden unit{'s' * (hidden[0] != 1)}"


def draw_learning_rates(result: SweepResult, path: Path) -> Path:
    """Validation loss against the learning rate, and the course of training at the best one, bands over the seeds."""
    table = result.table
    activations, widths = table["activation"].unique(), sorted(table["hidden"].unique())
    rates = np.sort(table["learning_rate"].unique())
    figure, axes = panels(2, len(widths), width=3.1, height=2.7)
    for column, hidden in zip(axes.T, widths, strict=True):
        for order, activation in enumerate(activations):
            cell = table[(table["activation"] == activation) & (table["hidden"] == hidden)]
            losses = cell.pivot(index="seed", columns="learning_rate", values="validation_loss")[rates]
            plot_band(rates, losses, label=activation, order=order, ax=column[0])
            best = cell[cell["learning_rate"] == losses.median().idxmin()].index
            plot_band(result.epochs[1:], result.train_loss[best, 0, 1:], label=activation, order=order, ax=column[1])
        column[0].set(xscale="log", yscale="log", xlabel="learning rate")
        column[0].set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        column[0].xaxis.set_minor_locator(NullLocator())
        column[1].set(yscale="log", xlabel="passes over the data", xlim=(0, result.epochs[-1]))
        column[1].xaxis.set_major_locator(MaxNLocator(3))
        column[1].xaxis.set_major_formatter("{x:,.0f}")
        for ax in column:
            ax.grid(alpha=0.3)
    for row, label in zip(axes, ("validation loss after training", "training loss at the best rate"), strict=True):
        low = min(ax.get_ylim()[0] for ax in row)
        high = max(ax.get_ylim()[1] for ax in row)
        for ax in row:
            ax.set_ylim(low, high)
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_locator(NullLocator())
        row[0].set_ylabel(f"{label}\n(mean cross-entropy, nats)")
    axes[0, 0].legend(title="activation")
    name_rows_and_columns(axes, columns=[units(hidden) for hidden in widths])
    seeds = table["seed"].nunique()
    figure.suptitle(f"Mean over {seeds} seeds, bands of one standard deviation", fontsize=12)
    return save_figure(figure, path)


def main(
    out: Path = Path("results"),
    activations: tuple[str, ...] = ("tanh", "sigmoid", "relu"),
    widths: tuple[int, ...] = (1, 3, 10, 30),
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0),
    seeds: int = 5,
    epochs: int = 20_000,
) -> pd.DataFrame:
    """Train the grid; print, draw and save what came of it.

    Args:
        out: Where the figures and the table go.
        activations: Names of activation functions.
        widths: Numbers of hidden units.
        learning_rates: Step sizes of gradient descent.
        seeds: How many initial networks of each kind.
        epochs: Full-batch passes over the 200 points.
    """
    start = time.perf_counter()
    cores = use_all_cores()
    data, held_out = load("moons"), load("moons", samples=1000, seed=1)
    result = sweep(
        {
            "activation": list(activations),
            "hidden": [(width,) for width in widths],
            "learning_rate": list(learning_rates),
            "l2": [0.01 / len(data.X)],  # the course's: 0.01 beside a sum over 200 points, not a mean
            "seed": list(range(seeds)),
        },
        data.X,
        data.y,
        epochs=epochs,
        validation=(held_out.X, held_out.y),
    )
    seconds = time.perf_counter() - start
    table = result.table

    cells = table.assign(units=table["hidden"].map(lambda hidden: hidden[0]))
    print(f"accuracy on 1,000 new points, mean ± standard deviation over {seeds} seeds; learning rates across\n")
    print(mean_and_spread(cells, "validation_accuracy", rows=["activation", "units"], columns="learning_rate"))
    best = table.loc[result.best()]
    print(
        f"\nbest: {best['activation']}, {units(best['hidden'])}, learning rate {best['learning_rate']:g}: "
        f"accuracy {best['validation_accuracy']:.3f}, loss {best['validation_loss']:.3f}; "
        f"{int(table['diverged'].sum())} of {len(table)} networks diverged"
    )
    steps = result.plan.network_steps
    print(
        f"{len(table):,} networks x {epochs:,} passes = {steps:,} network-steps in {seconds:.1f} s on {cores} cores, "
        f"compiling included: {steps / seconds:,.0f} a second"
    )
    print("saved", draw_boundaries(result, data, out / "activation_sweep_boundaries.png"))
    print("saved", draw_learning_rates(result, out / "activation_sweep_learning_rates.png"))
    print("saved", save_table(table, out / "activation_sweep.csv"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
