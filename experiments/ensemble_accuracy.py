"""Is an ensemble of small networks worth its trouble on tables of data? Repeated folds judge it beside its best
candidate, scikit-learn's search of a network and its gradient boosting as it comes.

The candidates are trained once a fold; the ensemble and the best of them are made of the same sweep, and so each sees
what the other sees. Losses are log losses, for numbers to predict mean squared errors in units of the variance.
"""

import os
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold, RepeatedStratifiedKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxbackprop import sweep, use_all_cores
from jaxbackprop.data import Dataset, load, standardize
from jaxbackprop.estimators.numerical import embed, fit_embedding, frequencies
from jaxbackprop.estimators.space import draw_candidates
from jaxbackprop.sweeps.calibration import reliability
from jaxbackprop.tables import save_table


def thresholds(samples: int = 800, seed: int = 0) -> Dataset:
    """Numbers that jump where one of eight features crosses a threshold, with some noise."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(samples, 8))
    places, jumps = generator.normal(size=(2, 8, 4))
    y = ((X[:, :, None] > places) * jumps).sum(axis=(1, 2)) + 0.3 * generator.normal(size=samples)
    return Dataset("thresholds", X, y, tuple(f"x{j}" for j in range(8)), ())


def judge(y: np.ndarray, y_hat: np.ndarray, numbers: bool) -> dict[str, float]:
    """Score, loss and calibration error of probabilities, or of numbers."""
    if numbers:
        return {"score": r2_score(y, y_hat), "loss": mean_squared_error(y, y_hat), "calibration error": np.nan}
    best = y_hat.argmax(axis=1)
    error = reliability(y_hat.max(axis=1), best == y).error
    return {"score": accuracy_score(y, best), "loss": log_loss(y, y_hat), "calibration error": error}


def ours(
    X: np.ndarray, y: np.ndarray, new: np.ndarray, waves: Any, numbers: bool, candidates: int, epochs: int, seed: int
) -> dict[str, Any]:
    """What the ensemble, before and after the temperature, and its best candidate predict; and the temperature."""
    kind = KFold if numbers else StratifiedKFold
    folds = kind(5, shuffle=True, random_state=seed)
    batch = int(np.clip(len(X) // 10, 16, 256))
    grid = draw_candidates(None, candidates, seed, optimizer="adamw", batch_size=batch)
    objective = "squared" if numbers else "softmax"
    result = sweep(grid, X, y, epochs=epochs, folds=folds, objective=objective, scheme="he", record_every=5, patience=4,
                   frequencies=waves, progress=False)  # fmt: skip
    together, alone = result.ensemble(seed=seed), result.ensemble(rounds=1, bags=1)
    found = {"best candidate": replace(alone, temperature=1.0), "ensemble": together}
    if not numbers:
        found["ensemble, T = 1"] = replace(together, temperature=1.0)
    predicted = {name: (m.predict if numbers else m.predict_proba)(new) for name, m in found.items()}
    return predicted | {"temperature": together.temperature}


def theirs(X: np.ndarray, y: np.ndarray, new: np.ndarray, numbers: bool, seed: int) -> dict[str, np.ndarray]:
    """scikit-learn's: a search among four networks, and boosting with its defaults."""
    network = make_pipeline(StandardScaler(), (MLPRegressor if numbers else MLPClassifier)(random_state=seed))
    last = network.steps[-1][0]
    grid = {f"{last}__hidden_layer_sizes": [(32,), (100,)], f"{last}__alpha": [1e-4, 1e-1]}
    models = {
        "GridSearchCV(MLP)": GridSearchCV(network, grid, cv=3, n_jobs=-1, scoring=None if numbers else "neg_log_loss"),
        "HistGradientBoosting": (HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier)(
            random_state=seed
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the defaults' 200 epochs are not always enough
        for model in models.values():
            model.fit(X, y)
    return {name: model.predict(new) if numbers else model.predict_proba(new) for name, model in models.items()}


def samples(name: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """X, y, and whether y are numbers; "classes" and "numbers" are 10,000 made samples, in which features interact."""
    if name == "classes":
        X, y = make_classification(10_000, 20, n_informative=10, n_redundant=4, n_classes=3, n_clusters_per_class=4,
                                   flip_y=0.05, random_state=0)  # fmt: skip
        return X, y, False
    if name == "numbers":
        X, y = make_regression(10_000, 12, n_informative=6, random_state=0)
        products = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3] + np.sin(2 * X[:, 4]) * X[:, 5]
        noise = np.random.default_rng(0).normal(size=len(X))
        return X, y / y.std() + products + 0.5 * noise, True
    data = thresholds() if name == "thresholds" else load(name)
    return data.X, data.y, data.task == "regression"


def main(
    out: Path = Path("results"),
    datasets: tuple[str, ...] = ("wine", "breast_cancer", "digits", "diabetes", "classes", "numbers"),
    candidates: int = 64,
    epochs: int = 200,
    folds: int = 5,
    repeats: int = 2,
    embedding: Literal["piecewise_linear", "periodic"] | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Judge all of them on folds that they were not trained on.

    Args:
        out: Where the tables go: the means, and every fold as soon as it is judged.
        datasets: Names of data sets.
        candidates: How many settings to draw.
        epochs: Passes over the samples, at most.
        folds: Parts that each set is divided into.
        repeats: How often it is divided.
        embedding: Of the features that the ensemble and the best candidate see.
        resume: Whether to keep the folds that a run of the same settings has judged, and judge the others.
    """
    use_all_cores()
    os.environ["PYTHONWARNINGS"] = "ignore"  # for the processes that scikit-learn starts
    judged = out / "ensemble_accuracy_folds.csv"
    rows: list[dict[str, Any]] = []
    if resume and judged.exists():
        rows = pd.read_csv(judged, index_col=0).to_dict("records")
    done = {(row["data"], row["fold"]) for row in rows}
    for name in datasets:
        every, targets, numbers = samples(name)
        kind = RepeatedKFold if numbers else RepeatedStratifiedKFold
        splits = kind(n_splits=folds, n_repeats=repeats, random_state=0).split(every, targets)
        for k, (train, test) in enumerate(splits):
            if (name, k) in done:
                continue
            y = targets.astype(float) if numbers else targets
            if numbers:
                y = (y - y[train].mean()) / y[train].std()
            X, new = (standardize(every[train], every[part])[1] for part in (train, test))
            start = time.perf_counter()
            fitted = None if embedding is None else fit_embedding(embedding, X, None, k)
            seen = [X, new] if fitted is None else [embed(fitted, part) for part in (X, new)]
            waves = frequencies(fitted)
            found = ours(seen[0], y[train], seen[1], waves, numbers, candidates, epochs, k)
            seconds, temperature = time.perf_counter() - start, found.pop("temperature")
            found |= theirs(X, y[train], new, numbers, k)
            new_rows = [{"data": name, "model": m, "fold": k, **judge(y[test], p, numbers)} for m, p in found.items()]
            rows += new_rows
            losses = ", ".join(f"{row['model']} {row['loss']:.4f}" for row in new_rows)
            print(f"{name} {k}: {seconds:.0f} s, temperature {temperature:.2f}; losses: {losses}", flush=True)
            save_table(pd.DataFrame(rows), judged)
    table = pd.DataFrame(rows)
    groups = table.groupby(["data", "model"], sort=False)[["score", "loss", "calibration error"]]
    means, errors = groups.mean(), groups.sem()
    means = means.join(errors.add_suffix(" ±"))
    print("\nmeans over all folds, and standard errors")
    print(means.to_string(float_format="{:.4f}".format, na_rep="-"))
    print("saved", judged)
    print("saved", save_table(means, out / "ensemble_accuracy.csv"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
