"""Which network of a program stands in which place of which chunk."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxbackprop.sweeps.grid import Trial, each_activation
from jaxbackprop.sweeps.planner import Program


class Seats(NamedTuple):
    """Which network stands where, -1 for nobody; the networks of a chunk share `activation`, `depth` (how many hidden
    layers they have) and `split`. The first `used` chunks of every device are visited."""

    networks: Int[np.ndarray, "chunks networks"]
    activation: Int[np.ndarray, " chunks"]
    depth: Int[np.ndarray, " chunks"]
    split: Int[np.ndarray, " chunks"]
    used: int


def arrange(
    program: Program, networks: Int[np.ndarray, " some"], trials: Sequence[Trial], splits: int, devices: int
) -> Seats:
    """Seat some of a program's networks in as few chunks as hold them, which are dealt out to the devices in turn. It
    follows from the networks alone, so that a training taken up again computes in the same order."""
    slots = len(program.hidden)
    place = {activation: k for k, activation in enumerate(program.activations)}
    networks = np.sort(networks)
    own = np.array([place[each_activation(trials[n // splits], slots)] for n in networks], int)
    depths = np.array([len(trials[n // splits].hidden) for n in networks], int)
    group = (own * (slots + 1) + depths) * splits + networks % splits
    order = np.argsort(group, kind="stable")
    rows: list[np.ndarray] = []
    for members in np.split(networks[order], np.flatnonzero(np.diff(group[order])) + 1):
        rows += [members[start : start + program.size] for start in range(0, len(members), program.size)]
    per_device = program.chunks // devices
    seats = np.full((program.chunks, program.size), -1)
    activation, depth, split = (np.zeros(program.chunks, np.int32) for _ in range(3))
    for number, members in enumerate(rows):
        row = number % devices * per_device + number // devices
        seats[row, : len(members)] = members
        trial = trials[members[0] // splits]
        activation[row], depth[row] = place[each_activation(trial, slots)], len(trial.hidden)
        split[row] = members[0] % splits
    return Seats(seats, activation, depth, split, -(-len(rows) // devices))
