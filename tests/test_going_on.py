"""Training that goes on: `partial_fit`, `warm_start`, weights that are set by hand, and a fit after one that
has failed."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale

from jaxbackprop.estimators import BackpropClassifier, BackpropRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = scale(X)
DIABETES = load_diabetes(return_X_y=True)
TINY = {"hidden_layer_sizes": (5,), "max_iter": 30, "random_state": 0}


def test_class_weight_names_classes_that_a_part_of_the_samples_lacks():
    by_class = BackpropClassifier(**TINY, class_weight={1: 5.0})
    by_sample = BackpropClassifier(**TINY)
    for part in np.split(np.arange(150), 3):  # each of a single class
        by_class.partial_fit(X[part], Y[part], classes=[0, 1, 2])
        by_sample.partial_fit(X[part], Y[part], np.array([1.0, 5, 1])[Y[part]], classes=[0, 1, 2])
    np.testing.assert_array_equal(by_class.coefs_[0], by_sample.coefs_[0])


@pytest.mark.parametrize("rule", ["constant", "adaptive"])
def test_a_rate_that_is_set_between_calls_holds_unless_it_falls_by_itself(rule):
    model, other = (BackpropClassifier((4,), solver="sgd", learning_rate=rule, momentum=0.0) for _ in range(2))
    for one in (model, other):
        one.set_params(random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
    before = model.coefs_[0].copy()
    model.set_params(learning_rate_init=3e-3).partial_fit(X, Y)  # three times the default
    other.partial_fit(X, Y)
    times = 3 if rule == "constant" else 1
    np.testing.assert_allclose(model.coefs_[0] - before, times * (other.coefs_[0] - before), rtol=0.05, atol=1e-6)


def test_partial_fit_is_fit_epoch_by_epoch():
    """With full batches, which have no order, so many calls are so many epochs, the optimizer's state included."""
    whole = BackpropClassifier(**TINY).fit(X, Y)
    steps = BackpropClassifier(**TINY)
    for _ in range(30):
        steps.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(steps.coefs_[0], whole.coefs_[0], rtol=1e-6)
    np.testing.assert_allclose(steps.loss_curve_, whole.loss_curve_, rtol=1e-6)
    with pytest.raises(ValueError, match="`y` has classes not in"):
        steps.partial_fit(X, Y + 1)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        BackpropClassifier().partial_fit(X, Y)


def test_warm_start_goes_on():
    twice = BackpropClassifier(**dict(TINY, solver="sgd", momentum=0, warm_start=True)).fit(X, Y).fit(X, Y)
    once = BackpropClassifier(**dict(TINY, solver="sgd", momentum=0, max_iter=60)).fit(X, Y)
    np.testing.assert_allclose(twice.coefs_[0], once.coefs_[0], rtol=1e-5)
    assert len(twice.loss_curve_) == 60
    with pytest.raises(ValueError, match="same classes"):
        twice.fit(X[:100], Y[:100])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_network_goes_on_with_its_own_layers(solver):
    """Fewer outputs than y has now would be spread over all of them, were they not refused."""
    model = BackpropRegressor(**dict(TINY, solver=solver, warm_start=True)).fit(*DIABETES)
    with pytest.raises(ValueError, match=r"ask for layers of .*, 2\] units.* goes on has .*, 1\]; warm_start=False"):
        model.fit(DIABETES[0], np.stack([DIABETES[1], DIABETES[1]], axis=1))
    with pytest.raises(ValueError, match="hidden_layer_sizes and y ask for layers of"):
        model.set_params(hidden_layer_sizes=(3, 3)).fit(*DIABETES)


@pytest.mark.parametrize("labels", [Y == 0, Y + 5], ids=["fewer", "others"])
def test_a_fit_that_has_failed_leaves_no_classes_behind(labels):
    network = BackpropClassifier(**TINY, early_stopping=True, validation_fraction=0.001)
    with pytest.raises(ValueError, match="validation set is too small"):
        network.fit(X, Y)
    network.set_params(early_stopping=False).fit(X, labels)
    np.testing.assert_array_equal(network.classes_, np.unique(labels))


def test_weights_that_are_set_by_hand_go_on():
    """As MLPClassifier's do, which takes the classes from y."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=(4, 5)), random.normal(size=(5, 3))]
    networks = []
    for kind, own in ((BackpropClassifier, {"dtype": "float64"}), (MLPClassifier, {})):
        network = kind(**TINY, shuffle=False, warm_start=True, **own)
        network.coefs_, network.intercepts_ = [w.copy() for w in weights], [np.zeros(5), np.zeros(3)]
        network.n_layers_, network.n_outputs_, network.out_activation_ = 3, 3, "softmax"
        network.t_, network.loss_curve_, network.best_loss_, network._no_improvement_count = 0, [], np.inf, 0
        networks.append(network.fit(X, Y))
    np.testing.assert_allclose(*(network.predict_proba(X) for network in networks), rtol=1e-6)
