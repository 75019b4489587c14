"""Where the document slips: a formula as it is written fails, in shape or in value, where ours agrees with the oracle.

`ERRATA` lists the slips in the document's order. A `literal` evaluates the written formula and nothing else: where an
earlier slip spoils it too, that one is mended first. All widths and the batch size differ, so that no shape fits by
chance.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import reference

from jaxbackprop import network, oracle

SAMPLES, FEATURES, HIDDEN, CLASSES = 6, 2, 3, 4


class Erratum(NamedTuple):
    """One slip: the line of part 1c or 1d, what it says, what is right, why, and the formula's literal value.

    `stage` names the derivative that the line is about, as `oracle.stages` does; `fails` is "shape" or "value".
    """

    id: str
    where: str
    written: str
    right: str
    why: str
    stage: str
    fails: str
    literal: Callable[[SimpleNamespace], np.ndarray]


def last_j(p):
    """-e^z_i e^z_j over the square of the sum over j, as a program would run it: after the sum j is C."""
    total = 0
    for j in range(CLASSES):
        total = total + p.e[j]
    off_diagonal = 1 - np.eye(CLASSES)[:, :, None]
    return (0 - p.e * p.e[j] / total**2)[:, None, :] * off_diagonal


ERRATA = (
    Erratum(
        "samples-first",
        "1c, (5)",
        "y_{n,i}, ŷ_{n,i}",
        "y_{i,n}, ŷ_{i,n}",
        "In (1) to (4) a sample is a column, so n is the second index; y_{n,i} runs out of rows at n = C + 1.",
        "L",
        "shape",
        lambda p: -sum(p.y[n, i] * np.log(p.y_hat[n, i]) for n in range(SAMPLES) for i in range(CLASSES)) / SAMPLES,
    ),
    Erratum(
        "weight-factor",
        "1d, ∂z²/∂W²; again ∂z¹/∂W¹",
        "∂z²/∂W² = a¹; ∂z¹/∂W¹ = x",
        "∂z²_i/∂W²_jk = 1[i=j] a¹_k; ∂z¹_i/∂W¹_jk = 1[i=j] x_k",
        "z² has C entries and W² has C × H: their derivative has three indices (and n), not the one of a¹.",
        "dz^2/dW^2",
        "shape",
        lambda p: p.a1,
    ),
    Erratum(
        "softmax-index",
        "1d, ∂ŷ_i/∂z²_i, heading of both cases",
        "∂ŷ_i/∂z²_i = … if j = i …, if j ≠ i …",
        "∂ŷ_i/∂z²_j",
        "j is not in the heading; ∂ŷ_i/∂z²_i is ŷ_i (1 - ŷ_i) whatever j, also off the diagonal.",
        "dy-hat_i/dz^2_j, j != i",
        "value",
        lambda p: (p.y_hat * (1 - p.y_hat))[:, None, :] * (1 - np.eye(CLASSES)[:, :, None]),
    ),
    Erratum(
        "sum-over-j",
        "1d, ∂ŷ_i/∂z²_j, case j ≠ i",
        "(0 - e^{z_i} e^{z_j}) / (Σ_{j=1}^C e^{z_j})²",
        "(0 - e^{z_i} e^{z_j}) / (Σ_{k=1}^C e^{z_k})²",
        "j is fixed by the case and summed over too; carried out, the sum leaves j = C.",
        "dy-hat_i/dz^2_j, j != i",
        "value",
        last_j,
    ),
    Erratum(
        "prediction-sums",
        "1d, ∂L/∂ŷ_i",
        "∂L/∂ŷ_i = -(1/N) Σ_n Σ_i ∂(y_i log ŷ_i)/∂ŷ_i",
        "∂L/∂ŷ_{i,n} = -(1/N) y_{i,n}/ŷ_{i,n}",
        "Both sums stay although one term of them has a derivative; i is fixed on the left, summed over on the right.",
        "dL/dy-hat",
        "shape",
        lambda p: -np.sum(p.y / p.y_hat) / SAMPLES,
    ),
    Erratum(
        "prediction-or-logits",
        "1d, ∂L/∂ŷ_i, from its second form on",
        "∂L/∂ŷ_i = … y_i (1/ŷ_i) ∂ŷ_i/∂z²_i = … = (1/N) Σ_n [-y_i + Σ_j y_j ŷ_i]",
        "∂L/∂z²_i on the left",
        "The Jacobian of ŷ is already inside; the chain ∂L/∂ŷ ∂ŷ/∂z² would multiply by it once more.",
        "dL/dy-hat",
        "value",
        lambda p: (-p.y + np.sum(p.y, axis=0) * p.y_hat) / SAMPLES,
    ),
    Erratum(
        "diagonal-only",
        "1d, ∂L/∂ŷ_i, second form",
        "-(1/N) Σ_n Σ_i (y_i/ŷ_i) ∂ŷ_i/∂z²_i",
        "-(1/N) Σ_k (y_k/ŷ_k) ∂ŷ_k/∂z²_i",
        "z_i moves every ŷ_k; with one index i for both only the diagonal of the Jacobian is left.",
        "dL/dz^2",
        "value",
        lambda p: -(p.y / p.y_hat) * (p.y_hat * (1 - p.y_hat)) / SAMPLES,
    ),
    Erratum(
        "missing-factor",
        "1d, ∀i, first bracket",
        "(y_i/ŷ_i) (1 - ŷ_i) + Σ_{j≠i} (y_j/ŷ_j) (-ŷ_j ŷ_i)",
        "(y_i/ŷ_i) ŷ_i (1 - ŷ_i) + Σ_{j≠i} (y_j/ŷ_j) (-ŷ_j ŷ_i)",
        "∂ŷ_i/∂z_i is ŷ_i (1 - ŷ_i); its ŷ_i is missing here and back in the next line.",
        "dL/dz^2",
        "value",
        lambda p: -(p.y / p.y_hat * (1 - p.y_hat) - (np.sum(p.y, axis=0) - p.y) * p.y_hat) / SAMPLES,
    ),
    Erratum(
        "bold-y",
        "1d, since y_j is one-hot encoded",
        "**y**_j one-hot ⇒ Σ_j y_j = 1",
        "**y** one-hot ⇒ Σ_j y_j = 1",
        "The vector y is one-hot, y_j is its entry; a sum over C one-hot vectors counts classes and is no 1.",
        "dL/dz^2",
        "value",
        lambda p: (-p.y + sum(p.y[:, j] for j in range(CLASSES))[:, None] * p.y_hat) / SAMPLES,
    ),
    Erratum(
        "logits-sum",
        "1d, ∴ ∂L/∂z²_i",
        "∂L/∂z²_i = (1/N) Σ_n (ŷ_i - y_i)",
        "∂L/∂z²_{i,n} = (1/N) (ŷ_{i,n} - y_{i,n})",
        "Each sample has its own z²; summed over n it is ∂L/∂b².",
        "dL/dz^2",
        "shape",
        lambda p: np.sum(p.delta3, axis=1) / SAMPLES,
    ),
    Erratum(
        "sample-index",
        "1d, from ∂L/∂ŷ_i on",
        "(1/N) Σ_n (ŷ_i - y_i)",
        "(1/N) Σ_n (ŷ_{i,n} - y_{i,n})",
        "Nothing in the sum has an n: it is N times one and the same sample.",
        "dL/db^2",
        "value",
        lambda p: sum(p.y_hat[:, 0] - p.y[:, 0] for n in range(SAMPLES)) / SAMPLES,
    ),
    Erratum(
        "delta-component",
        "1d, let δ³",
        "δ³ = (ŷ_i - y_i)",
        "δ³ = ŷ - y",
        "δ³ is the matrix of all classes and samples that W²ᵀ δ³ needs, not its row i.",
        "dL/dz^2",
        "shape",
        lambda p: (p.y_hat[0] - p.y[0]) / SAMPLES,
    ),
    Erratum(
        "delta-number",
        "1d, let δ³, let δ²",
        "δ³ belongs to z², δ² to z¹",
        "δ² belongs to z², δ¹ to z¹",
        "δ counts x as layer 1, while W, z and a count it as layer 0: there is no z³, and δ² does not fit z².",
        "dL/dz^2",
        "shape",
        lambda p: p.delta2 / SAMPLES,
    ),
    Erratum(
        "a3",
        "1d, first ∂L/∂W²",
        "(1/N) Σ_n δ³ a³",
        "(1/N) Σ_n δ³_n (a¹_n)ᵀ",
        "There is no a³; counted like δ³ it would be ŷ, and the gradient C × C.",
        "dL/dW^2",
        "shape",
        lambda p: sum(np.outer(p.delta3[:, n], p.y_hat[:, n]) for n in range(SAMPLES)) / SAMPLES,
    ),
    Erratum(
        "outer-product",
        "1d, first ∂L/∂W²",
        "δ³ a",
        "δ³ aᵀ",
        "A column times a column is not defined; the gradient is their outer product.",
        "dL/dW^2",
        "shape",
        lambda p: sum(p.delta3[:, [n]] @ p.a1[:, [n]] for n in range(SAMPLES)) / SAMPLES,
    ),
    Erratum(
        "rows-W2",
        "1d, second ∂L/∂W²",
        "(1/N) a¹ᵀ δ³",
        "(1/N) δ³ a¹ᵀ",
        "Samples are rows here, but columns in (1): N × H times C × N is not defined.",
        "dL/dW^2",
        "shape",
        lambda p: p.a1.T @ p.delta3 / SAMPLES,
    ),
    Erratum(
        "bias-factor",
        "1d, ∂z²/∂b²; again ∂z¹/∂b¹",
        "∂z²/∂b² = 1",
        "∂z²_i/∂b²_j = 1[i=j]",
        "It is the identity matrix; with 1 everywhere each z_i would depend on every b_j.",
        "dz^2/db^2",
        "value",
        lambda p: np.ones((CLASSES, SAMPLES, CLASSES)),
    ),
    Erratum(
        "upper-limit",
        "1d, ∂L/∂b²",
        "(1/N) Σ_{n=1}^C δ³",
        "(1/N) Σ_{n=1}^N δ³_n",
        "n counts samples, C classes: the samples after the C-th are left out.",
        "dL/db^2",
        "value",
        lambda p: np.sum(p.delta3[:, :CLASSES], axis=1) / SAMPLES,
    ),
    Erratum(
        "underbrace-sum",
        "1d, ∂L/∂W¹, first underbrace",
        "∂L/∂ŷ ∂ŷ/∂z² = (1/N) Σ_{i=1}^N δ³",
        "(1/N) δ³",
        "Summed too early: each sample's error has to meet its own f'(z¹) and x first. And i counts classes elsewhere.",
        "dL/dz^2",
        "shape",
        lambda p: np.sum(p.delta3, axis=1) / SAMPLES,
    ),
    Erratum(
        "elementwise",
        "1d, ∂a¹/∂z¹ and δ²",
        "δ² = W²ᵀ δ³ f'(z¹)",
        "δ² = W²ᵀ δ³ ⊙ f'(z¹)",
        "∂a¹/∂z¹ is diagonal, so its product is elementwise; as matrices H × N times H × N is not defined.",
        "dL/dz^1",
        "shape",
        lambda p: p.W2.T @ p.delta3 @ p.slope / SAMPLES,
    ),
    Erratum(
        "rows-delta2",
        "1d, δ² beside a¹ᵀ δ³ and xᵀ δ²",
        "δ² = W²ᵀ δ³ with samples as rows",
        "W²ᵀ δ³ with samples as columns (as rows it would be δ³ W²)",
        "The gradients of W are written for rows, δ² for columns: H × C times N × C is not defined.",
        "dL/dz^1",
        "shape",
        lambda p: p.W2.T @ p.delta3.T / SAMPLES,
    ),
    Erratum(
        "missing-x",
        "1d, ∂L/∂W¹, second line",
        "∂L/∂W¹ = (1/N) W²ᵀ δ³ f'(z¹)",
        "∂L/∂W¹ = (1/N) (W²ᵀ δ³ ⊙ f'(z¹)) xᵀ",
        "The factor ∂z¹/∂W¹ is lost, and with it the sum over the samples; that is ∂L/∂z¹.",
        "dL/dW^1",
        "shape",
        lambda p: p.W2.T @ p.delta3 * p.slope / SAMPLES,
    ),
    Erratum(
        "delta2-x",
        "1d, ∂L/∂W¹, third line",
        "(1/N) δ² x",
        "(1/N) δ² xᵀ",
        "As for δ³ a: H × N times F × N is not defined.",
        "dL/dW^1",
        "shape",
        lambda p: p.delta2 @ p.x / SAMPLES,
    ),
    Erratum(
        "rows-W1",
        "1d, ∂L/∂W¹, last line",
        "(1/N) xᵀ δ²",
        "(1/N) δ² xᵀ",
        "As for a¹ᵀ δ³: N × F times H × N is not defined.",
        "dL/dW^1",
        "shape",
        lambda p: p.x.T @ p.delta2 / SAMPLES,
    ),
    Erratum(
        "bias-sum",
        "1d, ∂L/∂b¹, underbrace and result",
        "∂L/∂b¹ = (1/N) δ²",
        "∂L/∂b¹ = (1/N) Σ_n δ²_n",
        "b¹ is shared by all samples: their errors add up.",
        "dL/db^1",
        "shape",
        lambda p: p.delta2 / SAMPLES,
    ),
)


@pytest.fixture(scope="module")
def problem():
    """The document's network on one batch: its quantities in NumPy, and every derivative from all three sources."""
    with oracle.float64():
        params, x, y, _ = reference.draw_problem(1, (FEATURES, HIDDEN, CLASSES), SAMPLES)
        (z1, z2), (a1, y_hat) = network.forward(params, x, activation="tanh")
        compared = jax.jit(functools.partial(oracle.stages, activation="tanh"))(params, x, y)
        stages = {stage.name.split(" = delta")[0]: stage for stage in compared}
        loss, _ = reference.loss_and_grad(params, x, y, "tanh")
        stages["L"] = SimpleNamespace(
            by_hand=network.loss(params, x, y, activation="tanh"), autodiff=loss, finite_difference=loss
        )
        arrays = {"x": x, "y": y, "a1": a1, "y_hat": y_hat, "e": np.exp(z2), "W2": params[1].weight}
        p = SimpleNamespace(**{name: np.asarray(array) for name, array in arrays.items()}, stages=stages)
    p.slope = 1 - np.tanh(z1) ** 2
    p.delta3 = p.y_hat - p.y
    p.delta2 = p.W2.T @ p.delta3 * p.slope
    return p


