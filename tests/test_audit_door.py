"""What the audit of a handed-in file says besides right and wrong: notes, lines, crashes, sizes on request."""

import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hand_ins import COURSE, CS231N, FROM_A1, FUNCTION, IN_PLACE, MODEL, OF_DATA, OWN_SIZES, PAIR, SIGMOIDS, TEN_CLASSES

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.auditing.command import main
from jaxbackprop.auditing.uncompiled import evaluate
from jaxbackprop.losses import get_objective
from jaxbackprop.oracle import float64

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture
def audited(tmp_path, capsys):
    """The exit status and what is printed of a file with changes."""

    def audited(source, *changes, **options):
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / "homework.py"
        path.write_text(source)
        status = main(str(path), **options)
        told = capsys.readouterr()
        return status, " ".join((told.out + told.err).split())

    return audited


def line(source, text):
    return next(number for number, row in enumerate(source.splitlines(), start=1) if text in row)


@pytest.mark.parametrize(
    ("source", "title", "shape", "mistake", "leaf"),
    [
        (OWN_SIZES, "Digits(samples)", "8x36", ("dZ2.sum(axis=1, keepdims=True)", "dZ2.sum()"), "b2: shape ()"),
        (OF_DATA, "Net(X, y)", "4x3", (" - 1)].T / m", " - 1)].T"), "W1 and W2: equal to 20 times"),
        (TEN_CLASSES, "backward_prop(A1, A2, W2, X, Y)", "6x36", ("X.T / Y.size", "X.T"), "W1: equal to 20 times"),
    ],
)
def test_sizes_that_are_written_into_the_code_or_come_from_its_data(audited, source, title, shape, mistake, leaf):
    status, text = audited(source)
    assert status == 0, text
    assert text.startswith(f"{title} of homework.py")
    assert f"W1 {shape}" in text
    assert "The gradient is right." in text
    status, text = audited(source, mistake)
    assert status == 1
    assert leaf in text


AS_AN_ARGUMENT = (
    ("output):", "output, lr):"),
    ("self.learning_rate * ", "lr * "),
    ("        self.learning_rate = rate\n", ""),
)
A_GLOBAL = (("class P", "ETA = 0.3\n\nclass P"), ("self.learning_rate * ", "ETA * "))
BEHIND = "        self.weights2 -= self.learning_rate * self.hidden.T @ d_out\n"
TOO_EARLY = ((BEHIND, ""), ("        d_hidden =", BEHIND + "        d_hidden ="))


@pytest.mark.parametrize("changes", [(), AS_AN_ARGUMENT, A_GLOBAL, ((" / len(X)", ""),)])
def test_weights_that_are_updated_in_place_say_their_gradient(audited, changes):
    status, text = audited(IN_PLACE, *changes)
    assert status == 0, text
    assert "The gradient is right" in text
    assert "hands back no gradient: the step that it takes, with a learning rate of 1, is held against it" in text


def test_adams_first_step_tells_no_gradient(audited):
    adam = [("self.learning_rate * " + g, f"self.learning_rate * np.sign({g})") for g in
            ("self.hidden.T @ d_out", "d_out.sum(axis=0, keepdims=True)", "X.T @ d_hidden", "d_hidden.sum(axis=0, keepdims=True)")]  # noqa: E501  # fmt: skip
    status, text = audited(IN_PLACE, *adam)
    assert status == 2
    assert "takes steps of one size in every weight, as adam's first, which tell no gradient" in text


def test_inputs_may_be_called_a1(audited):
    status, text = audited(FROM_A1)
    assert status == 0, text
    assert "forward pass" not in text
    status, text = audited(FROM_A1, ("np.tanh(self.z2)", "np.tanh(self.z2) + 0.1"))
    assert status == 1
    assert "the forward pass differs from the course's, first in a1" in text


def test_activations_in_a_constructor_are_no_widths(audited):
    status, text = audited(FROM_A1, ("output_size):", "output_size, hidden_activation='tanh', output_activation='softmax'):"))  # noqa: E501  # fmt: skip
    assert status == 0, text


def test_a_learning_rate_without_a_name_is_asked_for(audited):
    status, text = audited(IN_PLACE, ("self.learning_rate * ", "0.1 * "), ("        self.learning_rate = rate\n", ""))
    assert status == 2
    assert "updates the weights by a learning rate that has no name: let it be learning_rate" in text


CROSS_ENTROPY = ((" * a2 * (1 - a2)", " / len(X)"), ("np.mean((y_true - y_pred) ** 2)", "-np.sum(y_true * np.log(y_pred) + (1 - y_true) * np.log(1 - y_pred)) / len(y_true)"))  # noqa: E501  # fmt: skip
Z1 = "X @ self.W1 + self.b1"
RELU_INSIDE = ((f"sigmoid({Z1})", f"np.where({Z1} > 0, {Z1}, 0)"), ("self.a1 * (1 - self.a1)", "(self.a1 > 0)"))
OF_THE_MEAN = (("(a2 - y) *", "2 * (a2 - y) / y.size *"),)


