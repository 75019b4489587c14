"""What does one changed import buy? The same grids through scikit-learn's search and through this one.

Both search with 5 folds over standardised data: `GridSearchCV(MLPClassifier(), n_jobs=-1)` on all cores, and
`SweepSearchCV(BackpropClassifier())` with all its candidates and folds together. Compile time counts. Where a grid is
too large for scikit-learn a sample of its candidates is timed, and the time multiplied; the tables say which.
"""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, ParameterGrid, ShuffleSplit
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxbackprop import use_all_cores, use_compilation_cache
from jaxbackprop.data import load, standardize
from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor, SweepSearchCV
from jaxbackprop.plotting import COLORS, panels, save_figure
from jaxbackprop.tables import save_table

CLASSIFIED = ("iris", "wine", "breast_cancer", "digits")


def main(
    out: Path = Path("results"),
    datasets: tuple[str, ...] = (*CLASSIFIED, "diabetes"),
    epochs: int = 100,
    tenfold: tuple[str, ...] = ("breast_cancer", "digits"),
    sample: int = 144,
    moons_epochs: int = 20_000,
    moons_sample: int = 4,
    seeds: int = 10,
    fresh_process: bool = True,
    only_ours: str | None = None,
    compilation_cache: Path | None = None,
) -> pd.DataFrame:
    """Time both, and compare what they find.

    Args:
        out: Where the tables and the figure go.
        datasets: Sets to search a grid of 144 candidates on.
        epochs: Passes over the training samples, at most.
        tenfold: Sets to search ten times as many candidates on.
        sample: Candidates that scikit-learn is timed on, at most, in each grid.
        moons_epochs: Full-batch steps of each of 960 candidates on the moons; 0 to leave them out.
        moons_sample: Candidates that scikit-learn is timed on there.
        seeds: Initial networks for the comparison of accuracies; 0 to leave it out.
        fresh_process: Whether to time a new process, too, with JAX's compilation cache.
        only_ours: Only time our search on this set, and print the seconds.
        compilation_cache: Where to keep compiled programs, if anywhere.
    """
    use_all_cores()
    if compilation_cache is not None:
        use_compilation_cache(compilation_cache)
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # for the processes that scikit-learn starts
    if only_ours is not None:
        _, seconds = search_ours(only_ours, small_grid(), epochs)
        print(seconds)
        return pd.DataFrame()

    rows = [compare(name, small_grid(), epochs, sample) for name in datasets]
    rows += [compare(name, large_grid(), epochs, sample) for name in tenfold]
    if moons_epochs:
        rows.append(compare_moons(moons_epochs, moons_sample))
    table = pd.DataFrame(rows)
    print("\nGridSearchCV and SweepSearchCV: the former's seconds are those of the `timed` candidates, scaled\n")
    print(table.to_string(index=False))
    print("saved", save_table(table, out / "versus_sklearn.csv"))
    print("saved", save_figure(draw(table), out / "versus_sklearn.png"))

    if fresh_process:
        for name in tenfold:
            cold, warm = (f"{s:.1f} s" for s in new_processes(name, epochs))
            print(
                f"\n{name}, 144 candidates in a new process: {cold} with an empty compilation cache, {warm} with a full"
            )
    if "digits" in datasets:
        theirs, first, second = single_fits()
        print(f"\none fit on digits: MLPClassifier {theirs:.2f} s; ours {first:.2f} s, the second {second:.2f} s")
    if seeds:
        accuracies = pd.DataFrame([accuracy(name, seeds) for name in datasets if name in CLASSIFIED])
        print(f"\nmean accuracy of 5 folds, {seeds} seeds, default settings (± standard error over the seeds)\n")
        print(accuracies.to_string(index=False))
        print("saved", save_table(accuracies, out / "versus_sklearn_accuracy.csv"))
    return table


