"""A folder of hand-ins, each audited in a process and a temporary folder of its own, with a time limit.

It is no sandbox: a hand-in can do whatever its user can. A file that hangs, exits or writes beside itself harms no
other file's audit; that is all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbackprop.tables import save_table

SANDBOX = "It is no sandbox: the files are run with all that you may do yourself."
VERDICTS = {0: "right", 1: "wrong", 2: "could not be run"}


def mark_all(folder: Path, csv: Path | None, seconds: float) -> pd.DataFrame:
    """One row a file: verdict, mistakes, seconds.

    **Raises:** `ValueError` if there is no such folder, or no hand-in in it.
    """
    if not folder.is_dir():
        raise ValueError(f"--all must be a folder, got {folder}")
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".py", ".ipynb") and file.is_file())
    if not files:
        raise ValueError(f"there is no .py and no .ipynb in {folder}")
    rows = [{"file": str(file.relative_to(folder)), **mark(file, seconds)} for file in files]
    table = pd.DataFrame(rows).set_index("file")
    if csv is not None:
        save_table(table, csv)
    return table


def mark(file: Path, seconds: float) -> dict[str, Any]:
    """The audit of a copy of one file, with the files beside it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hand-in-", ignore_cleanup_errors=True) as temporary:
        copy = Path(temporary) / "hand_in"
        copy.mkdir()
        for beside in file.parent.iterdir():
            if beside.is_file():
                shutil.copy2(beside, copy)
        told = Path(temporary) / "told"
        command = [sys.executable, "-m", "jaxbackprop", "audit", str(copy / file.name), "--codes", str(told)]
        with subprocess.Popen(
            command,
            cwd=copy,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as child:
            try:
                _, error = child.communicate(timeout=seconds)
                codes = told.read_text().split("\n", 1) if told.is_file() else []
                # Without the file it never came to an end of its own, whatever the exit status says.
                if codes:
                    verdict, mistakes = VERDICTS.get(int(codes[0]), "could not be run"), codes[1].strip()
                else:
                    verdict, mistakes = "could not be run", "it ended the audit's process"
                if verdict == "could not be run" and codes:
                    mistakes = mistakes or error.strip()
            except subprocess.TimeoutExpired:
                verdict, mistakes = "could not be run", f"not done after {seconds:g} seconds"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # and whatever it started
    return {"verdict": verdict, "mistakes": mistakes, "seconds": round(time.monotonic() - started, 1)}
