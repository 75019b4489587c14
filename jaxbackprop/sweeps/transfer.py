"""From the book to the devices and back: the only place that knows both a network's number and its seat."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jaxbackprop._checks import check_integer
from jaxbackprop.embedded import Embedded
from jaxbackprop.optimizers import STATE_STARTS, Hyperparameters, Optimizer, is_own, layer_shapes, state_shapes
from jaxbackprop.sweeps.assessment import Metrics
from jaxbackprop.sweeps.grid import Trial
from jaxbackprop.sweeps.placement import own_layers, slot_widths
from jaxbackprop.sweeps.planner import Program
from jaxbackprop.sweeps.program import GRID_AXIS, Carry, Settings
from jaxbackprop.sweeps.seating import Seats, arrange
from jaxbackprop.sweeps.state import COMPLETED, STOPPED, TRAINING, WAITING, Book, front_shapes
from jaxbackprop.sweeps.stopping import Kept
from jaxbackprop.training import State


def make_mesh(devices: int | None) -> Mesh:
    """A mesh of `devices` devices, by default of all, over the grid axis.

    **Raises:** `ValueError` if there are fewer.
    """
    present = jax.devices()
    wanted = len(present) if devices is None else check_integer("devices", devices, 1)
    if wanted > len(present):
        kind = present[0].platform
        raise ValueError(
            f"devices={wanted}, but JAX has {len(present)} of kind {kind!r}"
            + ("; use_all_cores() at the start of a script makes each core one" if kind == "cpu" else "")
        )
    return Mesh(np.array(present[:wanted]), (GRID_AXIS,))


def local_mesh() -> Mesh:
    """One device of this process: each process trains for itself, and all of them the same."""
    return Mesh(np.array(jax.local_devices()[:1]), (GRID_AXIS,))


def spans_processes(mesh: Mesh) -> bool:
    """Whether devices of several processes work together."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def put(tree: Any, mesh: Mesh, *, spread: bool) -> Any:
    """NumPy arrays on the devices of a mesh, spread along their first axis or whole on each; every process that takes
    part holds the whole arrays and hands over its share."""
    sharding = NamedSharding(mesh, PartitionSpec(GRID_AXIS) if spread else PartitionSpec())
    if not spans_processes(mesh):
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(np.shape(a), sharding, lambda index: np.asarray(a)[index]), tree
    )


