"""Networks of several depths in one program: each is what it is alone; the planner joins them where that is cheaper."""

import functools
import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_iris

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.activations import layer_activations
from jaxbackprop.estimators import BackpropClassifier, SweepEnsembleClassifier, SweepSearchCV
from jaxbackprop.losses import get_objective
from jaxbackprop.optimizers import OPTIMIZERS, Optimizer, from_optax
from jaxbackprop.sweeps import costs, host, planner
from jaxbackprop.sweeps.costs import Workload
from jaxbackprop.sweeps.depths import logits_in_slots, loss_and_grad_in_slots
from jaxbackprop.sweeps.grid import expand
from jaxbackprop.sweeps.placement import ignores_slots, own_layers, slot_widths
from jaxbackprop.sweeps.planner import plan_trials

MOONS = data.load("moons", samples=60)
PLAIN = {"tanh": jnp.tanh, "silu": jax.nn.silu, "softplus": jax.nn.softplus}


def plain_loss(params, masks, x, y, weights, l2, fs, objective):
    """A network of its own depth, written anew for autodiff."""
    a = x
    for (weight, bias), mask, f in zip(params[:-1], masks, fs, strict=True):
        a = f(weight @ a + bias[:, None]) * mask
    z = params[-1].weight @ a + params[-1].bias[:, None]
    each = (
        -(y * jax.nn.log_softmax(z, axis=0)).sum(axis=0) if objective == "softmax" else ((z - y) ** 2).sum(axis=0) / 2
    )
    return (weights * each).sum() / weights.sum() + l2 / 2 * sum((w**2).sum() for w, _ in params)


def in_slots(params, room):
    """The parameters of a network in a program of layer sizes `room`, the other numbers zero."""
    depth, slots = len(params) - 1, len(room) - 2
    layers = [jb.Layer(np.zeros((m, n)), np.zeros(m)) for n, m in itertools.pairwise(room)]
    for layer, place in zip(params, [*range(depth), slots], strict=True):
        m, n = layer.weight.shape
        layers[place].weight[:m, :n], layers[place].bias[:m] = layer
    return jax.tree.map(jnp.asarray, tuple(layers))


