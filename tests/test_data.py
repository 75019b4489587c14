"""Part 1a: the data sets, and the edge between a user's arrays and the mathematics' arrays."""

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import type_of_target

from jaxbackprop.data import (
    DATASETS,
    DRAWN,
    encode,
    features_first,
    load,
    one_hot,
    spirals,
    split,
    standardize,
)

# What every label set below stands for: the types of a label that occur in practice.
LABELS = {
    "integers": [3, 1, 3, 7],
    "strings": ["dog", "cat", "cat", "emu"],
    "booleans": [True, False, True, True],
    "objects": np.array(["dog", "cat", "cat", "emu"], dtype=object),
    "series": pd.Series(["dog", "cat", "cat", "emu"]),
    "categorical": pd.Series(["dog", "cat", "cat", "emu"], dtype="category"),
    "nullable": pd.Series([3, 1, 3, 7], dtype="Int64"),
    "column": np.array([[3], [1], [3], [7]]),
}


def test_moons_are_those_of_the_course():
    np.random.seed(0)  # noqa: NPY002  the course draws from NumPy's global generator
    X, y = sklearn.datasets.make_moons(200, noise=0.20)
    moons = load("moons")
    np.testing.assert_array_equal(moons.X, X)
    np.testing.assert_array_equal(moons.y, y)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_complete(name):
    data = load(name)
    samples, features = data.X.shape
    assert data.name == name
    assert data.y.shape == (samples,)
    assert len(data.feature_names) == features
    assert np.isfinite(data.X).all()
    if data.task == "classification":
        np.testing.assert_array_equal(np.unique(data.y), np.arange(len(data.class_names)))
        assert encode(data.y).objective == "softmax"
    else:
        assert encode(data.y, "squared").objective == "squared"


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "diabetes"])
def test_measured_sets_are_scikit_learns(name):
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    data = load(name)
    np.testing.assert_array_equal(data.X, bunch.data)
    np.testing.assert_array_equal(data.y, bunch.target)
    assert list(data.feature_names) == list(bunch.feature_names)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_follow_their_seed_and_size(name):
    again, other = load(name, seed=1), load(name, seed=2)
    np.testing.assert_array_equal(load(name, seed=1).X, again.X)
    assert not np.array_equal(again.X, other.X)
    assert load(name, samples=51).X.shape == (51, 2)
    assert np.abs(load(name, noise=3.0).X).max() > np.abs(load(name, noise=0.0).X).max()


def test_spiral_arms_are_half_a_turn_apart():
    X, y = spirals(400, 0.0, seed=0)
    radius, angle = np.hypot(*X.T), np.arctan2(X[:, 1], X[:, 0])
    np.testing.assert_allclose(radius, np.linspace(0.1, 1, 400))
    offset = (angle - 3 * np.pi * radius) / np.pi - y
    np.testing.assert_allclose(offset / 2, np.round(offset / 2), atol=1e-12)


def test_features_first_turns_once_and_is_contiguous_along_samples():
    X = np.arange(6, dtype=np.float32).reshape(3, 2)
    x = features_first(X)
    np.testing.assert_array_equal(x, [[0, 2, 4], [1, 3, 5]])
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(features_first(pd.DataFrame(X, columns=["a", "b"])), x)
    assert features_first([[1, 2]]).dtype == np.float64


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_become_the_columns_of_scikit_learns_binarizer(kind):
    labels = LABELS[kind]
    targets = encode(labels)
    plain = np.asarray(labels).ravel().tolist()
    binarizer = LabelBinarizer().fit(plain)
    expected = binarizer.transform(plain)
    expected = np.hstack([1 - expected, expected]) if len(binarizer.classes_) == 2 else expected
    np.testing.assert_array_equal(targets.y.T, expected)
    np.testing.assert_array_equal(targets.classes, binarizer.classes_)
    assert targets.objective == "softmax"


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=30).filter(lambda labels: len(set(labels)) > 1))
def test_one_hot_can_be_read_back(labels):
    y, classes = one_hot(labels)
    assert classes[y.argmax(axis=0)].tolist() == labels
    np.testing.assert_array_equal(y.sum(axis=0), 1)


