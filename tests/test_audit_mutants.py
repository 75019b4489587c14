"""Every mistake that the audit knows, made: it is flagged in the right leaves, named by its own name, and no other leaf
is blamed.
"""

import audit_mutants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audit_mutants import MUTANTS, SPOILERS, draw, numbered_loss

from jaxbackprop import ACTIVATIONS
from jaxbackprop.auditing import Network, audit
from jaxbackprop.auditing.mistakes.backward_steps import NETWORK_HYPOTHESES
from jaxbackprop.auditing.mistakes.general import HYPOTHESES
from jaxbackprop.oracle import relative_error

# Thousands of small functions are called: checking the shapes of each at run time would take most of the time.
pytestmark = pytest.mark.usefixtures("as_users_run_it")

ELSEWHERE = {"precision"}  # no entry is off by 1e-4 at a usual point


def difference(wrong, right):
    """The relative error of a leaf; infinite where the shapes differ."""
    return np.inf if wrong.shape != right.shape else relative_error(wrong, right)


def audit_mutant(mutant, activation, sizes, seed, dtype=np.float64):
    """The report, and how far off each leaf is at every point where the audit looked: [points, leaves]."""
    wrong, right = audit_mutants.build(activation, mutant), audit_mutants.build(activation, l2=mutant.l2)
    params, X, y = draw(sizes, seed, dtype)
    l2 = float(np.asarray(mutant.l2, dtype))
    off = []

    def gradient_fn(params, X, y, *rest):
        gradient = wrong(params, X, y)
        wide = [leaf.astype(np.float64) for leaf in params]
        off.append([difference(w, r) for w, r in zip(gradient, right(wide, X.astype(np.float64), y), strict=True)])
        return gradient

    number = np.array(list(ACTIVATIONS).index(activation))
    network = Network(activation, l2=l2, samples_first=True)
    asked = "mean" if mutant.code == "sum_not_mean" else None
    report = audit(
        gradient_fn, numbered_loss, params, X, y, number, np.array(l2), network=network, seed=seed, reduction=asked
    )
    return report, np.array(off)


def fitting(activation, sizes):
    """The mistakes that can be made with this activation and these sizes."""
    return [m for m in MUTANTS if m.activation in (None, activation) and m.sizes in (None, sizes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "activations"),
    [
        ((2, 3, 2), ["tanh", "sigmoid", "relu", "leaky_relu"]),
        ((3, 4, 3), ["tanh", "elu", "hardshrink"]),
        ((3, 3, 3, 3), ["tanh", "softplus"]),
        ((4, 5, 4, 3), ["sigmoid", "gelu"]),
    ],
    ids=str,
)
@pytest.mark.timeout(400)
def test_mistakes_in_a_backward_pass_are_found_and_named(sizes, activations):
    named, misnamed = [], []
    for seed, activation in enumerate(activations):
        for mutant in fitting(activation, sizes):
            report, off = audit_mutant(mutant, activation, sizes, seed)
            if off.max() < 1e-4 and mutant.code not in ELSEWHERE:
                continue  # no mistake, as the derivative of relu at a in place of z
            for finding, differences in zip(report.findings, off.T, strict=True):
                case = f"{mutant} for {activation}\n{report}"
                assert not (finding.ok and differences.max() > 1e-4), f"{finding.path} is missed: {case}"
                blamed = not finding.ok and differences.max() < 1e-9 and mutant.code not in ELSEWHERE
                assert not blamed, f"{finding.path} is blamed: {case}"
            first = next((finding.diagnosis for finding in report.findings if not finding.ok), None)
            (named if first == mutant.code else misnamed).append(f"{mutant.code} is called {first}, for {activation}")
    assert len(named) >= 90
    assert len(misnamed) <= 0.05 * len(named + misnamed), misnamed


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "seed"), [("tanh", 3), ("sigmoid", 4)])
def test_mistakes_are_found_in_float32(activation, seed):
    named, misnamed = 0, []
    for mutant in fitting(activation, (2, 3, 2)):
        report, off = audit_mutant(mutant, activation, (2, 3, 2), seed, np.float32)
        for finding, differences in zip(report.findings, off.T, strict=True):
            assert not (finding.ok and differences.max() > 1e-2), f"{finding.path} is missed: {mutant}\n{report}"
            assert finding.ok or differences.max() > 1e-4, f"{finding.path} is blamed: {mutant}\n{report}"
        if off.max() > 1e-2:
            first = next((finding.diagnosis for finding in report.findings if not finding.ok), None)
            named += first == mutant.code
            misnamed += [] if first == mutant.code else [f"{mutant.code} is called {first}"]
    assert named >= 40
    assert len(misnamed) <= 0.05 * (named + len(misnamed)), misnamed