@pytest.mark.parametrize(
    ("room", "objective", "thinned"),
    [
        ((7, 5, 6), "softmax", False),
        ((5, 7, 9), "squared", True),
        ((9, 7, 5), "softmax", True),
        pytest.param((7, 5, 6), "squared", True, marks=pytest.mark.slow),
        pytest.param((5, 7, 9), "softmax", False, marks=pytest.mark.slow),
        pytest.param((9, 7, 5), "softmax", False, marks=pytest.mark.slow),
        pytest.param((9, 7, 5), "squared", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("hidden", [(4,), (5, 3), (3, 4, 5)])
def test_the_gradient_in_slots_is_autodiffs_of_the_network_alone(room, hidden, objective, thinned, float64):
    generator = np.random.default_rng(0)
    depth, names = len(hidden), ("tanh", "silu", "softplus")
    own = jb.init_params(jax.random.key(0), (4, *hidden, 3))
    own = jax.tree.map(lambda p: p + jnp.asarray(generator.normal(size=p.shape)) / 5, own)  # biases too
    x, weights = jnp.asarray(generator.normal(size=(4, 11))), jnp.asarray(generator.uniform(1, 2, 11))
    y = jnp.eye(3)[:, generator.integers(0, 3, 11)]
    masks = [jnp.asarray((generator.random((n, 11)) > 0.4) / 0.6) for n in room]
    right, (slope, slope_of_x) = jax.value_and_grad(plain_loss, argnums=(0, 2))(
        own,
        [mask[:n] if thinned else 1 for mask, n in zip(masks, hidden, strict=False)],
        *(x, y, weights, 0.1, [PLAIN[name] for name in names[:depth]], objective),
    )
    params = in_slots(own, (4, *room, 3))

    @functools.partial(jax.jit, static_argnames="sure")
    def both(depth, sure):
        activation = layer_activations(names, 3)
        value = loss_and_grad_in_slots(
            params,
            *(x, y, depth),
            activation=activation,
            sure=sure,
            l2=0.1,
            weights=weights,
            objective=get_objective(objective),
            mask=masks.__getitem__ if thinned else None,
        )
        return *value, logits_in_slots(params, x, depth, activation=activation, sure=sure)

    for sure in range(1, depth + 1):
        value, gradient, error, z = both(depth, sure)
        assert value == pytest.approx(float(right), rel=1e-12)
        for (got_w, got_b), (w, b) in zip(own_layers(gradient, depth), slope, strict=True):
            np.testing.assert_allclose(got_w[: len(w), : w.shape[1]], w, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(got_b[: len(b)], b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(error, slope_of_x, rtol=1e-9, atol=1e-12)
        assert not any(np.asarray(leaf).any() for layer in gradient[depth:-1] for leaf in layer)
        if not thinned:
            alone = jb.forward(own, x, activation=names[:depth], objective=objective).pre_activations[-1]
            np.testing.assert_allclose(z, alone, rtol=1e-9, atol=1e-12)


CLIPPED = from_optax("clipped", lambda h: optax.chain(optax.clip_by_global_norm(0.05), optax.adam(h.learning_rate)))


def by_layers(gradient, state, params, hyperparameters):
    """Steps that shrink with the number of layers."""
    rate = hyperparameters.learning_rate / len(params)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient), state


def one_vector(params):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])


def test_optimizers_that_further_layers_would_disturb_are_known():
    assert all(map(ignores_slots, OPTIMIZERS.values()))
    assert ignores_slots(CLIPPED)
    assert not ignores_slots(Optimizer("by_layers", lambda params: (), by_layers))
    assert not ignores_slots(Optimizer("one_vector", one_vector, lambda g, s, p, h: (p, s + one_vector(g))))
    assert not ignores_slots(from_optax("adafactor", lambda h: optax.adafactor(h.learning_rate)))


def test_own_layers_are_found_in_any_state():
    sizes = (3, 4, 5, 6, 2)
    params = jb.init_params(jax.random.key(0), sizes)
    for optimizer in [*OPTIMIZERS.values(), CLIPPED]:
        state, alone = optimizer.init(params), optimizer.init((params[0], params[3]))
        assert jax.tree.structure(own_layers(state, 1)) == jax.tree.structure(alone)
        assert [a.shape for a in jax.tree.leaves(own_layers(state, 1))] == [a.shape for a in jax.tree.leaves(alone)]
    assert slot_widths((7, 4), 4) == (7, 4, 4, 4)


def together_and_apart(monkeypatch, train):
    """The same training by both plans."""
    both = [train()]
    monkeypatch.setattr(planner, "MAX_WASTE", 0.0)
    for name in ("COMPILE", "COMPILE_LAYER", "COMPILE_ACTIVATION"):
        monkeypatch.setattr(costs, name, 0.0)
    both.append(train())
    return both


def assert_same(one, other, atol=2e-6):
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol)
    assert one.table["epochs"].tolist() == other.table["epochs"].tolist()
    np.testing.assert_array_equal(one.finished, other.finished)
    for trial in range(len(one.trials)):
        for split in range(one.train_loss.shape[1]):
            pair = one.params(trial, split), other.params(trial, split)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), *pair)
        sizes = [len(layer.bias) for layer in one.params(trial)]
        assert sizes == [*one.trials[trial].hidden, 2]


MIXED = {"hidden": [(3,), (6, 4), (4, 7, 3)], "learning_rate": [0.03], "l2": [0.01], "batch_size": [16]}
MIXED |= {"seed": [0, 5, 7]}
OPTIONS = {
    "dropout": ({"optimizer": ["adamw"], "dropout": [0.0, 0.3], "activation": ["softplus"]}, {"devices": 1}),
    "clipping": ({"optimizer": [CLIPPED]}, {"patience": 1, "record_every": 2}),
    "folds": ({"optimizer": ["adam_hat"], "dropout": [0.2]}, {"patience": 2, "record_every": 1, "folds": 3}),
    "full batch": (
        {"optimizer": ["momentum"], "batch_size": [None], "activation": ["tanh", "mish"]},
        {"halving": 2, "patience": 3, "weights": np.arange(1, 61)},
    ),
}
LONG = {
    "plain": ({"optimizer": ["sgd", "momentum"], "activation": ["sigmoid"]}, {"devices": 1}),
    "adagrad": ({"optimizer": [CLIPPED, "adagrad"]}, {"patience": 1, "record_every": 2}),
    "halving": ({"optimizer": ["adam"], "activation": ["tanh", "mish"]}, {"halving": 2, "weights": np.arange(1, 61)}),
    "gelu": ({"optimizer": ["sgd"], "batch_size": [None], "activation": ["gelu"]}, {"halving": 2, "patience": 3}),
}


