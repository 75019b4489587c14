"""The book of a training: what is known of every network, a trial on one split, and nothing of where it stands.

A network is numbered trial * splits + split. Networks of the same widths and optimizer are of one kind; each kind's
numbers stand together, unpadded, in a flat buffer whose offsets follow from the trials alone. Programs, padding, chunks
and devices are derived from the book and can be thrown away; a checkpoint is the book.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxbackprop.embedded import Embedded, Waves
from jaxbackprop.optimizers import Optimizer, get_optimizer, layer_shapes, state_shapes
from jaxbackprop.sweeps.assessment import Metrics
from jaxbackprop.sweeps.grid import Trial

Index = Int[np.ndarray, " _"]

# What has become of a network: not begun, under way, or ended by early stopping, its last epoch, or at a rung.
WAITING, TRAINING, STOPPED, COMPLETED, DROPPED = range(5)


class Kind(NamedTuple):
    """Networks of the same widths and optimizer, and views of their numbers, [networks, …].

    `sizes` are those of the layers: (inputs, hidden units …, outputs).

    `params` and `optimizer` are those of the last epoch trained, `kept` the parameters to hand back; without early
    stopping `kept` is `params`.
    """

    sizes: tuple[int, ...]
    networks: Int[np.ndarray, " networks"]
    params: Embedded
    optimizer: Any
    kept: Embedded


class Monitored(NamedTuple):
    """Early stopping's part of the book, [networks]: see `stopping.Kept`."""

    metrics: Metrics
    record: Int[np.ndarray, " networks"]
    best: Float[np.ndarray, " networks"]
    stale: Int[np.ndarray, " networks"]


