"""Tables of results: saved whole or not at all, printed as mean ± spread."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def save_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV: under another name first, then renamed.

    **Returns:** the path. Directories that do not exist are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        table.to_csv(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def mean_and_spread(
    table: pd.DataFrame, value: str, *, rows: Sequence[str], columns: str, form: str = "{:.3f} ± {:.3f}"
) -> str:
    """`value` for each combination of `rows` and `columns`: its mean ± standard deviation over what is left, the
    seeds."""
    groups = table.groupby([*rows, columns], sort=False)[value]
    cells = groups.agg(lambda v: form.format(v.mean(), v.std(ddof=0)))
    return cells.unstack(columns).to_string()
