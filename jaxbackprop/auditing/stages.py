"""A backward pass stage by stage: which of z, a, delta and the gradients is the first to be wrong?

Every stage is compared twice: with the right quantity, and with what the right formula makes of the person's own
earlier stages. One that differs from the first and agrees with the second is no mistake, only the consequence of an
earlier one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop._checks import check_integer
from jaxbackprop.activations import get_activation
from jaxbackprop.auditing.layered import (
    Layout,
    Network,
    Trace,
    backward,
    check_network_type,
    elementwise,
    find_layers,
    output_error,
    predicted,
    trace,
)
from jaxbackprop.auditing.mistakes.stagewise import (
    Wrong,
    activation_mistakes,
    affine_mistakes,
    bias_gradient_mistakes,
    error_mistakes,
    hidden_error_mistakes,
    output_mistakes,
    weight_gradient_mistakes,
)
from jaxbackprop.auditing.mistakes.variants import RIGHT
from jaxbackprop.auditing.points import Leaves, Structure, copied, describe, draw_point, given_point
from jaxbackprop.auditing.report import StageFinding, StageReport, listed
from jaxbackprop.devices import compiler_options
from jaxbackprop.losses import get_objective, mean_loss
from jaxbackprop.oracle import float64

Errors = Callable[[Network, Layout, Leaves, Trace], list[np.ndarray]]
TOLERANCE = {True: 1e-6, False: 1e-3}  # whether all of a person's stages are float64


class Stage(NamedTuple):
    """One quantity at one point: the right one, what the person's earlier stages lead to, and what else it may be.

    A slope may follow from the person's z or, if its formula is one of a, from their a: `local` has all that is right.
    `wrong` has sentences with the values that they predict.
    """

    name: str
    right: np.ndarray
    local: tuple[np.ndarray, ...]
    wrong: list[Wrong]


def audit_stages(
    stages_fn: Callable[..., Mapping[str, Any]],
    network: Network,
    params: Any,
    *args: Any,
    points: int = 3,
    seed: int = 0,
) -> StageReport:
    """Which stage of a network's forward and backward pass is the first to be wrong?

    **Arguments:**
    - `stages_fn`: called as `stages_fn(params, *args)`; returns a dict of what it computes on the way: `z1`, `a1`,
      `z2`, …, `y_hat` (or the last `a`), `delta…`, `dW1`, `db1`, …; any of them may be left out. The errors may be
      numbered as the z they belong to or one higher, as in the document, and may have the 1/N of the mean or not.
    - `network`: what the network is made of; `params`, `args` as for `audit`: the inputs, then the targets.
    - `points`, `seed`: at how many parameters, the given ones and random ones around them.

    **Returns:** a `StageReport`.

    **Raises:** `ValueError` for a name that is no stage of this network, for no stage at all, or a network that does
    not fit `params`.
    """
    check_network_type(network)
    check_integer("points", points, 1)
    check_integer("seed", seed, 0)
    return look_at_stages(stages_fn, network, describe(params), args, points=points, seed=seed)


def look_at_stages(
    stages_fn: Callable[..., Mapping[str, Any]],
    network: Network,
    structure: Structure,
    args: Sequence[Any],
    *,
    points: int = 3,
    seed: int = 0,
    errors: Errors | None = None,
) -> StageReport:
    """`audit_stages`, with whoever knows the right errors: `jax.grad` if nobody else does."""
    rng = np.random.default_rng(seed)
    layout = find_layers(structure, network.samples_first)
    visited: list[Leaves] = [given_point(structure)]
    while len(visited) < points:
        drawn = draw_point(structure, rng, structure.dtypes, lambda point: True)
        assert drawn is not None  # every point will do
        visited.append(drawn[0])

    seen = []
    for point in visited:
        values = stages_fn(structure.like_the_users(point), *copied(args))
        t = trace(network, layout, point, args)
        theirs = read_stages(values, t, layout)
        seen.append((theirs, list(follow(theirs, t, network, layout, point, errors or right_errors))))
    double = all(np.asarray(value).dtype == np.float64 for value in values.values())
    labels = {stage: name for name, stage in name_stages(values, layout).items()}
    findings: list[StageFinding] = []
    for row in zip(*(stages for _, stages in seen), strict=True):
        name = labels[row[0].name]
        before = [finding.name for finding in findings if finding.verdict == "wrong"]
        got = [theirs[row[0].name] for theirs, _ in seen]
        error, verdict, text = find(row, got, before, TOLERANCE[double])
        findings.append(StageFinding(name, np.shape(values[name]), error, verdict, text))
    return StageReport(tuple(findings), len(visited))


def find(
    stages: Sequence[Stage], got: Sequence[np.ndarray], before: Sequence[str], tolerance: float
) -> tuple[float, str, str]:
    """The verdict on one stage, over all points; `before` are the stages that went wrong earlier."""
    right = stages[0].right
    if got[0].shape != right.shape:
        return np.inf, "wrong", f"the shape is {got[0].shape}, units first, where {right.shape} is right"
    error = max(off(g, stage.right) for g, stage in zip(got, stages, strict=True))
    if error <= tolerance:
        return error, "right", ""
    follows = [min(off(g, local) for local in stage.local) for g, stage in zip(got, stages, strict=True)]
    if before and max(follows) <= tolerance:
        return error, "consequence", f"right, given {listed(list(before))}"
    for guesses in zip(*(stage.wrong for stage in stages), strict=True):
        if all(off(g, guess) <= tolerance for g, (_, guess) in zip(got, guesses, strict=True)):
            return error, "wrong", guesses[0][0]
    return error, "wrong", "the mistake is none that is known here"


def off(got: np.ndarray, right: np.ndarray) -> float:
    """The largest difference relative to the largest entry."""
    if not np.isfinite(got).all():
        return np.inf
    difference, scale = np.max(np.abs(got - right), initial=0.0), np.max(np.abs(right), initial=0.0)
    return float(difference / scale) if scale > 0 else (np.inf if difference > 0 else 0.0)


def name_stages(values: Mapping[str, Any], layout: Layout) -> dict[str, str]:
    """The person's names with ours: z^l, a^l, dz^l, dW^l, db^l as z1, a1, dz1, dW1, db1.

    **Raises:** `ValueError` for a name that is no stage of this network, or if there is none.
    """
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"stages_fn must return a dict of stages, such as z1, a1 and dW1, got {values!r:.60}")
    depth = len(layout.pairs)
    errors = [int(match[2]) for match in map(re.compile(r"(delta|dz)(\d+)$").match, values) if match]
    shift = max([depth, *errors]) - depth  # the document numbers delta one above its z
    names = {}
    for name in values:
        match = re.match(r"(z|a|delta|dz|dW|db)(\d+)$", name)
        kind, l = (match[1], int(match[2])) if match else ("a", depth) if name == "y_hat" else ("", 0)
        kind, l = ("dz", l - shift) if kind in ("delta", "dz") else (kind, l)
        if not 1 <= l <= depth:
            known = "z, a, delta, dW, db with the number of a layer, and y_hat"
            raise ValueError(f"stages_fn returned {name!r}, which is no stage of a network of {depth} layers ({known})")
        names[name] = f"{kind}{l}"
    return names


def read_stages(values: Mapping[str, Any], t: Trace, layout: Layout) -> dict[str, np.ndarray]:
    """The person's stages by our names, features first, the errors with the 1/N, in the order of their computation."""
    read = {}
    for name, stage in name_stages(values, layout).items():
        array, l = np.array(values[name], dtype=np.float64), int(stage.lstrip("zadWb"))
        if stage.startswith("db"):
            array = array.reshape(-1) if array.size == t.weights[l].shape[0] else array
        read[stage] = array.T if layout.samples_first else array
    last, right = read.get(f"dz{t.depth}"), t.error / t.samples
    if last is not None and last.shape == right.shape and t.samples > 1:
        without_mean = abs(np.sum(last * right)) > 0.5 * t.samples * np.sum(right * right)  # the document's delta
        read |= {name: value / t.samples for name, value in read.items() if name.startswith("dz") and without_mean}
    read |= without_the_sum(read, t)
    order = [f"{kind}{l}" for l in range(1, t.depth + 1) for kind in "za"]
    order += [f"{kind}{l}" for l in range(t.depth, 0, -1) for kind in ("dz", "dW", "db")]
    return {name: read[name] for name in order if name in read}


