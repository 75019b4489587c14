"""The tables that are generated into README and chapters, between `<!-- table: NAME -->` and `<!-- end -->`.

    python tests/book/tables.py             the errata, from the table that `test_errata.py` holds true
    python tests/book/tables.py RESULTS     also what was measured and saved in that folder

`nox -s docs` does the first, `nox -s benchmark` and `nox -s experiments` the second: a number that is measured is
copied by nobody.
"""

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README, SPEED = ROOT / "README.md", HERE / "speed.md"
NAMES = {
    "scikit-learn": "scikit-learn `MLPClassifier`, one after the other",
    "NumPy loop": "NumPy loop, one after the other",
    "PyTorch vmap": "`torch.func.vmap` of `torch.func.grad`, samples first",
    "vmap(grad), samples first": "`jax.vmap` of `jax.grad`, samples first, as everyone writes it",
    "vmap(fit), sharded": "`jax.vmap(jaxbackprop.fit)`, hand-derived, features first, one device a core",
    "sweep": "`jaxbackprop.sweep`, from the grid to the table",
    "C, -Ofast": "hand-written C, `-Ofast`, two threads (`experiments/networks.c`)",
}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def replace(path: Path, name: str, table: str) -> None:
    """Put a table in its place in a file.

    **Raises:** `ValueError` if the file has no place of that name.
    """
    head, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- table: {name} -->")
    _, end, tail = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"{path} has no place for the table {name}")
    path.write_text(f"{head}{start}\n\n{table}\n\n{end}{tail}", encoding="utf-8")


def rows_of(path: Path, name: str) -> list[tuple[str, ...]]:
    """The rows that a table in a file has now."""
    table = path.read_text(encoding="utf-8").partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in lines[2:]]