@pytest.mark.parametrize("kind", [*OPTIONS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LONG)])
def test_a_network_is_the_same_beside_deeper_ones(kind, monkeypatch):
    settings, options = (OPTIONS | LONG)[kind]

    def train():
        return jb.sweep(MIXED | settings, MOONS.X, MOONS.y, epochs=12, progress=False, **options)

    one, other = together_and_apart(monkeypatch, train)
    assert any(p.depths == (1, 2, 3) for p in one.plan.programs)
    assert options.get("devices") != 1 or all(p.size > 1 for p in one.plan.programs)
    assert all(len(p.depths) == 1 and not p.padded for p in other.plan.programs)
    assert_same(one, other)


def test_activations_of_each_layer_stay_with_their_layers(monkeypatch):
    grid = [
        {"hidden": [(3,)], "activation": [("tanh",), "softplus"]},
        {"hidden": [(4, 6)], "activation": [("tanh", "softplus"), ("softplus", "tanh")]},
        {"hidden": [(2, 4, 3)], "activation": [("tanh", "softplus", "relu")]},
    ]
    one, other = together_and_apart(
        monkeypatch, lambda: jb.sweep(grid, MOONS.X, MOONS.y, epochs=12, progress=False, patience=2)
    )
    assert [p.depths for p in one.plan.programs] == [(1, 2, 3)]
    assert sorted(p.depths for p in other.plan.programs) == [(1,), (2,), (3,)]
    assert_same(one, other)


