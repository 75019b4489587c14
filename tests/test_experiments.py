"""Every script of experiments/ runs, at a small size, through its command line; what it prints and saves is sane."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tyro
from jax.flatten_util import ravel_pytree
from matplotlib.image import imread

from jaxbackprop import Activation, Hyperparameters, fit, loss
from jaxbackprop.data import encode, features_first, load
from jaxbackprop.oracle import float64

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if "__main__" in path.read_text())

# script, a small size of it, what it saves under --out, and a word that it prints
SMALL = [
    ("dataset", "", ["dataset.png"], "breast_cancer"),
    ("activation_derivatives", "--points 101", ["activation_derivatives.png"], "hardshrink"),
    (
        "gradient_check",
        "--layers 2 --samples 3 --kinds affine max_pool",
        ["gradient_check.csv", "gradient_check_layers.csv"],
        "dL/dW^1",
    ),
    ("gradient_audit", "--samples 10 --depths 1 2", ["gradient_audit.txt"], "slope_of_other"),
    (
        "convolution",
        "--filters 2 --epochs 2 --signal-epochs 1",
        ["convolution_filters.png", "convolution_loss.png", "convolution_misread.png"],
        "misread",
    ),
    (
        "characters",
        "--sentences 20 --features 8 --time 16 --steps 20 --batch-size 4",
        ["characters_transformer.png"],
        "characters",
    ),
    ("course", "--passes 51 --starts 2", ["course.png"], "0.432387"),
    ("deep_network", "--activations sigmoid --depths 2 --width 3 --seeds 2 --steps 2", ["deep_network.png"], "sigmoid"),
]
# The same for those that spread their work over the cores: JAX has to start with them, so each is its own process.
SMALL_ON_ALL_CORES = [
    ("throughput", "--quick", ["throughput.json", "throughput.png"], "goal"),
    ("pack", "--quick", ["pack.json"], "network_steps_per_second"),
    (
        "activation_sweep",
        "--activations tanh --widths 1 3 --learning-rates 0.1 1.0 --seeds 2 --epochs 20",
        ["activation_sweep_boundaries.png", "activation_sweep_learning_rates.png", "activation_sweep.csv"],
        "network-steps",
    ),
    (
        "hidden_units",
        "--names moons spirals --widths 1 3 --seeds 2 --epochs 10",
        ["hidden_units_accuracy.png", "hidden_units_boundaries.png"],
        "spirals",
    ),
    (
        "digits",
        "--widths 8 --activations tanh --learning-rates 0.01 --seeds 1 --epochs 3",
        ["digits_confusion.png", "digits_misread.png"],
        "misread",
    ),
    ("ensemble", "--candidates 3 --samples 60 --epochs 20", ["ensemble.png"], "temperature"),
    (
        "ensemble_accuracy",
        "--datasets wine thresholds --candidates 2 --folds 2 --repeats 1 --epochs 10 --embedding periodic",
        ["ensemble_accuracy.csv", "ensemble_accuracy_folds.csv"],
        "HistGradientBoosting",
    ),
    (
        "ensemble_speed",
        "--dataset wine --candidates 3 --epochs 10 --batch-size 32 --sample 2 --library 6 --rounds 1",
        ["ensemble_speed.json"],
        "search alone",
    ),
    ("plan_costs", "--cases 4 --rounds 1 --scale 0.01", ["plan_costs.csv", "records.json"], "the planner's is"),
    (
        "versus_sklearn",
        "--datasets iris --epochs 2 --tenfold --sample 2 --moons-epochs 0 --seeds 2 --no-fresh-process",
        ["versus_sklearn.csv", "versus_sklearn.png", "versus_sklearn_accuracy.csv"],
        "GridSearchCV",
    ),
]


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    """A script finds the modules beside it, as it does when it is run."""
    monkeypatch.syspath_prepend(EXPERIMENTS)


def load_script(name: str) -> ModuleType:
    """A script as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_output(out: Path, files: list[str], word: str, printed: str) -> None:
    """Every file is there and named in the output, every picture shows something, and the numbers are numbers."""
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    assert word in printed
    assert not {"nan", "inf"} & set(printed.split())
    for file in files:
        assert file in printed
        if file.endswith(".png"):
            assert imread(out / file)[..., :3].std() > 0.02
        else:
            assert (out / file).read_text().count("\n") > 1


LONG = {
    "characters",
    "convolution",
    "course",
    "deep_network",
    "gradient_audit",
    "gradient_check",
}  # most of it compiling


@pytest.mark.parametrize(
    ("name", "arguments", "files", "word"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] * (case[0] in LONG)) for case in SMALL],
)
def test_script(name, arguments, files, word, tmp_path, capsys):
    tyro.cli(load_script(name).main, args=["--out", str(tmp_path), *shlex.split(arguments)])
    check_output(tmp_path, files, word, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "files", "word"), SMALL_ON_ALL_CORES, ids=[name for name, *_ in SMALL_ON_ALL_CORES]
)
def test_script_on_all_cores(name, arguments, files, word, tmp_path):
    command = [sys.executable, "-W", "error", EXPERIMENTS / f"{name}.py", "--out", tmp_path, *shlex.split(arguments)]
    environment = {"MPLBACKEND": "agg", **os.environ}
    ran = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stderr
    check_output(tmp_path, files, word, ran.stdout)


