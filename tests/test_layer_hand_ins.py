"""Files of layers as frameworks written from scratch have them: what is right is right, and each mistake is found.

What is right is known by how the files came about: the forms are right by derivation (a test takes differences of one
of them beside the audit), the mistakes are put in one at a time.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from layer_hand_ins import FORMS, LAYERS, MISTAKES, NETWORK

from jaxbackprop.auditing.command import main
from jaxbackprop.auditing.hand_in import opened
from jaxbackprop.auditing.layer_door import audit_layers

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def examined(tmp_path, source, name=None):
    path = tmp_path / "layers_of_mine.py"
    path.write_text(source)
    with opened(path) as hand_in:
        return audit_layers(hand_in, name, 0)


def one(report, layer):
    found = [outcome for outcome in report.outcomes if outcome.title.startswith((f"{layer}(", f"{layer},"))]
    assert len(found) >= 1, report
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_of_a_right_file_is_right(tmp_path, form):
    report = examined(tmp_path, FORMS[form])
    assert report.ok, report
    assert not report.failed
    assert len(report.outcomes) == LAYERS[form], report


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_is_found_where_it_is(tmp_path, number):
    form, old, new, layer, wrong = MISTAKES[number]
    assert old in FORMS[form]
    report = examined(
        tmp_path, FORMS[form].replace(old, new), layer if re.search(rf"(class|def) {layer}\b", FORMS[form]) else None
    )
    assert not report.ok, report
    found = [outcome for outcome in one(report, layer) if not outcome.ok]
    assert found, report
    for leaf, code in wrong.items():
        if code is None:
            assert leaf in found[0].missing
            continue
        findings = {finding.path: finding for finding in found[0].report.findings}
        assert not findings[leaf].ok, report
        assert code in ("", findings[leaf].diagnosis), report
    others = [outcome for outcome in report.outcomes if outcome not in found]
    assert all(outcome.ok for outcome in others), report


def test_the_arrays_are_what_differences_say(tmp_path):
    """The witness of the audit, taken once more by hand."""
    from jaxbackprop.auditing.layer_form import layer_classes, ways_to_call

    path = tmp_path / "layers_of_mine.py"
    path.write_text(FORMS["kept"])
    with opened(path) as hand_in:
        layer = ways_to_call(hand_in, layer_classes(hand_in)["Layer_Dense"])[0]
        arrays = [value.copy() for value in layer.arguments.values()]
        dout = np.random.default_rng(1).normal(size=layer.forward(*arrays).shape)
        made = layer.backward(dout, *arrays)
        assert list(made) == ["x", "weights", "biases"]
        for name, array in zip(made, arrays, strict=True):
            for index in np.ndindex(*array.shape):
                ends = []
                for step in (1e-6, -1e-6):
                    array[index] += step
                    ends.append((layer.forward(*arrays) * dout).sum())
                    array[index] -= step
                np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, made[name][index], rtol=1e-6, atol=1e-8)


def test_what_it_is_right_as_is_said(tmp_path):
    report = examined(tmp_path, FORMS["columns"])
    assert "LinearLayer(3, 4), samples in columns:" in str(report)
    assert "mean over 5 samples" in one(report, "LinearLayer")[0].report.headline
    assert "wrong if the loss's backward pass has divided it by 5 already" in " ".join(str(report).split())
    assert "4 times as large; with one output" in " ".join(str(examined(tmp_path, FORMS["slopes"])).split())
    report = examined(tmp_path, FORMS["together"])
    assert "as dL/dz" in one(report, "CrossEntropy")[0].report.headline
    assert "hands dL/d(output) on unchanged" in str(report)
    assert "right if the caller has multiplied it by the activation's slope" in " ".join(str(report).split())


def test_the_command(tmp_path, capsys):
    path = tmp_path / "my_layers.py"
    path.write_text(FORMS["handed"])
    assert main(str(path)) == 0
    assert "5 layers of my_layers.py" in capsys.readouterr().out
    assert main(str(path), "Relu") == 0
    assert "1 layer of my_layers.py" in capsys.readouterr().out
    path.write_text(FORMS["handed"].replace("self.dW = self.x.T", "dW = self.x.T"))
    page = tmp_path / "page.html"
    assert main(str(path), html=page) == 1
    assert "no gradient of W" in capsys.readouterr().out
    assert "Affine(W, b)" in page.read_text()
    assert "no gradient of W" in page.read_text()


def test_what_is_right_but_not_whole_exits_with_2(tmp_path, capsys):
    path = tmp_path / "my_layers.py"
    more = "\nclass Odd:\n    def __init__(self, secret):\n        raise KeyError(secret)\n"
    more += "    def forward(self, x):\n        return x\n    def backward(self, dout):\n        return dout\n"
    path.write_text(FORMS["handed"] + more)
    codes = tmp_path / "codes"
    assert main(str(path), codes=codes) == 2
    assert "Odd: not audited: KeyError" in capsys.readouterr().out
    assert codes.read_text().splitlines() == ["2", "a part of it was not audited"]


@pytest.mark.parametrize(
    ("form", "changes", "layer"),
    [
        ("together", [("self.learning_rate = 0.01", "pass"), ("self.learning_rate", "0.01")], "DenseRelu: "),
        ("kept", [("self.dweights = ", "self.weights = ")], "Layer_Dense: "),
    ],
)
def test_a_step_of_unknown_size_is_no_gradient(tmp_path, form, changes, layer):
    source = FORMS[form]
    for old, new in changes:
        source = source.replace(old, new)
    report = examined(tmp_path, source)
    assert f"{layer}not audited: backward changes" in str(report)
    assert not report.ok
    assert report.mistakes == []


def test_a_forward_pass_in_float32_is_not_judged_by_its_roundings(tmp_path, capsys):
    source = FORMS["handed"].replace("x @ self.W", "x.astype(np.float32) @ self.W")
    report = examined(tmp_path, source)
    assert "Affine: not audited: its forward pass rounds x or the output to float32" in str(report)
    assert report.mistakes == []
    path = tmp_path / "affine.py"
    path.write_text(source[: source.index("class Relu")])
    assert main(str(path)) == 2
    assert "Affine as a layer: its forward pass rounds x" in capsys.readouterr().err


WRITES = """
import numpy as np

