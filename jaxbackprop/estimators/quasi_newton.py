"""`solver="lbfgs"`: which network sits where while L-BFGS runs, and what is told of it in scipy's and scikit-learn's
words.

A single fit is a search over one candidate on one fold: the same program trains both. Line searches compare losses to
the last digit, so they are computed in float64 whatever the network is trained in, and what comes out is rounded to
that.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.optimize
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from jaxbackprop.activations import Activation, OneOrEach, layer_activations
from jaxbackprop.devices import precision
from jaxbackprop.estimators.glorot import glorot_starts
from jaxbackprop.estimators.lbfgs import (
    FAILED,
    FLAT,
    HALTED,
    LIMIT_EVALUATIONS,
    LIMIT_STEPS,
    MEMORY,
    NO_REDUCTION,
    RUNNING,
    Limits,
    State,
    begin,
    layers,
    make_program,
)
from jaxbackprop.estimators.trainer import Machine, Watch
from jaxbackprop.network import Params
from jaxbackprop.sweeps.costs import CACHE, parameters
from jaxbackprop.sweeps.grid import Trial, each_activation
from jaxbackprop.sweeps.program import Data, shapes_of
from jaxbackprop.sweeps.splits import Splits, aligned
from jaxbackprop.sweeps.state import COMPLETED, Book, open_book
from jaxbackprop.sweeps.transfer import fetch, local_mesh, make_mesh, put

ITEM = 8  # bytes of a float64
FEWEST = 2  # seats of a device, however large the networks: their matrix products run well one by one
TURNS = 100  # of a call, at most: between two of them devices find new work, and Ctrl-C is heard

# How L-BFGS-B says what has come of it, and the status that scipy makes of that.
MESSAGES = {
    LIMIT_STEPS: (1, "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"),
    LIMIT_EVALUATIONS: (1, "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT"),
    FLAT: (0, "CONVERGENCE: NORM OF PROJECTED GRADIENT <= PGTOL"),
    NO_REDUCTION: (0, "CONVERGENCE: RELATIVE REDUCTION OF F <= FACTR*EPSMCH"),
    FAILED: (2, "ABNORMAL: "),
    HALTED: (0, "STOP: CALLBACK REQUESTED HALT"),  # as it was told to, not for want of convergence
}


class Stop(NamedTuple):
    """When a network stops: at `tol`, the largest entry of its gradient, after `max_iter` steps, or with the step that
    has taken more than `max_fun` evaluations."""

    tol: float
    max_iter: int
    max_fun: int


class Group(NamedTuple):
    """Networks of the same shapes that wait for a seat: where each begins, its limits, which split of the data it is
    trained on, and which of the `activations` it has, each of them one for each hidden layer."""

    activations: tuple[tuple[Activation, ...], ...]
    sizes: tuple[int, ...]
    starts: Float[np.ndarray, "networks parameters"]
    split: Int[np.ndarray, " networks"]
    choice: Int[np.ndarray, " networks"]
    limits: Limits


class Ended(NamedTuple):
    """Where each network of a group has ended, with the loss there, its steps and evaluations, and why."""

    x: Float[np.ndarray, "networks parameters"]
    value: Float[np.ndarray, " networks"]
    steps: Int[np.ndarray, " networks"]
    evaluations: Int[np.ndarray, " networks"]
    status: Int[np.ndarray, " networks"]


def refuse_dropout(dropout: float) -> None:
    """**Raises:** `ValueError` for dropout, which does not go with line searches."""
    if dropout > 0:
        raise ValueError(
            f"dropout={dropout} goes with solver='sgd' or 'adam': the line searches of 'lbfgs' compare losses, which "
            "masks would change from one to the next"
        )


def minimize(
    start: Params,
    splits: Splits,
    *,
    activation: OneOrEach,
    alpha: float,
    stop: Stop,
    machine: Machine,
    watch: Watch | None = None,
) -> tuple[Params, Any]:
    """The parameters at which L-BFGS ends for a single network, and what scipy's `minimize` would tell of it.

    **Arguments:** `alpha`, divided by the weight of all samples; `watch`, called after each step as in
    `trainer.train_networks`.

    **Raises:** `ValueError` if there are fewer devices, or the budget is too small.
    """
    make_mesh(machine.devices)  # refused, even for one network, if there are fewer
    sizes = (start[0].weight.shape[1], *(len(layer.bias) for layer in start))

    def look(x: Float[np.ndarray, " parameters"], goes_on: bool) -> bool:
        return watch is not None and watch(lambda: _rounded(x, sizes, splits.dtype), goes_on)

    with precision(np.float64):
        flat = np.concatenate([np.asarray(a, np.float64).ravel() for layer in start for a in layer])
        limits = _limits([alpha], [stop], splits)
        only = layer_activations(activation, len(start) - 1)
        group = Group((only,), sizes, flat[None], np.zeros(1, int), np.zeros(1, int), limits)
        ended = _train(group, splits, local_mesh(), machine, look if watch is not None else None)
    code, message = MESSAGES[int(ended.status[0])]
    found = scipy.optimize.OptimizeResult(
        x=ended.x[0],
        fun=float(ended.value[0]),
        nit=int(ended.steps[0]),
        nfev=int(ended.evaluations[0]),
        status=code,
        message=message,
        success=code == 0,
    )
    return _rounded(ended.x[0], sizes, splits.dtype), found


def train_lbfgs(
    trials: Sequence[Trial],
    stops: Sequence[Stop],
    splits: Splits,
    machine: Machine,
    *,
    bar: bool = False,
    advance: Callable[[float], None] = lambda done: None,
) -> Book:
    """Train every trial on every split by L-BFGS, and return the book of the networks, `epoch` being their steps.

    **Arguments:** `stops`, one for each trial; `bar` and `advance` as in `trainer.train_networks`.

    **Raises:** `ValueError` if there are fewer devices, or the budget is too small.
    """
    mesh = make_mesh(machine.devices)
    features, outputs, folds = len(splits.data.x), len(splits.data.y), len(splits.train_sizes)
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, trial in enumerate(trials):
        alike.setdefault(trial.hidden, []).append(number)
    total, done = len(trials) * folds, 0
    hidden = not bar or jax.process_index() > 0
    with tqdm(total=total, unit=" networks", desc="search", disable=hidden) as shown, precision(np.float64):
        plain = [trial._replace(optimizer="sgd") for trial in trials]  # which has no state to keep in the book
        book = open_book(plain, folds, features, outputs, splits.dtype, monitored=False, records=None, falling=False)
        for widths, numbers in alike.items():
            members, sizes = [trials[n] for n in numbers], (features, *widths, outputs)
            drawn = glorot_starts(members, sizes, dtype=splits.dtype)
            flat = [np.asarray(a, np.float64).reshape(len(members), -1) for layer in drawn for a in layer]
            limits = _limits([trial.l2 for trial in members], [stops[n] for n in numbers], splits)
            each = [each_activation(trial) for trial in members]
            activations = tuple(dict.fromkeys(each))
            split = np.tile(np.arange(folds), len(members))
            choice = np.repeat([activations.index(own) for own in each], folds)
            starts = np.repeat(np.concatenate(flat, axis=1), folds, axis=0)
            group = Group(activations, sizes, starts, split, choice, limits)

            def tell(ended: int) -> None:
                nonlocal done
                done += ended
                shown.update(ended)
                advance(done / total)

            ended = _train(group, splits, mesh, machine, tell=tell)
            networks = (np.array(numbers)[:, None] * folds + np.arange(folds)).reshape(-1)
            book.epoch[networks], book.status[networks] = ended.steps, COMPLETED
            book.metrics.train_loss[networks] = ended.value
            rounded = _rounded(ended.x, sizes, splits.dtype)
            for kind, positions, places in book.members(networks):
                for own, stacked in zip(jax.tree.leaves(kind.params), jax.tree.leaves(rounded), strict=True):
                    own[positions] = stacked[places]
    return book


def _limits(alphas: Sequence[float], stops: Sequence[Stop], splits: Splits) -> Limits:
    """Those of trials on all splits; what a split's samples count together divides alpha."""
    totals = np.array(splits.train_sizes, np.float64)
    if splits.data.weights is not None:
        weights = np.asarray(splits.data.weights, np.float64)
        totals = np.array([weights[index[index >= 0]].sum() for index in np.asarray(splits.data.train)])
    l2 = np.array(alphas, np.float64)[:, None] / np.where(totals > 0, totals, 1)
    tol, steps, evaluations = (np.repeat(column, len(totals)) for column in zip(*stops, strict=True))
    most = np.iinfo(np.int32).max - 1
    counts = [np.minimum(column, most).astype(np.int32) for column in (steps, evaluations)]
    own: Any = (l2.reshape(-1), tol.astype(np.float64), *counts)
    return Limits(*own)