def test_later_labels_keep_the_classes_of_the_earlier_ones():
    trained = encode(["c", "a", "b"])
    later = encode(["b", "b"], classes=trained.classes)
    np.testing.assert_array_equal(later.y, [[0, 0], [1, 1], [0, 0]])
    with pytest.raises(ValueError, match="'z' at index 1, which is none of: 'a', 'b', 'c'"):
        encode(["a", "z"], classes=trained.classes)


def test_indicators_numbers_and_columns():
    several = [[0, 1, 1], [1, 0, 0]]
    assert type_of_target(several) == "multilabel-indicator"
    targets = encode(several)
    assert targets.objective == "sigmoid"
    np.testing.assert_array_equal(targets.y, np.transpose(several))
    np.testing.assert_array_equal(targets.classes, [0, 1, 2])

    numbers = [[0.5, 1.0, 2.0], [1.5, 0.0, 3.0]]
    assert type_of_target(numbers) == "continuous-multioutput"
    assert encode(numbers).objective == "squared"
    np.testing.assert_array_equal(encode(numbers).y, np.transpose(numbers))
    np.testing.assert_array_equal(encode([0.5, 1.5]).y, [[0.5, 1.5]])
    assert encode([0.5, 1.5]).classes is None

    one_column = np.array([[0], [1], [1]])
    assert encode(one_column).objective == "softmax"
    np.testing.assert_array_equal(encode(one_column, "sigmoid").y, [[0, 1, 1]])


def test_the_objective_asked_for_decides():
    np.testing.assert_array_equal(encode([1, 0, 1], "squared").y, [[1, 0, 1]])
    np.testing.assert_array_equal(encode([[1, 0], [0, 1]], "softmax").y, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="single 1 in each row"):
        encode([[1, 1], [0, 1]], "softmax")


@given(
    st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3, allow_nan=False)), min_size=2, max_size=8
    ).filter(lambda y: len(set(y)) > 1)
)
def test_floats_are_labels_exactly_where_scikit_learn_takes_them_for_labels(y):
    if type_of_target(y) == "continuous":
        with pytest.raises(ValueError, match="where a class label belongs"):
            encode(y, "softmax")
    else:
        np.testing.assert_array_equal(encode(y, "softmax").classes, np.unique(y))


@pytest.mark.parametrize(
    ("y", "objective", "complaint"),
    [
        ([], None, "y is empty"),
        (["a", "a"], None, "y holds one class only, 'a'"),
        ([4, 4, 4], None, "y holds one class only, 4"),
        ([0, 1, 0.5], "softmax", "y holds 0.5 at index 2 where a class label belongs"),
        ([0.0, np.nan], "softmax", "y must be finite"),
        ([0.5, np.inf], None, "y must be finite"),
        (["a", None], None, "drop the samples whose value is missing"),
        (["a", np.nan], None, "drop the samples whose value is missing"),
        (pd.Series([1, None, 2], dtype="Int64"), None, "y must be finite, got 1 NaN"),
        (pd.Series(["a", None], dtype="string"), None, "drop the samples whose value is missing"),
        (["a", 1], None, "all of one type, got int, str"),
        ([[1, 2], [3, 4]], None, "may be labels or numbers"),
        ([[1, 2], [3]], None, "y must have rows of the same length"),
        (["a", "b"], "squared", "y must be numbers for objective='squared'"),
        ([0, 1], "sigmoid", r"y must be \(n_samples, n_labels\)"),
        ([[0, 2]], "sigmoid", "must hold 0 and 1 for objective='sigmoid', got 2"),
        ([0, 1], "softmx", "objective='softmx' is unknown; did you mean 'softmax'"),
        (np.zeros((2, 2, 2)), None, r"y must be \(n_samples,\)"),
        ("cats", None, "y must be an array"),
        ([1j, 2j], None, "y must hold class labels"),
    ],
)
def test_targets_that_fit_nothing_are_refused(y, objective, complaint):
    with pytest.raises(ValueError, match=complaint):
        encode(y, objective)


