"""Layers are found by name."""

import numpy as np
import pytest

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.layers import FILES, find_layer
from jaxbackprop.layers.contract import turn, turn_back


@pytest.mark.parametrize("name", FILES)
def test_every_name_is_found(name):
    layer = find_layer(name)
    assert layer.name == name
    assert len(layer.arguments) == len(layer.samples_first)
    assert len(layer.mistakes) >= 6
    assert len({mistake.code for mistake in layer.mistakes}) == len(layer.mistakes)


def test_every_activation_is_a_layer():
    assert set(ACTIVATIONS) <= set(FILES)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'affine'"):
        find_layer("afine")


@pytest.mark.parametrize(("shape", "axes"), [((2, 3), (1, 0)), ((2, 3, 4), (1, 0)), ((2, 3, 4, 5), (1, 2, 3, 0))])
def test_turning_back_undoes_turning(shape, axes):
    array = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(turn_back(turn(array, axes), axes), array)
