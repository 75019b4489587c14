"""How a mistake in a network's backward pass is written down: as the steps that go wrong, and a sentence.

Rows are as those of `general`, but a prediction is of all leaves at once: a wrong delta spoils every gradient below it,
and that the others are right is evidence too. Where a step is made at several layers, it may be wrong in all of them or
in one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.activations import Activation, get_activation
from jaxbackprop.auditing.judge import Evidence
from jaxbackprop.auditing.layered import Layout, Network, Steps, Trace, backward
from jaxbackprop.auditing.mistakes.slopes import WrongSlope, formula, wrong_slopes


@dataclass(frozen=True)
class Family:
    """A network at every point where it was looked at.

    `data_factor` is 1 where the gradient is that of the mean over the samples, N where it is that of the sum.
    """

    network: Network
    layout: Layout
    traces: list[Trace]
    evidence: Evidence
    data_factor: float = 1.0

    @property
    def depth(self) -> int:
        return self.traces[0].depth

    @property
    def activation(self) -> Activation:
        return get_activation(self.network.activation)

    @cached_property
    def wrong_slopes(self) -> list[list[list[WrongSlope]]]:
        """For each point and each hidden layer, from 1 on, the values of all the wrong derivatives."""
        return [[[], *(wrong_slopes(self.activation, t.z[l], t.a[l]) for l in range(1, t.depth))] for t in self.traces]

    def errors(self, k: int) -> list[np.ndarray]:
        """dL/dz^l at point k, of every layer from 1 on."""
        t, e = self.traces[k], RIGHT.error(self.traces[k])
        errors = [e]
        for l in range(t.depth - 1, 0, -1):
            e = RIGHT.through(t, l, e, np.empty(0)) * RIGHT.slope(t, l)
            errors.append(e)
        return [np.empty(0), *errors[::-1]]

    def predict(self, steps: Steps, k: int) -> list[np.ndarray]:
        """The gradient at point k that such a backward pass gives, leaf by leaf."""
        return self.predict_from(self.traces[k], steps)

    def predict_from(self, t: Trace, steps: Steps) -> list[np.ndarray]:
        scaled = steps._replace(error=lambda t: self.data_factor * steps.error(t))
        return self.layout.leaves(backward(t, scaled))


class Variant(NamedTuple):
    """One way to make a mistake: the steps at each point, and what its sentence is to say."""

    steps: Callable[[int], Steps]
    facts: dict[str, Any]


def same_everywhere(steps: Steps, facts: dict[str, Any]) -> Variant:
    return Variant(lambda k: steps, facts)


class NetworkHypothesis(NamedTuple):
    """A mistake: its code, the ways to make it, and a sentence with places for the facts."""

    code: str
    variants: Callable[[Family], Iterator[Variant]]
    sentence: str


def always(**steps: Callable) -> Callable[[Family], Iterator[Variant]]:
    """A mistake that there is one way to make."""

    def variants(f: Family) -> Iterator[Variant]:
        yield same_everywhere(Steps(**steps), {"L": f.depth, "N": f.traces[0].samples, "delta": f.depth + 1})

    return variants


def hidden_layers(f: Family) -> list[tuple[int, ...]]:
    """The layers that a mistake may be made at: all hidden ones, or one of them."""
    hidden = tuple(range(1, f.depth))
    return [hidden, *((l,) for l in hidden if len(hidden) > 1)] if hidden else []


def named(layers: Sequence[int], f: Family) -> dict[str, Any]:
    """How a sentence calls those layers' quantities."""
    index = str(layers[0]) if len(layers) == 1 else "l"
    where = "" if len(layers) > 1 or f.depth <= 2 else f" at layer {index}"
    return {
        "z": f"z^{index}",
        "a": f"a^{index}",
        "f": f.activation.name,
        "formula": formula(f.activation, f"z^{index}"),
        "where": where,
        "l": index,
    }


def at(layers: Sequence[int], wrong: Callable[..., np.ndarray], right: Callable[..., np.ndarray]) -> Callable:
    """A step that is wrong at some layers."""
    return lambda t, l, *rest: (wrong if l in layers else right)(t, l, *rest)


RIGHT = Steps()
