"""Turns the trials of a grid into few compiled programs, and says beforehand what they will cost.

Trials of one optimizer and batch size can share a program if their hidden layers are padded to shared widths. A
compilation costs time once, padding costs time at every step: the planner picks the cheaper. It also picks whether the
depths and the activations of a grid share a program, each chunk choosing its own, and how many networks make up a
chunk. Networks without a hidden layer share programs among themselves alone.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.optimizers import Optimizer, get_optimizer, is_own, layer_shapes, state_shapes
from jaxbackprop.sweeps.boxes import make_box
from jaxbackprop.sweeps.grid import Trial, each_activation
from jaxbackprop.sweeps.placement import Family, family_of, slot_widths

if TYPE_CHECKING:
    import pandas as pd

MAX_PROGRAMS = 40
MAX_WASTE = 0.3

# The cost model, in seconds on one device, as experiments/plan_costs.py fits it. It decides between plans and predicts;
# the sweep measures.
COMPILE, COMPILE_LAYER, COMPILE_ACTIVATION = 0.93, 0.2, 0.16  # a program; each hidden layer; each further activation
WATCHED, EPOCHS = 1.45, 1.2  # times as long: with patience beside whole records; with an estimator's, one an epoch
LAUNCH, LAUNCHES_LAYER = 0.16e-6, 10  # one operation on one chunk; how many of them a layer's step has
ELEMENT = 0.74e-9  # all elementwise work on one unit's activation of one sample, forward and backward
CHOICE = 1.3  # how much longer that takes if activation or depth are chosen while the program runs
FLOP = 8.6e-12  # in a matrix product
UPDATE = 1.2e-9  # of a parameter, and of each number that the optimizer holds for it

CACHE = 300_000  # bytes of activations of one chunk, so that forward and backward pass stay in a core's cache
SLOTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adam_hat": 2, "adamw": 2, "rmsprop": 1, "adagrad": 1}
QUICK = 0.6  # what a quick compilation takes of the time; see `compiler_options`
SLOW, SLOWEST = 1.4, 3.0  # times as long the steps take after it, with LIGHT activations and with others
LIGHT = frozenset({"identity", "relu", "leaky_relu", "hardshrink", "sigmoid", "tanh", "silu"})
ORDER_ENTRIES = 4_000_000  # of the order of the batches, at most, handed over in one call
FEWEST = 4  # networks of a chunk, however large: their matrix products run faster side by side


class Workload(NamedTuple):
    """What is the same for all trials: the sizes of the data, the length of the training, the machine.

    `samples` are all there are; `train` and `validation` how many of them each split has. `cache` is None on an
    accelerator, whose chunks are bounded by `memory_budget` (bytes, for all devices together) alone. `monitored` says
    whether early stopping keeps parameters beside the current ones, `assess` whether records evaluate the training
    samples, as those of a sweep do and an estimator's don't.
    """

    features: int
    outputs: int
    samples: int
    train: tuple[int, ...]
    validation: tuple[int, ...]
    epochs: int
    devices: int = 1
    memory_budget: int = 2**31
    cache: int | None = CACHE
    itemsize: int = 4
    monitored: bool = False
    assess: bool = True

    def batches(self, batch_size: int | None, split: int) -> int:
        """Steps that make up an epoch."""
        return 1 if batch_size is None else -(-self.train[split] // batch_size)


@dataclass(frozen=True, eq=False)
class Program:
    """One compiled program: its shape, and the networks that it trains.

    A network is a trial on one split of the data, numbered trial * splits + split. They are trained in `chunks` chunks
    of `size` networks; how they are dealt out to these is `seating`'s part. `depths` are how many hidden layers its
    networks have, ascending; `hidden` has as many as the deepest.
    """

    hidden: tuple[int, ...]
    depths: tuple[int, ...]
    activations: tuple[tuple[Activation, ...], ...]
    optimizer: Optimizer
    batch_size: int | None
    batches: int
    networks: Int[np.ndarray, " networks"]
    chunks: int
    size: int
    padded: bool
    dropout: bool
    waste: float
    seconds: float
    compile_seconds: float
    quick: bool
    memory: int


@dataclass(frozen=True)
class Plan:
    """The programs of a sweep, with what each is predicted to cost; printing it shows a table."""

    programs: tuple[Program, ...]
    networks: int
    network_steps: int
    waste: float
    memory: int
    workload: Workload

    def table(self) -> "pd.DataFrame":
        """One row a program."""
        import pandas as pd

        return pd.DataFrame(
            {
                "hidden": ["x".join(map(str, p.hidden)) or "none" for p in self.programs],
                "depths": [", ".join(map(str, p.depths)) for p in self.programs],
                "optimizer": [p.optimizer.name for p in self.programs],
                "batch": ["full" if p.batch_size is None else p.batch_size for p in self.programs],
                "activations": [len(p.activations) for p in self.programs],
                "networks": [len(p.networks) for p in self.programs],
                "chunks": [f"{p.chunks} x {p.size}" for p in self.programs],
                "padding waste": [f"{p.waste:.0%}" for p in self.programs],
                "memory / MiB": [round(p.memory / 2**20, 1) for p in self.programs],
                "compile / s": [round(p.compile_seconds, 1) for p in self.programs],
                "train / s": [float(f"{p.seconds:.2g}") for p in self.programs],
            }
        )

    def __str__(self) -> str:
        compiling, training = (sum(getattr(p, k) for p in self.programs) for k in ("compile_seconds", "seconds"))
        return (
            f"{self.networks:,} networks, {self.network_steps:,} network-steps in {len(self.programs)} programs on "
            f"{self.workload.devices} devices; padding wastes {self.waste:.0%} of the arithmetic; predicted: "
            f"{self.memory / 2**20:.0f} MiB, {compiling:.1f} s to compile, {training:.1f} s to train\n"
            f"{self.table().to_string(index=False)}"
        )


def layer_sizes(hidden: Sequence[int], workload: Workload) -> tuple[int, ...]:
    """(features, hidden units …, outputs)."""
    return (workload.features, *hidden, workload.outputs)


def _work(
    hidden: Int[np.ndarray, "shapes slots"],
    depth: Int[np.ndarray, "#shapes"],
    deepest: Int[np.ndarray, "#shapes"],
    workload: Workload,
    samples: int,
    *,
    chosen: bool = False,
    numbers: float = 1.0,
) -> Float[np.ndarray, " shapes"]:
    """Predicted seconds of arithmetic of a step of one network, for many shapes at once: it uses the first `depth`
    slots of the `deepest` that its program has. `numbers` is how many are held for each parameter."""
    edge = np.ones((len(hidden), 1), int)
    sizes = np.hstack([workload.features * edge, hidden, workload.outputs * edge]).astype(float)
    ins, outs, slot = sizes[:, :-1], sizes[:, 1:], np.arange(hidden.shape[1] + 1)
    used = (slot < depth[:, None]) | (slot == hidden.shape[1])
    products = (ins * outs * used).sum(axis=1) * 6 - 2 * sizes[:, 0] * sizes[:, 1]
    arithmetic = samples * (FLOP * products + ELEMENT * (CHOICE if chosen else 1) * (outs * used).sum(axis=1))
    held = used | (slot < deepest[:, None])
    return arithmetic + UPDATE * numbers * ((ins + 1) * outs * held).sum(axis=1)


def plan_trials(trials: Sequence[Trial], workload: Workload) -> Plan:
    """Plan the training of `trials`.

    **Raises:** `ValueError` if no chunking fits the memory budget, before anything is allocated.
    """
    families: dict[Family, list[int]] = defaultdict(list)
    splits = len(workload.train)
    for number, trial in enumerate(trials):
        for split in range(splits):
            family = family_of(trial, workload.batches(trial.batch_size, split))
            families[family].append(number * splits + split)
    allowed = max(1, MAX_PROGRAMS // len(families))
    room = workload.memory_budget - fixed_bytes(trials, workload)
    programs = [p for family in families.values() for p in _plan_family(trials, family, workload, allowed, room)]
    programs.sort(key=lambda p: -p.seconds)
    return plan_of(programs, trials, workload)


def plan_of(programs: Sequence[Program], trials: Sequence[Trial], workload: Workload) -> Plan:
    """Programs, and what they cost together.

    **Raises:** `ValueError` if that is more than the memory budget.
    """
    plan = Plan(
        tuple(programs),
        networks=len(trials) * len(workload.train),
        network_steps=sum(len(p.networks) * p.batches * workload.epochs for p in programs),
        waste=float(np.average([p.waste for p in programs], weights=[p.seconds for p in programs])),
        memory=fixed_bytes(trials, workload) + max(p.memory for p in programs),
        workload=workload,
    )
    if plan.memory > workload.memory_budget:
        raise ValueError(
            f"memory_budget={workload.memory_budget / 2**20:.3g} MiB is too little: the sweep needs at least "
            f"{plan.memory:,} bytes, {plan.memory / 2**20:.3g} MiB; raise it, or train fewer or smaller networks"
        )
    return plan


def rooms(optimizer: Optimizer) -> float:
    """How many times the room of the parameters an optimizer's state takes."""
    if not is_own(optimizer):  # known without tracing anything
        return float(SLOTS[optimizer.name])
    sizes = (64, 64, 64)
    state, params = (
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for tree in (state_shapes(optimizer, sizes, "float32"), layer_shapes(sizes, "float32"))
    )
    return state / params


