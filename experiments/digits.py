"""Real data: which handwritten digits does a small network misread, and for what?

1,797 images of 8 x 8 pixels (scikit-learn's digits). A sweep over widths, activations and learning rates picks the
network by its accuracy on held-out images; a test part that took no part in the choice judges it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from sklearn.metrics import classification_report

from jaxbackprop import sweep, use_all_cores
from jaxbackprop.data import load, split, standardize
from jaxbackprop.plotting import panels, plot_confusion_matrix, plot_images, save_figure


def main(
    out: Path = Path("results"),
    widths: tuple[int, ...] = (16, 32, 64),
    activations: tuple[str, ...] = ("tanh", "relu", "mish"),
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01),
    seeds: int = 2,
    epochs: int = 60,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Choose a network by its validation accuracy, and look at what it misreads in the test part.

    Args:
        out: Where the figures go.
        widths: Numbers of hidden units.
        activations: Names of activation functions.
        learning_rates: Step sizes of Adam.
        seeds: How many initial networks of each kind.
        epochs: Passes over the training images.
        batch_size: Images a step.
    """
    use_all_cores()
    data = load("digits")
    parts = split(data.X, data.y, validation=0.2, test=0.2)
    train, validation, test = standardize(*(part.X for part in parts))
    result = sweep(
        {
            "activation": list(activations),
            "hidden": [(width,) for width in widths],
            "learning_rate": list(learning_rates),
            "seed": list(range(seeds)),
            "optimizer": ["adam"],
            "batch_size": [batch_size],
        },
        train,
        parts.train.y,
        epochs=epochs,
        validation=(validation, parts.validation.y),
    )
    table = result.table.sort_values(["validation_accuracy", "validation_loss"], ascending=[False, True])
    columns = ["activation", "hidden", "learning_rate", "seed", "train_loss", "validation_loss", "validation_accuracy"]
    print("the five best of", len(table), "networks\n")
    print(table[columns].head().to_string(index=False))

    best = result.best()
    truth, predicted = parts.test.y, result.predict(best, test)
    wrong = np.flatnonzero(truth != predicted)
    print(f"\nthe best one on {len(truth)} test images: {len(wrong)} misread\n")
    print(classification_report(truth, predicted, target_names=data.class_names, digits=3, zero_division=0))

    figure, axes = panels(1, 1, width=5.5, height=5)
    plot_confusion_matrix(truth, predicted, class_names=data.class_names, ax=axes[0, 0])
    axes[0, 0].set_title(f"{1 - len(wrong) / len(truth):.1%} of {len(truth)} test images read right")
    print("saved", save_figure(figure, out / "digits_confusion.png"))

    sureness = result.predict_proba(best, test)[wrong].max(axis=1)
    surest = wrong[np.argsort(-sureness)][:12]
    columns = max(1, min(6, len(surest)))
    figure, axes = panels(max(1, -(-len(surest) // columns)), columns, width=1.3, height=1.7)
    titles = [f"{truth[i]} read as {predicted[i]}" for i in surest]
    plot_images(parts.test.X[surest].reshape(-1, 8, 8), titles, axes)
    figure.suptitle("Misread test images, the surest mistakes first")
    print("saved", save_figure(figure, out / "digits_misread.png"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
