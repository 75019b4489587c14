"""What do 64 networks know together? Two spirals with noise, candidates of many kinds, and the ensemble chosen of them.

Sizes, activations, step sizes, decay, dropout and starts are drawn at random, and all candidates are trained on five
folds in one sweep. Members are then chosen by how they predict together the samples that they were not trained on. New
samples, which took no part in anything, judge: the best candidate alone, the ensemble, and how sure each may be.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from scipy.stats import loguniform, uniform
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold

from jaxbackprop import SweepResult, sweep, use_all_cores
from jaxbackprop.data import Dataset, load
from jaxbackprop.estimators.space import draw_candidates
from jaxbackprop.plotting import COLORS, DASHES, MARKERS, plot_decision_boundary, save_figure
from jaxbackprop.sweeps.calibration import Reliability, reliability
from jaxbackprop.sweeps.mixture import Mixture

NEW = 4000  # samples that judge
SHOWN = 3  # members whose boundaries are drawn
BINS = 10
# Two features in coils: smaller layers and less dropout than a table of many features asks for.
SPACE = {"width": loguniform(8, 48), "learning_rate": loguniform(3e-3, 3e-2), "dropout": uniform(0, 0.1)}
EVERY, PATIENCE = 10, 5  # a record each so many epochs, and after so many without progress a network stops


def confidence(p: np.ndarray, y: np.ndarray) -> Reliability:
    """How often the predictions are right, by how sure they are."""
    return reliability(p.max(axis=1), p.argmax(axis=1) == y, BINS)


def describe(result: SweepResult, trial: int) -> str:
    """A candidate in few words."""
    settings = result.trials[trial]
    return f"{settings.activation}, {'×'.join(map(str, settings.hidden))}"


def draw(
    train: Dataset, new: Dataset, result: SweepResult, mixture: Mixture, found: dict[str, np.ndarray], path: Path
) -> Path:
    """Boundaries of members and of the ensemble above; below what the members add, and how sure one may be."""
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    shown = min(SHOWN, len(mixture.members))
    for k, ax in enumerate(above.subplots(1, shown + 1)):
        last = k == shown
        if last:
            title = f"ensemble of {len(mixture.members)}"
            plot_decision_boundary(lambda x: mixture.predict_proba(x.T).T, train.X, train.y, ax=ax)
        else:
            trial = int(mixture.members[k])
            title = f"{describe(result, trial)}, weight {mixture.weights[k]:.2f}"
            plot_decision_boundary(lambda x, t=trial: result.predict_proba(t, x.T).T, train.X, train.y, ax=ax)
        ax.set_title(title, fontsize="medium", fontweight="bold" if last else "normal")
        ax.set(xticks=[], yticks=[], xlabel="x1", ylabel="x2" if k == 0 else "")
    left, right = below.subplots(1, 2)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    left.plot(mixture.curve["members"], mixture.curve["loss"], color=COLORS[0], marker=MARKERS[0], markersize=4,
              linewidth=1.8, label="first members together, out of fold")  # fmt: skip
    alone = result.table["validation_loss"][mixture.members]
    left.scatter(mixture.curve["members"], alone, color=COLORS[1], marker=MARKERS[1], s=24, label="each member alone")
    least = mixture.curve["loss"].min()
    left.set(xlabel="members, by falling weight", ylabel="log loss out of fold", ylim=(0.9 * least, 1.5 * least))
    left.legend(fontsize="small")
    right.plot([0.5, 1], [0.5, 1], color="grey", linewidth=1, linestyle=":", label="as often right as sure")
    for k, (name, p) in enumerate(found.items()):
        bins = confidence(p, new.y)
        some = bins.counts >= 20
        right.plot(bins.confidence[some], bins.accuracy[some], DASHES[k], color=COLORS[(0, 5, 2)[k]], marker=MARKERS[k],
                   linewidth=1.8, label=f"{name}: calibration error {bins.error:.3f}")  # fmt: skip
    right.set(xlabel="probability of the predicted class", ylabel="share that is right", xlim=(0.48, 1.02))
    right.legend(fontsize="small", loc="upper left")
    return save_figure(figure, path)


def main(
    out: Path = Path("results"),
    candidates: int = 64,
    samples: int = 400,
    noise: float = 0.08,
    epochs: int = 300,
    seed: int = 0,
) -> pd.DataFrame:
    """Train the candidates, choose the ensemble, and judge it on new samples.

    Args:
        out: Where the figure goes.
        candidates: How many networks' settings to draw; each is trained on five folds.
        samples: Points of the spirals to train on.
        noise: Standard deviation of the points around the spirals.
        epochs: Passes over the samples, at most.
        seed: Of the points, the candidates and the choice.
    """
    use_all_cores()
    # Coils of radius 1, stretched to about the variance that initial weights are made for.
    drawn = (load("spirals", samples=n, noise=noise, seed=s) for n, s in ((samples, seed), (NEW, seed + 1)))
    train, new = (data._replace(X=data.X * 2) for data in drawn)
    grid = draw_candidates(SPACE, candidates, seed, optimizer="adamw", batch_size=max(8, samples // 12))
    start = time.perf_counter()
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    result = sweep(
        grid, train.X, train.y, epochs=epochs, folds=folds, scheme="he", record_every=EVERY, patience=PATIENCE
    )
    trained = time.perf_counter()
    mixture = result.ensemble(seed=seed)
    chosen = time.perf_counter()
    print(f"{candidates} candidates on 5 folds: {trained - start:.1f} s to train, {chosen - trained:.2f} s to choose")
    found = {
        "best network alone": result.predict_proba(result.best(), new.X),
        "ensemble": replace(mixture, temperature=1.0).predict_proba(new.X),
        "ensemble, calibrated": mixture.predict_proba(new.X),
    }
    table = pd.DataFrame(
        {
            name: {
                "accuracy": accuracy_score(new.y, p.argmax(axis=1)),
                "log loss": log_loss(new.y, p),
                "calibration error": confidence(p, new.y).error,
            }
            for name, p in found.items()
        }
    ).T
    print(f"temperature {mixture.temperature:.2f}; on {NEW:,} new samples:")
    print(table.to_string(float_format="{:.4f}".format))
    print("saved", draw(train, new, result, mixture, found, out / "ensemble.png"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
