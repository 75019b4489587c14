"""Images and signals by hand: what does a network of two convolutions learn when every gradient is worked out by hand?

scikit-learn's digits, 8 x 8 pixels, and where the package mnist1d is installed its signals of 40 points (Greydanus and
Kobak 2020: 94 % for a convolutional network, 68 % for a fully connected one). No autodiff takes part.
"""

from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from jaxbackprop import Hyperparameters
from jaxbackprop.data import load, split
from jaxbackprop.layers.chain import Part, chain, fit_chain, flatten, part
from jaxbackprop.plotting import panels, plot_images, plot_loss_curves, save_figure


def images_network(filters: int) -> Part:
    """Two convolutions of 3 x 3, pooling after the second, ten classes."""
    return chain(
        [
            part("convolution", (filters, 1, 3, 3), (filters,), pad=1),
            part("relu"),
            part("convolution", (2 * filters, filters, 3, 3), (2 * filters,), pad=1),
            part("relu"),
            part("max_pool", size=2),
            flatten(),
            part("affine", (10, 2 * filters * 16), (10,)),
        ]
    )


def signals_network(filters: int) -> Part:
    """Three convolutions of stride 2 over 40 points, as in the paper."""
    return chain(
        [
            part("convolution_1d", (filters, 1, 5), (filters,), stride=2, pad=1),
            part("relu"),
            part("convolution_1d", (filters, filters, 3), (filters,), stride=2, pad=1),
            part("relu"),
            part("convolution_1d", (filters, filters, 3), (filters,), stride=2, pad=1),
            part("relu"),
            flatten(),
            part("affine", (10, 5 * filters), (10,)),
        ]
    )


def train(network: Part, x: Array, labels: np.ndarray, *, epochs: int, batch_size: int, learning_rate: float):
    """Parameters and the loss at every epoch, by Adam."""
    y = jnp.eye(10)[:, labels]
    steps_an_epoch = -(-len(labels) // batch_size)

    @jax.jit
    def run(key: Array):
        return fit_chain(
            network,
            network.init(key),
            x,
            y,
            Hyperparameters(learning_rate),
            steps=epochs * steps_an_epoch,
            optimizer="adam",
            batch_size=batch_size,
            record_every=steps_an_epoch,
        )

    return run(jax.random.key(0))


def predict(network: Part, params, x: Array) -> np.ndarray:
    """y-hat, [classes, samples]."""
    return np.asarray(jax.nn.softmax(jax.jit(network.forward)(params, x)[0], axis=0))


def main(
    out: Path = Path("results"),
    filters: int = 8,
    epochs: int = 15,
    signal_epochs: int = 40,
    batch_size: int = 64,
    learning_rate: float = 0.003,
) -> float:
    """Train, count what is misread, and draw the filters and the misread digits.

    Args:
        out: Where the figures go.
        filters: Of the first convolution; the second has twice as many.
        epochs: Passes over the digits.
        signal_epochs: Passes over MNIST-1D, where it is installed.
        batch_size: Samples a step.
        learning_rate: Step size of Adam.
    """
    data = load("digits")
    parts = split(data.X, data.y, validation=0.1, test=0.2)

    def images(X: np.ndarray) -> Array:
        """[samples, 64] as [channels, height, width, samples], from 0 to 1."""
        return jnp.asarray(X.T.reshape(1, 8, 8, -1) / 16, jnp.float32)

    network = images_network(filters)
    kind = {"batch_size": batch_size, "learning_rate": learning_rate}
    params, curve = train(network, images(parts.train.X), parts.train.y, epochs=epochs, **kind)
    y_hat = predict(network, params, images(parts.test.X))
    predicted, truth = y_hat.argmax(axis=0), parts.test.y
    wrong = np.flatnonzero(predicted != truth)
    accuracy = 1 - len(wrong) / len(truth)
    count = sum(p.size for p in jax.tree.leaves(params))
    print(f"digits: {count} parameters, loss {curve[0]:.3f} to {curve[-1]:.4f} in {epochs} epochs")
    print(f"digits: {accuracy:.1%} of {len(truth)} test images read right, {len(wrong)} misread")

    figure, axes = panels(1, 1, width=5, height=3.2)
    plot_loss_curves(range(len(curve)), {"training": curve}, ax=axes[0, 0])
    axes[0, 0].set(xlabel="epoch", yscale="log", title="Digits: mean cross-entropy")
    print("saved", save_figure(figure, out / "convolution_loss.png"))

    kernels = np.asarray(params[0][0])[:, 0]
    figure, axes = panels(1, len(kernels), width=1.2, height=1.5)
    limit = np.abs(kernels).max()
    for k, (kernel, ax) in enumerate(zip(kernels, axes.flat, strict=True)):
        shown = ax.imshow(kernel, cmap="PuOr", vmin=-limit, vmax=limit)
        ax.set(title=f"W {k + 1}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, shrink=0.7, label="weight")
    print("saved", save_figure(figure, out / "convolution_filters.png"))

    surest = wrong[np.argsort(-y_hat.max(axis=0)[wrong])][:12]
    columns = max(1, min(6, len(surest)))
    figure, axes = panels(max(1, -(-len(surest) // columns)), columns, width=1.3, height=1.7)
    titles = [f"{truth[i]} read as {predicted[i]}" for i in surest]
    plot_images(parts.test.X[surest].reshape(-1, 8, 8), titles, axes)
    figure.suptitle("Misread test images, the surest mistakes first")
    print("saved", save_figure(figure, out / "convolution_misread.png"))

    if find_spec("mnist1d") is None:
        print("MNIST-1D: left out, the package mnist1d is not installed")
        return accuracy
    from mnist1d.data import get_dataset_args, make_dataset

    signals = make_dataset(get_dataset_args())
    x, x_test = (jnp.asarray(signals[name].T[None], jnp.float32) for name in ("x", "x_test"))
    network = signals_network(32)
    params, curve = train(network, x, signals["y"], epochs=signal_epochs, **kind)
    right = np.mean(predict(network, params, x_test).argmax(axis=0) == signals["y_test"])
    print(
        f"MNIST-1D: loss {curve[0]:.3f} to {curve[-1]:.4f}; {right:.1%} of {x_test.shape[-1]} test signals read right"
    )
    return accuracy


if __name__ == "__main__":
    tyro.cli(main)
