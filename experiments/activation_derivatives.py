"""Part 1b: are the derivatives right that were worked out by hand?

For every activation f: its value, the hand-derived f', and f' by autodiff on top of it; below, their difference. All in
float64, on a grid that hits every kink. Exits with 1 if a difference exceeds 1e-12.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from jaxbackprop import ACTIVATIONS
from jaxbackprop.oracle import float64
from jaxbackprop.plotting import COLORS, save_figure

TOLERANCE = 1e-12
COLUMNS = 4
UNIT = 1e-16  # of the differences in the figure


def main(out: Path = Path("results"), points: int = 1201, reach: float = 6.0) -> pd.DataFrame:
    """Compare the hand-derived derivative of every activation with autodiff, and draw both.

    Args:
        out: Where the figure goes.
        points: How many z to compare at.
        reach: The z go from -reach to reach.
    """
    rows = []
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    count = -(-len(ACTIVATIONS) // COLUMNS)
    axes = figure.subplots(2 * count, COLUMNS, sharex=True, sharey="row", height_ratios=[3, 1.3] * count)
    for k, (name, activation) in enumerate(ACTIVATIONS.items()):
        z = np.union1d(np.linspace(-reach, reach, points), activation.kinks)
        with float64():
            value = np.asarray(activation.value(jnp.asarray(z)))
            by_hand = np.asarray(activation.derivative(jnp.asarray(z)))
            autodiff = np.asarray(jax.vmap(jax.grad(activation.value))(jnp.asarray(z)))
        difference = by_hand - autodiff
        worst = np.abs(difference).argmax()
        at_kinks = ", ".join(f"f'({kink:g}) = {by_hand[z == kink].item():g}" for kink in activation.kinks)
        error = abs(difference[worst])
        where = f"{z[worst]:.2f}" if error else ""
        rows.append({"activation": name, "largest difference": error, "at z": where, "at its kinks": at_kinks})

        above, below = axes[2 * (k // COLUMNS) : 2 * (k // COLUMNS) + 2, k % COLUMNS]
        above.plot(z, value, color="0.6", linewidth=2.2, label="f")
        above.plot(z, by_hand, color=COLORS[1], linewidth=3.5, label="f ' by hand")
        above.plot(z, autodiff, "--", color=COLORS[0], linewidth=1.6, label="f ' by autodiff")
        above.set_title(name)
        below.plot(z, difference / UNIT, color=COLORS[5], linewidth=0.8, label="by hand - autodiff")
        says = f"at most {error / UNIT:.1f}" if error else "none"
        below.text(0.02, 0.96, says, transform=below.transAxes, va="top")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    for above, below in zip(axes[0::2, 0], axes[1::2, 0], strict=True):
        above.set(ylabel="f, f '", ylim=(-1.4, 3), yticks=range(-1, 4))
        below.set_ylabel("difference\n(10$^{-16}$)")
        limit = 1.9 * max(np.abs(below.get_ylim()).max(), 1)
        below.set_ylim(-limit, limit)
    for ax in axes[-1]:
        ax.set(xlabel="z", xticks=np.linspace(-reach, reach, 5))
    handles = [*axes[0, 0].get_lines(), *axes[1, 0].get_lines()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize="large")

    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.1e}".format))
    print("saved", save_figure(figure, out / "activation_derivatives.png"))
    if (table["largest difference"] > TOLERANCE).any():
        sys.exit(f"a hand-derived derivative is off by more than {TOLERANCE:g}")
    return table


if __name__ == "__main__":
    tyro.cli(main)
