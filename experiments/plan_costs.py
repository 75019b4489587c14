"""What does a sweep cost, and does the planner know it beforehand? Sweeps of one program each, measured, and the
constants of the planner's cost model that fit them best.

A step of a chunk of networks is taken to cost so much for each layer, for each floating-point operation of its matrix
products, for each activation of a unit on a sample, and for each number that the optimizer updates; a program, so much
to compile, and so much more for each hidden layer and each further activation. The constants are fitted to relative
errors, none of them below zero.

And what do records cost? A sweep by mini-batches with a record every epoch, and with patience, which needs them, beside
one that records at its beginning and its end.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tyro
from scipy.optimize import nnls
from throughput import save_json, training_flops

from jaxbackprop import plan, sweep, use_all_cores
from jaxbackprop.sweeps import costs, planner
from jaxbackprop.tables import save_table


class Case(NamedTuple):
    """A sweep of one program: so many networks alike but for their seeds, activations, and, where `depths` are given,
    their number of hidden layers, the first of `hidden`. Trained for longer than the program takes to compile: it is
    compiled well then, which is what the constants are about."""

    features: int
    hidden: tuple[int, ...]
    outputs: int
    samples: int
    batch_size: int | None
    optimizer: str
    activations: tuple[str, ...]
    networks: int
    epochs: int
    depths: tuple[int, ...] = ()


CASES = (
    Case(2, (3,), 2, 200, None, "sgd", ("tanh",), 64, 48_000),
    Case(2, (32,), 2, 200, None, "sgd", ("tanh",), 64, 7600),
    Case(4, (8,), 3, 120, None, "adam", ("relu", "tanh"), 64, 24_000),
    Case(30, (16,), 2, 600, 200, "adam", ("relu", "tanh", "sigmoid"), 48, 2400),
    Case(30, (64,), 2, 600, 200, "adam", ("relu", "tanh"), 32, 960),
    Case(64, (32,), 10, 1400, 200, "adam", ("relu", "tanh", "sigmoid"), 48, 360),
    Case(64, (64,), 10, 1400, 200, "adam", ("relu",), 16, 580),
    Case(64, (64,), 10, 1400, None, "sgd", ("tanh",), 16, 900),
    Case(64, (40, 40), 10, 1400, 128, "adamw", ("relu", "tanh"), 16, 360),
    Case(64, (124, 124, 124), 10, 1400, 128, "adamw", ("relu", "tanh"), 8, 110),
    Case(26, (64, 64), 2, 2560, 256, "adamw", ("relu",), 16, 240),
    Case(10, (32, 32), 1, 400, 32, "momentum", ("silu",), 32, 1100),
    Case(100, (256,), 10, 1000, 100, "sgd", ("relu",), 8, 310),
    Case(64, (60, 60, 60), 10, 1400, 128, "adamw", ("relu", "tanh"), 24, 200, depths=(1, 2, 3)),
    Case(30, (20, 20), 2, 600, 100, "adam", ("relu",), 32, 1400, depths=(1, 2)),
    Case(2, (3,), 2, 200, None, "sgd", ("tanh",), 2, 540_000),
    Case(4, (8,), 3, 120, None, "adam", ("relu",), 2, 420_000),
    Case(30, (16,), 2, 600, 200, "adam", ("tanh",), 2, 32_000),
    Case(64, (40, 40), 10, 1400, 128, "adamw", ("relu",), 2, 3000),
    Case(64, (40, 40, 40), 10, 1400, 128, "adamw", ("relu", "tanh"), 4, 1000),
)
RECORDED = Case(26, (64, 64), 2, 43_000, 256, "adamw", ("tanh",), 64, 16)
STEP = ("LAUNCH", "FLOP", "ELEMENT", "UPDATE")

COMPILING = ("COMPILE", "COMPILE_LAYER", "COMPILE_ACTIVATION")


def main(out: Path = Path("results"), rounds: int = 3, cases: int | None = None, scale: float = 1.0) -> pd.DataFrame:
    """Measure, fit, and print the planner's prediction beside what was measured.

    Args:
        out: Where the table goes.
        rounds: How often a sweep is repeated; the best counts.
        cases: How many of the sweeps, from the first; by default all.
        scale: What the epochs of each are multiplied by.
    """
    use_all_cores()
    rows = [measured(case._replace(epochs=max(1, round(case.epochs * scale))), rounds) for case in CASES[:cases]]
    table = pd.DataFrame(rows)
    print(table.drop(columns=[*STEP, *COMPILING]).to_string(index=False, float_format="{:.2f}".format))
    for names, seconds in ((STEP, table["train / s"]), (COMPILING, table["compile / s"])):
        known = table[list(names)].to_numpy() / seconds.to_numpy()[:, None]
        fitted, _ = nnls(known, np.ones(len(table)))
        error = np.abs(known @ fitted - 1)
        print(f"fitted, errors of {error.mean():.0%} on average and {error.max():.0%} at most:")
        for name, value in zip(names, fitted, strict=True):
            print(f"    {name:>20} {value:.3g}, the planner's is {getattr(costs, name):.3g}")
    print("saved", save_table(table, out / "plan_costs.csv"))
    case = RECORDED._replace(samples=round(RECORDED.samples * scale), networks=max(2, round(RECORDED.networks * scale)))
    records = measured_records(case, rounds)
    print(pd.DataFrame(records).to_string(float_format="{:.2f}".format))
    print(f"with patience a program is taken to compile {costs.WATCHED} times as long")
    print("saved", save_json(records, out / "records.json"))
    return table


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of a sweep, of its first call more than of another, the planner's guess, and what these are made of."""
    X, y, grid = make_problem(case)
    sizes: dict[str, Any] = {"features": case.features, "outputs": case.outputs, "samples": case.samples}
    own = plan(grid, epochs=case.epochs, **sizes)
    held_out = X[: case.outputs + 60], y[: case.outputs + 60]

    def run(epochs: int) -> float:
        start = time.perf_counter()
        sweep(grid, X, y, epochs=epochs, record_every=epochs, validation=held_out, progress=False)
        return time.perf_counter() - start

    first, seconds = run(case.epochs), min(run(case.epochs) for _ in range(rounds))
    parts = pd.DataFrame([made_of(case, program, own.workload.devices) for program in own.programs]).sum()
    layers = "-".join(map(str, (case.features, *case.hidden, case.outputs)))
    return {
        "layers": layers + (f", {min(case.depths)} to {max(case.depths)} hidden" if case.depths else ""),
        "batch": case.batch_size or "full",
        "optimizer": case.optimizer,
        "programs": len(own.programs),
        "quick": own.programs[0].quick,
        "train / s": seconds,
        "predicted / s": sum(program.seconds for program in own.programs),
        "compile / s": first - seconds,
        "predicted compile / s": sum(program.compile_seconds for program in own.programs),
        "GFLOP/s": products(case) * case.samples * case.epochs * case.networks / seconds / 1e9,
        **parts,
    }