def test_an_optimizer_that_counts_layers_gets_a_program_for_each_depth():
    grid = MIXED | {"optimizer": [Optimizer("by_layers", lambda params: (), by_layers)]}
    result = jb.sweep(grid, MOONS.X, MOONS.y, epochs=3, progress=False)
    assert sorted(p.depths for p in result.plan.programs) == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    "ways",
    [
        ("together", "apart"),
        ("apart", "together"),
        pytest.param(("together", "together"), marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_by_another_plan(ways, tmp_path, monkeypatch):
    grid = MIXED | {"optimizer": ["adamw"], "dropout": [0.0, 0.2]}
    call, plan = host._call, planner.product

    def train(way, **options):
        monkeypatch.setattr(planner, "product", lambda *_, **__: [(way == "apart", False)])
        monkeypatch.setattr(planner, "MAX_WASTE", 1.0)
        result = jb.sweep(
            grid, MOONS.X, MOONS.y, epochs=12, record_every=2, progress=False, patience=4, halving=2, **options
        )
        monkeypatch.setattr(planner, "product", plan)
        return result

    def interrupted(*args):
        monkeypatch.setattr(host, "_call", call)
        signal.raise_signal(signal.SIGINT)
        return call(*args)

    monkeypatch.setattr(host, "RECORDS", 2)
    whole = train("apart")
    monkeypatch.setattr(host, "_call", interrupted)
    first = train(ways[0], checkpoint=tmp_path, checkpoint_every=0.0)
    assert not first.finished.all()
    second = train(ways[1], checkpoint=tmp_path, checkpoint_every=0.0)
    assert {len(p.depths) for p in second.plan.programs} == {3 if ways[1] == "together" else 1}
    assert_same(second, whole)


def workload(**changes):
    sizes = Workload(features=30, outputs=2, samples=500, train=(400,), validation=(100,), epochs=20)
    return sizes._replace(**changes)


def test_depths_share_a_program_where_training_is_shorter_than_compiling_one_more():
    trials = expand({"hidden": [(32,), (32, 32), (32, 32, 32)], "optimizer": ["adam"], "seed": list(range(20))})
    short, long = (plan_trials(trials, workload(epochs=epochs)) for epochs in (20, 20_000))
    assert [p.depths for p in short.programs] == [(1, 2, 3)]
    assert sorted(p.depths for p in long.programs) == [(1,), (2,), (3,)]
    assert sum(p.seconds for p in short.programs) < min(p.compile_seconds for p in long.programs)
    apart = [plan_trials([t for t in trials if len(t.hidden) == d], workload()) for d in (1, 2, 3)]
    assert sum(p.compile_seconds + p.seconds for p in short.programs) < sum(
        p.compile_seconds + p.seconds for plan in apart for p in plan.programs
    )


def test_a_depth_whose_padding_costs_more_than_a_compilation_saves_stays_apart():
    grid = [{"hidden": [(400,)]}, {"hidden": [(4, 4, 4)], "seed": list(range(100))}]
    assert {p.depths for p in plan_trials(expand(grid), workload(epochs=200)).programs} == {(1,), (3,)}
    narrow = [{"hidden": [(4,)]}, {"hidden": [(4, 4, 4)], "seed": list(range(100))}]
    assert [p.depths for p in plan_trials(expand(narrow), workload(epochs=200)).programs] == [(1, 3)]


def test_networks_without_a_hidden_layer_and_of_one_depth_stay_among_themselves():
    plan = plan_trials(expand({"hidden": [(), (3,), (2, 3)]}), workload())
    assert sorted(p.depths for p in plan.programs) == [(0,), (1, 2)]
    plan = plan_trials(expand({"hidden": [(3, 3), (2, 3)]}), workload())
    assert [p.depths for p in plan.programs] == [(2,)]


def test_a_budget_too_small_for_padding_to_the_deepest_keeps_depths_apart():
    trials = expand([{"hidden": [(60,)], "seed": list(range(400))}, {"hidden": [(60, 60, 60)]}])
    roomy = plan_trials(trials, workload())
    assert [p.depths for p in roomy.programs] == [(1, 3)]
    tight = plan_trials(trials, workload(memory_budget=roomy.memory // 2))
    assert sorted(p.depths for p in tight.programs) == [(1,), (3,)]


def test_a_search_over_depths_scores_and_keeps_the_same_networks(monkeypatch):
    X, y = load_iris(return_X_y=True)
    grid = {"hidden_layer_sizes": [(5,), (8, 4), (4, 4, 4)], "alpha": [1e-4, 1e-1], "activation": ["relu", "logistic"]}

    def search():
        network = BackpropClassifier(max_iter=25, random_state=0, dtype="float64")
        return SweepSearchCV(network, grid, cv=3, keep_networks=True, return_train_score=True, refit=False).fit(X, y)

    plans, plan = [], planner.plan_trials
    monkeypatch.setattr(
        "jaxbackprop.estimators.trainer.plan_trials", lambda *args: plans.append(plan(*args)) or plans[-1]
    )
    one, other = together_and_apart(monkeypatch, search)
    assert plans[0].programs[0].depths == (1, 2, 3)
    assert len(plans) == 2
    assert all(len(p.depths) == 1 for p in plans[1].programs)
    for key in ("mean_test_score", "split1_test_score", "mean_train_score"):
        np.testing.assert_allclose(one.cv_results_[key], other.cv_results_[key], atol=1e-12)
    a, b = (search.ensemble(bags=2, rounds=5) for search in (one, other))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-9)


@pytest.mark.parametrize(
    "space", [{"width": [6], "activation": ["relu", "tanh"]}, pytest.param({"width": [6, 9]}, marks=pytest.mark.slow)]
)
def test_an_ensemble_of_several_depths_has_the_same_members(space, monkeypatch):
    X, y = load_iris(return_X_y=True)
    options = {"space": {"depth": [1, 3], **space}, "max_iter": 20, "random_state": 0, "cv": 3}
    options["dtype"] = "float64"  # in which rounding stays too small to change a choice
    one, other = together_and_apart(monkeypatch, lambda: SweepEnsembleClassifier(9, **options).fit(X, y))
    assert one.members_.tolist() == other.members_.tolist()
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-9)
    np.testing.assert_allclose(one.cv_results_["mean_test_loss"], other.cv_results_["mean_test_loss"], atol=1e-9)