class Rectifier:
    def forward(self, x):
        x[x < 0] = 0
        return x
    def backward(self, dout):
        return dout

def rectify_forward(x):
    x[x < 0] = 0
    return x, x

def rectify_backward(dout, cache):
    return dout
"""


def test_what_a_forward_pass_writes_into_is_a_copy(tmp_path):
    """Else all points would lie on the kink, at 0, and the slope that is missing would look like a stale one."""
    for outcome in examined(tmp_path, WRITES).outcomes:
        (finding,) = outcome.report.findings
        assert not finding.ok
        assert finding.diagnosis is None


ORDERS = """
import numpy as np

class Dense:
    def __init__(self, n_inputs, n_outputs):
        self.W = np.random.randn(n_inputs, n_outputs)
        self.b = np.zeros(n_outputs)
    def forward(self, x):
        self.x = x
        return x @ self.W + self.b
    def backward(self, dout):
        dW = self.x.T @ dout
        db = dout.sum(axis=0)
        return dW, db, dout @ self.W.T
"""


@pytest.mark.parametrize(
    ("returned", "missing"),
    [
        ("dW, db, dout @ self.W.T", ()),
        ("self.x.T @ dout, dout.sum(axis=0), dout @ self.W.T", ()),
        ("{'W': dW, 'b': db}, dout @ self.W.T", ()),
        ("dW, db", ("x",)),
        ("self.x.T @ dout, dout.sum(axis=0)", ("x",)),
        ("{'dW': dW, 'db': db}", ("x",)),
    ],
)
def test_what_is_returned_first_need_not_be_the_gradient_of_the_input(tmp_path, returned, missing):
    (outcome,) = examined(tmp_path, ORDERS.replace("dW, db, dout @ self.W.T", returned)).outcomes
    assert outcome.report.ok, outcome.report
    assert outcome.missing == missing


def test_a_gradient_of_the_input_of_another_shape_is_not_passed_over(tmp_path):
    kept = "self.dW, self.db = dW, db\n        return dout"
    (outcome,) = examined(tmp_path, ORDERS.replace("return dW, db, dout @ self.W.T", kept)).outcomes
    assert not next(finding for finding in outcome.report.findings if finding.path == "x").ok


ALONE = """
import numpy as np

class Tanh:
    def forward(self, z):
        self.a = np.tanh(z)
        return self.a
    def backward(self, z):
        return 1 - np.tanh(z) ** 2
"""


@pytest.mark.parametrize(
    ("returned", "right_as"),
    [
        ("1 - np.tanh(z) ** 2", "f'(z)"),
        ("1 - z ** 2", "f'(a)"),
        ("1 - self.a ** 2", None),  # what it is handed is forgotten
        ("1 - np.tanh(z)", None),
        ("z * (1 - self.a ** 2)", ""),
    ],
)
def test_a_class_may_have_the_slope_alone(tmp_path, returned, right_as):
    (outcome,) = examined(tmp_path, ALONE.replace("1 - np.tanh(z) ** 2", returned)).outcomes
    assert outcome.ok == (right_as is not None)
    assert outcome.report.convention == (right_as or "")


PENALIZED = """
import numpy as np

class Dense:
    def __init__(self, inputs, outputs, reg=1e-3):
        self.W, self.b, self.reg = 0.1 * np.random.randn(inputs, outputs), np.zeros(outputs), reg
    def forward(self, x):
        self.x = x
        return x @ self.W + self.b
    def backward(self, dout):
        self.dW = self.x.T @ dout + self.reg * self.W
        self.db = dout.sum(axis=0)
        return dout @ self.W.T
