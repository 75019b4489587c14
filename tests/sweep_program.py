"""A sweep in a process of its own, for tests of devices, of several processes, and of what survives a kill.

`python sweep_program.py OUT key=value …` trains a fixed grid and saves its table and parameters to OUT (.npz).
"""

import signal
import sys
import time

import jax
import numpy as np

GRID = [
    {"activation": ["tanh", "relu"], "hidden": [(2,), (3,), (5,)], "learning_rate": [0.1, 0.5], "seed": [0, 1]},
    {"hidden": [(4, 3)], "optimizer": ["adam"], "batch_size": [16], "learning_rate": [0.01], "seed": [0, 1, 2]},
]


def main(out: str, options: dict[str, str]) -> None:
    import jaxbackprop as jb

    if jb.join_hosts() == 1:
        jb.use_all_cores(int(options.get("devices", 1)))
    arrays = quasi_newton() if "lbfgs" in options else estimators() if "estimators" in options else swept(options)
    if jax.process_index() == 0 or "each" in options:
        np.savez(out, devices=len(jax.devices()), **arrays)
    print("done", flush=True)


def swept(options: dict[str, str]) -> dict[str, np.ndarray]:
    import jaxbackprop as jb
    from jaxbackprop import data
    from jaxbackprop.sweeps import host

    host.RECORDS = 4  # calls of a few records each
    call, calls = host._call, []

    def watched(*args, **kwargs):
        time.sleep(float(options.get("slow", 0)))  # so that a kill from outside finds it at work
        calls.append(1)
        if len(calls) == int(options.get("interrupt", 0)):
            signal.raise_signal(signal.SIGINT)
        return call(*args, **kwargs)

    host._call = watched
    moons = data.load("moons", samples=60)
    chosen: dict = {name: int(options[name]) for name in ("patience", "halving") if name in options}
    if "prune" in options:
        chosen |= {"prune": lambda epoch, trials, losses, scores: losses > np.median(losses), "prune_at": [8, 20]}
    if "waves" in options:
        chosen |= {"frequencies": [[0.3, 0.7]]}
    result = jb.sweep(
        GRID,
        moons.X,
        moons.y,
        epochs=int(options.get("epochs", 40)),
        record_every=4,
        checkpoint=options.get("checkpoint"),
        checkpoint_every=0.0,
        progress=False,
        **chosen,
    )
    leaves = [leaf for trial in range(len(result.trials)) for leaf in jax.tree.leaves(result.params(trial))]
    numbers = result.table[["train_loss", "validation_loss", "epochs"]].to_numpy(float)
    named = {f"arr_{k}": leaf for k, leaf in enumerate(leaves)}
    return named | {"table": numbers, "curves": result.train_loss, "finished": result.finished}


def estimators() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_iris

    from jaxbackprop.estimators import BackpropClassifier, SweepSearchCV

    X, y = load_iris(return_X_y=True)
    network = BackpropClassifier((5,), max_iter=30, early_stopping=True, random_state=0).fit(X, y)
    grid = {"hidden_layer_sizes": [(3,), (6,)], "alpha": [1e-4, 1e-1], "learning_rate_init": [0.01, 0.1]}
    search = SweepSearchCV(BackpropClassifier(max_iter=30, random_state=0), grid, cv=3).fit(X, y)
    return {
        "coefficients": network.coefs_[0],
        "curve": np.array(network.loss_curve_),
        "scores": search.cv_results_["mean_test_score"],
        "best": search.best_estimator_.coefs_[0],
    }


def quasi_newton() -> dict[str, np.ndarray]:
    """Searches by L-BFGS alone, of two shapes on three folds, and beside Adam."""
    import warnings

    from sklearn.datasets import load_iris
    from sklearn.exceptions import ConvergenceWarning

    from jaxbackprop.estimators import BackpropClassifier, SweepSearchCV

    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = load_iris(return_X_y=True)
    network = BackpropClassifier((4,), solver="lbfgs", max_iter=12, random_state=0, dtype="float64")
    alone = {"hidden_layer_sizes": [(3,), (4,)], "alpha": [1e-3, 1.0], "max_iter": [5, 12]}
    beside = {"solver": ["lbfgs", "adam"], "alpha": [1e-3, 1.0]}
    found = {"coefficients": network.fit(X, y).coefs_[0]}
    for name, grid in (("alone", alone), ("beside", beside)):
        search = SweepSearchCV(network, grid, cv=3, scoring="neg_log_loss", return_train_score=True).fit(X, y)
        scores = {key: values for key, values in search.cv_results_.items() if "_test_" in key or "_train_" in key}
        found |= {f"{name}_{key}": values for key, values in scores.items()}
        found[f"{name}_best"] = search.best_estimator_.coefs_[0]
    return found


if __name__ == "__main__":
    main(sys.argv[1], dict(argument.split("=", 1) for argument in sys.argv[2:]))