def test_no_script_is_forgotten():
    tested = {name for name, *_ in SMALL + SMALL_ON_ALL_CORES}
    assert set(SCRIPTS) == tested


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_every_option_is(name, capsys):
    with pytest.raises(SystemExit) as stop:
        tyro.cli(load_script(name).main, args=["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    main = load_script(name).main
    assert main.__doc__.splitlines()[0].rstrip(".") in " ".join(said.split())
    for argument in set(main.__annotations__) - {"return"}:
        assert f"--{argument.replace('_', '-')}" in said
        assert f"        {argument}: " in main.__doc__


# The course's network: its published trace, and why a part of it hangs on rounding.


@pytest.mark.slow
def test_the_course_trace_is_the_published_one(tmp_path):
    table = load_script("course").main(out=tmp_path)
    for iteration, published in {0: 0.432387, 1000: 0.068947, 10000: 0.070758, 19000: 0.070758}.items():
        assert f"{table['tanh'][iteration]:.6f}" == f"{published:.6f}"
    assert [f"{value:.6f}" for value in table["tanh"][[19998, 19999]]] == ["0.070758", "0.071316"]


def numpy_trace(name: str, iterations: int) -> list[float]:
    """The course's program: samples first, gradients summed, the loss after every update."""
    value, slope = {
        "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
        "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    }[name]
    moons = load("moons")
    X, rows = moons.X, np.arange(len(moons.y))
    draw = np.random.RandomState(0)
    W1, b1 = draw.randn(2, 3) / np.sqrt(2), np.zeros((1, 3))
    W2, b2 = draw.randn(3, 2) / np.sqrt(3), np.zeros((1, 2))
    trace = []
    for i in range(iterations + 1):
        z1 = X @ W1 + b1
        scores = np.exp(value(z1) @ W2 + b2)
        p = scores / scores.sum(axis=1, keepdims=True)
        if i > 0:
            trace.append((-np.log(p[rows, moons.y]).sum() + 0.01 / 2 * ((W1**2).sum() + (W2**2).sum())) / len(rows))
        delta3 = p.copy()
        delta3[rows, moons.y] -= 1
        delta2 = delta3 @ W2.T * slope(z1)
        W2, b2 = W2 - 0.01 * (value(z1).T @ delta3 + 0.01 * W2), b2 - 0.01 * delta3.sum(axis=0)
        W1, b1 = W1 - 0.01 * (X.T @ delta2 + 0.01 * W1), b1 - 0.01 * delta2.sum(axis=0)
    return trace


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_the_course_conventions_map_onto_ours(activation):
    course = load_script("course")
    with float64():
        _, curves = course.train(activation, course.rounded_otherwise(course.course_start(), 1), passes=300)
    np.testing.assert_allclose(curves[0], numpy_trace(activation, 300), rtol=1e-9)


@pytest.mark.slow
def test_the_course_descent_becomes_unstable_just_before_iteration_1000():
    course = load_script("course")
    moons = load("moons")
    with float64():
        x, y, l2 = jnp.asarray(features_first(moons.X)), jnp.asarray(encode(moons.y).y), 0.01 / 200
        params, sharpness = course.course_start(), []
        for steps in (800, 200):
            params = fit(params, x, y, Hyperparameters(2.0, l2=l2), activation="tanh", steps=steps).params
            flat, unravel = ravel_pytree(params)
            hessian = jax.hessian(lambda p, unravel=unravel: loss(unravel(p), x, y, activation="tanh", l2=l2))(flat)
            sharpness.append(2.0 * float(np.linalg.eigvalsh(hessian)[-1]))
    assert sharpness[0] < 2 < sharpness[1]


def test_scripts_that_judge_exit_with_1_when_something_is_wrong(tmp_path, monkeypatch):
    course = load_script("course")
    monkeypatch.setitem(course.PUBLISHED, 0, 0.432388)
    with pytest.raises(SystemExit, match="no tanh trace is the published one"):
        course.main(out=tmp_path, passes=2, starts=1)

    derivatives = load_script("activation_derivatives")
    slightly_wrong = Activation("tanh", jnp.tanh, lambda z, a: (1 - a * a) * (1 + 1e-11))
    monkeypatch.setattr(derivatives, "ACTIVATIONS", {"tanh": slightly_wrong})
    with pytest.raises(SystemExit, match="off by more than 1e-12"):
        derivatives.main(out=tmp_path, points=11)


@pytest.mark.slow
def test_the_sigmoid_gradient_vanishes_with_depth_and_that_of_relu_does_not(tmp_path):
    table = load_script("deep_network").main(
        out=tmp_path, activations=("sigmoid", "relu"), depths=(1, 4), seeds=3, steps=5
    )
    ratio = table.set_index(["activation", "hidden layers"])["ratio"]
    assert ratio["sigmoid", 4] < 0.1 * ratio["sigmoid", 1]
    assert ratio["relu", 4] > 0.1


def test_judged_folds_are_kept(tmp_path):
    """A run that goes on judges the folds that are missing and no others."""
    small = "--datasets wine --candidates 2 --folds 2 --epochs 5"

    def judge(more: str) -> pd.DataFrame:
        command = [sys.executable, EXPERIMENTS / "ensemble_accuracy.py", "--out", tmp_path]
        subprocess.run([*command, *shlex.split(f"{small} {more}")], check=True, capture_output=True, timeout=280)
        return pd.read_csv(tmp_path / "ensemble_accuracy_folds.csv", index_col=0)

    first = judge("--repeats 1")
    first.loc[0, "loss"] = 1000.0
    first.to_csv(tmp_path / "ensemble_accuracy_folds.csv")
    on = judge("--repeats 2 --resume")
    assert first["fold"].unique().tolist() == [0, 1]
    assert on["fold"].unique().tolist() == [0, 1, 2, 3]
    assert on.loc[0, "loss"] == 1000.0
