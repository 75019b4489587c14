"""What is known of every network of a sweep while it runs: the host's record, from which the result is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxbackprop.network import Layer, Params
from jaxbackprop.sweeps.planner import Plan, Program, layer_sizes
from jaxbackprop.sweeps.program import Metrics
from jaxbackprop.sweeps.runner import Run, fetch


class Curves(NamedTuple):
    """Metrics of every network at every record, [records, networks]; NaN where there is none."""

    train_loss: Float[np.ndarray, "records networks"]
    train_score: Float[np.ndarray, "records networks"]
    validation_loss: Float[np.ndarray, "records networks"]
    validation_score: Float[np.ndarray, "records networks"]


@dataclass(frozen=True, eq=False)
class Ledger:
    """Arrays that are filled while the sweep goes on.

    - `curves`: the metrics at each record; `final`, those of the parameters that are handed back, [networks].
    - `epochs`: how long each network was trained; `finished`: whether to its end; `kept`: at which record its
      parameters were taken.
    - `params`: of each program, stacked over its networks; `place`, program and position of each network.
    """

    curves: Curves
    final: Curves
    epochs: Int[np.ndarray, " networks"]
    kept: Int[np.ndarray, " networks"]
    finished: Bool[np.ndarray, " networks"]
    params: Sequence[Params]
    place: Int[np.ndarray, "networks 2"]


def open_ledger(plan: Plan, records: int, dtype: Any) -> Ledger:
    """Nothing known yet."""
    place = np.zeros((plan.networks, 2), int)
    params = []
    for number, program in enumerate(plan.programs):
        networks = np.sort(program.slots[program.slots >= 0])
        place[networks] = np.stack([np.full(len(networks), number), np.arange(len(networks))], axis=1)
        params.append(_empty_params(program, plan, len(networks), dtype))
    return Ledger(
        Curves(*(np.full((records, plan.networks), np.nan, dtype) for _ in Curves._fields)),
        Curves(*(np.full(plan.networks, np.nan, dtype) for _ in Curves._fields)),
        np.zeros(plan.networks, int),
        np.zeros(plan.networks, int),
        np.zeros(plan.networks, bool),
        params,
        place,
    )


def _empty_params(program: Program, plan: Plan, networks: int, dtype: Any) -> Params:
    sizes = layer_sizes(program.hidden, plan.workload)
    zeros: Any = np.zeros
    return tuple(Layer(zeros((networks, m, n), dtype), zeros((networks, m), dtype)) for n, m in pairwise(sizes))


def in_use(run: Run) -> Bool[np.ndarray, "chunks networks"]:
    """Where there is a network that is still trained."""
    return run.layout.slots >= 0


def record(ledger: Ledger, run: Run, number: int) -> None:
    """Write down the metrics of a run's networks, which have just been measured; early stopping may have ended some."""
    metrics: Metrics = fetch(run.carry.metrics)
    present = in_use(run)
    present[present] = ledger.epochs[run.layout.slots[present]] == 0
    networks = run.layout.slots[present]
    for curve, values in zip(ledger.curves, metrics, strict=True):
        curve[number, networks] = values[present]


def settle(ledger: Ledger, run: Run, which: Bool[np.ndarray, "chunks networks"], *, finished: bool) -> None:
    """Note that some networks are trained no more, and whether that was their own end; unless it was noted before."""
    networks = run.layout.slots[which & in_use(run)]
    fresh = networks[ledger.epochs[networks] == 0]
    ledger.epochs[fresh] = run.epoch
    ledger.finished[fresh] = finished


def store(ledger: Ledger, run: Run, which: Bool[np.ndarray, "chunks networks"], *, finished: bool) -> None:
    """Take over the parameters of some of a run's networks, with their metrics, as the sweep's outcome for them."""
    which = which & in_use(run)
    if not which.any():
        return
    networks = run.layout.slots[which]
    program = int(ledger.place[networks[0], 0])
    position = ledger.place[networks, 1]
    kept = run.carry.kept
    params, metrics, at = fetch(
        (run.carry.state.params, run.carry.metrics, run.carry.record)
        if kept is None
        else (kept.params, kept.metrics, kept.record)
    )
    for own, new in zip(jax.tree.leaves(ledger.params[program]), jax.tree.leaves(params), strict=True):
        own[position] = new[which]
    for own, new in zip(ledger.final, metrics, strict=True):
        own[networks] = new[which]
    settle(ledger, run, which, finished=finished)
    ledger.kept[networks] = at[which]
