"""Programs of fixed shapes for sweeps that follow one another: only the first of them compiles.

A search that thinks trains one batch of trials, looks, and asks for the next. Planned each by itself, every batch would
have other widths, other activations and other numbers of chunks, and compile anew. A frame says what all of them stay
inside: programs are made for the widest and for every activation of it, with room for a whole batch in each.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice, product

import numpy as np

from jaxbackprop.sweeps.costs import Workload
from jaxbackprop.sweeps.grid import Trial, each_activation, name_of
from jaxbackprop.sweeps.placement import Family, family_of, ignores_padding, slot_widths
from jaxbackprop.sweeps.planner import Plan, Program, cut_into_chunks, plan_of


def plan_in_frame(trials: Sequence[Trial], frame: Sequence[Trial], count: int, workload: Workload) -> Plan:
    """Plan the training of `trials` in programs that follow from `frame` and `count` alone.

    **Arguments:** `count`, how many trials there are at most.

    **Raises:** `ValueError` if there are more, or one of them is not inside the frame: no wider than its widest layers,
    with a depth, activation, optimizer and batch size that occur in it; or if they need more memory than there is.
    """
    if len(trials) > count:
        raise ValueError(f"grid has {len(trials)} trials, but the frame has room for {count}")
    splits = len(workload.train)
    templates = _templates(frame, count, workload)
    networks: dict[Family, list[int]] = defaultdict(list)
    for number, trial in enumerate(trials):
        for split in range(splits):
            family = family_of(trial, workload.batches(trial.batch_size, split))
            template = templates.get(family)
            if template is None or not _fits(trial, template):
                raise ValueError(
                    f"trial {number} is not inside the frame: its hidden={trial.hidden}, "
                    f"activation={name_of(trial.activation)!r}, optimizer={name_of(trial.optimizer)!r}, "
                    f"batch_size={trial.batch_size}, dropout={trial.dropout:g} must be held by one of its trials"
                )
            networks[family].append(number * splits + split)
    programs = [replace(templates[family], networks=np.sort(own)) for family, own in networks.items()]
    return plan_of(programs, trials, workload)


def _fits(trial: Trial, program: Program) -> bool:
    slots = len(program.hidden)
    if len(trial.hidden) not in program.depths or each_activation(trial, slots) not in program.activations:
        return False
    narrow = all(own <= most for own, most in zip(slot_widths(trial.hidden, slots), program.hidden, strict=True))
    return narrow and (program.dropout or trial.dropout == 0)


def _templates(frame: Sequence[Trial], count: int, workload: Workload) -> dict[Family, Program]:
    """For each family of the frame a program with room for `count` trials, whatever their depths and activations."""
    splits = len(workload.train)
    members: dict[Family, dict[int, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for split, trial in product(range(splits), frame):
        members[family_of(trial, workload.batches(trial.batch_size, split))][split].append(trial)
    templates = {}
    for family, by_split in members.items():
        if not ignores_padding(family.optimizer):
            raise ValueError(f"frame holds the optimizer {family.optimizer.name!r}, which padding would disturb")
        own = next(iter(by_split.values()))  # the same on each of these splits
        depths = sorted({len(t.hidden) for t in own})
        slots = depths[-1]
        widths = np.array([slot_widths(t.hidden, slots) for t in own], int).reshape(len(own), slots)
        hidden = tuple(widths.max(axis=0).tolist())
        kinds = {(len(t.hidden), each_activation(t, slots)): t for t in own}
        options = tuple(dict.fromkeys(activation for _, activation in kinds))
        rate = max(t.dropout for t in own)
        whole = [t._replace(dropout=rate) for t in islice(cycle(kinds.values()), count)]
        numbers = np.array([k * splits + split for k in range(count) for split in by_split])
        steps = workload.epochs * family.batches
        program = cut_into_chunks(whole, numbers, hidden, options, workload, 1.0, steps, workload.memory_budget)
        # A chunk holds one depth and activation on one split: in the worst case each of them ends with its own.
        groups = len(depths) * len(options) * len(by_split)
        chunks = groups + len(numbers) // program.size
        chunks += -chunks % workload.devices
        grown = program.memory * chunks / program.chunks
        templates[family] = replace(
            program, depths=tuple(depths), activations=options, chunks=chunks, padded=True, memory=int(grown)
        )
    return templates