"""


@pytest.mark.parametrize(
    ("gradient", "right_as"),
    [
        ("self.x.T @ dout + self.reg * self.W", "the gradient of a loss with a penalty"),
        ("self.x.T @ dout + 2 * self.W", "the gradient of a loss with a penalty"),
        ("self.x.T @ dout - self.reg * self.W", None),
        ("self.x.T @ dout + self.reg", None),
        ("self.x.T @ (2 * dout) + self.reg * self.W", None),
    ],
)
def test_a_penalty_may_be_in_a_layers_own_gradient(tmp_path, gradient, right_as):
    source = PENALIZED.replace("self.x.T @ dout + self.reg * self.W", gradient)
    (outcome,) = examined(tmp_path, source).outcomes
    assert outcome.ok == (right_as is not None), outcome
    assert outcome.report.convention == (right_as or "")


def test_a_network_of_such_layers_is_audited_as_a_whole(tmp_path, capsys):
    path = tmp_path / "two_layer_net.py"
    path.write_text(NETWORK)
    assert main(str(path), "TwoLayerNet") == 0
    assert "TwoLayerNet(3, 5, 2)" in capsys.readouterr().out
    path.write_text(NETWORK.replace("self.db = dout.sum(axis=0)", "self.db = -dout.sum(axis=0)"))
    assert main(str(path), "TwoLayerNet") == 1
    assert "sign" in capsys.readouterr().out


@pytest.mark.parametrize("half", ["affine_forward", "affine_backward", "relu", "linear_activation_backward"])
def test_either_half_of_a_pair_names_it(tmp_path, capsys, half):
    path = tmp_path / "pairs.py"
    path.write_text(FORMS["pairs"])
    assert main(str(path), half) == 0
    assert half in capsys.readouterr().out


def test_options_for_a_network_are_not_passed_over_in_silence(tmp_path, capsys):
    path = tmp_path / "my_layers.py"
    path.write_text(FORMS["slopes"])
    page = tmp_path / "page.html"
    assert main(str(path), l2=0.1, classes=3, html=page) == 0
    said = "4 layers of my_layers.py; --l2 and --classes would be for a network, and changed nothing"
    assert said in capsys.readouterr().out
    assert said in page.read_text()


def test_a_network_behind_its_layers_is_found(tmp_path, capsys):
    path = tmp_path / "two_layer_net.py"
    path.write_text(NETWORK)
    assert main(str(path)) == 0
    assert "TwoLayerNet(3, 5, 2)" in capsys.readouterr().out


def test_a_network_is_no_layer(tmp_path):
    report = examined(tmp_path, NETWORK, "TwoLayerNet")
    assert "it is given targets and has parameters" in report.failed["TwoLayerNet"]


@pytest.fixture
def package(tmp_path):
    """A folder with two of a package's in it: a file of layers in the one imports from the other."""
    folder = tmp_path / "mine"
    for name in ("activations", "dense"):
        (folder / name).mkdir(parents=True)
    (folder / "activations" / "f.py").write_text("import numpy as np\n\ndef f(z):\n    return np.tanh(z)\n")
    (folder / "dense" / "tanh_layer.py").write_text(
        "from activations.f import f\n\nclass Tanh:\n    def forward(self, z):\n        self.a = f(z)\n"
        "        return self.a\n    def backward(self, dout):\n        return dout * (1 - self.a**2)\n"
    )
    return folder


def test_a_file_of_a_package_imports_from_the_folder_above_it(package, capsys):
    assert main(str(package / "dense" / "tanh_layer.py")) == 0
    assert "1 layer of tanh_layer.py" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["activations", "..activations"])
def test_in_a_folder_of_hand_ins_it_does_so_too(package, tmp_path, activations):
    import pandas as pd

    path = package / "dense" / "tanh_layer.py"
    path.write_text(path.read_text().replace("activations", activations))
    (package / "base.py").write_text("class Base:\n    def forward(self, x):\n        raise NotImplementedError\n"
                                     "    def backward(self, dout):\n        raise NotImplementedError\n")  # fmt: skip
    assert main(all=package, csv=tmp_path / "marks.csv") == 0
    marks = pd.read_csv(tmp_path / "marks.csv", index_col="file")
    assert marks.loc["dense/tanh_layer.py", "verdict"] == "right"
    assert marks.loc["activations/f.py", "mistakes"].startswith("f.py has neither a class")
    told = marks.loc["base.py", "mistakes"]
    assert told.startswith("it cannot be told how base.py is called")
    assert "\n" not in told


def test_what_the_book_shows_is_what_is_printed(tmp_path):
    source = FORMS["handed"].replace("self.dW = self.x.T", "dW = self.x.T")
    start, end = source.index("class BatchNorm"), source.index("class SoftmaxWithLoss")
    path = tmp_path / "layers.py"
    path.write_text(source[:start] + source[end:])
    with opened(path) as hand_in:
        printed = str(audit_layers(hand_in, None, 0))
    chapter = (Path(__file__).parent / "book" / "audit.md").read_text(encoding="utf-8")
    assert f"```text\n{printed}\n```" in chapter, printed