def _rounded(x: Float[np.ndarray, "*networks parameters"], sizes: tuple[int, ...], dtype: Any) -> Params:
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda a: np.array(a, dtype), layers(x, _shapes(sizes)))


def _shapes(sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(sizes[1:], sizes[:-1], strict=True))


def count_seats(group: Group, splits: Splits, devices: int, machine: Machine) -> int:
    """How many networks a device trains at a time: as many as make good use of its cache and fit the memory, but no
    more than its share.

    **Raises:** `ValueError` if not even one fits.
    """
    samples, units, size = max(splits.train_sizes), sum(group.sizes[1:]), parameters(group.sizes)
    width = group.sizes[0] + group.sizes[-1] + 1
    fixed = ITEM * (width * (splits.data.x.shape[1] + devices * samples) + 2 * size * len(group.starts))
    # The state, once more while a turn makes the next, and what a pass through the network holds.
    each = ITEM * devices * (2 * (2 * MEMORY + 8) * size + 4 * units * samples)
    largest = (machine.memory_budget - fixed) // each
    if largest < 1:
        raise ValueError(
            f"memory_budget={machine.memory_budget / 2**20:.3g} MiB is too little: L-BFGS needs at least "
            f"{fixed + each:,} bytes, {(fixed + each) / 2**20:.3g} MiB; raise it, or train fewer or smaller networks"
        )
    if jax.default_backend() == "cpu":
        largest = min(largest, max(FEWEST, CACHE // (ITEM * units * samples)))
    share = max(FEWEST, -(-len(group.starts) // devices))
    return int(min(largest, share, np.bincount(_desks(group)).max()))


def _desks(group: Group) -> Int[np.ndarray, " networks"]:
    """Networks with the same number can be trained side by side: on the same samples, with the same activations."""
    return group.split * len(group.activations) + group.choice


def _train(
    group: Group,
    splits: Splits,
    mesh: Mesh,
    machine: Machine,
    look: Callable[[np.ndarray, bool], bool] | None = None,
    tell: Callable[[int], None] = lambda ended: None,
) -> Ended:
    """Train a group. All networks of a device are of one desk, whose samples they share; where one has ended, the next
    that waits takes its seat, and a device that has done with one desk goes on with another.

    **Arguments:** `look`, for a single network, called after each step with its parameters and whether it goes on; the
    training ends if it returns True. `tell`, called with the number of networks that have ended since.
    """
    devices = mesh.devices.size
    seats = count_seats(group, splits, devices, machine)
    size = parameters(group.sizes)
    shape = (devices, seats)
    desks, choices = _desks(group), len(group.activations)
    waiting = [deque(np.flatnonzero(desks == k).tolist()) for k in range(len(splits.train_sizes) * choices)]
    taken, desk = np.full(shape, -1), np.zeros(devices, np.int32)
    start: Any = np.zeros((*shape, size))
    own: Any = jax.tree.map(lambda a: np.zeros(shape, a.dtype), group.limits)
    blank = jax.eval_shape(jax.vmap(jax.vmap(begin)), jax.ShapeDtypeStruct((*shape, size), np.float64))
    state: Any = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), blank)
    state = put(state._replace(status=np.full(shape, HALTED, np.int32)), mesh, spread=True)
    data = put(_as_float64(splits.data), mesh, spread=False)
    arguments = shapes_of((state, data))
    program = make_program(mesh, _shapes(group.sizes), group.activations, splits.objective, arguments)
    ended = Ended(np.zeros_like(group.starts), *(np.zeros(len(group.starts), t) for t in (float, int, int, int)))
    steps = 0
    while True:
        fresh = _take_seats(taken, desk, waiting)
        for place in zip(*np.nonzero(fresh), strict=True):
            start[place] = group.starts[taken[place]]
            for column, values in zip(own, group.limits, strict=True):
                column[place] = values[taken[place]]
        if not (taken >= 0).any():
            return ended
        # Seats are worth a pause once a quarter of them is free.
        fewest = np.array([seats - max(1, seats // 4) if waiting[k] else 0 for k in desk], np.int32)
        spread = put((start, fresh, own, desk // choices, desk % choices, fewest), mesh, spread=True)
        state = program(state, *spread, np.int32(TURNS if look is None else 1), data)
        status = np.array(fetch(state.status))
        if look is not None and int(fetch(state.steps)[0, 0]) > steps:
            steps += 1
            if look(np.array(fetch(state.x)[0, 0]), bool(status[0, 0] == RUNNING)):
                status[0, 0] = HALTED
        done = (taken >= 0) & (status != RUNNING)
        if done.any():
            _note(ended, taken[done], state, done, status)
            taken[done] = -1
            tell(int(done.sum()))


def _take_seats(
    taken: Int[np.ndarray, "devices seats"], desk: Int[np.ndarray, " devices"], waiting: Sequence[deque[int]]
) -> Bool[np.ndarray, "devices seats"]:
    """Give free seats to networks that wait, in place, and say which. An empty device goes to the desk that most
    networks wait for."""
    fresh = np.zeros(taken.shape, bool)
    for device, seats in enumerate(taken):
        if (seats < 0).all():
            desk[device] = max(range(len(waiting)), key=lambda k: len(waiting[k]))
        queue = waiting[desk[device]]
        for seat in np.flatnonzero(seats < 0)[: len(queue)]:
            seats[seat], fresh[device, seat] = queue.popleft(), True
    return fresh


def _note(ended: Ended, numbers: Any, state: State, done: Any, status: Any) -> None:
    """Write down what has become of networks."""
    now = fetch((state.x, state.value, state.steps, state.evaluations))
    for column, values in zip(ended, (*now, status), strict=True):
        column[numbers] = values[done]


def _as_float64(data: Data) -> Data:
    """The same samples, so that all CPU devices can share them."""
    x, y, weights = (None if a is None else aligned(np.asarray(a, np.float64)) for a in data[:3])
    widened: Any = {"x": x, "y": y, "weights": weights}
    return data._replace(**widened)
