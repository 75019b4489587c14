"""The audit of one layer: a forward pass and the backward pass that belongs to it, whatever they are part of.

With dout in the place of dL/dout any function of arrays has a loss, L = sum(out * dout), whose gradient the backward
pass has to give. dout is drawn at random, so that no entry of the Jacobian can hide.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop._checks import check_integer
from jaxbackprop.auditing.judge import Evidence, largest, tolerance
from jaxbackprop.auditing.mistakes.general import Guess, Hypothesis
from jaxbackprop.auditing.points import Leaves, Structure, describe, given_point
from jaxbackprop.auditing.refusals import call
from jaxbackprop.auditing.report import Report
from jaxbackprop.auditing.whole import examine
from jaxbackprop.auditing.witness import AUTODIFF, make_witness, own_pullback
from jaxbackprop.devices import compiler_options
from jaxbackprop.layers import Derived, Mistake, find_layer
from jaxbackprop.layers.contract import turn, turn_back
from jaxbackprop.oracle import float64


def audit_vjp(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    *args: Any,
    layer: str | None = None,
    samples_first: bool = True,
    points: int = 4,
    seed: int = 0,
) -> Report:
    """Is the backward pass of one layer right? If not, for which argument is it wrong, and what is the mistake?

    **Arguments:**
    - `forward`: called as `forward(*args)`; returns `(out, cache)`, or `out` alone.
    - `backward`: called as `backward(dout, cache)`, or as `backward(dout, *args)` if there is no cache; returns the
      gradients of forward's first floating-point arrays: one array, several in their order, or a dict by their names.
      None: the rule that a JAX function has of its own, as one made by `jax.custom_vjp`.
    - `args`: arrays, and whatever else forward needs, as CS231n's `bn_param`, of which each call gets a copy.
    - `layer`: what it is, as "affine", "relu" or "batch_norm"; then that layer's own mistakes are looked for too.
    - `samples_first`: whether the arrays are laid out as in the courses, (samples, features) and weights (in, out).
    - `points`, `seed`: at how many arrays, the given ones and random ones around them; and of dout.

    **Returns:** a `Report` with one finding for each argument, by its name.

    **Raises:** `ValueError` for an unknown layer, if there is no floating-point array among `args`, or if forward is
    random; `AuditError`, which is one, if one of the functions raises.
    """
    check_integer("points", points, 1)
    rng = np.random.default_rng([check_integer("seed", seed, 0), *b"dout"])  # whose numbers no test's arrays have too
    derived = None if layer is None else find_layer(layer)
    names, places = argument_names(forward, args), float_places(args)
    if not places:
        raise ValueError("args holds no floating-point array: there is nothing to take a gradient by")
    undecorated = getattr(forward, "fun", getattr(forward, "__wrapped__", forward)) if backward is None else forward

    def output(function: Callable[..., Any], arrays: Sequence[Any], name: str = "forward") -> tuple[Any, Any]:
        """out and the cache, None if there is none."""
        result = call(name, function, *filled(args, places, arrays))
        has_cache = backward is not None and isinstance(result, tuple) and len(result) == 2
        return result if has_cache else (result, None)

    center = [args[place] for place in places]
    out, _ = output(forward, center)
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), out, output(forward, center)[0])
    if not all(jax.tree.leaves(same)):
        raise ValueError("forward gave two values for the same args: fix its random numbers before it is audited")
    dout = jax.tree.map(lambda leaf: rng.normal(size=np.shape(leaf)), out)
    changed: set[str] = set()

    def gradients(arrays: Sequence[Any]) -> tuple[Any, ...]:
        """What the backward pass returns for the arrays."""
        handed = jax.tree.map(lambda d, o: d.astype(getattr(o, "dtype", d.dtype)), dout, out)
        if backward is None:
            return call("the rule of forward", own_pullback(forward, args, places), arrays, handed)
        now, cache = output(forward, arrays)
        rest = (cache,) if cache is not None else filled(args, places, arrays)
        like = jax.tree.map(lambda d, o: jnp.asarray(d) if isinstance(o, jax.Array) else d.copy(), handed, now)
        result = call("backward", backward, like, *rest)
        if not np.array_equal(jax.tree.leaves(like)[0], jax.tree.leaves(handed)[0]):
            changed.add("Beware: backward writes into the dout that it is handed.")
        return in_order(result, [names[place] for place in places])

    places = places[: len(gradients(center))]
    center = center[: len(places)]
    structure = Structure(describe(tuple(center)).treedef, tuple(names[place] for place in places), tuple(center))

    def loss_fn(arrays: Sequence[Any]) -> Any:
        """sum(out * dout)."""
        made, _ = output(undecorated, arrays)
        return sum(jax.tree.leaves(jax.tree.map(lambda o, d: (o * d).sum(), made, dout)))

    witness = make_witness(loss_fn, structure, (), rng)
    rows: tuple[Hypothesis, ...] = ()
    right: Hypothesis | None = None
    notes: list[str] = []
    if derived is not None:
        rows, right, notes = layer_rows(derived, structure, given_point(structure), out, dout, args, samples_first)
    report = examine(gradients, witness, structure, (), rng, points=points, table=rows, derivation=right)
    told = [note for note in report.notes if "Network(" not in note]
    told = [note.replace("gradient_fn writes into the parameters", "arguments are written into") for note in told]
    all_notes = (*told, *notes, *sorted(changed), *rounding_notes(report, structure))
    return Report(report.findings, report.witness.replace("the loss", "forward"), report.points, all_notes)


def argument_names(function: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """The names of the arguments in the function's signature, their numbers where it has none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [names[k] if k < len(names) else f"args.{k}" for k in range(len(args))]


