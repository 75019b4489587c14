"""A file as it is handed in: run once, kept quiet, and looked into.

Only the file that is named is run, as Python runs an import: what stands below `if __name__ == "__main__"` is not. Of a
notebook the code cells are run in one namespace; a cell that fails, as one whose data are not there, is passed over.
"""

import ast
import contextlib
import io
import linecache
import os
import re
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class NotRun(Exception):
    """Why the file, or what is in it, could not be audited."""


class HandIn(NamedTuple):
    """A file that was run: its module, its syntax tree, what it printed, and the cells of a notebook that failed."""

    path: Path
    module: types.ModuleType
    tree: ast.Module
    printed: io.StringIO
    failed: tuple[str, ...] = ()

    @property
    def namespace(self) -> dict[str, Any]:
        return self.module.__dict__

    def own(self, kind: type | tuple[type, ...]) -> dict[str, Any]:
        """What of a kind the file offers, what it defines itself before what it imports from a file beside it."""
        found = {name: value for name, value in self.namespace.items() if isinstance(value, kind)}
        found = {name: value for name, value in found.items() if not name.startswith("__")}
        here = {name: value for name, value in found.items() if value.__module__ == self.module.__name__}
        folder = self.path.resolve().parent
        beside = {
            name: value
            for name, value in found.items()
            if (file := getattr(sys.modules.get(value.__module__), "__file__", None)) and Path(file).parent == folder
        }
        return here | {name: value for name, value in beside.items() if name not in here}


@contextlib.contextmanager
def opened(file: str | Path) -> Iterator[HandIn]:
    """Run a file, and clean up behind it: the search path and the modules of its folder are as before.

    **Raises:** `NotRun` if there is no such file, or if it cannot be run.
    """
    path = Path(file)
    if not path.is_file():
        raise NotRun(f"there is no file {file}")
    if path.suffix not in (".py", ".ipynb"):
        raise NotRun(f"{file} is neither a Python file (.py) nor a notebook (.ipynb)")
    before = dict(sys.modules)
    own, roots = str(path.resolve().parent), package_roots(path.resolve())
    # A file of a package may have its package's name; what it imports from the package comes from above.
    folders = [*roots, own] if levels(source(path)) else [own, *roots]
    sys.path[:0] = folders  # as when Python runs the file
    if re.search(rb"matplotlib.*\.use\(", path.read_bytes(), re.DOTALL):  # to be there, for `quiet` to stop the call
        with contextlib.suppress(ImportError):
            import_module("matplotlib")
    try:
        yield run_notebook(path) if path.suffix == ".ipynb" else run_file(path)
    finally:
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
        new = {name: module for name, module in sys.modules.items() if name not in before}
        theirs = [name for name, module in new.items() if any(came_from(module, folder) for folder in folders)]
        for name in theirs:  # all at once: a package is asked for its place while its parent is there
            del sys.modules[name]


def came_from(module: Any, folder: str) -> bool:
    """Whether a module, or a package without a file of its own, is in a folder."""
    own = getattr(module, "__dict__", {})  # a module as torch.classes answers to any name
    places = [own.get("__file__") or "", *(own.get("__path__") or ())]
    return any(str(place).startswith(folder + os.sep) for place in places)


def package_roots(path: Path) -> list[str]:
    """Where a file of a package is imported from: the folder above the one whose name it imports from, the one beside
    which there is what it imports, or the one above those that the dots of its relative imports go up."""
    text = source(path)
    imported = sorted(set(re.findall(r"^\s*(?:from|import)\s+(\w+)", text, re.MULTILINE)))
    unknown = [name for name in imported if not (path.parent / f"{name}.py").is_file() and find_spec(name) is None]
    missing = [folder for folder in path.parents if folder.name in unknown]
    beside = [folder for folder in path.parents[1:3] if any((folder / name).is_dir() for name in unknown)]
    up = levels(text)
    above = path.parents[up : up + 1] if up else []
    return [str(f) for f in dict.fromkeys([*(folder.parent for folder in missing[:1]), *beside[:1], *above])]


def source(path: Path) -> str:
    """The text of a Python file; empty for a notebook."""
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.suffix == ".py" else ""


def levels(text: str) -> int:
    """How many folders up the relative imports of a file reach, counted from the file; 0 without one."""
    return max(map(len, re.findall(r"^\s*from\s+(\.+)", text, re.MULTILINE)), default=0)


def run_file(path: Path) -> HandIn:
    """Import a Python file."""
    printed = io.StringIO()
    module = new_module(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = parse(text, str(path))
        if up := levels(text):
            module.__package__ = ".".join(folder.name for folder in reversed(path.resolve().parents[:up]))
        with quiet(printed):
            exec(compile(tree, str(path), "exec"), module.__dict__)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise NotRun(f"importing {path} failed with {told(error)}") from error
    return HandIn(path, module, tree, printed)


def run_notebook(path: Path) -> HandIn:
    """Run the code cells of a notebook one after the other, without the magics."""
    import nbformat

    printed, failed = io.StringIO(), []
    module = new_module(path)
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        raise NotRun(f"{path} is no notebook that can be read: {told(error)}") from error
    tree = ast.Module([], [])
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for number, source in enumerate(cells, start=1):
        name = f"{path.name}, cell {number}"
        text = without_magics(source)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # for the lines of errors
        try:
            cell = parse(text, name)
            tree.body += cell.body
            with quiet(printed):
                exec(compile(cell, name, "exec"), module.__dict__)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(f"cell {number} failed with {told(error)}")
    return HandIn(path, module, tree, printed, tuple(failed))


def without_magics(source: str) -> str:
    """A cell without what only IPython understands; its lines keep their numbers."""
    if source.lstrip().startswith("%%"):
        return ""
    lines = []
    for line in source.splitlines():
        bare = line.lstrip()
        lines.append(line[: len(line) - len(bare)] + "pass" if bare.startswith(("%", "!", "?")) else line)
    return "\n".join(lines) + "\n"


def parse(text: str, name: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a student's string
        return ast.parse(text, name)


def new_module(path: Path) -> types.ModuleType:
    """An empty module that stands for the file, known to Python under the file's name."""
    name = path.stem if path.stem not in sys.modules else f"handed_in_{path.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module
    return module


@contextlib.contextmanager
def quiet(printed: io.StringIO) -> Iterator[None]:
    """Keep back what is printed, warned of and plotted, and leave NumPy's random numbers as they are."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, whenever matplotlib is imported
    pyplot, matplotlib = sys.modules.get("matplotlib.pyplot"), sys.modules.get("matplotlib")
    if pyplot is not None:
        pyplot.switch_backend("Agg")
    use = getattr(matplotlib, "use", None)
    if use is not None:
        matplotlib.use = lambda *_, **__: None  # type: ignore[union-attr]  # another backend would want a screen
    state = np.random.get_state()  # noqa: NPY002
    stdin, argv = sys.stdin, sys.argv
    sys.stdin = io.StringIO()  # nothing waits for an answer
    sys.argv = argv[:1]  # the command's arguments are none of the file's
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        if use is not None:
            matplotlib.use = use  # type: ignore[union-attr]
        sys.stdin, sys.argv = stdin, argv
        np.random.set_state(state)  # noqa: NPY002


def told(error: BaseException) -> str:
    """An error in a line, with the last place outside of libraries that it passed through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    libraries = (str(Path(os.__file__).parent) + os.sep, str(Path(__file__).parent) + os.sep)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(libraries)
    ]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
