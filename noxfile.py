"""One command for each habit: `nox -s tests`, lint, typecheck, experiments, benchmark, docs, build, and more below."""

import os
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.error_on_missing_interpreters = False  # tests run on those that are there
nox.options.reuse_existing_virtualenvs = True

FIGURES = Path("experiments/figures")
DIST = Path("dist")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The usual tests, on every interpreter that is installed; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "--dist", "worksteal", "-m", "not slow", *session.posargs)


@nox.session
def tests_slow(session: nox.Session) -> None:
    """What takes long: hundreds of drawn combinations, processes that are killed, thousands of audits."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "--dist", "worksteal", "-m", "slow", *session.posargs)


@nox.session
def sklearn_tests(session: nox.Session) -> None:
    """scikit-learn's own tests of networks and searches on ours, against the scikit-learn that is installed."""
    session.install("-e", ".[test]")
    session.run("python", "tests/sklearn_own.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, common mistakes, and which way imports point."""
    session.install("ruff>=0.9", "import-linter>=2.1", "-e", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Static types."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def experiments(session: nox.Session) -> None:
    """Every experiment at full size, which takes hours; redraws the figures, rewrites the tables of README and book."""
    session.install("-e", ".[test]")
    out = Path(session.create_tmp()) / "results"
    for script in sorted(Path("experiments").glob("*.py")):
        # What measures speed is a benchmark, with its parts: see that session.
        if script.stem not in ("throughput", "peers", "pack", "versus_sklearn", "plan_costs", "ensemble_speed"):
            session.run("python", str(script), "--out", str(out))
    _keep_figures(out)
    session.run("python", "tests/book/tables.py", str(out))


@nox.session
def benchmark(session: nox.Session) -> None:
    """Every number of speed in README and book, with its figures; takes an hour, and a quiet machine.

    With the name of a script, `nox -s benchmark -- throughput`, that one alone.
    """
    session.install("-e", ".[test]")
    out = Path(session.create_tmp()) / "results"
    shutil.rmtree(out, ignore_errors=True)
    for script in session.posargs or ("throughput", "pack", "versus_sklearn", "plan_costs", "ensemble_speed"):
        session.run("python", f"experiments/{script}.py", "--out", str(out))
    _keep_figures(out)
    session.run("python", "tests/book/tables.py", str(out))


@nox.session
def docs(session: nox.Session) -> None:
    """The book, a static site, under dist/book: README, chapters, reference, experiments."""
    session.install("-e", ".[test]")
    session.run("python", "tests/book/tables.py")
    session.run("python", "tests/book/make_book.py", *session.posargs)
    session.log("open dist/book/index.html")


@nox.session
def tests_gpu(session: nox.Session) -> None:
    """The test suite on a GPU, with JAX's CUDA libraries; skips where there is none."""
    if shutil.which("nvidia-smi") is None:
        session.skip("no NVIDIA GPU on this machine: nvidia-smi was not found")
    session.install("-e", ".[test,cuda]")
    session.run("pytest", *session.posargs, env={"JAX_PLATFORMS": "cuda,cpu"})


@nox.session
def build(session: nox.Session) -> None:
    """A wheel and an sdist under dist/; each is installed into a fresh environment and tried there."""
    session.install("build>=1.2")
    for old in DIST.glob("jaxbackprop-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(DIST))
    smoke = Path("tests/smoke.py").resolve()
    for archive in sorted(DIST.resolve().glob("jaxbackprop-*")):
        fresh = Path(session.create_tmp()).resolve() / ("wheel" if archive.suffix == ".whl" else "sdist")
        session.run("python", "-m", "venv", "--clear", str(fresh))
        python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
        session.run(python, "-m", "pip", "install", "--quiet", str(archive), external=True)
        with session.chdir(fresh):  # not in the repository, where the package itself would be found
            session.run(python, "-I", "-W", "error", str(smoke), external=True, env={"PYTHONPATH": None})


def _keep_figures(out: Path) -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    for figure in sorted(out.glob("*.png")):
        shutil.copy(figure, FIGURES / figure.name)