def make_problem(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, list[Any]]]:
    """Samples, which nothing is to be learned from, their targets, and the grid of the networks."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(case.samples, case.features)).astype(np.float32)
    y = np.arange(case.samples) % case.outputs if case.outputs > 1 else generator.normal(size=case.samples)
    shapes = [layers[1:-1] for layers in shapes_of(case)]
    seeds = list(range(case.networks // len(case.activations) // len(shapes)))
    grid: dict[str, list[Any]] = {"hidden": shapes, "activation": list(case.activations), "seed": seeds}
    grid |= {"optimizer": [case.optimizer], "batch_size": [case.batch_size], "learning_rate": [1e-3]}
    return X, y, grid


def shapes_of(case: Case) -> list[tuple[int, ...]]:
    """The layer sizes of its networks, once each."""
    return [(case.features, *case.hidden[:depth], case.outputs) for depth in case.depths or (len(case.hidden),)]


def products(case: Case) -> float:
    """Floating-point operations of a step's matrix products, for each sample; the mean over the networks."""
    return float(np.mean([training_flops(layers, 1) for layers in shapes_of(case)]))


def measured_records(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of a sweep that records twice, of one that records every epoch and of one with patience, in turn, the
    best of the rounds; and what the others take, and take to compile, relative to the first. A fifth of the samples is
    held out."""
    X, y, grid = make_problem(case)
    ways: dict[str, dict[str, int]] = {
        "two records": {"record_every": case.epochs},
        "a record every epoch": {"record_every": 1},
        "patience": {"record_every": 1, "patience": case.epochs + 1},  # which never ends a trial: the same work
    }
    first, seconds = {}, dict.fromkeys(ways, np.inf)
    for number in range(rounds + 1):
        for name, options in ways.items():
            start = time.perf_counter()
            sweep(grid, X, y, epochs=case.epochs, progress=False, **options)
            spent = time.perf_counter() - start
            if number == 0:
                first[name] = spent
            else:
                seconds[name] = min(seconds[name], spent)
    compiling = {name: first[name] - seconds[name] for name in ways}
    return {"seconds": seconds, "ratios": _relative(seconds), "compiling": _relative(compiling)}


def _relative(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value / seconds["two records"] for name, value in seconds.items()}


def made_of(case: Case, program: planner.Program, devices: int) -> dict[str, float]:
    """How many of each constant a program's training and compiling take, on each of the devices."""
    shapes = shapes_of(case)
    units = np.mean([sum(layers[1:]) for layers in shapes])
    slots = (case.features, *case.hidden, case.outputs)
    chunks = case.epochs * program.batches * program.chunks / devices
    networks = chunks * program.size
    samples = networks * (case.batch_size or case.samples)
    quick, slow = (costs.QUICK, costs.slower(program.activations)) if program.quick else (1, 1)
    chosen = len(program.activations) > 1 or len(shapes) > 1
    return {
        "LAUNCH": slow * chunks * costs.LAUNCHES_LAYER * (len(slots) - 1),
        "FLOP": slow * samples * products(case),
        "ELEMENT": slow * samples * units * (costs.CHOICE if chosen else 1),
        "UPDATE": slow * networks * costs.parameters(slots) * (1 + costs.SLOTS[case.optimizer]),
        "COMPILE": quick,
        "COMPILE_LAYER": quick * len(case.hidden),
        "COMPILE_ACTIVATION": quick * (len(program.activations) - 1),
    }


if __name__ == "__main__":
    tyro.cli(main)
