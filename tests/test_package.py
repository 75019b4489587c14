"""The package as a whole: what importing it costs, and what its names are."""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import jaxbackprop

MODULES = [module.name for module in pkgutil.walk_packages(jaxbackprop.__path__, "jaxbackprop.")]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_and_says_nothing():
    loaded = run("import sys, jaxbackprop; print(*sys.modules)").split()
    heavy = {"jax", "numpy", "sklearn", "pandas", "matplotlib", "optax", "scipy", "tqdm", "tyro", "safetensors"}
    assert not heavy & set(loaded)


def test_the_mathematics_loads_jax_alone():
    code = "import sys, jaxbackprop as jb; jb.loss_and_grad, jb.fit, jb.init_params; print(*sys.modules)"
    assert not {"sklearn", "pandas", "matplotlib", "optax", "tqdm", "tyro"} & set(run(code).split())


def test_import_has_no_effect_on_jax():
    code = """
import jax, matplotlib, optax, pandas, sklearn.pipeline, tyro, warnings
before, filters = dict(jax.config.values), list(warnings.filters)
import jaxbackprop as jb
for name in jb.__all__:
    getattr(jb, name)
import importlib, pkgutil
for module in pkgutil.walk_packages(jb.__path__, "jaxbackprop."):
    if module.name != "jaxbackprop.__main__":
        importlib.import_module(module.name)
assert dict(jax.config.values) == before and list(warnings.filters) == filters
from jax._src import xla_bridge
assert not xla_bridge._backends
"""
    run(code)


@pytest.mark.parametrize("cores", [0, -1])
def test_less_than_one_core_is_refused(cores):
    with pytest.raises(ValueError, match=f"cores={cores} must be an integer of at least 1"):
        jaxbackprop.use_all_cores(cores)


def test_every_public_name_is_there_and_listed_twice_alike():
    source = Path(jaxbackprop.__file__).read_text()
    for name in jaxbackprop.__all__:
        assert getattr(jaxbackprop, name) is not None
        if not name.startswith("__"):
            assert source.count(f" as {name}\n") == 1, f"{name} is not in the block for type checkers"
    assert set(jaxbackprop.__all__) <= set(dir(jaxbackprop))
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        jaxbackprop.sweeep  # noqa: B018


def test_no_name_means_two_things():
    files = [module.rpartition(".")[2] for module in MODULES]
    assert not {name for name in files if files.count(name) > 1 and name != "__main__"}
    assert not set(files) & set(jaxbackprop.__all__)
    for module in MODULES:
        if not module.endswith("__main__"):
            assert importlib.import_module(module).__doc__, module


def test_the_version_is_one_number():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "jaxbackprop/__init__.py"


def test_type_checkers_may_read_it():
    assert files("jaxbackprop").joinpath("py.typed").is_file()
