"""How fast are many small networks trained, beside what one would otherwise use?

Every program does the same work in the same run, in interleaved rounds, and counts with its fastest round: the ratios
between them then say something that a busy or slow machine cannot change much. Compiling is not counted unless it says
so; `sweep` is measured as a whole call, from the grid to the table.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import peers
import tyro
from peers import L2, SAMPLES, Outcome, Peer, Run, Task, make_task, some, swept, vmapped_fit, whole_sweep

from jaxbackprop import plan, use_all_cores
from jaxbackprop.data import load, standardize
from jaxbackprop.plotting import COLORS, DASHES, MARKERS, panels, save_figure

SWEEP, FIT, GRAD, TORCH = "sweep", "vmap(fit), sharded", "vmap(grad), samples first", "PyTorch vmap"
NUMPY, SKLEARN, C = "NumPy loop", "scikit-learn", "C, -Ofast"

OF_C = ({3: 0.9, 32: 0.85}, {3: 0.75, 32: 0.6})  # shares of the C program's speed to be reached: sweep, vmap(fit)
TEN = ("sigmoid", "relu", "tanh", "selu", "leaky_relu", "identity", "elu", "gelu", "mish", "hardshrink")

Rates = dict[str, dict[int, float]]
INKS = (*COLORS[:6], COLORS[7])  # yellow names are hard to read on white


class Size(NamedTuple):
    """How much is measured. Steps are those of this project's programs; slower ones take fewer."""

    rounds: int = 5
    networks: int = 512
    # Of each hidden width; sweeps take four times as many, so that it pays to compile their programs well.
    steps: Mapping[int, int] = {3: 4000, 32: 600}
    digits: int = 1000
    widths: int = 100
    epochs: int = 20
    counts: Sequence[int] = (1, 10, 100, 1_000, 10_000, 100_000)
    hidden: Sequence[int] = (1, 4, 16, 64, 256)
    seconds: float = 0.4  # about how long one measurement of the scaling curves takes, if it then has enough steps:
    least: Mapping[str, int] = {SWEEP: 300, FIT: 20}  # what is done once a network must not count for much
    growth: tuple[int, int] = (1_000, 100_000)
    growth_steps: int = 300


QUICK = Size(1, 16, {3: 20}, 2, 2, 1, (1, 8), (4,), 0.001, {}, (8, 32), 5)


class Goal(NamedTuple):
    """A number that was aimed at; `least` tells whether it is to be reached or to be stayed under."""

    what: str
    goal: float
    measured: float
    least: bool = True


def race(runs: Mapping[str, Run], rounds: int) -> tuple[dict[str, Outcome], dict[str, float]]:
    """The best outcome of each after a first run, in turns; and the seconds of the first runs, compiling included."""
    first = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        first[name] = time.perf_counter() - start
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            outcomes[name].append(run())
    return {name: min(several) for name, several in outcomes.items()}, first


def rate_of(outcome: Outcome, work: float) -> float:
    """Work a second; infinite if it took no measurable time."""
    return work / max(outcome.seconds, 1e-9)


