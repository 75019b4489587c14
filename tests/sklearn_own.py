"""scikit-learn's own tests, run as they are installed, with one import changed: ours in the place of theirs.

    python tests/sklearn_own.py [mlp | search] [arguments of pytest …]

The two test files are copied to a directory of their own, and the names under test are defined anew below the imports.
A test that is expected to fail stands in `EXPECTED` with the reason: if it passes it must be struck from there.
"""

import ast
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

FILES = {"mlp": ("neural_network", "test_mlp.py"), "search": ("model_selection", "test_search.py")}
IMPORTS = {
    "mlp": "from sklearn_own import MLPClassifier, MLPRegressor",
    "search": "from jaxbackprop.estimators import SweepSearchCV as GridSearchCV",
}
# By file: the id of a test, or of all its cases, and why it fails.
EXPECTED: dict[str, dict[str, str]] = {
    "mlp": {"test_gradient": "calls _loss_grad_lbfgs, a private method whose arguments are scikit-learn's own buffers"},
    "search": {},
}

CONFTEST = """
import warnings

import pytest

from sklearn_own import EXPECTED

EXPECTED = EXPECTED["{which}"]


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(autouse=True)
def scikit_learns_filters():
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def pytest_collection_modifyitems(items):
    for item in items:
        reason = EXPECTED.get(item.name, EXPECTED.get(item.name.split("[")[0]))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
"""


def with_the_type_of_input(kind: type, name: str) -> type:
    """The same estimator under scikit-learn's name, that trains in the type of X unless it is told otherwise."""
    init: Any = kind.__init__  # type: ignore[misc]
    own = FunctionType(init.__code__, init.__globals__, "__init__", init.__defaults__, init.__closure__)
    own.__kwdefaults__ = {key: "input" if key == "dtype" else value for key, value in init.__kwdefaults__.items()}
    return type(name, (kind,), {"__init__": own, "__module__": __name__})


def __getattr__(name: str) -> Any:
    if name not in ("MLPClassifier", "MLPRegressor"):
        raise AttributeError(name)
    from jaxbackprop import estimators

    made = with_the_type_of_input(getattr(estimators, name.replace("MLP", "Backprop")), name)
    globals()[name] = made
    return made


def swapped(which: str) -> str:
    """The source of an installed test file with the import changed."""
    package, file = FILES[which]
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / package / "tests" / file).read_text()
    last = max(node.end_lineno for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom))
    lines = source.splitlines()
    return "\n".join([f'__package__ = "sklearn.{package}.tests"', *lines[:last], IMPORTS[which], *lines[last:], ""])


def run(which: str, arguments: list[str]) -> int:
    """Run one file under pytest, in a directory and a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILES[which][1]).write_text(swapped(which))
        (Path(folder) / "conftest.py").write_text(CONFTEST.replace("{which}", which))
        (Path(folder) / "pytest.ini").write_text("[pytest]\ntimeout = 300\nmarkers =\n    thread_unsafe: runs alone\n")
        here = Path(__file__).parent
        paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FILES[which][1], *arguments]
        return subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False
        ).returncode


def main() -> int:
    first, *rest = [*sys.argv[1:], ""]
    chosen = [first] if first in FILES else list(FILES)
    arguments = [a for a in (rest if first in FILES else sys.argv[1:]) if a]
    return max(run(which, arguments) for which in chosen)


if __name__ == "__main__":
    raise SystemExit(main())