def fetch(tree: Any) -> Any:
    """The whole of every array, as NumPy, in every process."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


class Run(NamedTuple):
    """Some networks of a program on the devices: who sits where, the epochs done, and the number of the next record."""

    program: Program
    seats: Seats
    carry: Carry
    settings: Settings
    epoch: int
    record: int


def begin(
    book: Book,
    program: Program,
    networks: Int[np.ndarray, " some"],
    trials: Sequence[Trial],
    draw: Any,
) -> None:
    """Draw the initial parameters of networks that wait, and note them in the book.

    `draw(members, padded)` are those of some trials of one depth, stacked and filled up with zeros to the layer sizes
    `padded`.
    """
    depths = np.array([len(trials[n // book.splits].hidden) for n in networks])
    for depth in np.unique(depths):
        _begin(book, program, networks[depths == depth], trials, int(depth), draw)


def _begin(
    book: Book,
    program: Program,
    networks: Int[np.ndarray, " some"],
    trials: Sequence[Trial],
    depth: int,
    draw: Any,
) -> None:
    """`begin` for networks of one depth."""
    first, *_, last = book.kinds[book.place[networks[0], 0]].sizes
    drawn = draw([trials[n // book.splits] for n in networks], (first, *program.hidden[:depth], last))
    for kind, positions, group in book.members(networks):
        layers = kind.params[-len(drawn) :]  # frequencies start where they are counted from, at 0
        for own, stacked in zip(jax.tree.leaves(layers), jax.tree.leaves(drawn), strict=True):
            own[positions] = stacked[(group, *_corner(own))]
        for own, start in zip(jax.tree.leaves(kind.kept), jax.tree.leaves(kind.params), strict=True):
            own[positions] = start[positions]
        fresh = jax.tree.map(lambda a, p=positions: a[p], kind.params)
        state = _initial_state(program.optimizer, fresh, kind.sizes, book.start)
        for own, start in zip(jax.tree.leaves(kind.optimizer), jax.tree.leaves(state), strict=True):
            own[positions] = start
    book.status[networks] = TRAINING


def take_seats(
    book: Book,
    program: Program,
    networks: Int[np.ndarray, " some"],
    trials: Sequence[Trial],
    columns: Any,
    mesh: Mesh,
    running: bool,
) -> Run:
    """Put networks on the devices, all of whose living ones have been trained equally long."""
    seats = arrange(program, networks, trials, book.splits, mesh.devices.size)
    shape, dtype = seats.networks.shape, book.metrics.train_loss.dtype
    taken = np.flatnonzero(seats.networks.reshape(-1) >= 0)
    numbers = seats.networks.reshape(-1)[taken]
    first, *_, last = book.kinds[book.place[numbers[0], 0]].sizes
    sizes = (first, *program.hidden, last)

    def empty(leaf: Any) -> np.ndarray:
        return np.zeros((seats.networks.size, *leaf.shape), leaf.dtype)

    params = jax.tree.map(empty, front_shapes(book.start) + layer_shapes(sizes, str(dtype)))
    kept = jax.tree.map(np.copy, params) if book.monitored is not None else None
    state = _initial_state(program.optimizer, params, sizes, book.start)
    for kind, positions, group in book.members(numbers):
        for stacked, own in _pairs((params, state, kept), kind):
            stacked[(taken[group], *_corner(own))] = own[positions]

    def column(values: Any, blank: Any = 0) -> Any:
        full = np.full(seats.networks.size, blank, values.dtype)
        full[taken] = values[numbers]
        return full.reshape(shape)

    stacked = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), (params, state, kept))
    monitored = book.monitored
    carry = Carry(
        State(*stacked[:2]),
        Metrics(*map(column, book.metrics)),
        column(book.record),
        (column(book.running[0]), column(book.running[1])) if running else None,
        None
        if monitored is None
        else Kept(
            stacked[2],
            Metrics(*map(column, monitored.metrics)),
            column(monitored.record),
            column(monitored.best),
            column(monitored.stale),
            column(book.status == TRAINING, blank=False),
        ),
        None if book.rate is None else column(book.rate),
    )
    members = np.where(seats.networks >= 0, seats.networks, numbers[0]) // book.splits
    slots = len(program.hidden)
    widths = np.array([slot_widths(trials[n].hidden, slots) for n in members.flat], np.int32).reshape(*shape, slots)
    shared: Any = {name: values[members] for name, values in columns.items()}
    rates = shared.pop("dropout")
    rates = rates if program.dropout else None
    depth = seats.depth if len(program.depths) > 1 else None
    settings: Any = (Hyperparameters(**shared), widths, rates, seats.activation, depth, seats.split)
    living = numbers[book.status[numbers] == TRAINING]
    return Run(
        program,
        seats,
        put(carry, mesh, spread=True),
        put(Settings(*settings), mesh, spread=True),
        int(book.epoch[living[0]]),
        int(book.record[living[0]]) + 1,
    )


def leave_seats(book: Book, run: Run, marks: Int[np.ndarray, " records"], last: int) -> Int[np.ndarray, " some"]:
    """Write into the book what has become of the networks of a run, and return those that have ended since it was last
    written. The run may go on."""
    taken = np.flatnonzero(run.seats.networks.reshape(-1) >= 0)
    numbers = run.seats.networks.reshape(-1)[taken]
    living = book.status[numbers] == TRAINING
    taken, numbers = taken[living], numbers[living]
    carry = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), fetch(run.carry))
    kept = carry.kept
    for kind, positions, group in book.members(numbers):
        for stacked, own in _pairs((carry.state.params, carry.state.optimizer, kept and kept.params), kind):
            own[positions] = stacked[(taken[group], *_corner(own))]

    def write(own: np.ndarray, values: np.ndarray) -> None:
        own[numbers] = values[taken]

    jax.tree.map(write, book.metrics, carry.metrics)
    write(book.record, carry.record)
    for own, values in zip(book.running, carry.running or (), strict=False):
        write(own, values)
    if book.rate is not None:
        write(book.rate, carry.rate)
    book.epoch[numbers] = run.epoch
    if kept is not None and book.monitored is not None:
        jax.tree.map(write, book.monitored.metrics, kept.metrics)
        for name in ("record", "best", "stale"):
            write(getattr(book.monitored, name), getattr(kept, name))
        stopped = numbers[~kept.active[taken]]
        book.status[stopped] = STOPPED
        book.epoch[stopped] = marks[book.record[stopped]]
    done = numbers[(book.status[numbers] == TRAINING) & (book.epoch[numbers] == last)]
    book.status[done] = COMPLETED
    return numbers[book.status[numbers] != TRAINING]


def waiting(book: Book, networks: Int[np.ndarray, " some"]) -> Int[np.ndarray, " fewer"]:
    """Those that have not begun."""
    return networks[book.status[networks] == WAITING]


def _pairs(stacked: Sequence[Any], kind: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The arrays of many padded networks, each with that of a kind's own numbers."""
    own = (kind.params, kind.optimizer, None if stacked[2] is None else kind.kept)
    used = own_layers(tuple(stacked), len(kind.sizes) - 2)
    return list(zip(jax.tree.leaves(used), jax.tree.leaves(own), strict=True))


def _corner(own: np.ndarray) -> tuple[slice, ...]:
    """Where a network's own numbers stand in a padded array."""
    return tuple(slice(0, n) for n in own.shape[1:])


def _initial_state(optimizer: Optimizer, params: Embedded, sizes: tuple[int, ...], start: Any) -> Any:
    """The state of an optimizer for stacked parameters, as arrays that can be written to."""
    if is_own(optimizer):
        return jax.tree.map(np.array, jax.vmap(optimizer.init)(params))
    first = jax.tree.leaves(params)[0]
    shapes = state_shapes(optimizer, sizes, str(first.dtype), front_shapes(start))
    value = STATE_STARTS.get(optimizer.name, 0)
    return jax.tree.map(lambda leaf: np.full((len(first), *leaf.shape), value, leaf.dtype), shapes)
