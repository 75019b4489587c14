"""Part 1a: data sets, and the edge at which a user's arrays become the mathematics' arrays.

Data come as the ecosystem hands them over: X is (n_samples, n_features), y holds one label a sample. `features_first`
and `encode` turn them, once, into x [features, samples] and y [classes, samples].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from jaxbackprop._checks import check_finite, check_integer, check_real, choose
from jaxbackprop.losses import OBJECTIVES

ArrayLike = Any  # whatever numpy.asarray takes: arrays, lists, pandas frames and series
Labels = Shaped[np.ndarray, " samples"]


class Dataset(NamedTuple):
    """A named data set: X (n_samples, n_features), y (n_samples,), and what its columns and labels are called.

    For classification y holds 0, 1, … and `class_names[y]` their names; for regression `class_names` is empty.
    """

    name: str
    X: Float[np.ndarray, "samples features"]
    y: Labels
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "classification" if self.class_names else "regression"


def spirals(samples: int, noise: float, seed: int) -> tuple[Float[np.ndarray, "samples 2"], Labels]:
    """Two arms that wind around each other: radius t, angle 3 pi t + pi k for arm k, with t from 0.1 to 1."""
    generator = np.random.default_rng(seed)
    k = np.arange(samples) % 2
    t = np.linspace(0.1, 1, samples)
    angle = 3 * np.pi * t + np.pi * k
    X = t[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return X + noise * generator.standard_normal(X.shape), k


# name -> (default noise, number of classes, draw(samples, noise, seed))
DRAWN: dict[str, tuple[float, int, Callable[[int, float, int], tuple[np.ndarray, np.ndarray]]]] = {
    "moons": (0.2, 2, lambda n, noise, seed: datasets.make_moons(n, noise=noise, random_state=seed)),
    "circles": (0.1, 2, lambda n, noise, seed: datasets.make_circles(n, noise=noise, factor=0.5, random_state=seed)),
    "spirals": (0.03, 2, spirals),
    "blobs": (1.0, 3, lambda n, noise, seed: datasets.make_blobs(n, centers=3, cluster_std=noise, random_state=seed)),
}
REAL: dict[str, Callable[[], Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
}
DATASETS: tuple[str, ...] = (*DRAWN, *REAL)


def load(name: str, *, samples: int | None = None, noise: float | int | None = None, seed: int = 0) -> Dataset:
    """A data set by name. `load("moons")` is the course's: `make_moons(200, noise=0.2)` after `numpy.random.seed(0)`.

    **Arguments:**
    - `name`: drawn in the plane, "moons", "circles", "spirals", "blobs"; or measured, "iris", "wine", "breast_cancer",
      "digits", "diabetes" (the one to regress).
    - `samples`, `noise`, `seed`: of a drawn set; by default 200 points and the set's own noise. A measured set is what
      it is: it ignores `seed` and refuses the others.

    **Raises:** `ValueError` for an unknown name, a number out of range, or a size asked of a measured set.
    """
    choose("name", name, dict.fromkeys(DATASETS))
    if name in DRAWN:
        own_noise, classes, draw = DRAWN[name]
        samples = 200 if samples is None else check_integer("samples", samples, classes)
        noise = own_noise if noise is None else check_real("noise", noise, 0)
        X, y = draw(samples, noise, check_integer("seed", seed, 0))
        return Dataset(name, X, y, ("x1", "x2"), tuple(f"class {k}" for k in range(classes)))
    for argument, value in (("samples", samples), ("noise", noise)):
        if value is not None:
            raise ValueError(f"{argument}={value!r} was asked of {name!r}, which is measured; only {', '.join(DRAWN)}")
    bunch = REAL[name]()
    class_names = tuple(str(c) for c in bunch.target_names) if "target_names" in bunch else ()
    return Dataset(name, bunch.data, bunch.target, tuple(bunch.feature_names), class_names)


def features_first(
    X: ArrayLike, *, argument: str = "X", features: int | None = None
) -> Float[np.ndarray, "features samples"]:
    """X (n_samples, n_features) as x [features, samples], contiguous along the samples.

    **Raises:** `ValueError` if X (called `argument`) is empty, not two-dimensional, not numbers, or not finite, or has
    not as many `features` as were trained on.
    """
    array = _check_matrix(argument, X)
    if features is not None and array.shape[1] != features:
        raise ValueError(
            f"{argument} must be (n_samples, {features}), with the features that were trained on, got shape "
            f"{array.shape}"
        )
    return np.ascontiguousarray(array.T)


class Targets(NamedTuple):
    """What a network is trained towards: y [classes, samples], the label of each row, and the objective's name.

    `classes[k]` is the label of row k; None where rows are numbers to predict (objective "squared").
    """

    y: Float[np.ndarray, "classes samples"]
    classes: Shaped[np.ndarray, " classes"] | None
    objective: str


def one_hot(
    labels: ArrayLike, classes: ArrayLike | None = None
) -> tuple[Float[np.ndarray, "classes samples"], Shaped[np.ndarray, " classes"]]:
    """Labels of any type as one-hot columns: y_kn = 1 if sample n has the label classes[k], otherwise 0.

    **Arguments:** `labels`, (n_samples,), integers, strings, booleans, or floats that are whole numbers; `classes`,
    the labels that may occur, in the order of the rows; by default those that do, sorted.

    **Returns:** y [classes, samples] and `classes`.

    **Raises:** `ValueError` if a label is missing or not a class label, or there are fewer than two classes.
    """
    labels = _check_labels(_as_array("y", labels))
    if classes is None:
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(
                f"y holds one class only, {classes[0].item()!r} for all of {len(labels)} samples; 2 are needed"
            )
    classes = np.asarray(classes)
    hits = classes[:, None] == labels[None, :]
    unknown = np.flatnonzero(~np.any(hits, axis=0))
    if unknown.size:
        known = ", ".join(repr(c) for c in classes.tolist())
        raise ValueError(f"y holds {labels[unknown[0]].item()!r} at index {unknown[0]}, which is none of: {known}")
    return hits.astype(float), classes


def encode(y: ArrayLike, objective: str | None = None, *, classes: ArrayLike | None = None) -> Targets:
    """A user's y as targets, one column a sample, and the objective that they call for.

    | y | objective | targets |
    |---|---|---|
    | (n_samples,) integers, strings, booleans | softmax | one-hot, a row for each class |
    | (n_samples, n_labels) of 0 and 1 | sigmoid | a row for each label |
    | (n_samples,) or (n_samples, n_outputs) floats | squared | a row for each output |

    One column of floats that are all whole numbers, such as 1.0 and 2.0, may be either: `objective` has to say which.

    A single column counts as (n_samples,). What y is decides, unless `objective` says so: "softmax" also takes rows
    that are one-hot already; "squared" takes any numbers, "poisson" those of at least 0.

    **Arguments:** `classes`, for labels that belong to targets made earlier: their classes, in their order.

    **Raises:** `ValueError` if y is empty, has missing values, is ambiguous, or does not fit the objective, such as 0.5
    for a label.
    """
    array = _as_array("y", y)
    if objective is not None:
        choose("objective", objective, OBJECTIVES)
    elif classes is not None and array.ndim == 1:
        objective = "softmax"
    if array.ndim == 2 and array.shape[1] == 1 and objective != "sigmoid":
        array = array[:, 0]
    if array.ndim > 2:
        raise ValueError(f"y must be (n_samples,) or (n_samples, n_outputs), got shape {array.shape}")
    if objective is None:
        objective = _infer_objective(array)
    if objective == "softmax" and array.ndim == 1:
        return Targets(*one_hot(array, classes), objective)

    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"y must be numbers for objective={objective!r}, got {array.dtype.name}; labels need 'softmax'"
        )
    array = array.astype(float)
    check_finite("y", array)
    if objective == "poisson" and (array < 0).any():
        raise ValueError(f"y must be at least 0 for objective='poisson', got {array.min():g}")
    if objective in ("squared", "poisson"):
        return Targets(np.ascontiguousarray(np.atleast_2d(array.T)), None, objective)
    if array.ndim == 1:
        raise ValueError("y must be (n_samples, n_labels) of 0 and 1 for objective='sigmoid'; y.reshape(-1, 1) is one")
    if not np.isin(array, (0, 1)).all():
        bad = array[~np.isin(array, (0, 1))][0]
        raise ValueError(f"y of shape {array.shape} must hold 0 and 1 for objective={objective!r}, got {bad:g}")
    if objective == "softmax" and (array.shape[1] < 2 or not (array.sum(axis=1) == 1).all()):
        raise ValueError("y must have a single 1 in each row for objective='softmax'; several labels need 'sigmoid'")
    rows = np.arange(array.shape[1]) if classes is None else np.asarray(classes)
    if len(rows) != array.shape[1]:
        raise ValueError(f"y has {array.shape[1]} columns, but there are {len(rows)} classes")
    return Targets(np.ascontiguousarray(array.T), rows, objective)


def check_lengths(X: ArrayLike, y: ArrayLike) -> None:
    """Refuse X and y that do not speak of the same samples.

    **Raises:** `ValueError` with both lengths.
    """
    if len(X) != len(y):
        raise ValueError(f"X and y must have one row a sample each, got {len(X)} rows of X and {len(y)} of y")


class Part(NamedTuple):
    """Some of the samples of a data set."""

    X: Float[np.ndarray, "samples features"]
    y: Shaped[np.ndarray, "samples ..."]


class Split(NamedTuple):
    """A data set in three parts that share no sample; `test` is empty where none was asked for."""

    train: Part
    validation: Part
    test: Part


def split(X: ArrayLike, y: ArrayLike, *, validation: float = 0.2, test: float | int = 0.2, seed: int = 0) -> Split:
    """Shuffle the samples and split them, every class in the same proportion in every part.

    **Arguments:** `validation`, `test`, the shares of these parts; the rest is for training, and test may be 0. A y of
    floats, or with several columns, is split without regard to its values.

    **Raises:** `ValueError` if X and y do not fit, the shares leave nothing, or a class is too rare to be in each part.
    """
    X, y = _check_matrix("X", X), _as_array("y", y)
    check_lengths(X, y)
    check_real("validation", validation, 0, exclusive=True)
    check_real("test", test, 0)
    counts = {"validation": round(validation * len(y)), "test": round(test * len(y))}
    counts["train"] = len(y) - counts["validation"] - counts["test"]
    stratify = y.ndim == 1 and y.dtype.kind != "f"
    classes, members = np.unique(_check_labels(y), return_counts=True) if stratify else (y[:1], np.array([len(y)]))
    parts = [name for name in counts if name != "test" or test > 0]
    for name in parts:
        if counts[name] < len(classes):
            each = f"one sample of each of {len(classes)} classes" if stratify else "one sample"
            shares = f"validation={validation:g} and test={test:g} of {len(y)} samples"
            raise ValueError(f"{shares} leave {max(0, counts[name])} for {name}, which needs {each}")
    if members.min() < len(parts):
        rare, times = classes[members.argmin()].item(), members.min()
        raise ValueError(f"y holds {rare!r} only {times} times, too rarely to be in each of {len(parts)} parts")

    def cut(index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        if count == 0:
            return index, index[:0]
        labels = y[index] if stratify else None
        return tuple(train_test_split(index, test_size=count, stratify=labels, random_state=seed))

    rest, last = cut(np.arange(len(y)), counts["test"])
    first, middle = cut(rest, counts["validation"])
    return Split(*(Part(X[index], y[index]) for index in (first, middle, last)))


def standardize(train: ArrayLike, *others: ArrayLike) -> tuple[Float[np.ndarray, "_ features"], ...]:
    """Each feature with mean 0 and standard deviation 1 on the training part, the others moved and scaled like it.

    **Arguments:** `train`, `others`, (n_samples, n_features) each. A feature that does not vary becomes 0.

    **Returns:** as many arrays as were handed in.

    **Raises:** `ValueError` if one is not a finite matrix, or has other features than `train`.
    """
    train = _check_matrix("train", train)
    scaler = StandardScaler().fit(train)
    scaled = [scaler.transform(train)]
    for i, other in enumerate(others):
        if len(other) == 0:  # the test part of a split that has none
            scaled.append(np.asarray(other, float).reshape(0, train.shape[1]))
            continue
        other = _check_matrix(f"others[{i}]", other)
        if other.shape[1] != train.shape[1]:
            raise ValueError(f"others[{i}] has {other.shape[1]} features, train has {train.shape[1]}")
        scaled.append(scaler.transform(other))
    return tuple(scaled)


def _check_matrix(argument: str, X: ArrayLike) -> Float[np.ndarray, "samples features"]:
    """X as a finite, non-empty matrix of floats; float32 stays float32."""
    array = _as_array(argument, X)
    if array.ndim != 2 or array.shape[1] == 0:
        hint = f"; for one feature {argument}.reshape(-1, 1)" if array.ndim == 1 else ""
        raise ValueError(f"{argument} must be (n_samples, n_features), got shape {array.shape}{hint}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{argument} must be numbers, got {array.dtype.name}; encode its categories first")
    array = array if array.dtype.kind == "f" else array.astype(float)
    check_finite(argument, array)
    return array


def _as_array(argument: str, value: ArrayLike) -> np.ndarray:
    """`value` as a non-empty array, with the dtype of its numbers or strings where it came as objects."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "US" and not hasattr(value, "dtype"):
            array = np.asarray(value, dtype=object)  # a list of "a", 1 and None became "a", "1" and "None"
    except ValueError:
        raise ValueError(f"{argument} must have rows of the same length, got ragged ones") from None
    if array.ndim == 0:
        raise ValueError(f"{argument} must be an array with one row a sample, got {type(value).__name__} {value!r:.60}")
    if array.shape[0] == 0:
        raise ValueError(f"{argument} is empty: its shape is {array.shape}, at least one sample is needed")
    if array.dtype.kind != "O":
        return array
    for kinds in (str, bool | np.bool_, int | np.integer, int | float | np.integer | np.floating):
        if all(isinstance(item, kinds) for item in array.flat):
            return np.array(array.tolist())
    types = ", ".join(sorted({type(item).__name__ for item in array.flat}))
    hint = "; drop the samples whose value is missing" if pd.isna(array).any() else ""
    raise ValueError(f"{argument} must hold numbers or strings, all of one type, got {types}{hint}")


