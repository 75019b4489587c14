"""Why do deep sigmoid networks not learn? The norm of dL/dW^l in every layer, for several depths and activations.

Each layer that an error passes on its way back multiplies it by W^T and by f'(z). The derivative of the sigmoid is at
most 1/4, so layer by layer the gradient shrinks: it vanishes before it reaches the first ones. That of tanh is at most
1, that of relu is 1 wherever a unit is active. Weights start as their activation asks for, from He's scheme for relu
and from Glorot's for the others. The networks of all seeds are trained together, by `jax.vmap`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro

from jaxbackprop import Hyperparameters, Params, fit, init_params, loss_and_grad
from jaxbackprop.data import encode, features_first, load, standardize
from jaxbackprop.plotting import name_rows_and_columns, panels, plot_band, save_figure

SCHEMES = {"relu": "he"}  # every other activation: Glorot


def train(
    activation: str, sizes: tuple[int, ...], seeds: int, steps: int, learning_rate: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The norms of dL/dW^1 … dL/dW^L at the start and after training, and the two losses; a row for each seed."""
    moons = load("moons")
    x, y = jnp.asarray(features_first(standardize(moons.X)[0])), jnp.asarray(encode(moons.y).y)

    def norms(params: Params) -> jax.Array:
        _, gradient = loss_and_grad(params, x, y, activation=activation)
        return jnp.stack([jnp.linalg.norm(layer.weight) for layer in gradient])

    def run(start: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        hyperparameters = Hyperparameters(learning_rate)
        end, curve = fit(start, x, y, hyperparameters, activation=activation, steps=steps, record_every=steps)
        return norms(start), norms(end), curve

    keys = jax.random.split(jax.random.key(0), seeds)
    starts = jax.vmap(lambda key: init_params(key, sizes, scheme=SCHEMES.get(activation, "glorot")))(keys)
    return jax.jit(jax.vmap(run))(starts)


def main(
    out: Path = Path("results"),
    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu"),
    depths: tuple[int, ...] = (1, 2, 4, 8),
    width: int = 16,
    seeds: int = 5,
    steps: int = 2000,
    learning_rate: float = 0.1,
) -> pd.DataFrame:
    """Measure the gradient of every layer before and after training on the moons.

    Args:
        out: Where the figure goes.
        activations: Names of activation functions.
        depths: Numbers of hidden layers.
        width: Units in each of them.
        seeds: How many initial networks of each kind.
        steps: Full-batch passes of gradient descent.
        learning_rate: Its step size.
    """
    figure, axes = panels(2, len(activations), width=3.7, height=3.1, share=True)
    rows = []
    for column, activation in zip(axes.T, activations, strict=True):
        for order, depth in enumerate(depths):
            start, end, losses = train(activation, (2, *[width] * depth, 2), seeds, steps, learning_rate)
            for ax, norms in zip(column, (start, end), strict=True):
                plot_band(np.arange(1, depth + 2), norms, label=str(depth), order=order, ax=ax)
            first, last = np.asarray(start).mean(axis=0)[[0, -1]]
            before, after = np.asarray(losses).mean(axis=0)
            rows.append((activation, depth, first, last, first / last, before, after))

    for ax in axes.flat:
        ax.set(yscale="log", xticks=range(1, max(depths) + 2))
        ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("layer l, from the input to the output")
    for ax in axes[:, 0]:
        ax.set_ylabel("|dL/dW$^l$|")
    axes[0, 0].legend(title="hidden layers", ncols=2)
    name_rows_and_columns(axes, ["at the start", f"after {steps:,} steps"], list(activations))
    columns = ["|dL/dW^1|", "|dL/dW^L|", "ratio", "loss at start", "loss after training"]
    table = pd.DataFrame(rows, columns=["activation", "hidden layers", *columns])
    print(f"means over {seeds} seeds; gradients at the start, W^L is the last layer's\n")
    print(table.to_string(index=False, float_format="{:.2g}".format))
    print("saved", save_figure(figure, out / "deep_network.png"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
