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

from jaxbackprop.auditing.hand_in import package_roots
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
    rows = [{"file": str(file.relative_to(folder)), **mark(file, folder, seconds)} for file in files]
    table = pd.DataFrame(rows).set_index("file")
    if csv is not None:
        save_table(table, csv)
    return table


def mark(file: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """The audit of a copy of one file, with the files beside it and those of the package that it imports from."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hand-in-", ignore_cleanup_errors=True) as temporary:
        copy = copied(file.resolve(), folder.resolve(), Path(temporary) / "hand_in")
        told = Path(temporary) / "told"
        command = [sys.executable, "-m", "jaxbackprop", "audit", copy.name, "--codes", str(told)]
        with subprocess.Popen(
            command,
            cwd=copy.parent,
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
                    verdict, mistakes = VERDICTS.get(int(codes[0]), "could not be run"), codes[1].strip().split("\n")[0]
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


def copied(file: Path, folder: Path, to: Path) -> Path:
    """Copies of a file, of the files beside it, and of the Python files where it imports from, as far as that is in the
    folder; the path of the file's own."""
    roots = [root if folder in root.parents else folder for root in map(Path, package_roots(file))]
    top = min([*roots, file.parent], key=lambda path: len(path.parts))
    others = [other for root in roots for other in root.rglob("*.py")]
    for other in {*file.parent.iterdir(), *others}:
        if other.is_file():
            copy = to / other.relative_to(top)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(other, copy)
    return to / file.relative_to(top)
