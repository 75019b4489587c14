"""How many programs a call compiles: one operation after another outside of a program is one each, which takes seconds
where the work takes milliseconds."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.layers.chain import chain, fit_chain, part
from jaxbackprop.optimizers import from_optax

MOONS = data.load("moons", samples=60)
x, y = jnp.asarray(MOONS.X.T), jnp.asarray(np.eye(2)[MOONS.y].T)


@pytest.fixture
def compiled(caplog):
    """A block that counts in a list what is compiled in it."""

    @contextlib.contextmanager
    def counted():
        names = []
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
            yield names
        names += [m for m in caplog.messages if m.startswith("Finished XLA compilation of")]

    return counted


def test_one_network_is_one_program_and_its_next_training_none(compiled):
    params = jb.init_params(jax.random.key(0), (2, 3, 2))

    def train(rate):
        return jb.fit(params, x, y, jb.Hyperparameters(rate, l2=1e-3), activation="tanh", steps=20)

    with compiled() as first:
        train(0.3)
    assert sum("_trained" in name for name in first) == 1
    assert len(first) <= 5  # the data on their way to the device
    with compiled() as second:
        losses = [float(np.asarray(train(rate).loss_curve)[-1]) for rate in (0.1, 0.2)]
    assert second == []
    assert losses[0] > losses[1]


def test_a_chain_too(compiled):
    network = chain([part("affine", (4, 2), (4,)), part("relu"), part("affine", (2, 4), (2,))])
    with compiled() as first:
        params = network.init(jax.random.key(0))
        fit_chain(network, params, x, y, jb.Hyperparameters(0.1), steps=20, optimizer="adam")
    assert len(first) <= 8
    with compiled() as second:
        fit_chain(network, params, x, y, jb.Hyperparameters(0.2), steps=20, optimizer="adam")
    assert second == []


def test_what_is_ones_own_is_checked_in_few_programs(compiled, tmp_path):
    """An activation, an optimizer and an objective, whose functions the checkpoint tells from others too."""
    cube = jb.Activation("cube", lambda z: z**3, lambda z, a: 3 * z**2)
    clipped = from_optax("shortened", lambda h: optax.chain(optax.clip(0.1), optax.adam(h.learning_rate)))
    quartic = jb.Objective(
        "quartic", lambda z: z, lambda z, y: jnp.sum((z - y) ** 4, axis=0) / 4, error=lambda z, y: (z - y) ** 3
    )
    grid = {"hidden": [(3,)], "activation": [cube], "optimizer": [clipped], "seed": range(3)}
    with compiled() as all_of_it:
        result = jb.sweep(
            grid, MOONS.X, MOONS.X[:, 0], epochs=5, objective=quartic, checkpoint=tmp_path, progress=False
        )
    assert result.finished.all()
    assert len(all_of_it) <= 30  # one operation after another over 150
    with compiled() as predicting:
        result.predict(0, MOONS.X)
    assert len(predicting) <= 3