@pytest.mark.parametrize(
    ("changes", "of_what"),
    [
        ((), "squared error of sigmoids"),
        (OF_THE_MEAN, "squared error of sigmoids"),
        (CROSS_ENTROPY, "binary cross-entropy of sigmoids"),
        (((" * a2 * (1 - a2)", ""), ("a2 = sigmoid(self.a1", "a2 = (self.a1")), "squared error,"),
        (RELU_INSIDE, "squared error of sigmoids"),
        ((*RELU_INSIDE, *CROSS_ENTROPY), "binary cross-entropy of sigmoids"),
    ],
)
def test_networks_of_another_loss_than_the_softmaxs(audited, changes, of_what):
    status, text = audited(SIGMOIDS, *changes)
    assert status == 0, text
    assert "The gradient is right" in text
    assert f"Compared with the gradient of the {of_what}" in text


@pytest.mark.parametrize(
    ("source", "changes", "told"),
    [
        (IN_PLACE, TOO_EARLY, "delta goes back through a W^2 that has been updated already"),
        (IN_PLACE, ((" * (1 - self.hidden ** 2)", ""),), "the derivative of tanh is missing"),
        (IN_PLACE, (("-=", "+="),), "the sign of delta^3 is turned"),
        (IN_PLACE, (("d_hidden.sum", "d_hidden.mean"),), "b1: equal to 0.05 times"),
        (SIGMOIDS, ((" * self.a1 * (1 - self.a1)", ""),), "W1 and b1: the derivative of sigmoid is missing"),
        (
            SIGMOIDS,
            ((" * self.a1 * (1 - self.a1)", ""), *CROSS_ENTROPY),
            "W1 and b1: the derivative of sigmoid is missing",
        ),
        (SIGMOIDS, (("d1.sum(axis=0)", "d1.mean(axis=0)"),), "b1: equal to 0.05 times"),
        (SIGMOIDS, (("(a2 - y) *", "2 * (y - a2) / y.size *"),), "W1, b1, W2 and b2: equal to -1 times"),
    ],
)
def test_a_mistake_in_weights_that_are_updated_in_place(audited, source, changes, told):
    status, text = audited(source, *changes)
    assert status == 1
    assert told in text


def test_the_gradient_of_another_loss_than_the_files_is_a_note(audited):
    status, text = audited(SIGMOIDS, (" * a2 * (1 - a2)", ""))
    assert status == 0
    assert "Note: your gradient is that of the binary cross-entropy of sigmoids" in text
    assert "is another function" in text


def test_a_training_of_many_steps_is_not_taken_for_one(audited):
    status, text = audited(SIGMOIDS, ("range(epochs)", "range(50)"))
    assert status == 2
    assert "not once along a gradient of all samples: hand in the method of one step" in text


@pytest.mark.parametrize("neighbour", ["homework_parts.slopes", ".slopes", "..homework_parts.slopes"])
def test_a_file_of_a_package_finds_its_neighbours(neighbour, tmp_path, capsys):
    folder = tmp_path / "all" / "homework_parts"
    folder.mkdir(parents=True)
    (folder / "slopes.py").write_text("def slope(a):\n    return 1 - a ** 2\n")
    source = IN_PLACE.replace("import numpy as np", f"import numpy as np\nfrom {neighbour} import slope")
    (folder / "network.py").write_text(source.replace("(1 - self.hidden ** 2)", "slope(self.hidden)"))
    assert main(str(folder / "network.py")) == 0
    assert "The gradient is right." in capsys.readouterr().out
    assert not [name for name in sys.modules if "homework_parts" in name]


ANSWERS_ANYTHING = """import sys, types
class Namespace(types.ModuleType):
    def __getattr__(self, name):
        return Namespace(name)
sys.modules["namespace_of_mine"] = Namespace("namespace_of_mine")
"""


def test_a_module_that_answers_to_any_name(audited):
    """As torch.classes."""
    status, text = audited(ANSWERS_ANYTHING + IN_PLACE)
    del sys.modules["namespace_of_mine"]
    assert status == 0, text


COMMAND_LINE = """import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float, default=0.1)
RATE = parser.parse_args().rate
"""


