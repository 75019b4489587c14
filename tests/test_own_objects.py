"""What a researcher brings: activations, optimizers and objectives of one's own, in `fit` and in a sweep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import QUICKLY

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.optimizers import OPTIMIZERS, STATE_STARTS, from_optax
from jaxbackprop.sweeps.placement import ignores_padding

MOONS = data.load("moons", samples=60)
x, y = (jnp.asarray(a, jnp.float32) for a in (data.features_first(MOONS.X), data.encode(MOONS.y).y))


def squareplus(z):
    return (z + jnp.sqrt(z * z + 4)) / 2


def squareplus_slope(z, a):
    return 0.5 * (1 + z / jnp.sqrt(z * z + 4))


SQUAREPLUS = jb.Activation("squareplus", squareplus, squareplus_slope)
CLIPPED = from_optax(
    "clipped adam on a cosine",
    lambda h: optax.chain(
        optax.clip_by_global_norm(0.5), optax.adam(optax.cosine_decay_schedule(h.learning_rate, decay_steps=50))
    ),
)
HUBER = jb.Objective(
    "huber",
    predict=lambda z: z,
    per_sample=lambda z, y: jnp.sum(optax.huber_loss(z, y), axis=0),
    error=lambda z, y: jnp.clip(z - y, -1, 1),
)
POISSON = jb.Objective("poisson", predict=jnp.exp, per_sample=lambda z, y: jnp.sum(jnp.exp(z) - y * z, axis=0))


def sweep(grid, y=MOONS.y, *, epochs=40, validation=None, **options):
    return jb.sweep(grid, MOONS.X, y, epochs=epochs, validation=validation, progress=False, **options)


@pytest.mark.slow
def test_an_own_activation_and_optimizer_train_as_autodiff_and_optax_do():
    grid = [
        {"activation": [SQUAREPLUS, "tanh"], "optimizer": [CLIPPED], "hidden": [(3,)]},
        {"activation": [SQUAREPLUS], "optimizer": ["sgd"], "hidden": [(5,)]},
    ]
    result = sweep([part | {"learning_rate": [0.1]} for part in grid])
    assert set(result.table["activation"]) == {"squareplus", "tanh"}
    assert set(result.table["optimizer"]) == {CLIPPED.name, "sgd"}
    for number, trial in enumerate(result.trials):
        f = jnp.tanh if trial.activation == "tanh" else squareplus
        rule = optax.sgd(0.1)
        if trial.optimizer is CLIPPED:
            rule = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.cosine_decay_schedule(0.1, 50)))
        params = jb.init_params(jax.random.key(0), (2, *trial.hidden, 2))
        state = rule.init(params)

        def loss(params, f=f):
            (W1, b1), (W2, b2) = params
            return -(jax.nn.log_softmax(W2 @ f(W1 @ x + b1[:, None]) + b2[:, None], axis=0) * y).sum(axis=0).mean()

        @functools.partial(jax.jit, compiler_options=QUICKLY)
        def step(params, state, rule=rule, loss=loss):
            updates, state = rule.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(40):
            params, state = step(params, state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result.params(number), params)
        assert (result.predict(number, MOONS.X) == MOONS.y).mean() > 0.5


def test_an_own_activation_is_fitted_alone_too():
    params = jb.init_params(jax.random.key(0), (2, 3, 2))
    trained, _ = jb.fit(params, x, y, jb.Hyperparameters(0.1), activation=SQUAREPLUS, optimizer=CLIPPED, steps=40)
    alone = sweep({"activation": [SQUAREPLUS], "optimizer": [CLIPPED], "hidden": [(3,)]})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained, alone.params(0))


@pytest.mark.slow
def test_each_layer_may_have_its_own_activation():
    """In one program with networks of other widths and activations, the numbers of `fit`."""
    each = [("relu", SQUAREPLUS), ("tanh", "relu"), "tanh"]
    result = sweep({"activation": each, "hidden": [(3, 4), (5, 2)]})
    assert {*result.table["activation"]} == {("relu", "squareplus"), ("tanh", "relu"), "tanh"}
    for number, trial in enumerate(result.trials):
        params = jb.init_params(jax.random.key(0), (2, *trial.hidden, 2))
        trained, _ = jb.fit(params, x, y, jb.Hyperparameters(0.1), activation=trial.activation, steps=40)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained, result.params(number))
    with pytest.raises(ValueError, match=r"activation=\('relu', 'squareplus'\) must be one for each hidden layer"):
        sweep({"activation": each, "hidden": [(3,)]})
    with pytest.raises(ValueError, match=r"activation\[1\]='tahn' is unknown"):
        sweep({"activation": [("tanh", "tahn")]})


def test_a_wrong_slope_is_refused_with_the_point_and_both_values():
    wrong = jb.Activation("squareplus", squareplus, lambda z, a: jnp.ones_like(z))
    with pytest.raises(ValueError, match=r"wrong slope: at z=-7\.\d+ it gives 1, autodiff of its value 0\.0\d+"):
        sweep({"activation": [wrong]})
    no_kink = jb.Activation("cut", lambda z: jnp.where(z > 1, z, 0), lambda z, a: jnp.where(z > 1, 1.0, 0.0), (1.0,))
    sweep({"activation": [no_kink]}, epochs=2)


def test_two_objects_of_one_name_are_refused():
    other = jb.Activation("squareplus", squareplus, lambda z, a: squareplus_slope(z, a))
    with pytest.raises(ValueError, match="two different objects named 'squareplus'"):
        sweep({"activation": [SQUAREPLUS, other]})


def test_an_own_objective_trains_by_its_own_error():
    numbers = MOONS.X[:, 0] * 3 + 0.01
    grid = {"hidden": [()], "learning_rate": [0.3]}
    result = sweep(grid, numbers, epochs=500, objective=HUBER)
    weight, bias = jnp.zeros((1, 2)), jnp.zeros(1)
    start = jb.init_params(jax.random.key(0), (2, 1))
    weight, bias = start[0]

    @jax.jit
    def step(weight, bias):
        def loss(weight, bias):
            return optax.huber_loss((weight @ x + bias[:, None])[0], jnp.asarray(numbers, jnp.float32)).mean()

        gradient = jax.grad(loss, (0, 1))(weight, bias)
        return weight - 0.3 * gradient[0], bias - 0.3 * gradient[1]

    for _ in range(500):
        weight, bias = step(weight, bias)
    np.testing.assert_allclose(result.params(0)[0].weight, weight, atol=1e-4)
    np.testing.assert_allclose(result.predict(0, MOONS.X), (weight @ x + bias[:, None])[0], atol=1e-3)
    assert "train_r2" in result.table


def test_a_canonical_objective_needs_no_error_and_predicts_through_its_link():
    counts = np.random.default_rng(0).poisson(np.exp(MOONS.X[:, 0])).astype(float) + 0.25
    result = sweep({"hidden": [()], "learning_rate": [0.1]}, counts, epochs=3000, objective=POISSON)
    from sklearn.linear_model import PoissonRegressor

    witness = PoissonRegressor(alpha=0, tol=1e-8, max_iter=1000).fit(MOONS.X, counts)
    np.testing.assert_allclose(result.predict(0, MOONS.X), witness.predict(MOONS.X), rtol=2e-3)


def test_the_score_of_an_own_objective_is_that_of_its_predictions():
    """Where they are not as large as the logits: a log-log link is 1/2 at z = -0.37, and the other turns the order."""
    labels = (MOONS.X > [0.7, 0.4]).astype(int)
    loglog = jb.Objective(
        "loglog",
        predict=lambda z: 1 - jnp.exp(-jnp.exp(z)),
        per_sample=lambda z, y: jnp.sum((1 - y) * jnp.exp(z) - y * jnp.log(-jnp.expm1(-jnp.exp(z))), axis=0),
        error=lambda z, y: jnp.exp(z) * (1 + y / jnp.expm1(-jnp.exp(z))),
    )
    turned = jb.Objective(
        "turned",
        predict=lambda z: jax.nn.softmax(-z, axis=0),
        per_sample=lambda z, y: -jnp.sum(y * jax.nn.log_softmax(-z, axis=0), axis=0),
        error=lambda z, y: y - jax.nn.softmax(-z, axis=0),
    )
    for objective, y, right in ((loglog, labels, labels), (turned, MOONS.y, MOONS.y[:, None])):
        result = sweep({"learning_rate": [0.1]}, y, objective=objective)
        share = (result.predict(0, MOONS.X).reshape(right.shape) == right).all(axis=1).mean()
        assert result.table["train_accuracy"][0] == pytest.approx(share), objective.name
        assert share > 0.6


def test_a_wrong_error_is_refused():
    wrong = jb.Objective("huber", lambda z: z, HUBER.per_sample)
    with pytest.raises(ValueError, match="objective 'huber' has a wrong dL/dz: at z="):
        sweep({}, MOONS.X[:, 0] + 0.01, objective=wrong)


def test_an_error_is_held_against_autodiff_at_the_targets_at_hand():
    """y^2 is y where y is 0 or 1, and nowhere else."""
    loss = lambda z, y: jnp.sum((z - y) ** 2, axis=0) / 2  # noqa: E731
    squares = jb.Objective("squares", lambda z: z, loss, lambda z, y: z - y**2)
    with pytest.raises(ValueError, match="objective 'squares' has a wrong dL/dz: at z="):
        sweep({}, MOONS.X[:, 0] + 0.01, objective=squares)
    sweep({}, (MOONS.X > 0.5).astype(int), epochs=1, objective=squares)


def test_an_objective_may_know_how_many_outputs_there_are(tmp_path):
    counts = jnp.array([[1.0], [3.0]])  # what each class counts
    weighted = jb.Objective(
        "weighted",
        predict=lambda z: jax.nn.softmax(z, axis=0),
        per_sample=lambda z, y: -jnp.sum(counts * y * jax.nn.log_softmax(z, axis=0), axis=0),
        error=lambda z, y: jnp.sum(counts * y, axis=0) * jax.nn.softmax(z, axis=0) - counts * y,
    )
    one = sweep({}, epochs=5, objective=weighted, checkpoint=tmp_path)
    other = sweep({}, epochs=5, weights=np.where(MOONS.y == 1, 3, 1))
    np.testing.assert_allclose(one.train_loss[..., 0], np.mean(1 + 2 * MOONS.y) * other.train_loss[..., 0], rtol=1e-5)


@pytest.mark.slow
def test_what_disturbs_padding_is_not_padded():
    assert ignores_padding(CLIPPED)
    by_layer = from_optax("lars", lambda h: optax.lars(h.learning_rate))
    centre = optax.stateless(lambda gradient, params: jax.tree.map(lambda a: a - a.mean(), gradient))
    mean = from_optax("centred", lambda h: optax.chain(centre, optax.sgd(h.learning_rate)))
    assert not ignores_padding(mean)
    result = sweep({"optimizer": [mean, by_layer], "hidden": [(2,), (5,)]}, epochs=5)
    for number, trial in enumerate(result.trials):
        alone = sweep({"optimizer": [trial.optimizer], "hidden": [trial.hidden]}, epochs=5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result.params(number), alone.params(0))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_start_where_optax_starts_them(name):
    params = jb.init_params(jax.random.key(0), (2, 3, 2))
    start = STATE_STARTS.get(name, 0)
    for leaf in jax.tree.leaves(OPTIMIZERS[name].init(params)):
        assert (np.asarray(leaf) == np.asarray(start, leaf.dtype)).all()


def test_vmapped_fit_as_the_readme_has_it():
    rates = jnp.array([0.1, 0.5, 1.0])
    params = jb.init_params(jax.random.key(0), (2, 3, 2))
    fits = jax.vmap(lambda rate: jb.fit(params, x, y, jb.Hyperparameters(rate), activation="tanh", steps=20))(rates)
    for k, rate in enumerate(rates.tolist()):
        alone = jb.fit(params, x, y, jb.Hyperparameters(rate), activation="tanh", steps=20)
        np.testing.assert_allclose(fits.loss_curve[k], alone.loss_curve, atol=1e-6)