def without_the_sum(read: Mapping[str, np.ndarray], t: Trace) -> dict[str, np.ndarray]:
    """The gradients divided by N, if most of them are those of the sum over the samples: a convention, no mistake.

    They are compared with what follows from the person's own errors, where these are told.
    """
    gradients, summed = {}, []
    for l, (by_weight, by_bias) in enumerate(backward(t._replace(l2=0.0)), start=1):
        error = read.get(f"dz{l}", np.empty(0))
        if error.shape == t.z[l].shape:
            by_weight, by_bias = error @ usable(read.get(f"a{l - 1}"), t.a[l - 1]).T, error.sum(axis=1)
        for name, right, penalty in ((f"dW{l}", by_weight, t.l2 * t.weights[l]), (f"db{l}", by_bias, 0.0)):
            if name in read and read[name].shape == right.shape:
                data = read[name] - penalty
                summed.append(abs(np.sum(data * right)) > np.sqrt(t.samples) * np.sum(right * right))
                gradients[name] = data / t.samples + penalty
    return gradients if t.samples > 1 and 2 * sum(summed) > len(summed) else {}


def follow(
    theirs: Mapping[str, np.ndarray], t: Trace, network: Network, layout: Layout, point: Leaves, errors_of: Errors
) -> Iterator[Stage]:
    """The stages that the person has, each with what it should be and what it follows from."""
    activation = get_activation(network.activation)
    errors, L = errors_of(network, layout, point, t), t.depth
    objective = get_objective(network.objective)
    biases = [np.empty(0), *(bias for _, bias in layout.layers(point))]
    a, z, e = {0: t.a[0]}, {}, np.empty(0)
    for l in range(1, L + 1):
        local = t.weights[l] @ a[l - 1] + biases[l][:, None]
        if f"z{l}" in theirs:
            yield Stage(f"z{l}", t.z[l], (local,), affine_mistakes(l, t.weights[l], a[l - 1], biases[l]))
        z[l] = usable(theirs.get(f"z{l}"), local)
        local = predicted(network.objective, z[l]) if l == L else elementwise(activation.value, z[l])
        if f"a{l}" in theirs:
            at_output = output_mistakes(l, z[l]) if objective.name == "softmax" else []
            wrong = at_output if l == L else activation_mistakes(l, z[l], activation)
            yield Stage(f"a{l}", t.a[l], (local,), wrong)
        a[l] = usable(theirs.get(f"a{l}"), local)
    for l in range(L, 0, -1):
        if l == L:
            follows = (output_error(network.objective, z[L], a[L], t.y) / t.samples,)
            wrong = error_mistakes(a[L], t.y) if objective.error is None else []
        else:
            back = t.weights[l + 1].T @ e
            slopes = elementwise(activation.slope, z[l], a[l]), elementwise(activation.derivative, z[l])
            follows = tuple(back * slope for slope in slopes)
            wrong = hidden_error_mistakes(l, e, back, t.weights[l + 1], z[l], a[l], activation)
        if f"dz{l}" in theirs:
            yield Stage(f"dz{l}", errors[l], follows, wrong)
        e = usable(theirs.get(f"dz{l}"), follows[0])
        penalty = t.l2 * t.weights[l]
        if f"dW{l}" in theirs:
            right, local = errors[l] @ t.a[l - 1].T + penalty, e @ a[l - 1].T + penalty
            yield Stage(f"dW{l}", right, (local,), weight_gradient_mistakes(l, e, a, z, penalty))
        if f"db{l}" in theirs:
            yield Stage(f"db{l}", errors[l].sum(axis=1), (e.sum(axis=1),), bias_gradient_mistakes(e, t.l2 * biases[l]))