def how_it_fails(literal, problem, right):
    """ "shape", "value", or None if the formula holds after all."""
    try:
        got = np.asarray(literal(problem))
    except (ValueError, IndexError):  # matrices that do not chain, an index past the end
        return "shape"
    if got.shape != np.shape(right):
        return "shape"
    return "value" if oracle.relative_error(got, right) > 0.01 else None


@pytest.mark.parametrize("erratum", ERRATA, ids=[erratum.id for erratum in ERRATA])
def test_the_written_formula_fails_where_ours_holds(erratum, problem):
    stage = problem.stages[erratum.stage]
    assert oracle.relative_error(stage.by_hand, stage.autodiff) <= 1e-12
    assert oracle.relative_error(stage.by_hand, stage.finite_difference) <= 1e-7
    assert how_it_fails(erratum.literal, problem, stage.autodiff) == erratum.fails


def test_what_the_document_gets_right_does_not_fail(problem):
    """The judge above can also acquit."""
    right = {
        "dL/dz^2": lambda p: p.delta3 / SAMPLES,
        "dL/dz^1": lambda p: p.W2.T @ p.delta3 * p.slope / SAMPLES,
        "dL/dW^2": lambda p: p.delta3 @ p.a1.T / SAMPLES,
        "dL/dW^1": lambda p: p.delta2 @ p.x.T / SAMPLES,
        "dL/db^2": lambda p: np.sum(p.delta3, axis=1) / SAMPLES,
        "dL/db^1": lambda p: np.sum(p.delta2, axis=1) / SAMPLES,
        "dy-hat_i/dz^2_j, j = i": lambda p: (p.y_hat * (1 - p.y_hat))[:, None] * np.eye(CLASSES)[:, :, None],
        "L": lambda p: -np.sum(p.y * np.log(p.y_hat)) / SAMPLES,
    }
    for stage, formula in right.items():
        assert how_it_fails(formula, problem, problem.stages[stage].autodiff) is None, stage


def test_the_book_lists_every_slip():
    """`nox -s docs` writes the table from `ERRATA`; this says when it is to be run again."""
    chapter = Path(__file__).with_name("book").joinpath("derivation.md").read_text(encoding="utf-8")
    rows = [f"| {e.where} | {e.written} | {e.right} | {e.fails}: {e.why} |" for e in ERRATA]
    assert [row for row in rows if row not in chapter] == []
    table = chapter.partition("<!-- table: errata -->")[2].partition("<!-- end -->")[0]
    assert table.strip().count("\n") == len(rows) + 1


def test_no_slip_is_listed_twice():
    assert len({erratum.id for erratum in ERRATA}) == len({erratum.written for erratum in ERRATA}) == len(ERRATA)