@dataclass(frozen=True, eq=False)
class Book:
    """All arrays are filled in place while the training goes on.

    - `status`: one of WAITING, TRAINING, STOPPED, COMPLETED, DROPPED; `epoch`: how long each network was trained.
    - `seated`: whether it takes part in its program's next call; what has ended keeps its seat until the others are
      moved together, so that a training taken up again computes in the same order.
    - `metrics`, `record`, `running`: at the last record, its number, and the loss since then, as in `program.Carry`.
    - `rate`: the learning rate, where a rule lets it fall.
    - `curves`: the metrics of each record, [records, networks], NaN where there is none; None where nobody asks.
    - `rung`: [1], how many rungs are behind.
    - `start`: of the frequencies of an embedding, from where those of the networks are counted; None without one.
    - `buffers`: the flat buffers, by type, that `kinds` are views of; `place` is kind and position of each network.
    """

    splits: int
    status: Int[np.ndarray, " networks"]
    epoch: Int[np.ndarray, " networks"]
    seated: Bool[np.ndarray, " networks"]
    metrics: Metrics
    record: Int[np.ndarray, " networks"]
    running: Float[np.ndarray, "2 networks"]
    rate: Float[np.ndarray, " networks"] | None
    monitored: Monitored | None
    curves: Metrics | None
    rung: Int[np.ndarray, "1"]
    start: Float[np.ndarray, "embedded waves"] | None
    buffers: Mapping[str, np.ndarray]
    kinds: Sequence[Kind]
    place: Int[np.ndarray, "networks 2"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that must be kept to go on, by name."""
        named = {"status": self.status, "epoch": self.epoch, "seated": self.seated, "record": self.record}
        named |= {"running": self.running, "rung": self.rung, **_named("metrics", self.metrics)}
        if self.monitored is not None:
            named |= _named("kept_metrics", self.monitored.metrics)
            named |= {f"kept_{name}": getattr(self.monitored, name) for name in ("record", "best", "stale")}
        if self.rate is not None:
            named["rate"] = self.rate
        if self.curves is not None:
            named |= _named("curves", self.curves)
        return named | {f"numbers_{dtype}": buffer for dtype, buffer in self.buffers.items()}

    def outcome(self) -> Metrics:
        """The metrics of the parameters to hand back."""
        return self.metrics if self.monitored is None else self.monitored.metrics

    def params(self, network: int) -> Embedded:
        """The parameters to hand back, copied."""
        return jax.tree.map(np.array, self.view(network))

    def view(self, network: int) -> Embedded:
        """The parameters to hand back: not copied, but for the frequencies."""
        kind, position = self.place[network]
        own = jax.tree.map(lambda a: a[position], self.kinds[kind].kept)
        return own if self.start is None else (Waves(self.start + own[0].frequency), *own[1:])

    def members(self, networks: Int[np.ndarray, " some"]) -> list[tuple[Kind, Index, Index]]:
        """Some networks by kind: the kind, their positions in it, and where they stand among `networks`."""
        kinds, positions = self.place[networks].T
        order = np.argsort(kinds, kind="stable")
        cuts = np.flatnonzero(np.diff(kinds[order])) + 1
        return [(self.kinds[kinds[group[0]]], positions[group], group) for group in np.split(order, cuts) if len(group)]


def _named(prefix: str, metrics: Metrics) -> dict[str, np.ndarray]:
    return {f"{prefix}_{name}": values for name, values in metrics._asdict().items()}


def open_book(
    trials: Sequence[Trial],
    splits: int,
    inputs: int,
    outputs: int,
    dtype: Any,
    *,
    monitored: bool,
    records: int | None,
    falling: bool,
    start: Any = None,
) -> Book:
    """Nothing done yet. Room for all numbers is set aside; the system hands it over when it is first written to.

    `inputs` is how many numbers the first layer is given; for `start` see `Book`."""
    networks = len(trials) * splits
    of_kind: dict[tuple, list[int]] = {}
    for number, trial in enumerate(trials):
        of_kind.setdefault((trial.hidden, trial.optimizer), []).append(number)
    layouts = [
        _kind_shapes((inputs, *hidden, outputs), get_optimizer(optimizer), str(np.dtype(dtype)), monitored, start)
        for hidden, optimizer in of_kind
    ]
    totals: dict[str, int] = {}
    for shapes, members in zip(layouts, of_kind.values(), strict=True):
        for leaf in jax.tree.leaves(shapes):
            totals[str(leaf.dtype)] = totals.get(str(leaf.dtype), 0) + int(np.prod(leaf.shape)) * len(members) * splits
    buffers = {name: np.zeros(total, name) for name, total in totals.items()}

    used = dict.fromkeys(buffers, 0)
    kinds: list[Kind] = []
    place = np.zeros((networks, 2), np.int64)
    for ((hidden, _), members), shapes in zip(of_kind.items(), layouts, strict=True):
        own = (np.array(members)[:, None] * splits + np.arange(splits)).reshape(-1)
        place[own] = np.stack([np.full(len(own), len(kinds)), np.arange(len(own))], axis=1)

        def view(leaf: Any, count: int = len(own)) -> np.ndarray:
            name, size = str(leaf.dtype), int(np.prod(leaf.shape)) * count
            start = used[name]
            used[name] = start + size
            return buffers[name][start : start + size].reshape(count, *leaf.shape)

        params, optimizer, kept = jax.tree.map(view, shapes)
        kinds.append(Kind((inputs, *hidden, outputs), own, params, optimizer, params if kept is None else kept))

    def metrics(*shape: int) -> Metrics:
        blank: Any = [np.full(shape, np.nan, dtype) for _ in Metrics._fields]
        return Metrics(*blank)

    def integers(value: int) -> np.ndarray:
        return np.full(networks, value, np.int32)

    best = np.full(networks, np.inf, dtype)
    return Book(
        splits=splits,
        status=integers(WAITING),
        epoch=integers(0),
        seated=np.ones(networks, bool),
        metrics=metrics(networks),
        record=integers(-1),  # the first record is number 0
        running=np.zeros((2, networks), dtype),
        rate=np.repeat([trial.learning_rate for trial in trials], splits).astype(dtype) if falling else None,
        monitored=Monitored(metrics(networks), integers(-1), best, integers(0)) if monitored else None,
        curves=None if records is None else metrics(records, networks),
        rung=np.zeros(1, np.int32),
        start=start,
        buffers=buffers,
        kinds=kinds,
        place=place,
    )


def front_shapes(start: Any) -> tuple:
    """The shapes of the parameters that stand before the layers: none, or those of an embedding's frequencies."""
    shape: Any = jax.ShapeDtypeStruct
    return () if start is None else (Waves(shape(start.shape, start.dtype)),)


def _kind_shapes(sizes: tuple[int, ...], optimizer: Optimizer, dtype: str, monitored: bool, start: Any) -> Any:
    front = front_shapes(start)
    params = front + layer_shapes(sizes, dtype)
    return params, state_shapes(optimizer, sizes, dtype, front), params if monitored else None
