"""A gradient that is wrong in no known way is flagged, and is given no name."""

import audit_mutants
import numpy as np
import pytest
from audit_mutants import draw, numbered_loss

from jaxbackprop import ACTIVATIONS, Network, audit

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def perturbed(right, rng, sizes):
    """The right gradient with a smooth function of the parameters added to some leaves, of random size and place."""
    leaves = np.flatnonzero(rng.random(2 * (len(sizes) - 1)) < 0.4).tolist() or [int(rng.integers(2))]
    size = 10.0 ** rng.uniform(-5, 2)
    frequency, phase = rng.uniform(1, 9), rng.uniform(0, 6, 4 * len(sizes))
    alone = rng.random() < 0.2  # in the place of the right gradient

    def gradient(params, X, y, *rest):
        found = right(params, X, y)
        for i in leaves:
            mixed = sum(float(np.sum(np.cos(leaf + n))) for n, leaf in enumerate(params))
            junk = np.sin(frequency * params[i] + np.arange(params[i].size).reshape(params[i].shape) + mixed + phase[i])
            found[i] = (0 if alone else found[i]) + size * np.abs(found[i]).max() * junk
        return found

    return gradient, leaves


def judged(seed):
    """One random wrong gradient, and what is said of it."""
    rng = np.random.default_rng([seed, 77])
    sizes = [(2, 3, 2), (3, 4, 3), (3, 3, 3, 3)][seed % 3]
    name = ["tanh", "sigmoid", "relu"][seed // 3 % 3]
    params, X, y = draw(sizes, seed)
    gradient, leaves = perturbed(audit_mutants.build(name), rng, sizes)
    k = np.array(list(ACTIVATIONS).index(name))
    network = Network(name, samples_first=True) if seed % 2 else None
    return audit(gradient, numbered_loss, params, X, y, k, np.array(0.0), network=network, seed=seed), leaves


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 500), marks=pytest.mark.slow)], ids=str)
@pytest.mark.timeout(600)
def test_what_is_no_known_mistake_is_flagged_and_not_named(seeds):
    for seed in seeds:
        report, leaves = judged(seed)
        assert [i for i, finding in enumerate(report.findings) if not finding.ok] == leaves, f"{seed}\n{report}"
        assert {finding.diagnosis for finding in report.findings} == {None}, f"{seed}\n{report}"
