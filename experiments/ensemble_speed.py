"""What does an ensemble cost beside the search that it is made of, and beside as many candidates in scikit-learn?

Settings of networks (width, depth, activation, step size) are drawn from the same space for both: for
`SweepEnsembleClassifier`, which trains them on five folds and then chooses and calibrates, and for
`RandomizedSearchCV(MLPClassifier)` on all cores. Our networks stop by the loss on samples held out, scikit-learn's by
the accuracy on such, or, its default, by the training loss: both are timed. Of its candidates a sample is timed, and
the time multiplied. Compile time counts in the first call; the second compiles nothing. How far any program could get:
the matrix products of our search, at the rate of the fastest product of this machine.
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import tyro
from scipy.stats import loguniform
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import RandomizedSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from throughput import race, rate_of, save_json, training_flops

from jaxbackprop import sweep, use_all_cores
from jaxbackprop.data import load, standardize
from jaxbackprop.estimators import SweepEnsembleClassifier
from jaxbackprop.estimators.space import draw_candidates

LOOKS, PATIENCE = 5, 20  # epochs from one look to the next; epochs without progress
SHARED = {"activation": ["relu", "tanh"], "dropout": [0.0]}  # what both libraries have
CALL, ALONE = "ensemble, first call", "search alone"
SIDE = 2048  # of the matrices whose product says how fast products can be


def main(
    out: Path = Path("results"),
    dataset: str = "digits",
    candidates: int = 64,
    epochs: int = 200,
    batch_size: int = 128,
    sample: int = 16,
    library: int = 1000,
    rounds: int = 3,
) -> dict[str, Any]:
    """Time the ensemble, the search alone and scikit-learn's search.

    Args:
        out: Where the numbers go.
        dataset: Name of a data set with classes.
        candidates: How many settings to draw.
        epochs: Passes over the samples, at most.
        batch_size: Samples of a step.
        sample: Candidates that scikit-learn is timed on.
        library: Candidates that choosing alone is timed on.
        rounds: Of ensemble and search in turn, of which the best count.
    """
    use_all_cores()
    os.environ["PYTHONWARNINGS"] = "ignore"  # for the processes that scikit-learn starts
    data = load(dataset)
    X, y = standardize(data.X)[0].astype(np.float32), data.y
    model = SweepEnsembleClassifier(
        candidates, space=SHARED, max_iter=epochs, n_iter_no_change=PATIENCE, batch_size=batch_size, random_state=0
    )
    found = {CALL: clocked(lambda: model.fit(X, y))}
    alone: list[Any] = []  # what the searches have found
    for _ in range(rounds):
        for name, work in (
            ("ensemble", lambda: model.fit(X, y)),
            (ALONE, lambda: alone.append(searched(X, y, candidates, epochs, batch_size))),
        ):
            found[name] = min(found.get(name, np.inf), clocked(work))
    many = searched(X, y, library, 1, batch_size, width=[8], depth=[1])
    found[f"choosing from {library:,}"] = clocked(lambda: many.ensemble(library=library))
    stopped, whole = "scikit-learn's search, stopped early", "scikit-learn's search, by training loss"
    for name, early in ((stopped, True), (whole, False)):
        found[name] = theirs(X, y, candidates, epochs, batch_size, sample, early)
    flops = products(alone[-1])
    plain = peers.matrix_products(SIDE)
    fastest = max(rate_of(outcome, 2 * SIDE**3) for outcome in race(plain, rounds)[0].values())
    found["products of the search alone, at the fastest rate"] = flops / fastest
    for name, seconds in found.items():
        print(f"{name:>66} {seconds:8.2f} s")
    print(f"{flops / 1e9:,.0f} GFLOP; the search does {flops / found[ALONE] / 1e9:.0f} a second, "
          f"the fastest product {fastest / 1e9:.0f}")  # fmt: skip
    ratios = {
        f"ensemble / {ALONE}": found["ensemble"] / found[ALONE],
        **{f"{name} / {own}": found[name] / found[own] for name in (stopped, whole) for own in (CALL, "ensemble")},
    }
    for name, ratio in ratios.items():
        print(f"{name:>66} {ratio:8.2f}")
    numbers = {"dataset": dataset, "candidates": candidates, "timed": sample, "seconds": found, "ratios": ratios}
    numbers |= {"gflop": flops / 1e9, "fastest_gflops": fastest / 1e9}
    print("saved", save_json(numbers, out / "ensemble_speed.json"))
    return numbers


def clocked(work: Callable[[], Any]) -> float:
    """Seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def searched(X: np.ndarray, y: np.ndarray, candidates: int, epochs: int, batch_size: int, **space: Any) -> Any:
    """The sweep that the ensemble is made of: the same candidates, folds and stops."""
    grid = draw_candidates(SHARED | space, candidates, 0, optimizer="adamw", batch_size=batch_size)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    every = min(LOOKS, epochs)
    return sweep(grid, X, y, epochs=epochs, folds=folds, objective="softmax", scheme="he", record_every=every,
                 shuffle_seed=0, patience=PATIENCE // every, progress=False)  # fmt: skip


def products(result: Any) -> float:
    """Floating-point operations in the matrix products of all the steps that the networks of a sweep have taken; a
    record is missing where a network had stopped."""
    sizes = result.plan.workload
    last = sum(np.isfinite(result.validation_loss[..., k]) * gap for k, gap in enumerate(np.diff(result.epochs), 1))
    flops = [training_flops((sizes.features, *t.hidden, sizes.outputs), t.batch_size) for t in result.trials]
    batches = [sizes.batches(result.trials[0].batch_size, split) for split in range(len(sizes.train))]
    return float(np.array(flops) @ last @ np.array(batches))  # [trials] [trials, splits] [splits]


def theirs(
    X: np.ndarray, y: np.ndarray, candidates: int, epochs: int, batch_size: int, sample: int, early: bool
) -> float:
    """Seconds of scikit-learn's search over so many candidates, from those of a sample of them: `early`, stopped where
    the accuracy on held-out samples no longer rises, else, its default, where the training loss no longer falls."""
    drawn = draw_candidates(SHARED, 10 * sample, 0)
    space = {
        "hidden_layer_sizes": [one["hidden"][0] for one in drawn],
        "activation": SHARED["activation"],
        "learning_rate_init": loguniform(1e-3, 2e-2),
    }
    network = MLPClassifier(
        max_iter=epochs, batch_size=batch_size, early_stopping=early, n_iter_no_change=PATIENCE, random_state=0
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    search = RandomizedSearchCV(network, space, n_iter=sample, cv=folds, n_jobs=-1, refit=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are not always enough
        # Its workers are there before the clock starts.
        RandomizedSearchCV(network, {**space, "max_iter": [1]}, n_iter=2, cv=2, n_jobs=-1, refit=False).fit(X, y)
        return clocked(lambda: search.fit(X, y)) * candidates / sample


if __name__ == "__main__":
    tyro.cli(main)