def float_places(args: Sequence[Any]) -> list[int]:
    """Which arguments are floating-point arrays."""
    arrays = [(k, value) for k, value in enumerate(args) if isinstance(value, np.ndarray | jax.Array)]
    return [k for k, value in arrays if jnp.issubdtype(value.dtype, jnp.floating)]


def filled(args: Sequence[Any], places: Sequence[int], arrays: Sequence[Any]) -> list[Any]:
    """A copy of the arguments with the given arrays in their places: forward may write into what it gets."""
    whole = [value if isinstance(value, jax.Array) else copy.deepcopy(value) for value in args]
    for place, array in zip(places, arrays, strict=False):
        whole[place] = array.copy() if isinstance(array, np.ndarray) else array
    return whole


def in_order(result: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The gradients in the order of the arguments, up to the last one that there is.

    **Raises:** `ValueError` if there are more of them than arguments, or none.
    """
    if isinstance(result, Mapping):
        found = [result.get(name, result.get(f"d{name}")) for name in names]
        result = [gradient for gradient in found if gradient is not None]
    gradients = tuple(result) if isinstance(result, tuple | list) else (result,)
    while gradients and gradients[-1] is None:
        gradients = gradients[:-1]
    if not 1 <= len(gradients) <= len(names) or any(gradient is None for gradient in gradients):
        raise ValueError(
            f"backward must return the gradients of {', '.join(names)}, in this order, got {len(gradients)} of them"
        )
    return gradients


def layer_rows(
    derived: Derived,
    structure: Structure,
    center: Leaves,
    out: Any,
    dout: Any,
    args: Sequence[Any],
    samples_first: bool,
) -> tuple[tuple[Hypothesis, ...], Hypothesis | None, list[str]]:
    """The layer's own mistakes as hypotheses, and what is right; none if forward is not that layer, and what to say."""
    axes = derived.samples_first if samples_first else (None,) * len(derived.arguments)
    out_axes = derived.out_samples_first if samples_first else None
    places = float_places(args)[: len(axes)]  # a target may be of floating point, too
    rest = [value for place, value in enumerate(args) if place not in places]

    def whole(*arrays: Any) -> tuple[Any, Any]:
        shape = np.shape(args[places[0]])
        read = derived.read_options(*copy.deepcopy(rest)).items()
        options = {key: value(shape) if callable(value) else value for key, value in read}
        sampled = {key: jnp.asarray(options[key]) for key in derived.with_samples if key in options}
        options |= {key: array.T if samples_first else array for key, array in sampled.items()}
        return derived.forward(*arrays, **options)

    forward = jax.jit(whole, compiler_options=compiler_options(quick=True))

    def run(point: Leaves) -> tuple[Any, Any]:
        with float64():
            given = [*point, *(args[place] for place in places[len(point) :])]  # backward may leave out the last ones
            made, cache = forward(*(turn(jnp.asarray(leaf), a) for leaf, a in zip(given, axes, strict=True)))
            return np.asarray(turn_back(made, out_axes)), cache

    other = f"forward is not the layer {derived.name!r} as it is here"
    asked = "so the mistakes of that layer were not looked for."
    try:
        ours, _ = run(center)
    except Exception as error:
        return (), None, [f"{other} ({type(error).__name__}: {' '.join(str(error).split())[:200]}); {asked}"]
    allowed = max(map(tolerance, structure.dtypes))
    if np.shape(out) != ours.shape or largest(np.asarray(out) - ours) > allowed * largest(ours):
        where = f"shape {np.shape(out)}, not {ours.shape}" if np.shape(out) != ours.shape else "another value"
        return (), None, [f"{other}: its out has {where}; {asked}"]
    caches: dict[int, Any] = {}

    def hypothesis(mistake: Any) -> Hypothesis:
        predicted: dict[int, Any] = {}

        def at(e: Evidence, k: int) -> Any:
            if k not in caches:
                caches[k] = run(e.points[k])[1]
            if k not in predicted:
                with float64():
                    predicted[k] = compiled(mistake.predict)(turn(jnp.asarray(dout), out_axes), caches[k])
            return predicted[k]

        def predict(e: Evidence, i: int) -> Iterator[Guess]:
            if at(e, 0)[i] is not None:
                rows = [np.asarray(turn_back(at(e, k)[i], axes[i]), np.float64) for k in range(len(e.points))]
                if all(row.shape == point[i].shape for row, point in zip(rows, e.points, strict=True)):
                    yield Guess(rows, {})

        return Hypothesis(mistake.code, predict, mistake.text.rstrip(".").replace("{", "{{").replace("}", "}}"))

    return tuple(map(hypothesis, derived.mistakes)), hypothesis(Mistake("derivation", "", derived.backward)), []


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=compiler_options(quick=True))


def rounding_notes(report: Report, structure: Structure) -> list[str]:
    """How far right gradients are from the witness's, in units of their last place."""
    parts: list[str] = []
    if report.witness != AUTODIFF:  # differences have fewer digits than that
        return parts
    for finding, dtype in zip(report.findings, structure.dtypes, strict=True):
        if finding.ok and finding.got is not None and finding.right is not None:
            unit = float(jnp.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(largest(finding.right) or 1.0))
            units = largest(finding.got - finding.right) / unit
            if 0 < units * unit <= tolerance(dtype) * largest(finding.right):  # more of it is a kink's
                parts.append(f"{finding.path} by {max(1, round(units))}")
    if not parts:
        return []
    return [
        f"Rounding, not error: {', '.join(parts)} units in the last place of its largest entry at most. Compare with a "
        "tolerance, not by ==."
    ]
