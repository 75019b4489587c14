"""The audit of one gradient."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop._checks import check_integer, check_real
from jaxbackprop.auditing.diagnosis import Diagnosis, and_a_factor, diagnose, without_false_excuses
from jaxbackprop.auditing.judge import Evidence, compare, judge, tolerance
from jaxbackprop.auditing.kinks import kink_notes, kink_point
from jaxbackprop.auditing.layered import (
    Layout,
    Network,
    Steps,
    Trace,
    backward,
    check_network_type,
    check_reduction,
    find_layers,
    trace,
)
from jaxbackprop.auditing.mistakes.general import HYPOTHESES, Hypothesis, is_bias, narrow_values
from jaxbackprop.auditing.mistakes.shapes import fits, formed_elsewhere, wrong_shape
from jaxbackprop.auditing.mistakes.variants import Family
from jaxbackprop.auditing.points import (
    Leaves,
    Structure,
    axis_lengths,
    batch_size,
    copied,
    describe,
    draw_point,
    given_point,
)
from jaxbackprop.auditing.reductions import Choice, Multiple, Seen, loss_reduction, rescaled, rescaled_witness
from jaxbackprop.auditing.refusals import call as guarded
from jaxbackprop.auditing.report import Finding, Report, listed
from jaxbackprop.auditing.witness import Known, Witness, loss_of_args, make_witness

DESCRIBE = (
    "If this is a fully connected network, say so by network=Network(activation, ...): then the mistakes of a backward "
    "pass are looked for too."
)


def audit(
    gradient_fn: Callable[..., Any],
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    network: Network | None = None,
    l2: float | int | None = None,
    reduction: str | None = None,
    points: int = 4,
    seed: int = 0,
) -> Report:
    """Is a gradient right? If not, which leaf is wrong, and what is the mistake?

    **Arguments:**
    - `gradient_fn`: called as `gradient_fn(params, *args)`; returns a gradient built like `params`, of NumPy or JAX
      arrays.
    - `loss_fn`: called as `loss_fn(params, *args)`; returns the loss whose gradient it is, one number. It judges:
      through `jax.grad` if JAX can trace it, else through differences of its values. It is evaluated in float64.
    - `params`: any pytree of floating-point arrays; `args`: what else both functions need.
    - `network`: what the loss is made of, if it is that of a fully connected network; then a mistake in the backward
      pass can be named. Without it the mistakes are those that any loss can have.
    - `l2`: the strength of the loss's penalty l2/2 sum(W^2), if it has one; a `network` says it itself.
    - `reduction`: whether the gradient is to be that of the "mean" over the samples or of their "sum", whichever of the
      two the loss is; None: either, as long as all leaves agree.
    - `points`: at how many parameters the gradient is judged: the given ones, and random ones around them.
    - `seed`: of the random points.

    **Returns:** a `Report`.

    **Raises:** `ValueError` if something handed in cannot be audited: parameters that are no floating-point numbers, a
    loss that is no finite number, a gradient that is built differently, or a network that is not the loss's;
    `AuditError`, which is one, if one of the two functions raises.
    """
    check_reduction(reduction)
    if network is not None:
        check_network_type(network)
    check_integer("points", points, 1)
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    if l2 is not None:
        check_real("l2", l2, 0)
    structure = describe(params)
    layout = None if network is None else find_layers(structure, network.samples_first)
    witness = make_witness(loss_fn, structure, args, rng)

    def loss_is(samples: int | None) -> str | None:
        return loss_reduction(loss_of_args(loss_fn, structure), args, samples)

    return examine(
        gradient_fn,
        witness,
        structure,
        args,
        rng,
        points=points,
        network=network,
        layout=layout,
        l2=l2,
        reduction=reduction,
        loss_is=loss_is,
    )


def examine(
    gradient_fn: Callable[..., Any],
    witness: Witness,
    structure: Structure,
    args: Sequence[Any],
    rng: np.random.Generator,
    *,
    points: int,
    network: Network | None = None,
    layout: Layout | None = None,
    l2: float | int | None = None,
    reduction: str | None = None,
    loss_is: Callable[[int | None], str | None] = lambda samples: None,
    table: tuple[Hypothesis, ...] = (),
    derivation: Hypothesis | None = None,
) -> Report:
    """`audit`, with whoever knows the right gradient.

    `loss_is` tells the loss's reduction where no network does; `table` has mistakes that go before the general ones.
    """

    changed: set[str] = set()

    def ask(point: Leaves) -> Any:
        params = structure.like_the_users(point)
        gradient = guarded("gradient_fn", gradient_fn, params, *copied(args))
        now = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
        changed.update(
            path
            for path, leaf, handed_in, dtype in zip(structure.paths, now, point, structure.dtypes, strict=True)
            if not np.array_equal(leaf, handed_in.astype(dtype).astype(np.float64))
        )
        return gradient

    center = given_point(structure)
    first = ask(center)
    dtypes = working_types(structure, first)
    known = witness.at(center)
    if known is None:
        raise ValueError("the gradient of loss_fn is not finite at params: audit it where it is")
    seen = [(center, known, structure.take_apart(first))]
    while len(seen) < points and (drawn := draw_point(structure, rng, dtypes, witness.at)) is not None:
        seen.append((*drawn, structure.take_apart(ask(drawn[0]))))
    visited, knowns, raw = map(list, zip(*seen, strict=True))

    samples, traces, loss_factor = batch_size(args), [], 1.0
    if network is not None and layout is not None:
        traces = [trace(network, layout, point, args) for point in visited]
        loss_factor = check_network(network, layout, traces, knowns)
        samples, l2 = traces[0].samples, network.l2
        loss_is = lambda samples: "mean" if loss_factor == 1 else "sum"  # noqa: E731
    got, bad_shapes = in_shape(raw, knowns, dtypes)
    strengths = [
        0.0 if l2 is None or is_bias(path, leaf.shape) else float(l2)
        for path, leaf in zip(structure.paths, center, strict=True)
    ]
    seen_so = Seen(structure.paths, dtypes, visited, knowns, raw, strengths, frozenset(bad_shapes))

    @cache
    def judged(multiple: Multiple) -> Judged:
        """The gradient as that multiple of the loss's."""
        scaled = [rescaled(known, point, multiple, strengths) for known, point in zip(knowns, visited, strict=True)]
        by = rescaled_witness(witness, multiple, strengths)
        got, bad = in_shape(raw, scaled, dtypes)
        verdicts = [
            judge(row, known, point, dtypes, by, rng) for row, known, point in zip(got, scaled, visited, strict=True)
        ]
        strength = None if l2 is None else float(l2) * (multiple.factor if multiple.whole else 1.0)
        total = loss_factor * multiple.factor
        evidence = Evidence(
            structure.paths,
            dtypes,
            visited,
            got,
            scaled,
            verdicts,
            samples=samples if samples and samples > 1 else None,
            lengths=axis_lengths(args, samples),
            l2=strength,
            missing=frozenset(bad),
            summed=bool(samples and samples > 1 and choice.is_sum(multiple)),
        )
        if derivation is not None:
            evidence = without_false_excuses(evidence, table, derivation)
        family = None
        if network is not None and layout is not None:
            scaled_traces = [t._replace(l2=strength or 0.0) for t in traces]
            family = Family(network, layout, scaled_traces, evidence, total)
            for i in bad:
                rows = [row[i].astype(np.float64) for row in raw]
                bad[i] = (bad[i].code == "shape" and formed_elsewhere(family, i, rows)) or bad[i]
        return Judged(evidence, family, precision(evidence) | diagnose(evidence, family, table) | bad)

    choice = Choice(seen_so, samples, reduction, loss_is)
    multiple = choice.multiple(got, lambda m: sum(d.code is None for d in judged(m).diagnoses.values()))
    evidence, family, diagnoses = judged(multiple)
    common = choice.common(got, multiple) if any(d.code is None for d in diagnoses.values()) else None
    if common is not None:
        diagnoses = diagnoses | {
            i: d._replace(sentence=d.sentence + and_a_factor(common.factor / multiple.factor, evidence))
            for i, d in judged(common).diagnoses.items()
        }
    notes = [*witness.notes, *excuses(evidence), *mutations(changed), *choice.notes(multiple, not diagnoses)]
    if family is not None and not diagnoses and family.activation.kinks and family.depth > 1:
        at_kink = kink_point(family)
        leaves = structure.take_apart(ask(at_kink))
        if all(fits(leaf.shape, right.shape) for leaf, right in zip(leaves, at_kink, strict=True)):
            notes += kink_notes(family, at_kink, leaves, args)
    if network is None and any(diagnosis.code is None for diagnosis in diagnoses.values()):
        notes.append(DESCRIBE)
    findings = tuple(finding(evidence, diagnoses, i, leaf.shape) for i, leaf in enumerate(center))
    return Report(findings, witness.name, len(visited), tuple(notes), choice.convention(multiple))


