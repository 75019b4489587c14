"""A backward pass over many networks: in which of them is it wrong, and what do these have in common?"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop import network as mathematics
from jaxbackprop._checks import check_integer, check_real
from jaxbackprop.activations import get_activation
from jaxbackprop.auditing.layered import Network, check_reduction, find_layers
from jaxbackprop.auditing.points import Leaves, Structure, describe
from jaxbackprop.auditing.summary import NetworkReport, Outcome
from jaxbackprop.auditing.whole import examine
from jaxbackprop.auditing.witness import Known, Witness
from jaxbackprop.devices import compiler_options
from jaxbackprop.network import Layer
from jaxbackprop.oracle import float64
from jaxbackprop.selection import choose_activation

FEATURES = 3
NEVER = -1e30  # the logit of a class that is not there


class Case(NamedTuple):
    """A network and a batch. A network of one layer has no activation and no width."""

    activation: str | None
    layers: int
    width: int | None
    classes: int
    samples: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (FEATURES, *[self.width or 0] * (self.layers - 1), self.classes)


def audit_network(
    backward_fn: Callable[..., Any],
    *,
    activations: Sequence[str] = ("tanh", "sigmoid", "relu"),
    depths: Sequence[int] = (1, 2, 3),
    widths: Sequence[int] = (1, 4),
    batches: Sequence[int] = (1, 2, 7),
    classes: Sequence[int] = (2,),
    l2: float | int = 0.0,
    samples_first: bool = False,
    reduction: str | None = None,
    seed: int = 0,
) -> NetworkReport:
    """Is a backward pass right for every network, and if not, for which ones, and what is the mistake?

    **Arguments:**
    - `backward_fn`: called as `backward_fn(params, x, y, activation=name)` with NumPy arrays; returns the gradient of
      the mean cross-entropy of the softmax, built like `params`.
    - `activations`, `depths` (layers of weights), `widths` of hidden layers, `batches` (samples), numbers of
      `classes`: every value of each is tried with every activation, the others staying as they are.
    - `l2`: the strength of the penalty that the backward pass includes.
    - `samples_first`: by default params is a tuple of `Layer(weight [out, in], bias [out])`, x [features, samples] and
      y one-hot [classes, samples]; with it weights are (in, out), X (samples, features) and y (samples, classes).
    - `reduction`: whether the gradient is to be that of the "mean" over the samples or of their "sum"; None: either.
    - `seed`: of the parameters and the data.

    **Returns:** a `NetworkReport`.

    **Raises:** `ValueError` for an unknown activation, a size below 1, an l2 below 0, or nothing to try.
    """
    if not activations:
        raise ValueError("activations=() must list at least one name")
    for name in activations:
        get_activation(name)
    for argument, values in {"depths": depths, "widths": widths, "batches": batches, "classes": classes}.items():
        if not values:
            raise ValueError(f"{argument}=() must list at least one size")
        for value in values:
            check_integer(argument, value, 1)
    check_real("l2", l2, 0)
    check_integer("seed", seed, 0)
    check_reduction(reduction)
    cases = list_cases(activations, depths, widths, batches, classes)
    programs = PaddedPrograms(max(FEATURES, *widths, *classes), max(batches), tuple(activations), float(l2))
    outcomes = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([seed, number])
        outcomes.append(try_case(backward_fn, case, programs, rng, activations[0], float(l2), samples_first, reduction))
    return NetworkReport(tuple(outcomes))


def list_cases(
    activations: Sequence[str],
    depths: Sequence[int],
    widths: Sequence[int],
    batches: Sequence[int],
    classes: Sequence[int],
) -> list[Case]:
    """Around one usual network every value of every attribute, for every activation."""
    depth = 2 if 2 in depths else max(depths)
    usual = Case(None, depth, max(widths), sorted(classes)[len(classes) // 2], max(batches))
    cases: list[Case] = []
    for name in activations:
        base = usual._replace(activation=name)
        cases += [base._replace(layers=value) for value in depths]
        cases += [base._replace(width=value) for value in widths]
        cases += [base._replace(samples=value) for value in batches]
        cases += [base._replace(classes=value) for value in classes]
    plain = [case if case.layers > 1 else case._replace(activation=None, width=None) for case in cases]
    return list(dict.fromkeys(plain))


def try_case(
    backward_fn: Callable[..., Any],
    case: Case,
    programs: "PaddedPrograms",
    rng: np.random.Generator,
    any_activation: str,
    l2: float,
    samples_first: bool,
    reduction: str | None,
) -> Outcome:
    """The audit of one case. A backward pass that raises is wrong too."""
    name = case.activation or any_activation
    layers = tuple(
        numpy_layer(rng.normal(0, fan_in**-0.5, (fan_out, fan_in)), rng.normal(0, 0.3, fan_out))
        for fan_in, fan_out in pairwise(case.sizes)
    )
    x = rng.normal(size=(FEATURES, case.samples))
    y = np.eye(case.classes)[:, rng.permutation(np.arange(case.samples) % case.classes)]
    params = layers
    if samples_first:
        params, x, y = tuple(numpy_layer(weight.T, bias) for weight, bias in layers), x.T, y.T
    network = Network(name, l2=l2, samples_first=samples_first, reduction="mean")
    structure = describe(params)
    layout = find_layers(structure, samples_first)
    witness = programs.witness(structure, x.T if samples_first else x, y.T if samples_first else y, name, samples_first)
    failure: list[Exception] = []

    def gradient_fn(*args: Any) -> Any:
        try:
            return backward_fn(*args, activation=name)
        except Exception as error:
            failure.append(error)
            raise

    try:
        report = examine(
            gradient_fn, witness, structure, (x, y), rng, points=2, network=network, layout=layout, reduction=reduction
        )
    except Exception as error:
        if not failure and not isinstance(error, ValueError):
            raise
        error = failure[0] if failure else error
        return Outcome(case._asdict(), None, f"{type(error).__name__}: {error}")
    return Outcome(case._asdict(), report, None)


class PaddedPrograms(NamedTuple):
    """`jax.grad` of networks of all sizes by one compiled program for each depth.

    Padding changes nothing: an added unit has no weight to anything, an added class a logit of -1e30, an added sample
    the weight 0.
    """

    units: int
    samples: int
    activations: tuple[str, ...]
    l2: float

    def witness(
        self, structure: Structure, x: np.ndarray, y: np.ndarray, activation: str, samples_first: bool
    ) -> Witness:
        """Who knows the right gradient of one case."""
        gradient = partial(self.gradient, x=x, y=y, activation=activation, samples_first=samples_first)

        def at(point: Leaves) -> Known:
            right = gradient(point, dtype=np.float64)
            return Known(right, [np.zeros_like(leaf) for leaf in right], [None] * len(right))

        return Witness(
            "jax.grad of the network's loss, in float64", at, lambda point, dtype: gradient(point, dtype=dtype)
        )

    def gradient(
        self, point: Leaves, *, x: np.ndarray, y: np.ndarray, activation: str, samples_first: bool, dtype: Any
    ) -> list[np.ndarray]:
        """The gradient by the leaves weight, bias, weight, bias, …"""
        turn = np.transpose if samples_first else np.asarray
        weights, biases = [turn(leaf) for leaf in point[0::2]], point[1::2]
        padded = tuple(
            numpy_layer(self.pad(weight, self.units, self.units), self.pad(bias, self.units))
            for weight, bias in zip(weights, biases, strict=True)
        )
        padded[-1].bias[len(biases[-1]) :] = NEVER
        shares = self.pad(np.ones(x.shape[1]), self.samples)
        data = self.pad(x, self.units, self.samples), self.pad(y, self.units, self.samples), shares
        cast = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, dtype))
        with float64():
            gradient = padded_program(self.activations)(
                *cast((padded, *data, self.l2)), self.activations.index(activation)
            )
        cut = []
        for (by_weight, by_bias), weight, bias in zip(gradient, weights, biases, strict=True):
            rows, columns = weight.shape
            cut += [
                turn(np.asarray(by_weight, np.float64)[:rows, :columns]),
                np.asarray(by_bias, np.float64)[: len(bias)],
            ]
        return cut

    @staticmethod
    def pad(values: np.ndarray, *shape: int) -> np.ndarray:
        return np.pad(values, [(0, length - size) for length, size in zip(shape, values.shape, strict=True)])


def numpy_layer(weight: Any, bias: Any) -> Layer:
    return Layer(weight, bias)


@cache
def padded_program(activations: tuple[str, ...]) -> Callable[..., Any]:
    """The gradient of a network whose activation is given by its number, so that one program serves all of them."""

    def loss(params: Any, x: Any, y: Any, weights: Any, l2: Any, number: Any) -> jax.Array:
        activation = choose_activation(activations, number)
        return mathematics.loss(params, x, y, activation=activation, l2=l2, weights=weights)

    return jax.jit(jax.grad(loss), compiler_options=compiler_options(quick=True))
