"""Programs of fixed shapes for sweeps that follow one another: only the first of them compiles.

A search that thinks trains one batch of trials, looks, and asks for the next. Planned each by itself, every batch would
have other widths, other activations and other numbers of chunks, and compile anew. A frame says what all of them stay
inside: programs are made for the widest and for every activation of it, with room for a whole batch in each.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxbackprop.optimizers import get_optimizer, ignores_padding
from jaxbackprop.sweeps.grid import Trial, each_activation, name_of
from jaxbackprop.sweeps.planner import Plan, Program, Workload, cut_into_chunks, fixed_bytes


class Family(NamedTuple):
    """What networks of one program share."""

    depth: int
    optimizer: str
    batch_size: int | None
    batches: int


def plan_in_frame(trials: Sequence[Trial], frame: Sequence[Trial], count: int, workload: Workload) -> Plan:
    """Plan the training of `trials` in programs that follow from `frame` and `count` alone.

    **Arguments:** `count`, how many trials there are at most.

    **Raises:** `ValueError` if there are more, or one of them is not inside the frame: no wider than its widest of that
    depth, with an activation, optimizer and batch size that occur in it.
    """
    if len(trials) > count:
        raise ValueError(f"grid has {len(trials)} trials, but the frame has room for {count}")
    splits = len(workload.train)
    templates = _templates(frame, count, workload)
    networks: dict[Family, list[int]] = defaultdict(list)
    for number, trial in enumerate(trials):
        for split in range(splits):
            family = _family(trial, split, workload)
            template = templates.get(family)
            if template is None or not _fits(trial, template):
                raise ValueError(
                    f"trial {number} is not inside the frame: its hidden={trial.hidden}, "
                    f"activation={name_of(trial.activation)!r}, optimizer={name_of(trial.optimizer)!r}, "
                    f"batch_size={trial.batch_size}, dropout={trial.dropout:g} must be held by one of its trials"
                )
            networks[family].append(number * splits + split)
    programs = tuple(replace(templates[family], networks=np.sort(own)) for family, own in networks.items())
    fixed = fixed_bytes(trials, workload)
    plan = Plan(
        programs,
        networks=len(trials) * splits,
        network_steps=sum(len(p.networks) * p.batches * workload.epochs for p in programs),
        waste=float(np.mean([p.waste for p in programs])),
        memory=fixed + max(p.memory for p in programs),
        workload=workload,
    )
    if plan.memory > workload.memory_budget:
        raise ValueError(
            f"memory_budget={workload.memory_budget / 2**20:.0f} MiB is too little: the frame needs "
            f"{plan.memory / 2**20:.0f} MiB; raise it, or ask for fewer trials at once"
        )
    return plan


def _family(trial: Trial, split: int, workload: Workload) -> Family:
    batches = workload.batches(trial.batch_size, split)
    return Family(len(trial.hidden), name_of(trial.optimizer), trial.batch_size, batches)


def _fits(trial: Trial, program: Program) -> bool:
    narrow = all(own <= most for own, most in zip(trial.hidden, program.hidden, strict=True))
    known = each_activation(trial) in program.activations
    return narrow and known and (program.dropout or trial.dropout == 0)


def _templates(frame: Sequence[Trial], count: int, workload: Workload) -> dict[Family, Program]:
    """For each family of the frame a program with room for `count` trials, whatever their activations are."""
    splits = len(workload.train)
    members: dict[Family, list[Trial]] = defaultdict(list)
    split_of: dict[Family, list[int]] = defaultdict(list)
    for split in range(splits):
        for family, own in _grouped(frame, split, workload).items():
            members[family] = own
            split_of[family].append(split)
    templates = {}
    for family, own in members.items():
        if not ignores_padding(get_optimizer(own[0].optimizer)):
            raise ValueError(f"frame holds the optimizer {family.optimizer!r}, which padding would disturb")
        hidden = tuple(max(t.hidden[l] for t in own) for l in range(family.depth))
        options = tuple(dict.fromkeys(each_activation(t) for t in own))
        names = [next(t.activation for t in own if each_activation(t) == f) for f in options]
        rate = max(t.dropout for t in own)
        whole = [own[0]._replace(hidden=hidden, activation=names[k % len(names)], dropout=rate) for k in range(count)]
        numbers = np.array([k * splits + split for k in range(count) for split in split_of[family]])
        steps = workload.epochs * family.batches
        program = cut_into_chunks(whole, numbers, hidden, options, workload, 1.0, steps, workload.memory_budget)
        # A chunk holds one activation on one split: in the worst case each of them ends with a chunk of its own.
        groups = len(options) * len(split_of[family])
        chunks = groups + len(numbers) // program.size
        chunks += -chunks % workload.devices
        grown = program.memory * chunks / program.chunks
        templates[family] = replace(program, activations=options, chunks=chunks, padded=True, memory=int(grown))
    return templates


def _grouped(frame: Sequence[Trial], split: int, workload: Workload) -> dict[Family, list[Trial]]:
    groups: dict[Family, list[Trial]] = defaultdict(list)
    for trial in frame:
        groups[_family(trial, split, workload)].append(trial)
    return groups