def right_errors(network: Network, layout: Layout, point: Leaves, t: Trace) -> list[np.ndarray]:
    """dL/dz^l by `jax.grad`: the slope of the loss by a shift added to z^l."""
    activation = get_activation(network.activation)

    def shifted_loss(shifts: list[jax.Array], x: jax.Array, y: jax.Array, layers: Any) -> jax.Array:
        a = z = x
        for shift, (weight, bias) in zip(shifts, layers, strict=True):
            z = weight @ a + bias[:, None] + shift
            a = activation.value(z)
        return mean_loss(z, y, objective=network.objective)

    with float64():
        program = jax.jit(jax.grad(shifted_loss), compiler_options=compiler_options(quick=True))
        data = jax.tree.map(jnp.asarray, ([np.zeros_like(z) for z in t.z[1:]], t.a[0], t.y, layout.layers(point)))
        return [np.empty(0), *map(np.asarray, program(*data))]


def known_errors(network: Network, layout: Layout, point: Leaves, t: Trace) -> list[np.ndarray]:
    """dL/dz^l by the document's formulas, which cost no compiling."""
    errors = [RIGHT.error(t)]
    for l in range(t.depth - 1, 0, -1):
        errors.append(RIGHT.through(t, l, errors[-1], np.empty(0)) * RIGHT.slope(t, l))
    return [np.empty(0), *errors[::-1]]


def usable(theirs: np.ndarray | None, local: np.ndarray) -> np.ndarray:
    """The person's stage, or ours if they have none, or one that nothing can follow from."""
    return theirs if theirs is not None and theirs.shape == local.shape and np.isfinite(theirs).all() else local
