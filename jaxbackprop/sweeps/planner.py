"""Turns the trials of a grid into few compiled programs, and says beforehand what they will cost.

Trials of one optimizer and batch size can share a program if their hidden layers are padded to shared widths. A
compilation costs time once, padding costs time at every step: the planner picks the cheaper. It also picks whether the
depths and the activations of a grid share a program, each chunk choosing its own, and how many networks make up a
chunk. Networks without a hidden layer share programs among themselves alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from jaxbackprop.activations import Activation
from jaxbackprop.optimizers import Optimizer, get_optimizer
from jaxbackprop.sweeps.boxes import make_box
from jaxbackprop.sweeps.costs import (
    FEWEST,
    LAUNCH,
    LAUNCHES_LAYER,
    QUICK,
    Workload,
    arithmetic,
    compiling,
    fixed_bytes,
    program_bytes,
    rooms,
    slower,
    units,
)
from jaxbackprop.sweeps.grid import Trial, each_activation
from jaxbackprop.sweeps.placement import Family, family_of, slot_widths

if TYPE_CHECKING:
    import pandas as pd

MAX_PROGRAMS = 40
MAX_WASTE = 0.3


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

    def work(hidden: np.ndarray, depth: np.ndarray, deepest: np.ndarray) -> np.ndarray:
        return arithmetic(hidden, depth, deepest, workload, samples, chosen=chosen, numbers=numbers)

    def price(depth: np.ndarray) -> float:
        return compiling(int(depth.max()), len(activations), workload)

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

    held, live, data = program_bytes(hidden, optimizer, first.batch_size, workload)
    largest = max(1, int((room - held * len(networks) - data) // live))
    if workload.cache is not None:
        activations_bytes = workload.itemsize * units(hidden, workload) * samples
        largest = min(largest, max(FEWEST, workload.cache // activations_bytes))
    chunk_sizes = np.arange(1, min(largest, int(sizes.max())) + 1)
    chunks = -(-sizes[:, None] // chunk_sizes)  # [groups, chunk sizes]
    rounds = -(-chunks.sum(axis=0) // workload.devices)
    chosen = len(activations) > 1 or int(depths.min()) < slots
    # Of one network, padded, by its depth: a chunk computes the layers of its networks alone, but updates all slots.
    tops, every, most = np.array([hidden] * (slots + 1), int), np.arange(slots + 1), np.array([slots])
    step = arithmetic(tops, every, most, workload, samples, chosen=chosen, numbers=1 + rooms(optimizer))
    each = LAUNCH * LAUNCHES_LAYER * (slots + 1) + chunk_sizes * step[groups[0]][:, None]
    times = rounds * (chunks * each).sum(axis=0) / chunks.sum(axis=0)
    pick = int(np.argmin(times))
    widths = np.array([slot_widths(trials[n // splits].hidden, slots) for n in networks], int).reshape(
        len(networks), slots
    )
    useful = arithmetic(widths, depths, depths, workload, samples, chosen=chosen, numbers=1 + rooms(optimizer)).sum()
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
        memory=held * len(networks) + live * int(chunk_sizes[pick]) + data,
    )
