"""`jaxbackprop audit homework.py:gradient`: its exit status says right, wrong, or not run."""

import re
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
        (write("(1 - a1**2)", "(1 - a1)", name="wrong.py"), 1, "1 - tanh(z)"),
    ):
        command = [sys.executable, "-m", "jaxbackprop", "audit", f"{path}:gradient"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
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
        ("{}x:gradient", {}, "there is no file"),
        ("{}:gradeint", {}, "did you mean 'gradient'"),
        ("{}:not_a_function", {}, "not_a_function"),
        ("{}:stops", {}, "raised RuntimeError: not yet (homework.py, line"),
        ("{}:returns_three", {}, "must make dW1, db1, dW2, db2, or a dict of them, got W1 (3, 5)"),
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


NETWORK = """
import numpy as np
import matplotlib.pyplot as plt

class NeuralNetwork:
    def __init__(self, nn_input_dim, nn_hidden_dim, nn_output_dim, actFun_type="tanh", reg_lambda=0.01, seed=0):
        self.actFun_type, self.reg_lambda = actFun_type, reg_lambda
        np.random.seed(seed)
        self.W1, self.b1 = np.random.randn(nn_input_dim, nn_hidden_dim), np.zeros((1, nn_hidden_dim))
        self.W2, self.b2 = np.random.randn(nn_hidden_dim, nn_output_dim), np.zeros((1, nn_output_dim))

    def actFun(self, z, type):
        if type == "Tanh":
            return np.tanh(z)
        if type == "Sigmoid":
            return 1 / (1 + np.exp(-z))
        return np.maximum(0, z) if type == "ReLU" else None

    def diff_actFun(self, z, type):
        s = 1 / (1 + np.exp(-z))
        return {"Tanh": 1 - np.tanh(z) ** 2, "Sigmoid": s * (1 - s), "ReLU": 1.0 * (z > 0)}[type]

    def feedforward(self, X, actFun):
        self.z1 = X @ self.W1 + self.b1
        self.a1 = actFun(self.z1)
        self.z2 = self.a1 @ self.W2 + self.b2
        e = np.exp(self.z2)
        self.probs = e / np.sum(e, axis=1, keepdims=True)

    def backprop(self, X, y):
        print("a line for every call")
        delta3 = self.probs.copy()
        delta3[range(len(X)), y] -= 1
        delta2 = delta3 @ self.W2.T * self.diff_actFun(self.z1, self.actFun_type)
        return X.T @ delta2, self.a1.T @ delta3, delta2.sum(axis=0), delta3.sum(axis=0, keepdims=True)

plt.show()
"""


@pytest.mark.parametrize(
    ("old", "new", "status", "text"),
    [
        ("", "", 0, "tanh: The gradient is right, as the gradient of the sum over 20 samples. sigmoid:"),
        ("s * (1 - s)", "s * s", 1, "your sigmoid'(0.5) is 0.3875, right is 0.2350"),
        ("1.0 * (z > 0)", "1.0 * (z >= 0)", 0, "Note: your relu'(0) is 1"),
        ("self.probs.copy()", "self.probs", 0, "backprop writes into probs"),
        (
            "np.sum(e, axis=1, keepdims=True)",
            "np.sum(e)",
            1,
            "the forward pass differs from the course's, first in probs",
        ),
        ("delta3 = self.probs.copy()", "delta3 = self.probs.copy() / missing_name", 2, "homework.py, line"),
    ],
)
def test_a_class_as_it_is_handed_in(tmp_path, capsys, old, new, status, text):
    path = tmp_path / "homework.py"
    path.write_text(NETWORK.replace(old, new) if old else NETWORK)
    assert main(str(path)) == status
    told = capsys.readouterr()
    shown = " ".join((told.out + told.err).split())
    assert text in shown
    assert "a line for every call" not in shown
    if status < 2:
        assert shown.startswith("NeuralNetwork(3, 5, 2, 'Tanh') of homework.py, backprop(X, y)")


@pytest.mark.parametrize(
    ("old", "new", "verdicts"),
    [("", "", {"right"}), ("X @ self.W1 + self.b1", "X @ self.W1 - self.b1", {"wrong", "consequence"})],
)
def test_its_page_shows_the_forward_pass_stage_by_stage(tmp_path, capsys, old, new, verdicts):
    path = tmp_path / "homework.py"
    path.write_text(NETWORK.replace(old, new) if old else NETWORK)
    main(str(path), activation="tanh", html=tmp_path / "page.html")
    boxes = re.findall(r'class="box (\w+)" data-stage="(\w+)"', (tmp_path / "page.html").read_text())
    assert {"z1", "a1", "z2", "a2"} <= {stage for _, stage in boxes}
    assert {verdict for verdict, _ in boxes} == verdicts
    assert ("wrong", "z1") in boxes or not old


def test_a_notebook(tmp_path, capsys):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    sources = ["%matplotlib inline\n!ls", NETWORK, "NeuralNetwork(2, 3, 2).fit(data_that_are_not_there)"]
    path = tmp_path / "homework.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    assert main(str(path), activation="tanh") == 0
    assert "of homework.ipynb" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_of_hand_ins(tmp_path, capsys):
    import pandas as pd

    folder = tmp_path / "handed_in"
    for name, source in {
        "right": NETWORK,
        "wrong": NETWORK.replace("s * (1 - s)", "s * s"),
        "hangs": "while True:\n    pass\n",
        "exits": "import os\nos._exit(0)\n",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "homework.py").write_text(source)
    assert main(all=folder, csv=tmp_path / "marks.csv", seconds=20) == 0
    assert "no sandbox" in capsys.readouterr().out
    marks = pd.read_csv(tmp_path / "marks.csv", index_col="file")
    verdicts = {name.split("/")[0]: verdict for name, verdict in marks["verdict"].items()}
    assert verdicts == {
        "right": "right",
        "wrong": "wrong",
        "hangs": "could not be run",
        "exits": "could not be run",
    }
    assert marks.loc["wrong/homework.py", "mistakes"].startswith("slope")