def measure_peers(hidden: int, size: Size, c: Peer | None) -> tuple[pd.DataFrame, float]:
    """All programs on the same networks, and what Adam costs beside plain gradient descent."""
    if c is not None:
        distance = peers.check_c(c, hidden)
        print(f"the C program of {hidden} hidden units ends {distance:.0e} from the loss of vmap(fit)\n")
    task, steps = make_task(size.networks, hidden), size.steps[hidden]
    few, one, fewer = some(task, 4), some(task, 1), max(1, steps // 10)
    entries: dict[str, tuple[Peer, Task, int]] = {
        SKLEARN: (peers.scikit_learn, one, steps),
        NUMPY: (peers.numpy_loop, few, steps),
        GRAD: (peers.vmapped_grad, task, fewer),
        FIT: (vmapped_fit, task, steps),
        SWEEP: (swept, task, 4 * steps),
        "sweep, adam": (partial(swept, optimizer="adam"), task, 4 * steps),
    }
    if peers.torch_is_there():
        entries[TORCH] = (peers.vmapped_torch, task, max(1, fewer // 2))
    if c is not None:
        entries[C] = (c, task, steps)
    best, _ = race({name: peer(t, s) for name, (peer, t, s) in entries.items()}, size.rounds)

    table = pd.DataFrame(
        [(name, len(t.b1), s, rate_of(best[name], len(t.b1) * s)) for name, (_, t, s) in entries.items()],
        columns=["program", "networks", "steps", "network_steps_per_second"],
    ).set_index("program")
    rates = table["network_steps_per_second"]
    table["of_vmap_grad"] = rates / rates[GRAD]
    table["of_c"] = rates / rates.get(C, np.nan)
    whole = (table["networks"] == size.networks) & (table["steps"] == steps)
    table["final_loss"] = pd.Series({name: best[name].loss for name in entries}).where(whole)
    table["from_c"] = (table["final_loss"] - table["final_loss"].get(C, np.nan)).abs()
    table = table.sort_values("network_steps_per_second")
    return table, float(rates[SWEEP] / rates["sweep, adam"])


def training_flops(sizes: Sequence[int], samples: int) -> int:
    """Floating-point operations of a step's matrix products: each weight takes 2 a sample forward, 2 for its gradient
    and 2 to send the error back, which the first layer need not do."""
    weights = [a * b for a, b in pairwise(sizes)]
    return samples * (6 * sum(weights) - 2 * weights[0])


def measure_digits(size: Size) -> dict[str, float]:
    """GFLOP/s of training 32 networks of 64 units on the digits, full batch, and of plain matrix products."""
    data = load("digits")
    (X,) = standardize(data.X)
    networks = 32
    settings = {"hidden": [(64,)], "learning_rate": [0.1], "l2": [L2], "seed": list(range(networks))}
    flops = training_flops((X.shape[1], 64, 10), len(X)) * networks * size.digits
    runs: dict[str, Run] = {"training": whole_sweep(settings, X.astype(np.float32), data.y, size.digits)}
    work: dict[str, float] = {"training": flops}
    for n in (1024, 2048, 4096) if size.rounds > 1 else (256,):
        products = peers.matrix_products(n)
        runs, work = runs | products, work | dict.fromkeys(products, 2 * n**3)
    best, _ = race(runs, size.rounds)
    return {name: rate_of(best[name], work[name]) / 1e9 for name in runs}


def measure_ten_activations(size: Size) -> dict[str, Any]:
    """1 to 100 hidden units x ten activations, in batches of 32: the grid of ParallelMLPs."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((1000, 10)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    settings = {
        "activation": list(TEN),
        "hidden": [(units,) for units in range(1, size.widths + 1)],
        "learning_rate": [0.01],
        "batch_size": [32],
    }
    programs = plan(settings, features=10, outputs=2, samples=1000, epochs=size.epochs)
    print(programs, "\n")
    best, first = race({SWEEP: whole_sweep(settings, X, y, size.epochs)}, min(size.rounds, 3))
    return {
        "trials": len(TEN) * size.widths,
        "network_steps": programs.network_steps,
        "network_steps_per_second": rate_of(best[SWEEP], programs.network_steps),
        "seconds": best[SWEEP].seconds,
        "seconds_with_compiling": first[SWEEP],
        "programs": len(programs.programs),
        "waste": programs.waste,
    }


# How many network-steps a second to expect of three units, from which follows how many steps make a good measurement.
EXPECTED = {SWEEP: 2.5e6, FIT: 2e6, GRAD: 1.2e5, TORCH: 6e4, NUMPY: 2e4, SKLEARN: 6e3, C: 4.6e6}
FEW = {NUMPY: 2, SKLEARN: 1}  # one after another: the rate does not depend on how many there are


def measure_scaling(points: Sequence[tuple[int, int]], size: Size, c: Peer | None) -> Rates:
    """Network-steps a second of each program at each (networks, hidden units), numbered by their place."""
    programs: dict[str, Peer] = {
        SWEEP: swept,
        FIT: vmapped_fit,
        GRAD: peers.vmapped_grad,
        NUMPY: peers.numpy_loop,
        SKLEARN: peers.scikit_learn,
    }
    if peers.torch_is_there():
        programs[TORCH] = peers.vmapped_torch
    if c is not None:
        programs[C] = c
    rates: Rates = {name: {} for name in programs}
    for place, (networks, hidden) in enumerate(points):
        runs, work = {}, {}
        for name, peer in programs.items():
            task = make_task(networks, hidden)
            task = some(task, min(networks, FEW.get(name, networks)))
            step = len(task.b1) * (hidden + 2) / 5 / EXPECTED[name]
            steps = int(np.clip(size.seconds / step, size.least.get(name, 4), 20_000))
            runs[name], work[name] = peer(task, steps), len(task.b1) * steps
        best, _ = race(runs, min(size.rounds, 2))
        for name in programs:
            rates[name][place] = rate_of(best[name], work[name])
    return rates


def measure_growth(size: Size) -> dict[int, float]:
    """Microseconds a network-step of a sweep of few and of many trials, each trained as long."""
    runs = {str(n): swept(make_task(n, 3), size.growth_steps) for n in size.growth}
    best, _ = race(runs, min(size.rounds, 2))
    return {n: 1e6 * best[str(n)].seconds / (n * size.growth_steps) for n in size.growth}


def draw(curves: Sequence[tuple[str, Sequence[int], Rates]], cores: int, path: Path) -> Path:
    """Network-steps a second against the number of networks and against the hidden width."""
    figure, axes = panels(1, len(curves), width=5.6, height=4.6)
    low = min(min(curve.values()) for _, _, rates in curves for curve in rates.values())
    high = max(max(curve.values()) for _, _, rates in curves for curve in rates.values())
    order = list(EXPECTED)
    for ax, (label, xs, rates) in zip(axes[0], curves, strict=True):
        for name, curve in rates.items():
            k = order.index(name)
            style = {"color": INKS[k], "marker": MARKERS[k], "linestyle": DASHES[k % len(DASHES)]}
            ax.plot(xs, list(curve.values()), linewidth=2.5 if name == SWEEP else 1.6, markersize=6, **style)
        ax.set(xscale="log", yscale="log", xlabel=label, ylim=(low / 1.6, high * 1.6), xlim=(None, xs[-1] * 1.3))
        ax.set_xticks(xs, [f"{x // 1000}k" if x >= 1000 else str(x) for x in xs])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ends = {name: list(curve.values())[-1] for name, curve in rates.items()}
        for name, height in apart(ends, gap=(high / low) ** (1 / 20)).items():
            ax.text(xs[-1] * 1.4, height, name, color=INKS[order.index(name)], va="center", fontsize=10, clip_on=False)
    axes[0, 0].set_ylabel("network-steps a second")
    figure.suptitle(
        f"Training networks of one hidden layer on {SAMPLES} samples, full batch, {cores} cores", fontsize=12
    )
    return save_figure(figure, path)


def apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights on a logarithmic axis, moved so that each is at least `gap` times the one below."""
    placed: dict[str, float] = {}
    below = 0.0
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        below = placed[name] = max(height, below * gap)
    return placed


def scaling_table(rates: Rates, points: Sequence[int], name: str) -> pd.DataFrame:
    """Rates and what `sweep` makes of each, one row a point."""
    table = pd.DataFrame({program: list(curve.values()) for program, curve in rates.items()})
    table.index = pd.Index([f"{p:,}" for p in points], name=name)
    table["sweep / vmap(grad)"] = table[SWEEP] / table[GRAD]
    return table


def hardware() -> dict[str, Any]:
    """What it was measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((s.split(":")[1].strip() for s in info.read_text().splitlines() if "model name" in s), model)
    return {
        "cpu": model,
        "cores": len(jax.devices()),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "c_compiler": peers.c_compiler(),
    }


def save_json(numbers: Any, path: Path) -> Path:
    """Whole or not at all: under another name first, then renamed. What was not measured is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    partial_path.write_text(json.dumps(plain(numbers), indent=1) + "\n")
    partial_path.replace(path)
    return path


def show(table: pd.DataFrame, **formats: str) -> None:
    """Print a table, columns in the formats given; what was not measured is a dash."""

    def formatter(form: str) -> Callable[[Any], str]:
        return lambda value: form.format(value) if np.isfinite(value) else "-"

    formatters = {name: formatter(form) for name, form in formats.items()}
    print(table.to_string(formatters=formatters, na_rep="-"), "\n")


def main(out: Path = Path("results"), quick: bool = False) -> pd.DataFrame:
    """Measure; print tables, save all the numbers and a figure.

    Args:
        out: Where throughput.json and throughput.png go.
        quick: Measure next to nothing, to see that everything runs.
    """
    with tempfile.TemporaryDirectory() as directory:
        return measure(out, QUICK if quick else Size(), peers.c_program(Path(directory)))


def measure(out: Path, size: Size, c: Peer | None) -> pd.DataFrame:
    """What `main` does, once it knows how much to measure."""
    start = time.perf_counter()
    cores = use_all_cores()
    machine = hardware()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), "\n")
    numbers: dict[str, Any] = {"hardware": machine, "peers": {}, "adam_cost": {}}
    goals: list[Goal] = []

    tables = {}
    for hidden in size.steps:
        tables[hidden], adam = measure_peers(hidden, size, c)
        numbers["peers"][hidden] = tables[hidden].to_dict("index")
        numbers["adam_cost"][hidden] = adam
        print(f"{size.networks} networks of {hidden} hidden units, {SAMPLES} samples, full batch\n")
        show(
            tables[hidden],
            network_steps_per_second="{:,.0f}",
            of_vmap_grad="{:.2f}",
            of_c="{:.3f}",
            final_loss="{:.6f}",
            from_c="{:.1e}",
        )
        for name, label, goal in ((SWEEP, "sweep", OF_C[0][hidden]), (FIT, "vmap(fit)", OF_C[1][hidden])):
            goals.append(Goal(f"{label} / C, {hidden} units", goal, tables[hidden].loc[name, "of_c"]))
    first = tables[min(tables)].loc[FIT]
    goals += [
        Goal("vmap(fit) / vmap(grad), 3 units", 12, first["of_vmap_grad"]),
        Goal("final loss of vmap(fit), distance from C's", 1e-5, first["from_c"], least=False),
    ]
    goals += [Goal(f"time of adam / sgd, {h} units", 1.8, cost, False) for h, cost in numbers["adam_cost"].items()]

    numbers["digits_gflops"] = digits = measure_digits(size)
    print("digits, 64 hidden units, 32 networks, full batch, beside matrix products: GFLOP/s\n")
    print(pd.Series(digits).map("{:,.0f}".format).to_string(), "\n")
    fastest = max(rate for name, rate in digits.items() if name != "training")
    goals.append(Goal("digits / matrix product", 0.65, digits["training"] / fastest))

    print("1 to", size.widths, "hidden units x ten activations, 1,000 samples, batches of 32\n")
    numbers["ten_activations"] = ten = measure_ten_activations(size)
    speed = ten["network_steps_per_second"]
    print(
        f"{speed:,.0f} network-steps a second in {ten['seconds']:.2f} s; "
        f"the first call, compiling included, took {ten['seconds_with_compiling']:.2f} s\n"
    )
    goals += [
        Goal("ten activations, network-steps a second", 1_000_000, speed),
        Goal("ten activations, programs", 40, ten["programs"], least=False),
        Goal("ten activations, padding waste", 0.3, ten["waste"], least=False),
    ]

    numbers["microseconds_per_network_step"] = growth = measure_growth(size)
    few, many = size.growth
    print("microseconds a network-step:", ", ".join(f"{n:,} trials {cost:.3f}" for n, cost in growth.items()), "\n")
    goals.append(Goal(f"cost of a network-step, {many:,} / {few:,} trials", 1.1, growth[many] / growth[few], False))

    by_count = measure_scaling([(networks, 3) for networks in size.counts], size, c)
    by_width = measure_scaling([(size.networks, hidden) for hidden in size.hidden], size, c)
    for rates, points, name in ((by_count, size.counts, "networks"), (by_width, size.hidden, "hidden units")):
        table = scaling_table(rates, points, name)
        numbers[f"by_{name.replace(' ', '_')}"] = table.to_dict("index")
        print(f"network-steps a second against {name}\n")
        show(table, **dict.fromkeys(rates, "{:,.0f}"), **{"sweep / vmap(grad)": "{:.1f}"})

    summary = pd.DataFrame(goals).set_index("what")
    missing = summary["measured"].isna()
    met = np.where(summary["least"], summary["measured"] >= summary["goal"], summary["measured"] <= summary["goal"])
    summary["met"] = np.where(missing, "not measured", np.where(met, "yes", "no"))
    numbers["goals"] = summary.to_dict("index")
    printed = summary.assign(goal=["≥ " * g.least + "≤ " * (not g.least) + f"{g.goal:g}" for g in goals])
    show(printed.drop(columns="least"), measured="{:.3g}")

    curves = [("networks of 3 hidden units", size.counts, by_count)]
    curves += [(f"hidden units of {size.networks} networks", size.hidden, by_width)]
    print("saved", draw(curves, cores, out / "throughput.png"))
    numbers["seconds"] = time.perf_counter() - start
    print("saved", save_json(numbers, out / "throughput.json"), f"after {numbers['seconds']:.0f} s")
    return summary


if __name__ == "__main__":
    tyro.cli(main)