def small_grid() -> dict[str, list[Any]]:
    """4 widths x 3 activations x 4 learning rates x 3 alphas = 144 candidates."""
    return {
        "hidden_layer_sizes": [(8,), (16,), (32,), (64,)],
        "activation": ["relu", "tanh", "logistic"],
        "learning_rate_init": [0.001, 0.003, 0.01, 0.03],
        "alpha": [1e-5, 1e-3, 1e-1],
    }


def large_grid() -> dict[str, list[Any]]:
    """Ten times as many, over the same ranges."""
    return small_grid() | {
        "learning_rate_init": np.geomspace(0.001, 0.03, 12).tolist(),
        "alpha": np.geomspace(1e-5, 1e-1, 10).tolist(),
    }


def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised samples of a set; numbers to predict are scaled to about 1."""
    data = load(name)
    return standardize(data.X)[0], data.y if data.task == "classification" else data.y / data.y.std()


def search_ours(name: str, grid: dict[str, list[Any]], epochs: int) -> tuple[SweepSearchCV, float]:
    """Our search, and its seconds."""
    kind = BackpropClassifier if name in CLASSIFIED else BackpropRegressor
    X, y = samples(name)
    start = time.perf_counter()
    search = SweepSearchCV(kind(max_iter=epochs, random_state=0), grid, cv=5).fit(X, y)
    return search, time.perf_counter() - start


def compare(name: str, grid: dict[str, list[Any]], epochs: int, sample: int) -> dict[str, Any]:
    """One grid through both; ours twice, as the second call compiles nothing."""
    candidates = list(ParameterGrid(grid))
    ours, first = search_ours(name, grid, epochs)
    _, second = search_ours(name, grid, epochs)
    kind = MLPClassifier if name in CLASSIFIED else MLPRegressor
    theirs, seconds, timed = search_theirs(kind(max_iter=epochs, random_state=0), candidates, samples(name), 5, sample)
    return report(name, len(candidates), timed, seconds, first, second, theirs, ours)


def search_theirs(
    estimator: Any, candidates: list[dict[str, Any]], data: tuple[np.ndarray, np.ndarray], cv: Any, sample: int
) -> tuple[GridSearchCV, float, int]:
    """scikit-learn's search over a sample of the candidates: what it found, seconds for all, how many were timed."""
    chosen = np.random.default_rng(0).permutation(len(candidates))[:sample]
    some = [{key: [value] for key, value in candidates[k].items()} for k in chosen]
    # Its workers are there before the clock starts.
    GridSearchCV(estimator, [{**some[0], "max_iter": [1]}], cv=cv, n_jobs=-1).fit(*data)
    start = time.perf_counter()
    search = GridSearchCV(estimator, some, cv=cv, n_jobs=-1).fit(*data)
    seconds = time.perf_counter() - start
    # The search itself, not the fit of the best candidate at its end, grows with the candidates.
    return search, (seconds - search.refit_time_) * len(candidates) / len(some) + search.refit_time_, len(some)


def report(
    name: str,
    candidates: int,
    timed: int,
    theirs: float,
    first: float,
    second: float,
    a: GridSearchCV,
    b: SweepSearchCV,
) -> dict[str, Any]:
    """A row of the table."""
    row = {
        "data": name,
        "candidates": candidates,
        "timed": timed,
        "scikit-learn / s": round(theirs, 1),
        "ours / s": round(first, 1),
        "ratio": round(theirs / first, 1),
        "second call / s": round(second, 1),
        "ratio, second": round(theirs / second, 1),
        "scikit-learn's best": round(float(a.best_score_), 4),
        "our best": round(float(b.best_score_), 4),
    }
    print(row)
    return row


