"""Turns the trials of a grid into few compiled programs, and says beforehand what they will cost.

Trials of one depth, optimizer and batch size can share a program if their hidden layers are padded to shared widths.
A compilation costs time once, padding costs time at every step: the planner picks the cheaper. It also picks whether
the activations of a grid share a program, each chunk choosing its own, and how many networks make up a chunk.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from jaxbackprop.sweeps.grid import Trial

MAX_PROGRAMS = 40
MAX_WASTE = 0.3

# The cost model, in seconds on one device. It decides between plans and predicts; the sweep measures.
COMPILE, COMPILE_LAYER, COMPILE_ACTIVATION = 0.45, 0.1, 0.03  # a program; each hidden layer; each activation in it
LAUNCH, LAUNCHES_LAYER = 0.4e-6, 10  # one operation on one chunk; how many of them a layer's step has
ELEMENT = 0.4e-9  # all elementwise work on one unit's activation of one sample, forward and backward
CHOICE = 1.3  # how much longer that takes if the activation is chosen while the program runs
FLOP = 6e-12  # in a matrix product

CACHE = 300_000  # bytes of activations of one chunk, so that forward and backward pass stay in a core's cache
AHEAD = 2**26  # bytes of batches, at most, that are taken out of the data before the chunks are visited
FEWEST = 4  # networks of a chunk, however large: their matrix products run faster side by side
SLOTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2, "rmsprop": 1, "adagrad": 1}


class Workload(NamedTuple):
    """What is the same for all trials: the sizes of the data, the length of the training, the machine.

    `train` and `validation` are how many samples each split of the data has. `cache` is None on an accelerator, whose
    chunks are bounded by `memory_budget` (bytes, for all devices together) alone. `compiling` is how many times as long
    as a sweep's own a program takes to compile.
    """

    features: int
    outputs: int
    train: tuple[int, ...]
    validation: tuple[int, ...]
    epochs: int
    devices: int = 1
    memory_budget: int = 2**31
    cache: int | None = CACHE
    itemsize: int = 4
    compiling: float = 1.0

    def batches(self, batch_size: int | None, split: int) -> int:
        """Steps that make up an epoch."""
        return 1 if batch_size is None else -(-self.train[split] // batch_size)


@dataclass(frozen=True, eq=False)
class Program:
    """One compiled program: its shape, and which network stands where.

    A network is a trial on one split of the data, numbered trial * splits + split. `slots`, [chunks, networks of a
    chunk], holds those numbers, -1 where there is none; the networks of a chunk share `activation[chunk]` and
    `split[chunk]`.
    """

    hidden: tuple[int, ...]
    activations: tuple[str, ...]
    optimizer: str
    batch_size: int | None
    batches: int
    slots: Int[np.ndarray, "chunks networks"]
    activation: Int[np.ndarray, " chunks"]
    split: Int[np.ndarray, " chunks"]
    padded: bool
    waste: float
    seconds: float
    compile_seconds: float
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

    def table(self) -> pd.DataFrame:
        """One row a program."""
        return pd.DataFrame(
            {
                "hidden": ["x".join(map(str, p.hidden)) or "none" for p in self.programs],
                "optimizer": [p.optimizer for p in self.programs],
                "batch": ["full" if p.batch_size is None else p.batch_size for p in self.programs],
                "activations": [len(p.activations) for p in self.programs],
                "networks": [int((p.slots >= 0).sum()) for p in self.programs],
                "chunks": [f"{p.slots.shape[0]} x {p.slots.shape[1]}" for p in self.programs],
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
    hidden: Int[np.ndarray, "shapes depth"], workload: Workload, samples: int, *, chosen: bool = False
) -> Float[np.ndarray, " shapes"]:
    """Predicted seconds of arithmetic of a step of one network, for many shapes at once."""
    edge = np.ones((len(hidden), 1), int)
    sizes = np.hstack([workload.features * edge, hidden, workload.outputs * edge]).astype(float)
    products = (sizes[:, :-1] * sizes[:, 1:]).sum(axis=1) * 6 - 2 * sizes[:, 0] * sizes[:, 1]
    element = ELEMENT * (CHOICE if chosen else 1)
    return samples * (FLOP * products + element * sizes[:, 1:].sum(axis=1))


def plan_trials(trials: Sequence[Trial], workload: Workload) -> Plan:
    """Plan the training of `trials`.

    **Raises:** `ValueError` if no chunking fits the memory budget, before anything is allocated.
    """
    families: dict[tuple, list[int]] = defaultdict(list)
    splits = len(workload.train)
    for number, trial in enumerate(trials):
        for split in range(splits):
            key = (len(trial.hidden), trial.optimizer, trial.batch_size, workload.batches(trial.batch_size, split))
            families[key].append(number * splits + split)
    allowed = max(1, MAX_PROGRAMS // len(families))
    programs = [p for family in families.values() for p in _plan_family(trials, family, workload, allowed)]
    programs.sort(key=lambda p: -p.seconds)
    plan = Plan(
        tuple(programs),
        networks=len(trials) * splits,
        network_steps=sum(int((p.slots >= 0).sum()) * p.batches * workload.epochs for p in programs),
        waste=float(np.average([p.waste for p in programs], weights=[p.seconds for p in programs])),
        memory=max(p.memory for p in programs),
        workload=workload,
    )
    if plan.memory > workload.memory_budget:
        raise ValueError(
            f"memory_budget={workload.memory_budget / 2**20:.0f} MiB is too little: the sweep needs at least "
            f"{plan.memory / 2**20:.0f} MiB; raise it, or train fewer or smaller networks at once"
        )
    return plan


def _data_bytes(workload: Workload, batch_size: int | None) -> int:
    """The data, on every device, and what is taken out of them for batches at a time."""
    samples = len(workload.train) * (max(workload.train) + max(workload.validation))
    data = samples * (workload.features + workload.outputs + 1) * workload.itemsize
    batches = 0 if batch_size is None else min(AHEAD, workload.epochs * data)
    return data * (workload.devices + 1) + batches * workload.devices


def _plan_family(trials: Sequence[Trial], family: Sequence[int], workload: Workload, allowed: int) -> list[Program]:
    """The programs of networks that share depth, optimizer, batch size and batches: cheapest of two ways."""
    by_activation: dict[str, list[int]] = defaultdict(list)
    for network in family:
        by_activation[trials[network // len(workload.train)].activation].append(network)
    together = _plan_segments(trials, family, tuple(by_activation), workload, allowed)
    if len(by_activation) == 1:
        return together
    apart = [
        program
        for name, networks in by_activation.items()
        for program in _plan_segments(trials, networks, (name,), workload, max(1, allowed // len(by_activation)))
    ]

    def cost(programs: list[Program]) -> tuple[bool, float]:
        return len(programs) > allowed, sum(p.seconds + p.compile_seconds for p in programs)

    return min(together, apart, key=cost)


def _plan_segments(
    trials: Sequence[Trial], family: Sequence[int], activations: tuple[str, ...], workload: Workload, allowed: int
) -> list[Program]:
    """Cut the widths, in the order of their work, into as many segments as are cheapest to compile and to train."""
    splits = len(workload.train)
    networks_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for network in family:
        networks_of[trials[network // splits].hidden].append(network)
    first = trials[family[0] // splits]
    samples = first.batch_size or max(workload.train)
    shapes = np.array(list(networks_of), int).reshape(len(networks_of), -1)
    order = np.lexsort((*shapes.T, _work(shapes, workload, samples))) if shapes.shape[1] else np.arange(len(shapes))
    shapes = shapes[order]
    counts = np.array([len(n) for n in networks_of.values()])[order]
    steps = workload.epochs * workload.batches(first.batch_size, family[0] % splits)

    # padded[i, j]: arithmetic of the shapes i … j, all padded to the largest width of each layer among them.
    total, chosen = len(shapes), len(activations) > 1
    padded = np.full((total, total), np.inf)
    for i in range(total):
        raised = np.maximum.accumulate(shapes[i:])
        padded[i, i:] = _work(raised, workload, samples, chosen=chosen) * np.cumsum(counts[i:])
    useful = float((_work(shapes, workload, samples, chosen=chosen) * counts).sum())

    compile_seconds = COMPILE + COMPILE_LAYER * shapes.shape[1] + COMPILE_ACTIVATION * (len(activations) - 1)
    compile_seconds *= workload.compiling
    scale = steps / workload.devices
    choices = []
    best = padded[0].copy()  # cheapest way to cut the shapes 0 … j into the segments allowed so far
    cuts: list[np.ndarray] = []
    for pieces in range(1, min(allowed, total) + 1):
        if pieces > 1:
            options = best[:-1, None] + padded[1:, :]  # the last segment starts at i + 1
            cuts.append(np.argmin(options, axis=0))
            best = np.min(options, axis=0)
        waste = 1 - useful / best[-1]
        choices.append((waste > MAX_WASTE, pieces * compile_seconds + best[-1] * scale, pieces))
    feasible = [c for c in choices if not c[0]] or [choices[-1]]
    pieces = min(feasible, key=lambda c: c[1])[2]

    ends, stop = [], total - 1
    for cut in reversed(cuts[: pieces - 1]):
        ends.append(stop)
        stop = int(cut[stop])
    ends.append(stop)
    keys = list(networks_of)
    programs, start = [], 0
    for end in reversed(ends):
        hidden = tuple(int(w) for w in shapes[start : end + 1].max(axis=0))
        networks = [n for k in order[start : end + 1] for n in networks_of[keys[k]]]
        programs.append(_lay_out(trials, networks, hidden, activations, workload, compile_seconds, steps))
        start = end + 1
    return programs


def _lay_out(
    trials: Sequence[Trial],
    networks: Sequence[int],
    hidden: tuple[int, ...],
    activations: tuple[str, ...],
    workload: Workload,
    compile_seconds: float,
    steps: int,
) -> Program:
    """Put networks into chunks. Larger chunks share the cost of launching an operation, until they outgrow the cache or
    leave slots empty; every device gets as many chunks as the next."""
    splits = len(workload.train)
    first = trials[networks[0] // splits]
    samples = first.batch_size or max(workload.train)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for network in networks:
        groups[activations.index(trials[network // splits].activation), network % splits].append(network)
    sizes = np.array([len(g) for g in groups.values()])

    units = sum(hidden) + workload.outputs
    weights = sum(m * (n + 1) for n, m in zip(layer_sizes(hidden, workload), (*hidden, workload.outputs), strict=False))
    held = workload.itemsize * weights * (3 + 2 * SLOTS.get(first.optimizer, 2))  # parameters, gradient, state; a copy
    evaluated = workload.itemsize * units * 3 * max(*workload.train, *workload.validation)
    live = max(evaluated, workload.itemsize * units * 4 * samples)
    data = _data_bytes(workload, first.batch_size)
    room = workload.memory_budget - held * len(networks) - data
    largest = max(1, int(room // (live * workload.devices)))
    if workload.cache is not None:
        largest = min(largest, max(FEWEST, workload.cache // (workload.itemsize * units * samples)))
    chunk_sizes = np.arange(1, min(largest, int(sizes.max())) + 1)
    chunks = (-(-sizes[:, None] // chunk_sizes)).sum(axis=0)
    rounds = -(-chunks // workload.devices)
    chosen = len(activations) > 1
    step = _work(np.array([hidden], int), workload, samples, chosen=chosen)[0]
    launches = LAUNCH * LAUNCHES_LAYER * (len(hidden) + 1)
    times = rounds * (launches + chunk_sizes * step)
    pick = int(np.argmin(times))
    chunk = int(chunk_sizes[pick])

    rows, activation, split = [], [], []
    for (a, s), members in groups.items():
        for start in range(0, len(members), chunk):
            row = members[start : start + chunk]
            rows.append(row + [-1] * (chunk - len(row)))
            activation.append(a)
            split.append(s)
    while len(rows) % workload.devices:
        rows.append([-1] * chunk)
        activation.append(0)
        split.append(0)
    widths = np.array([trials[n // splits].hidden for n in networks], int).reshape(len(networks), -1)
    useful = float(_work(widths, workload, samples, chosen=chosen).sum())
    return Program(
        hidden=hidden,
        activations=activations,
        optimizer=first.optimizer,
        batch_size=first.batch_size,
        batches=workload.batches(first.batch_size, networks[0] % splits),
        slots=np.array(rows, int),
        activation=np.array(activation, np.int32),
        split=np.array(split, np.int32),
        padded=bool((widths != np.array(hidden)).any()),
        waste=1 - useful / (step * len(networks)),
        seconds=float(times[pick] * steps),
        compile_seconds=compile_seconds,
        memory=int(held * len(networks) + live * chunk * workload.devices) + data,
    )
