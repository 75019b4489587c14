"""Figures: what is drawn is what was handed in, and nothing leaks into pyplot."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.metrics import confusion_matrix

from jaxbackprop.plotting import (
    COLORS,
    name_rows_and_columns,
    panels,
    plot_band,
    plot_confusion_matrix,
    plot_decision_boundary,
    plot_images,
    plot_loss_curves,
    plot_points,
    save_figure,
)

X = np.array([[-1.0, 0.0], [-0.5, 0.5], [0.5, -0.5], [1.0, 0.0]])
Y = np.array(["left", "left", "right", "right"])


def half_planes(x):
    """Probabilities of two classes whose boundary is x1 = 0.25."""
    right = 1 / (1 + np.exp(-8 * (x[0] - 0.25)))
    return np.stack([1 - right, right])


def test_import_neither_draws_nor_starts_a_device():
    code = (
        "import sys, jax, jaxbackprop.plotting as p; import jax._src.xla_bridge as b; "
        "assert 'matplotlib.pyplot' not in sys.modules; assert not b.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=90)


def test_new_axes_are_made_where_none_are_given_and_given_ones_are_used():
    assert plot_points(X, Y).figure is not plot_points(X, Y).figure
    _, axes = panels(1, 2)
    assert plot_points(X, Y, ax=axes[0, 1]) is axes[0, 1]
    assert not axes[0, 0].collections


def test_classes_differ_by_colour_and_by_marker():
    ax = plot_points(X, Y, class_names=("left", "right"))
    left, right = ax.collections
    np.testing.assert_array_equal(left.get_offsets(), X[:2])
    np.testing.assert_array_equal(right.get_offsets(), X[2:])
    assert not np.array_equal(left.get_facecolor(), right.get_facecolor())
    assert not np.array_equal(left.get_paths()[0].vertices, right.get_paths()[0].vertices)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["left", "right"]


def test_boundary_lies_where_two_classes_are_equally_probable():
    ax = plot_decision_boundary(half_planes, X, Y)
    contour = next(c for c in ax.collections if hasattr(c, "levels"))
    line = np.vstack([path.vertices for path in contour.get_paths()])
    np.testing.assert_allclose(line[:, 0], 0.25, atol=0.01)
    assert ax.get_xlim() == pytest.approx((-1.4, 1.4))
    assert ax.get_ylim() == pytest.approx((-0.9, 0.9))


def test_shade_follows_the_most_probable_class_and_its_probability():
    image = plot_decision_boundary(half_planes, X, Y).images[0]
    shade, extent = image.get_array(), image.get_extent()
    column = np.linspace(extent[0], extent[1], shade.shape[1])
    undecided = np.abs(column - 0.25).argmin()
    assert shade[:, undecided].min() > 0.9  # all but white
    for end, color in ((0, COLORS[0]), (-1, COLORS[1])):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        np.testing.assert_allclose(1 - shade[0, end], 0.55 * (1 - rgb), atol=0.01)


def test_three_classes_have_a_boundary_each_and_a_sure_network_has_none():
    corners = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])

    def nearest(x):
        e = np.exp(corners @ x)
        return e / e.sum(axis=0)

    ax = plot_decision_boundary(nearest, corners, [0, 1, 2])
    assert sum(hasattr(c, "levels") for c in ax.collections) == 3
    sure = plot_decision_boundary(lambda x: np.stack([np.ones(x.shape[1]), np.zeros(x.shape[1])]), X, Y)
    assert not any(hasattr(c, "levels") for c in sure.collections)


def test_band_is_the_mean_and_one_deviation_within_the_range_of_the_seeds():
    values = np.array([[1.0, 0.1, 2.0], [3.0, 0.1, np.nan], [2.0, 10.0, 4.0]])
    ax = plot_band([1, 2, 3], values, label="seeds")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 3.4, 3])
    (low, high) = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    corners = ax.collections[0].get_paths()[0].vertices
    for k, x in enumerate([1, 2, 3]):
        band = np.unique(corners[corners[:, 0] == x, 1])
        expected = np.maximum(mean - spread, low)[k], np.minimum(mean + spread, high)[k]
        np.testing.assert_allclose((band.min(), band.max()), expected)
    assert corners[:, 1].min() >= 0.1  # mean - spread would be negative there: off a logarithmic scale


def test_loss_curves_are_named_and_told_apart_without_colour():
    ax = plot_loss_curves([0, 10, 20], {"tanh": [3, 2, 1], "relu": [3, 1, 0.5]})
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [3, 1, 0.5])
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("updates", "loss", "log")


def test_confusion_matrix_holds_scikit_learns_counts():
    truth, predicted = ["a", "a", "b", "c", "c", "c"], ["a", "b", "b", "c", "c", "a"]
    ax = plot_confusion_matrix(truth, predicted, class_names=["A", "B", "C"])
    np.testing.assert_array_equal(ax.images[0].get_array(), confusion_matrix(truth, predicted))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "C"]


def test_images_fill_the_axes_in_order_and_hide_the_rest():
    images = np.arange(2 * 9.0).reshape(2, 3, 3)
    _, axes = panels(2, 2)
    plot_images(images, ["first", "second"], axes)
    np.testing.assert_array_equal(axes[0, 1].images[0].get_array(), images[1])
    assert [ax.get_title() for ax in axes.flat] == ["first", "second", "", ""]
    assert not any(ax.axison for ax in axes.flat)


def test_rows_and_columns_are_named_once_at_the_edges():
    _, axes = panels(2, 2)
    axes[0, 0].set_ylabel("loss")
    name_rows_and_columns(axes, ["tanh", "relu"], ["1 unit", "2 units"])
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["tanh\nloss", "relu"]
    assert [ax.get_title() for ax in axes.flat] == ["1 unit", "2 units", "", ""]


def test_figures_are_saved_whole_or_not_at_all(tmp_path):
    figure, _ = panels(1, 1, width=2, height=1)
    path = save_figure(figure, tmp_path / "new" / "figure.png")
    assert imread(path).shape[:2] == (150, 300)
    before = path.read_bytes()

    class Broken(Figure):
        def savefig(self, fname, **kwargs):
            fname.write_bytes(b"half a fig")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save_figure(Broken(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