def test_a_file_may_read_its_command_line(audited, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxbackprop", "audit", "homework.py"])
    status, text = audited(COMMAND_LINE + IN_PLACE)
    assert status == 0, text
    status, text = audited(COMMAND_LINE.replace('"--rate"', '"rate"').replace(", default=0.1", "") + IN_PLACE)
    assert status == 2
    assert "failed with SystemExit: 2 (homework.py, line 4)" in text


WINDOWS = """import matplotlib as mpl
mpl.use("TkAgg")
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
"""


def test_a_file_that_opens_windows_needs_no_screen(audited):
    use = matplotlib.use
    status, text = audited(WINDOWS + IN_PLACE)
    plt.close("all")
    assert status == 0, text
    assert (matplotlib.get_backend().lower(), matplotlib.use) == ("agg", use)


def test_an_array_under_two_names_is_a_note(audited):
    mask = "self.a1 = self.z1\n        self.a1[self.a1 < 0] = 0"
    status, text = audited(COURSE, ("self.a1 = actFun(self.z1)", mask), activation="relu")
    assert status == 0
    assert "Note: z1 is a1: both names are one array, and what is written into a1 changes z1." in text


def test_an_activation_that_crashes(audited):
    crash = ("return s * (1 - s)", "return s * (1 - S)")
    status, text = audited(COURSE, crash)
    assert status == 1
    assert "tanh: Note: the l2 term is added to the gradient outside of it" in text
    raised = f"NameError: name 'S' is not defined (homework.py, line {line(COURSE, 'return s * (1 - s)')})"
    assert f"sigmoid: could not be run: {raised}" in text
    status, text = audited(COURSE, crash, activation="sigmoid")
    assert status == 2
    assert raised in text


@pytest.mark.parametrize(
    ("source", "old", "new", "expected", "row"),
    [
        (COURSE, "dW1 = X.T.dot(delta2)", "dW1 = -X.T.dot(delta2)", "dW1 is made in homework.py, line {}", "dW1 = X.T"),
        (COURSE, "s * (1 - s)", "s * s", "is 0.3875, right is 0.2350 (homework.py, line {})", "s = 1 /"),
        (COURSE, "self.diff_actFun(self.z1", "self.diff_actFun(self.a1", "(delta2 is made in homework.py, line {})",
         "delta2 = "),
        (FUNCTION, "dz = W2 @ d * (1 - a1[n] ** 2)", "dz = W2 @ d * (1 - a1[n])", "1 - tanh(z)", ""),
        (MODEL, "dW1 = np.dot(X.T, delta2)", "dW1 = -np.dot(X.T, delta2)", "dW1 is made in homework.py, line {}",
         "dW1 = np"),
        (PAIR, "dZ2 = A2 - Y", "dZ2 = Y - A2", "(dZ2 is made in homework.py, line {})", "dZ2 = "),
    ],
)  # fmt: skip
def test_the_line_in_which_it_is_made(audited, source, old, new, expected, row):
    status, text = audited(source, (old, new))
    assert status == 1
    assert expected.format(line(source, row)) in text


def test_other_numbers_of_classes_on_request(audited):
    for source in (COURSE, CS231N, PAIR):
        assert audited(source, classes=3)[0] == 0
    hard_coded = ("print_loss=True", "print_loss=True"), ("num_examples = len(X)\n        delta3", "assert self.probs.shape[1] == 2; num_examples = len(X)\n        delta3")  # noqa: E501  # fmt: skip
    assert audited(COURSE, *hard_coded)[0] == 0
    assert audited(COURSE, *hard_coded, classes=3)[0] == 2


def test_how_a_training_loop_was_called_is_said(audited):
    status, text = audited(MODEL)
    assert status == 0
    assert text.startswith("one step of the loop in build_model(nn_hdim, num_passes, print_loss) of homework.py")


def test_what_the_book_shows_of_homework_is_what_is_printed(audited):
    status, text = audited(COURSE, ("self.diff_actFun(self.z1, ", "self.diff_actFun(self.a1, "))
    assert status == 1
    chapter = (Path(__file__).parent / "book" / "audit.md").read_text(encoding="utf-8")
    shown = chapter.partition("```text\nNeuralNetwork(")[2].partition("```")[0]
    # The last digits of what is right are rounding, which differs between machines.
    rounding = re.compile(r"\d\.\de-1\d")
    for part in ("NeuralNetwork(" + shown).split("…"):
        assert rounding.sub("tiny", " ".join(part.split())) in rounding.sub("tiny", text)


def test_the_help_names_its_arguments_and_the_command_imports_nothing_heavy():
    code = "import sys, jaxbackprop.auditing.command; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    assert not {"sklearn", "optax", "pandas", "matplotlib", "scipy"} & set(modules)
    command = [sys.executable, "-m", "jaxbackprop", "audit", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "[OPTIONS] FILE NAME" in shown


def test_functions_without_compiling_are_what_jax_makes_of_them(monkeypatch):
    z = np.linspace(-3, 3, 64)
    functions = [f for a in ACTIVATIONS.values() for f in (a.value, a.derivative)]
    logits = np.random.default_rng(0).normal(size=(3, 9))
    cases = [(f, z) for f in functions] + [(get_objective(o).predict, logits) for o in ("softmax", "sigmoid")]
    monkeypatch.setattr("jaxbackprop.auditing.uncompiled._compiled", None)  # it is not asked
    for function, values in cases:
        with float64():
            right = np.asarray(function(jnp.asarray(values)))
        np.testing.assert_allclose(evaluate(function, values), right, rtol=1e-12, atol=1e-14)
    monkeypatch.undo()
    np.testing.assert_allclose(evaluate(jnp.cumsum, z), np.cumsum(z), atol=1e-12)  # what is not known is compiled
