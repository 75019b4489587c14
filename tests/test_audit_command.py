"""`jaxbackprop audit homework.py:gradient`: its exit status says right, wrong, or not run."""

import subprocess
import sys

import pytest

from jaxbackprop.auditing.command import main

pytestmark = pytest.mark.usefixtures("as_users_run_it")

HOMEWORK = """
import numpy as np

def gradient(W1, b1, W2, b2, X, y):
    N = len(X)
    a1 = np.tanh(X @ W1 + b1)
    e = np.exp(a1 @ W2 + b2)
    delta3 = e / e.sum(axis=1, keepdims=True)
    delta3[np.arange(N), y] -= 1
    delta3 /= N
    delta2 = delta3 @ W2.T * (1 - a1**2)
    return X.T @ delta2, delta2.sum(axis=0, keepdims=True), a1.T @ delta3, delta3.sum(axis=0)

not_a_function = 3

def stops(W1, b1, W2, b2, X, y):
    raise RuntimeError("not yet")

def returns_three(W1, b1, W2, b2, X, y):
    return W1, b1, W2
"""


@pytest.fixture
def write(tmp_path):
    def write(old="", new="", name="homework.py"):
        assert old in HOMEWORK
        path = tmp_path / name
        path.write_text(HOMEWORK.replace(old, new) if old else HOMEWORK)
        return path

    return write


def test_the_command_line(write):
    for path, status, text in (
        (write(name="right.py"), 0, "The gradient is right."),
        (write("    delta3 /= N\n", "", name="sum.py"), 0, "right, as the gradient of the sum over 20 samples"),
        (write("    delta3 /= N\n", "    delta3 /= -N\n", name="wrong.py"), 1, "the sign of delta^3 is turned"),
    ):
        command = [sys.executable, "-m", "jaxbackprop", "audit", f"{path}:gradient"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert text in " ".join(done.stdout.split())
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("(1 - a1**2)", "(1 - a1)", "1 - tanh(z)"),
        ("a1 = np.tanh(X @ W1 + b1)", "a1 = np.maximum(X @ W1 + b1, 0)", "wrong"),
        ("delta3 /= N", "delta3 /= 20", "batches of"),  # right for the one size of batch that it was tried with
        ("delta3[np.arange(N), y] -= 1", "", "y-hat alone"),
    ],
)
def test_wrong_homework(write, capsys, old, new, text):
    assert main(f"{write(old, new)}:gradient") == 1
    assert text in " ".join(capsys.readouterr().out.split())


def test_options(write, capsys):
    one_hot = write("delta3[np.arange(N), y] -= 1", "delta3 -= y")
    assert main(f"{one_hot}:gradient", one_hot=True) == 0
    l2 = write("return X.T @ delta2,", "return X.T @ delta2 + 0.1 * W1,")
    assert main(f"{l2}:gradient", l2=0.1) == 1
    assert "l2 term is missing" in " ".join(capsys.readouterr().out.split())
    assert main(f"{write()}:gradient", activation="sigmoid") == 1
    assert "the gradient of a network with tanh, forward and backward, where the loss has sigmoid" in " ".join(
        capsys.readouterr().out.split()
    )


def test_stages_are_looked_at_where_there_are_any(write, capsys):
    stages = write(
        "return X.T @ delta2, delta2.sum(axis=0, keepdims=True), a1.T @ delta3, delta3.sum(axis=0)",
        "return dict(dW1=X.T @ delta2, db1=delta2.sum(axis=0), dW2=a1.T @ delta3, db2=delta3.sum(axis=0),"
        " a1=a1, delta3=delta3, delta2=delta2 * a1)",
    )
    assert main(f"{stages}:gradient") == 1
    assert "The first wrong stage is delta2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("{}", {}, "must name a file and a function in it, as homework.py:gradient"),
        ("{}:", {}, "must name a file and a function"),
        ("{}x:gradient", {}, "there is no file"),
        ("{}:gradeint", {}, "did you mean 'gradient'"),
        ("{}:not_a_function", {}, "not_a_function"),
        ("{}:stops", {}, "raised RuntimeError: not yet (homework.py, line"),
        ("{}:returns_three", {}, "must return dW1, db1, dW2, db2, or a dict of them, got 3 values"),
        ("{}:gradient", {"activation": "tan"}, "activation"),
        ("{}:gradient", {"l2": -1.0}, "l2"),
        ("{}:gradient", {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_run_exits_with_2_and_its_reason(write, capsys, target, options, message):
    assert main(target.format(write()), **options) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("could not be run: ")
    assert told.out == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, capsys, source, message):
    path = tmp_path / "broken.py"
    path.write_text(source)
    assert main(f"{path}:gradient") == 2
    assert message in capsys.readouterr().err


def test_nothing_of_the_file_but_its_import_and_the_function_is_run(tmp_path):
    path = tmp_path / "guarded.py"
    path.write_text(HOMEWORK + '\nif __name__ == "__main__":\n    raise RuntimeError("run as a script")\n')
    assert main(f"{path}:gradient") == 0