@pytest.mark.parametrize(
    ("X", "complaint"),
    [
        ([], "X is empty"),
        (np.zeros((0, 3)), "X is empty"),
        (np.zeros((3, 0)), r"X must be \(n_samples, n_features\), got shape \(3, 0\)"),
        ([1.0, 2.0], r"X.reshape\(-1, 1\)"),
        ([[1.0, np.nan]], r"X must be finite, got 1 NaN or infinite values, the first at index \(0, 1\)"),
        ([[np.inf, -np.inf]], "X must be finite, got 2"),
        ([["red"]], "X must be numbers"),
        ([[1, 2], [3]], "X must have rows of the same length"),
        (3.0, "X must be an array"),
    ],
)
def test_inputs_that_are_no_matrix_of_numbers_are_refused(X, complaint):
    with pytest.raises(ValueError, match=complaint):
        features_first(X)


@pytest.mark.parametrize("name", ["moons", "iris", "wine", "digits"])
def test_split_is_stratified_and_loses_nothing(name):
    data = load(name)
    marked = np.column_stack([data.X, np.arange(len(data.y))])
    parts = split(marked, data.y, validation=0.25, test=0.2, seed=3)
    seen = np.concatenate([part.X[:, -1] for part in parts])
    np.testing.assert_array_equal(np.sort(seen), np.arange(len(data.y)))
    whole = np.bincount(data.y) / len(data.y)
    for part, share in zip(parts, (0.55, 0.25, 0.2), strict=True):
        assert abs(len(part.y) - share * len(data.y)) <= 1
        np.testing.assert_array_equal(part.y, data.y[part.X[:, -1].astype(int)])
        np.testing.assert_allclose(np.bincount(part.y), whole * len(part.y), atol=2)  # rounded once in each cut


def test_split_follows_its_seed_and_may_leave_out_the_test_part():
    X, y = load("iris").X, load("iris").y
    first, again, other = (split(X, y, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.train.X, again.train.X)
    assert not np.array_equal(first.train.X, other.train.X)
    train, validation, test = split(X, y, validation=0.2, test=0)
    assert [len(part.y) for part in (train, validation, test)] == [120, 30, 0]
    scaled = standardize(train.X, validation.X, test.X)
    assert [part.shape for part in scaled] == [(120, 4), (30, 4), (0, 4)]


def test_numbers_to_predict_and_string_labels_are_split_too():
    X = np.arange(20.0)[:, None]
    numbers = split(X, X[:, 0] / 7)
    np.testing.assert_array_equal(numbers.validation.y, numbers.validation.X[:, 0] / 7)
    strings = split(X, np.where(X[:, 0] < 10, "low", "high"))
    assert sorted(strings.test.y) == ["high", "high", "low", "low"]


@pytest.mark.parametrize(
    ("y", "shares", "complaint"),
    [
        ([0, 1] * 9, {}, "got 20 rows of X and 18 of y"),
        ([0, 1] * 10, {"validation": 0.9, "test": 0.2}, "leave 0 for train"),
        ([0, 1] * 10, {"validation": 0.0}, "validation=0.0 must be above 0"),
        ([0, 1] * 10, {"test": -0.5}, "test=-0.5 must be of at least 0"),
        ([0, 1] * 10, {"validation": 0.05}, "leave 1 for validation, which needs one sample of each of 2 classes"),
        (["common"] * 18 + ["rare"] * 2, {}, "y holds 'rare' only 2 times"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(y, shares, complaint):
    with pytest.raises(ValueError, match=complaint):
        split(np.zeros((20, 1)), y, **shares)


def test_standardisation_is_fitted_on_the_training_part_only():
    generator = np.random.default_rng(0)
    train, other = generator.normal(5, 3, (50, 3)), generator.normal(1, 9, (20, 3))
    scaled, moved = standardize(train, other)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(moved, (other - train.mean(axis=0)) / train.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(standardize(np.full((4, 1), 0.1))[0], np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"others\[0\] has 2 features, train has 3"):
        standardize(train, other[:, :2])
    with pytest.raises(ValueError, match=r"others\[0\] must be finite"):
        standardize(train, other * np.nan)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "mooons"}, "name='mooons' is unknown; did you mean 'moons'"),
        ({"name": "moons", "samples": 1}, "samples=1 must be an integer of at least 2"),
        ({"name": "moons", "noise": -0.1}, "noise=-0.1 must be of at least 0"),
        ({"name": "moons", "seed": -1}, "seed=-1 must be an integer of at least 0"),
        ({"name": "iris", "samples": 10}, "samples=10 was asked of 'iris', which is measured"),
    ],
)
def test_data_sets_that_do_not_exist_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(**arguments)