class Judged(NamedTuple):
    """What was seen, compared with one multiple of the loss's gradient, and the mistakes in it."""

    evidence: Evidence
    family: Family | None
    diagnoses: dict[int, Diagnosis]


def finding(e: Evidence, diagnoses: Mapping[int, Diagnosis], i: int, shape: tuple[int, ...]) -> Finding:
    """What is found of one leaf."""
    verdicts = [row[i] for row in e.verdicts]
    code, sentence, explained = diagnoses.get(i, (None, "", None))
    if i in e.missing:
        return Finding(e.paths[i], shape, np.inf, False, code, sentence, explained)
    error = max((verdict.error for verdict in verdicts if verdict.excuse is None), default=0.0)
    worst = max(range(len(verdicts)), key=lambda k: verdicts[k].error)
    arrays = e.got[worst][i], e.right(worst, i)
    return Finding(e.paths[i], shape, error, i not in diagnoses, code, sentence, explained, *arrays)


def working_types(structure: Structure, gradient: Any) -> tuple[Any, ...]:
    """The types that the gradient is judged by: the parameters' own; but JAX cuts to float32 what it is told to cut."""
    cut = jnp.zeros(()).dtype == jnp.float32 and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(gradient))
    return tuple(np.dtype(np.float32) if cut and dtype.itemsize > 4 else dtype for dtype in structure.dtypes)


