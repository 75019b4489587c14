"""What a training is predicted to cost, in seconds and bytes, from the sizes of networks, data and machine."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxbackprop.activations import Activation
from jaxbackprop.optimizers import Optimizer, get_optimizer, is_own, layer_shapes, state_shapes
from jaxbackprop.sweeps.grid import Trial

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
ORDER_ENTRIES = 4_000_000  # of the order of the batches, at most, handed over in one call
FEWEST = 4  # networks of a chunk, however large: their matrix products run faster side by side
LIGHT = frozenset({"identity", "relu", "leaky_relu", "hardshrink", "sigmoid", "tanh", "silu"})


class Workload(NamedTuple):
    """What is the same for all trials: the sizes of the data, the length of the training, the machine.

    `samples` are all there are; `train` and `validation` how many of them each split has. `cache` is None on an
    accelerator, whose chunks are bounded by `memory_budget` (bytes, for all devices together) alone. `monitored` says
    whether early stopping keeps parameters beside the current ones, `assess` whether records evaluate the training
    samples, as those of a sweep do and an estimator's don't. `waves` are the frequencies of an embedding, of all
    features together.
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
    waves: int = 0

    @property
    def inputs(self) -> int:
        """How many numbers the first layer is given."""
        return self.features + 2 * self.waves

    @property
    def width(self) -> int:
        """How many numbers a sample is: features, targets and a weight."""
        return self.features + self.outputs + 1

    def batches(self, batch_size: int | None, split: int) -> int:
        """Steps that make up an epoch."""
        return 1 if batch_size is None else -(-self.train[split] // batch_size)


def units(hidden: Sequence[int], workload: Workload) -> int:
    """How many activations of a network one sample has, an embedding's sines and cosines included."""
    return sum(layer_sizes(hidden, workload)[1:]) + 2 * workload.waves


def layer_sizes(hidden: Sequence[int], workload: Workload) -> tuple[int, ...]:
    """(inputs, hidden units …, outputs)."""
    return (workload.inputs, *hidden, workload.outputs)


def arithmetic(
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
    sizes = np.hstack([workload.inputs * edge, hidden, workload.outputs * edge]).astype(float)
    ins, outs, slot = sizes[:, :-1], sizes[:, 1:], np.arange(hidden.shape[1] + 1)
    used = (slot < depth[:, None]) | (slot == hidden.shape[1])
    # The error of what goes in is computed where frequencies are trained with it alone.
    products = (ins * outs * used).sum(axis=1) * 6 - (0 if workload.waves else 2 * sizes[:, 0] * sizes[:, 1])
    elements = (outs * used).sum(axis=1) * (CHOICE if chosen else 1) + 2 * workload.waves
    held = used | (slot < deepest[:, None])
    return samples * (FLOP * products + ELEMENT * elements) + UPDATE * numbers * ((ins + 1) * outs * held).sum(axis=1)


def compiling(layers: int, activations: int, workload: Workload) -> float:
    """Predicted seconds of compiling, with care, a program of so many hidden layers that chooses from so many
    activations."""
    times = EPOCHS if not workload.assess else WATCHED if workload.monitored else 1.0
    return (COMPILE + (COMPILE_LAYER * layers + COMPILE_ACTIVATION * (activations - 1))) * times


def slower(activations: Sequence[Sequence[Activation]]) -> float:
    """How many times as long the steps of a program take if it is compiled quickly."""
    return SLOW if {f.name for layers in activations for f in layers} <= LIGHT else SLOWEST


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
    data = workload.samples * workload.width * (1 if workload.cache is not None else 1 + workload.devices)
    room = {optimizer: rooms(get_optimizer(optimizer)) for optimizer in {trial.optimizer for trial in trials}}
    weights = sum(
        numbers(hidden, workload) * (1 + workload.monitored + room[optimizer]) * count
        for (hidden, optimizer), count in Counter((t.hidden, t.optimizer) for t in trials).items()
    )
    return int(workload.itemsize * (data + weights * len(workload.train)))


def parameters(sizes: Sequence[int]) -> int:
    """How many numbers a network of these layer sizes has."""
    return sum(m * (n + 1) for n, m in pairwise(sizes))


def numbers(hidden: Sequence[int], workload: Workload) -> int:
    """How many numbers a network trains, the frequencies of an embedding included."""
    return workload.waves + parameters(layer_sizes(hidden, workload))


def program_bytes(
    hidden: tuple[int, ...], optimizer: Optimizer, batch_size: int | None, workload: Workload
) -> tuple[int, int, int]:
    """What a program holds: for each of its networks, for each network of a chunk on all devices, and the samples."""
    item, devices = workload.itemsize, workload.devices
    # The numbers on the devices, and once more while they are handed over from the book or back to it.
    held = 2 * item * numbers(hidden, workload) * (1 + workload.monitored + rooms(optimizer))
    evaluated = max(*workload.train, *workload.validation) if workload.assess else max(workload.validation)
    live = item * units(hidden, workload) * max(3 * evaluated, 4 * (batch_size or max(workload.train)))
    whole = max(workload.train) if batch_size is None or workload.assess else 0
    data = item * workload.width * (whole + max(workload.validation)) * devices
    if batch_size is not None:
        # The order of the batches, on the host and the devices, and the samples once more, one after the other.
        data += 4 * min(ORDER_ENTRIES, workload.epochs * sum(workload.train)) * (1 + devices)
        data += item * workload.width * workload.samples * devices
    return int(held), live * devices, data