def errata() -> str:
    """Where the document slips."""
    spec = importlib.util.spec_from_file_location("errata", HERE.parent / "test_errata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = [(e.where, e.written, e.right, f"{e.fails}: {e.why}") for e in module.ERRATA]
    return markdown(("where", "written", "right", "how it fails"), rows)


def rate(each_second: float) -> str:
    """To three digits: a run differs from the next in the second or third."""
    return f"{float(f'{each_second:.3g}'):,.0f}"


def peers(numbers: Mapping[str, Any], hidden: str) -> str:
    """Network-steps a second of every program, and what each makes of the C program."""
    rows = []
    for key, row in numbers["peers"][hidden].items():
        if key in NAMES:
            share = row["of_c"]
            rows.append((NAMES[key], rate(row["network_steps_per_second"]), "-" if share is None else f"{share:.2g}"))
    return markdown(("program", "network-steps a second", "of the C program"), rows)


def pack(programs: Mapping[str, Any]) -> str:
    """Network-steps a second of a pack of many widths, and how much of the machine that is."""
    names = {
        "sweep": "`jaxbackprop.sweep`, from the grid to the table",
        "PyTorch bmm": "PyTorch, `baddbmm` and autograd",
    }
    rows = []
    for key, row in programs.items():
        name, _, where = key.partition(", ")
        numbers = rate(row["network_steps_per_second"]), f"{row['sweep_over_it']:.2g}"
        rows.append((names[name], where or "all", *numbers, f"{row['of_matrix_product']:.2g}"))
    head = ("program", "cores", "network-steps a second", "`sweep` on as many / it", "of the fastest matrix product")
    return markdown(head, rows)


def measured(numbers: Mapping[str, Any]) -> str:
    """The other numbers of the benchmark."""
    digits = dict(numbers["digits_gflops"])
    training, fastest = digits.pop("training"), max(digits.values())
    adam, ten, growth = (numbers[key] for key in ("adam_cost", "ten_activations", "microseconds_per_network_step"))
    (few, less), (many, more) = growth.items()
    rows = [
        ("Adam / plain gradient descent, time of a step", ", ".join(f"{v:.2f} ({h} units)" for h, v in adam.items())),
        (
            "digits, 64 hidden units, 32 networks, full batch: training / fastest float32 matrix product",
            f"{training:,.0f} / {fastest:,.0f} GFLOP/s = {training / fastest:.2f}",
        ),
        (
            "1 to 100 units x ten activations, 1,000 samples, batches of 32: network-steps a second",
            rate(ten["network_steps_per_second"]),
        ),
        (
            "the same grid: programs, padding waste, first call with compiling",
            f"{ten['programs']}, {100 * ten['waste']:.0f} %, {ten['seconds_with_compiling']:.0f} s",
        ),
        (f"time of a network-step, {int(many):,} trials / {int(few):,}", f"{more / less:.2f}"),
    ]
    return markdown(("measured", ""), rows)


def machine(hardware: Mapping[str, Any]) -> str:
    """What it was measured on."""
    versions = ", ".join(f"{key} {hardware[key]}" for key in ("jax", "numpy", "python"))
    return f"Measured on {hardware['cores']} cores of {hardware['cpu']}, {versions}."


def searches(table: pd.DataFrame) -> str:
    """Seconds of scikit-learn's search and of ours."""
    rows = []
    for row in table.to_dict("records"):
        best = (row["scikit-learn's best"], row["our best"])
        timed = "" if row["timed"] == row["candidates"] else f" ({row['timed']} timed)"
        rows.append(
            (
                str(row["data"]),
                f"{row['candidates']:,}",
                f"{row['scikit-learn / s']:,}{timed}",
                f"{row['ours / s']}",
                f"{row['ratio']:.3g}",
                f"{row['second call / s']}",
                f"{best[0]}, {best[1]}",
            )
        )
    head = ("data", "candidates", "scikit-learn / s", "ours / s, compiling included", "ratio", "second call / s")
    return markdown((*head, "best scores"), rows)


def ensemble_time(numbers: Mapping[str, Any]) -> str:
    """Seconds of an ensemble, of the search that it is made of, and of scikit-learn's search."""
    seconds = dict(numbers["seconds"])
    rows = [(name, f"{value:.3g}") for name, value in seconds.items()]
    return markdown((f"{numbers['dataset']}, {numbers['candidates']} candidates on five folds", "seconds"), rows)


MODELS = {
    "best candidate": "best candidate",
    "ensemble": "ensemble",
    "ensemble, T = 1": "the same, T = 1",
    "GridSearchCV(MLP)": "`GridSearchCV(MLP)`",
    "HistGradientBoosting": "`HistGradientBoosting`",
}


def ensemble_accuracy(table: pd.DataFrame, value: str, path: Path) -> str:
    """Means over the folds that models were judged on, and standard errors; the best of each set in bold. The sets that
    were not judged this time, as it takes hours, stay as they are in the file."""
    rows = {row[0]: row for row in rows_of(path, value)}
    for name, own in table.dropna(subset=value).groupby("data", sort=False):
        of_model = own.groupby("model")[value]
        means, errors = of_model.mean(), of_model.sem()
        best = f"{means.max() if value == 'score' else means.min():.3f}"
        cells = []
        for model in MODELS:
            cell = f"{means[model]:.3f} ± {errors[model]:.3f}" if model in means else "-"
            cells.append(f"**{cell}**" if cell.startswith(best) else cell)
        rows[str(name)] = (str(name), f"{own['fold'].nunique()}", *cells)
    return markdown(("data", "folds", *MODELS.values()), list(rows.values()))


def predictions(table: pd.DataFrame) -> str:
    """What sweeps of one program take, beside what the planner says beforehand."""
    rows = [
        (
            str(row["layers"]),
            str(row["batch"]),
            str(row["optimizer"]),
            *(f"{row[key]:.2f}" for key in ("train / s", "predicted / s", "compile / s", "predicted compile / s")),
            f"{row['GFLOP/s']:.0f}",
        )
        for row in table.to_dict("records")
    ]
    head = ("layers", "batch", "optimizer", "training / s", "predicted", "compiling / s", "predicted", "GFLOP/s")
    return markdown(head, rows)


def records(numbers: Mapping[str, Any]) -> str:
    """Seconds of sweeps that record seldom and often."""
    rows = [(name, f"{value:.3g}", f"{numbers['ratios'][name]:.2f}") for name, value in numbers["seconds"].items()]
    return markdown(("43,000 x 26, layers 64 and 64, batches of 256, adamw, 64 networks", "seconds", "ratio"), rows)


def refresh(results: Path | None = None) -> None:
    """Write what is known into its places."""
    replace(HERE / "derivation.md", "errata", errata())
    if results is None:
        return
    if (results / "throughput.json").exists():
        numbers = json.loads((results / "throughput.json").read_text(encoding="utf-8"))
        least = min(numbers["peers"], key=int)
        replace(README, "programs", peers(numbers, least))
        for hidden in numbers["peers"]:
            replace(SPEED, f"programs, {hidden} units", peers(numbers, hidden))
        replace(SPEED, "measured", measured(numbers))
        replace(SPEED, "machine", machine(numbers["hardware"]))
    if (results / "pack.json").exists():
        programs = json.loads((results / "pack.json").read_text(encoding="utf-8"))["programs"]
        if "PyTorch bmm" in programs:  # what was measured stays, where there is no PyTorch to measure
            replace(SPEED, "pack", pack(programs))
    if (results / "plan_costs.csv").exists():
        replace(SPEED, "predictions", predictions(pd.read_csv(results / "plan_costs.csv")))
    if (results / "records.json").exists():
        replace(SPEED, "records", records(json.loads((results / "records.json").read_text(encoding="utf-8"))))
    if (results / "ensemble_speed.json").exists():
        numbers = json.loads((results / "ensemble_speed.json").read_text(encoding="utf-8"))
        replace(HERE / "ensembles.md", "time", ensemble_time(numbers))
    if (results / "ensemble_accuracy_folds.csv").exists():
        table, chapter = pd.read_csv(results / "ensemble_accuracy_folds.csv"), HERE / "ensembles.md"
        for value in ("loss", "score", "calibration error"):
            replace(chapter, value, ensemble_accuracy(table, value, chapter))
    if (results / "versus_sklearn.csv").exists():
        replace(HERE / "drop_in.md", "searches", searches(pd.read_csv(results / "versus_sklearn.csv")))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # test_errata imports its neighbours
    refresh(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