def in_shape(
    raw: Sequence[Leaves], knowns: Sequence[Known], dtypes: Sequence[Any]
) -> tuple[list[list[np.ndarray]], dict[int, Diagnosis]]:
    """The gradients in the parameters' shapes, and what is wrong with those that have another one.

    Of these nothing else is judged: the right gradient stands in their place.
    """
    got: list[list[np.ndarray]] = []
    bad: dict[int, Diagnosis] = {}
    for leaves, known in zip(raw, knowns, strict=True):
        row = []
        for i, (leaf, right) in enumerate(zip(leaves, known.gradient, strict=True)):
            leaf = leaf.astype(np.float64)
            if fits(leaf.shape, right.shape):
                row.append(leaf.reshape(right.shape))
                continue
            found = wrong_shape(leaf, right, 10 * tolerance(dtypes[i]))
            bad[i] = found if i not in bad or bad[i].code == found.code else wrong_shape(leaf, right, 0.0)
            row.append(np.nan_to_num(right))
        got.append(row)
    return got, bad


def check_network(network: Network, layout: Layout, traces: Sequence[Trace], knowns: Sequence[Known]) -> float:
    """1 if the loss is the mean over the samples of what is described, N if it is their sum.

    **Raises:** `ValueError` if it is neither: at some point the gradient has to be that of the loss.
    """
    worst, samples = [], float(traces[0].samples)
    factors = {"mean": (1.0,), "sum": (samples,), None: (1.0, samples)}[network.reduction]
    for t, known in zip(traces, knowns, strict=True):
        for factor in factors:
            ours = layout.leaves(backward(t, Steps(error=lambda t: factor * t.error / t.samples)))  # noqa: B023
            off = [compare(*three, None, 1e-6) for three in zip(ours, known.gradient, known.error, strict=True)]
            if not any(verdict.wrong for verdict in off):
                return factor
            worst.append(max(zip((verdict.error for verdict in off), layout.paths, strict=True)))
    error, path = min(worst)
    raise ValueError(
        f"network={network!r} is not what loss_fn computes: the gradients of the two differ by {error:.1e} in {path}; "
        "check activation, objective, reduction and l2, and that the loss's first two arguments are the inputs and the "
        "targets"
    )


def precision(e: Evidence) -> dict[int, Diagnosis]:
    """Leaves that are right within their tolerance, and have no digit beyond a narrower type than the parameters'."""
    sentences = {hypothesis.code: hypothesis.sentence for hypothesis in HYPOTHESES}
    found = {}
    for i in range(len(e.paths)):
        for _, facts in narrow_values(e, i):
            found[i] = Diagnosis("precision", sentences["precision"].format(**facts), 1.0)
    return found


def excuses(e: Evidence) -> list[str]:
    """Where a difference was seen and is no mistake."""
    texts = {
        "kink": "the loss has a kink there, as relu has at 0, and any value between its two slopes is right",
        "rounding": "the entries are what large terms leave when they cancel; rounding makes that much difference",
    }
    notes = []
    for excuse, text in texts.items():
        leaves = [i for i in range(len(e.paths)) if any(row[i].excuse == excuse for row in e.verdicts)]
        count = sum(any(verdict.excuse == excuse for verdict in row) for row in e.verdicts)
        if leaves:
            names = listed([e.paths[i] for i in leaves])
            notes.append(f"Not judged at {count} of {len(e.points)} points: {names}; {text}.")
    return notes


def mutations(changed: set[str]) -> list[str]:
    names = listed(sorted(changed)) if changed else ""
    return [f"Beware: gradient_fn writes into the parameters that it is handed ({names})."] if changed else []