def spoiled_loss(params, X, Y, l2):
    """The loss of the spoilers: written for JAX, or for NumPy, which JAX cannot trace."""
    xp = jnp if isinstance(params["W"], jax.Array) else np
    out = xp.tanh(X @ params["W"] @ params["U"]) @ params["V"] + params["b"]
    return xp.mean((out - Y) ** 2) + l2 / 2 * xp.sum(params["W"] ** 2)


def spoiled_gradient(params, X, Y, l2):
    h = np.tanh(X @ params["W"] @ params["U"])
    e = 2 * (h @ params["V"] + params["b"] - Y) / Y.size
    back = (e @ params["V"].T) * (1 - h**2)
    return {
        "W": X.T @ (back @ params["U"].T) + l2 * params["W"],
        "U": (X @ params["W"]).T @ back,
        "V": h.T @ e,
        "b": e.sum(axis=0),
    }


@pytest.mark.parametrize("witness", ["jax.grad", "differences"])
@pytest.mark.parametrize("seed", [0, 1])
def test_mistakes_with_any_loss_are_found_and_named(witness, seed):
    misnamed = []
    for spoiler in SPOILERS:
        rng = np.random.default_rng(seed)
        params = {name: rng.normal(size=(3, 3)) for name in "WUV"} | {"b": rng.normal(size=3)}
        if spoiler.code == "transposed" and spoiler.leaf == "W":
            params["W"] = rng.normal(size=(4, 3))
        X, Y = rng.normal(size=(11, len(params["W"]))), rng.normal(size=(11, 3))
        l2 = 0.3 if spoiler.l2 is None else spoiler.l2

        def right(params, X, Y, l2=l2):
            return spoiled_gradient(params, X, Y, l2)

        def loss_fn(params, X, Y, l2=l2):
            if witness == "differences":
                params = {name: np.asarray(leaf) for name, leaf in params.items()}
            return spoiled_loss(params, X, Y, l2)

        report = audit(spoiler.spoil(right, l2), loss_fn, params, X, Y, l2=spoiler.l2, seed=seed)
        assert report.witness.startswith({"jax.grad": "jax.grad", "differences": "central differences"}[witness])
        for finding in report.findings:
            assert finding.ok == (finding.path != spoiler.leaf), f"{spoiler}\n{report}"
            if not finding.ok and finding.diagnosis != spoiler.code:
                misnamed.append(f"{spoiler.code} in {spoiler.leaf} is called {finding.diagnosis}")
    assert len(misnamed) <= 0.05 * len(SPOILERS), misnamed


def test_every_mistake_of_the_tables_is_made_here():
    made = {mutant.code for mutant in MUTANTS} | {spoiler.code for spoiler in SPOILERS} | {"mean_not_sum"}
    assert {hypothesis.code for hypothesis in (*HYPOTHESES, *NETWORK_HYPOTHESES)} <= made


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1.2e-4), (np.float32, 1.2e-2)])
def test_a_small_error_in_one_entry_is_flagged_in_its_leaf(dtype, size):
    params, X, y = draw((3, 4, 3), 0, dtype)
    right = audit_mutants.build("tanh")
    for i, leaf in enumerate(params):

        def slightly_wrong(params, X, y, *rest, i=i, entry=leaf.size // 2):
            gradient = right(params, X, y)
            gradient[i].reshape(-1)[entry] += size * np.abs(gradient[i]).max()
            return gradient

        report = audit(slightly_wrong, numbered_loss, params, X, y, np.array(1), np.array(0.0), seed=i)
        assert [finding.ok for finding in report.findings] == [j != i for j in range(len(params))]
        assert report.findings[i].relative_error == pytest.approx(size, rel=0.05)
