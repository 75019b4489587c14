"""Tables of results: saved whole or not at all, printed as mean ± spread."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from jaxbackprop.files import whole_file


def save_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV, whole or not at all.

    **Returns:** the path. Directories that do not exist are made.
    """
    with whole_file(path) as partial:
        table.to_csv(partial)
    return Path(path)


def mean_and_spread(
    table: pd.DataFrame, value: str, *, rows: Sequence[str], columns: str, form: str = "{:.3f} ± {:.3f}"
) -> str:
    """`value` for each combination of `rows` and `columns`: its mean ± standard deviation over what is left, the
    seeds."""
    groups = table.groupby([*rows, columns], sort=False)[value]
    cells = groups.agg(lambda v: form.format(v.mean(), v.std(ddof=0)))
    return cells.unstack(columns).to_string()