def fixed_bytes(trials: Sequence[Trial], workload: Workload) -> int:
    """The data, once a host or once an accelerator, and the book, which holds every network."""
    width = workload.features + workload.outputs + 1
    data = workload.samples * width * (1 if workload.cache is not None else 1 + workload.devices)
    weights = sum(
        parameters(layer_sizes(hidden, workload)) * (1 + workload.monitored + rooms(get_optimizer(optimizer))) * count
        for (hidden, optimizer), count in Counter((t.hidden, t.optimizer) for t in trials).items()
    )
    return int(workload.itemsize * (data + weights * len(workload.train)))


def parameters(sizes: Sequence[int]) -> int:
    """How many numbers a network of these layer sizes has."""
    return sum(m * (n + 1) for n, m in pairwise(sizes))


def _plan_family(
    trials: Sequence[Trial], family: Sequence[int], workload: Workload, allowed: int, room: int
) -> list[Program]:
    """The programs of networks that share optimizer, batch size and batches: cheapest of the ways that keep the depths
    together or apart, and the activations."""
    splits = len(workload.train)
    members = [trials[network // splits] for network in family]
    depths = [len(trial.hidden) for trial in members]
    slots = max(depths)
    activations = [each_activation(trial, slots) for trial in members]
    ways = []
    for by_depth, by_activation in product((False, True), repeat=2):
        if (by_depth and len(set(depths)) == 1) or (by_activation and len(set(activations)) == 1):
            continue  # nothing to keep apart
        groups: dict[tuple, list[int]] = defaultdict(list)
        for network, depth, activation in zip(family, depths, activations, strict=True):
            groups[by_depth and depth, by_activation and activation].append(network)
        each = max(1, allowed // len(groups))
        ways.append([p for own in groups.values() for p in _plan_shapes(trials, own, workload, each, room)])

    def cost(programs: list[Program]) -> tuple[int, bool, float]:
        lacking = max(0, max(p.memory for p in programs) - room)
        return lacking, len(programs) > allowed, sum(p.seconds + p.compile_seconds for p in programs)

    return min(ways, key=cost)


def _plan_shapes(
    trials: Sequence[Trial], family: Sequence[int], workload: Workload, allowed: int, room: int
) -> list[Program]:
    """Cut the shapes again and again where that saves most, as long as it saves more than compiling costs, or the
    padding would waste too much."""
    splits = len(workload.train)
    networks_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for network in family:
        networks_of[trials[network // splits].hidden].append(network)
    first = trials[family[0] // splits]
    samples = first.batch_size or max(workload.train)
    depth = np.array(list(map(len, networks_of)))
    slots = int(depth.max())
    shapes = np.array([slot_widths(hidden, slots) for hidden in networks_of], int).reshape(len(networks_of), slots)
    counts = np.array([len(n) for n in networks_of.values()])
    steps = workload.epochs * workload.batches(first.batch_size, family[0] % splits)
    activations = tuple(dict.fromkeys(each_activation(trials[n // splits], slots) for n in family))
    chosen = len(activations) > 1 or int(depth.min()) < slots

    numbers = 1 + rooms(get_optimizer(first.optimizer))
    times = EPOCHS if not workload.assess else WATCHED if workload.monitored else 1.0

    def work(hidden: np.ndarray, depth: np.ndarray, deepest: np.ndarray) -> np.ndarray:
        return _work(hidden, depth, deepest, workload, samples, chosen=chosen, numbers=numbers)

    def price(depth: np.ndarray) -> float:
        further = COMPILE_LAYER * int(depth.max()) + COMPILE_ACTIVATION * (len(activations) - 1)
        return (COMPILE + further) * times

    useful = float((work(shapes, depth, depth) * counts).sum())
    boxes = [make_box(shapes, depth, counts, work)]
    while len(boxes) < allowed:
        most = max(range(len(boxes)), key=lambda k: boxes[k].saving)
        box = boxes[most]
        cost = sum(b.cost for b in boxes)
        seconds, compile_seconds = steps / workload.devices, price(box.depth)
        # Padding may waste more than its share of a training that is over before another program would be compiled.
        waste = 1 - useful / sum(b.padded for b in boxes)
        frugal = waste <= MAX_WASTE or cost * seconds <= QUICK * compile_seconds
        if box.sides is None or (frugal and box.saving * seconds <= compile_seconds):
            break
        boxes[most : most + 1] = [
            make_box(box.shapes[side], box.depth[side], box.counts[side], work) for side in box.sides
        ]
    programs = []
    for box in boxes:
        own = zip(box.shapes.tolist(), box.depth.tolist(), strict=True)
        networks = np.sort([n for shape, depth in own for n in networks_of[tuple(shape[:depth])]])
        most = int(box.depth.max())
        hidden, options = tuple(box.shapes.max(axis=0)[:most].tolist()), dict.fromkeys(a[:most] for a in activations)
        programs.append(
            cut_into_chunks(trials, networks, hidden, tuple(options), workload, price(box.depth), steps, room)
        )
    return programs


def slower(activations: Sequence[Sequence[Activation]]) -> float:
    """How many times as long the steps of a program take if it is compiled quickly."""
    return SLOW if {f.name for layers in activations for f in layers} <= LIGHT else SLOWEST


def cut_into_chunks(
    trials: Sequence[Trial],
    networks: Int[np.ndarray, " networks"],
    hidden: tuple[int, ...],
    activations: tuple[tuple[Activation, ...], ...],
    workload: Workload,
    compile_seconds: float,
    steps: int,
    room: int,
) -> Program:
    """Choose how many networks make a chunk. Larger chunks share the cost of launching an operation, until they outgrow
    the cache or leave slots empty; every device gets as many chunks as the next."""
    splits = len(workload.train)
    first = trials[networks[0] // splits]
    optimizer = get_optimizer(first.optimizer)
    samples = first.batch_size or max(workload.train)
    slots = len(hidden)
    place = {activation: k for k, activation in enumerate(activations)}
    own = np.array([place[each_activation(trials[n // splits], slots)] for n in networks])
    depths = np.array([len(trials[n // splits].hidden) for n in networks])
    groups, sizes = np.unique(np.stack([depths, own, networks % splits]), axis=1, return_counts=True)

    sizes_padded = layer_sizes(hidden, workload)
    units, item = sum(sizes_padded[1:]), workload.itemsize
    # The numbers on the devices, and once more while they are handed over from the book or back to it.
    held = int(2 * item * parameters(sizes_padded) * ((2 if workload.monitored else 1) + rooms(optimizer)))
    evaluated = max(*workload.train, *workload.validation) if workload.assess else max(workload.validation)
    live = item * units * max(3 * evaluated, 4 * samples)
    width = workload.features + workload.outputs + 1
    whole = max(workload.train) if first.batch_size is None or workload.assess else 0
    data = item * width * (whole + max(workload.validation)) * workload.devices
    if first.batch_size is not None:
        # The order of the batches, on the host and the devices, and the samples once more, one after the other.
        data += 4 * min(ORDER_ENTRIES, workload.epochs * sum(workload.train)) * (1 + workload.devices)
        data += item * width * workload.samples * workload.devices
    largest = max(1, int((room - held * len(networks) - data) // (live * workload.devices)))
    if workload.cache is not None:
        largest = min(largest, max(FEWEST, workload.cache // (item * units * samples)))
    chunk_sizes = np.arange(1, min(largest, int(sizes.max())) + 1)
    chunks = -(-sizes[:, None] // chunk_sizes)  # [groups, chunk sizes]
    rounds = -(-chunks.sum(axis=0) // workload.devices)
    chosen = len(activations) > 1 or int(depths.min()) < slots
    # Of one network, padded, by its depth: a chunk computes the layers of its networks alone, but updates all slots.
    tops, every, most = np.array([hidden] * (slots + 1), int), np.arange(slots + 1), np.array([slots])
    step = _work(tops, every, most, workload, samples, chosen=chosen, numbers=1 + rooms(optimizer))
    each = LAUNCH * LAUNCHES_LAYER * (slots + 1) + chunk_sizes * step[groups[0]][:, None]
    times = rounds * (chunks * each).sum(axis=0) / chunks.sum(axis=0)
    pick = int(np.argmin(times))
    widths = np.array([slot_widths(trials[n // splits].hidden, slots) for n in networks], int).reshape(
        len(networks), slots
    )
    useful = _work(widths, depths, depths, workload, samples, chosen=chosen, numbers=1 + rooms(optimizer)).sum()
    seconds = float(times[pick] * steps)
    slow = slower(activations)
    quick = (slow - 1) * seconds < (1 - QUICK) * compile_seconds
    return Program(
        hidden=hidden,
        depths=tuple(np.unique(depths).tolist()),
        activations=activations,
        optimizer=optimizer,
        batch_size=first.batch_size,
        batches=workload.batches(first.batch_size, int(networks[0]) % splits),
        networks=networks,
        chunks=int(rounds[pick]) * workload.devices,
        size=int(chunk_sizes[pick]),
        padded=bool((widths != np.array(hidden, int)).any()),
        dropout=any(trials[n // splits].dropout > 0 for n in networks),
        waste=float(1 - useful / step[depths].sum()),
        seconds=seconds * (slow if quick else 1),
        compile_seconds=compile_seconds * (QUICK if quick else 1),
        quick=quick,
        memory=held * len(networks) + live * int(chunk_sizes[pick]) * workload.devices + data,
    )