def compare_moons(epochs: int, sample: int) -> dict[str, Any]:
    """The course's setting: full-batch gradient descent on 200 points, without a stop, one split."""
    X, y = samples("moons")
    cv = ShuffleSplit(1, test_size=0.2, random_state=0)
    grid = {
        "hidden_layer_sizes": [(k,) for k in range(1, 11)],
        "activation": ["tanh", "logistic", "relu"],
        "learning_rate_init": np.geomspace(0.01, 1, 8).tolist(),
        "alpha": [0.0, 0.01, 0.1, 1.0],
    }
    settings = {"solver": "sgd", "momentum": 0, "batch_size": len(X), "max_iter": epochs, "n_iter_no_change": epochs}
    seconds = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got `batch_size`")
        for _ in range(2):
            start = time.perf_counter()
            ours = SweepSearchCV(BackpropClassifier(**settings, random_state=0), grid, cv=cv).fit(X, y)
            seconds.append(time.perf_counter() - start)
        candidates = list(ParameterGrid(grid))
        model = MLPClassifier(**settings, random_state=0)
        theirs, needed, timed = search_theirs(model, candidates, (X, y), cv, sample)
    return report("moons", len(candidates), timed, needed, *seconds, theirs, ours)


def new_processes(name: str, epochs: int) -> list[float]:
    """Seconds of our search in two new processes, one after another, that share a compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--only-ours", name, "--epochs", str(epochs), "--compilation-cache", cache]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    return [float(run.stdout.split()[-1]) for run in runs]


def single_fits() -> tuple[float, float, float]:
    """Seconds of `MLPClassifier().fit` on digits, of ours, and of ours once more with another seed."""
    X, y = samples("digits")
    seconds = []
    for model in (
        MLPClassifier(random_state=0),
        BackpropClassifier(random_state=0),
        BackpropClassifier(random_state=1),
    ):
        start = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], seconds[2]


def accuracy(name: str, seeds: int) -> dict[str, Any]:
    """Mean accuracy over 5 folds with default settings, for each seed, standardised within each fold."""
    data = load(name)
    row: dict[str, Any] = {"data": name}
    means = {}
    for label, model in (("scikit-learn", MLPClassifier()), ("ours", BackpropClassifier())):
        pipeline = make_pipeline(StandardScaler(), model)
        settings = {f"{pipeline.steps[-1][0]}__random_state": list(range(seeds))}
        kind: Any = GridSearchCV if label == "scikit-learn" else SweepSearchCV
        options = {"n_jobs": -1} if kind is GridSearchCV else {}
        scores = (
            kind(pipeline, settings, cv=5, refit=False, **options).fit(data.X, data.y).cv_results_["mean_test_score"]
        )
        means[label] = scores.mean()
        row[label] = (
            f"{scores.mean():.4f} ± {scores.std(ddof=1) / np.sqrt(seeds):.4f}" if seeds > 1 else f"{scores[0]:.4f}"
        )
    return row | {"difference": round(float(means["ours"] - means["scikit-learn"]), 4)}


def draw(table: pd.DataFrame) -> Any:
    """Seconds of both for each search, and how many times shorter."""
    figure, axes = panels(width=7.5, height=1.3 + 0.5 * len(table))
    ax = axes[0, 0]
    places = np.arange(len(table))[::-1]
    labels = [f"{name}, {n:,} candidates" for name, n in zip(table["data"], table["candidates"], strict=True)]
    theirs, ours = table["scikit-learn / s"], table["ours / s"]
    ax.hlines(places, ours, theirs, color="0.7", linewidth=3, zorder=1)
    for times, label, marker, color in (
        (theirs, "GridSearchCV(MLPClassifier, n_jobs=-1)", "s", COLORS[1]),
        (ours, "SweepSearchCV(BackpropClassifier), compiling included", "o", COLORS[0]),
    ):
        ax.plot(times, places, marker, markersize=9, color=color, label=label)
    for place, a, b, ratio in zip(places, theirs, ours, table["ratio"], strict=True):
        ax.text(np.sqrt(a * b), place + 0.12, f"{ratio:.3g} times", ha="center", va="bottom", fontsize="small")
    ax.set_yticks(places, labels)
    ax.set(xscale="log", xlabel="seconds", ylim=(-0.5, len(table) - 0.4))
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False)
    return figure


if __name__ == "__main__":
    tyro.cli(main)