def _check_labels(y: np.ndarray) -> Labels:
    """y if it can hold class labels: one a sample, none missing, no fractions."""
    if y.ndim != 1:
        raise ValueError(f"y must be (n_samples,), one class label a sample, got shape {y.shape}")
    if y.dtype.kind == "f":
        check_finite("y", y)
        odd = np.flatnonzero(y != np.round(y))
        if odd.size:
            raise ValueError(
                f"y holds {y[odd[0]]:g} at index {odd[0]} where a class label belongs: an integer, a string "
                "or a boolean; objective='squared' predicts numbers"
            )
    elif y.dtype.kind not in "biuUST":
        raise ValueError(f"y must hold class labels, integers, strings or booleans, got {y.dtype.name}")
    return y


def _infer_objective(y: np.ndarray) -> str:
    """The objective that y calls for, by its type in one dimension, by its values in two."""
    if y.ndim == 1:
        if y.dtype.kind == "f" and (y == np.round(y)).all():
            raise ValueError(
                f"y holds floats that are all whole numbers, such as {y[0]:g}: pass objective='softmax' if they are "
                "class labels, objective='squared' if they are numbers to predict"
            )
        return "squared" if y.dtype.kind == "f" else "softmax"
    if y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all():
        return "sigmoid"
    if y.dtype.kind != "f":
        raise ValueError(
            f"y of shape {y.shape} holds {y.dtype.name}, which may be labels or numbers; pass objective='squared' if "
            "they are numbers, one column of labels, or 0 and 1 for each label"
        )
    return "squared"
