"""`jaxbackprop audit path/to/file.py:function`: the audit of a gradient in a file of one's own."""

import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.activations import ACTIVATIONS, get_activation
from jaxbackprop.auditing import Network, NetworkReport, Report, StageReport, audit, audit_network, audit_stages
from jaxbackprop.auditing.calling import Unclear, leaf_kind, returned_names, role
from jaxbackprop.auditing.door import audit_class, choose_class
from jaxbackprop.auditing.hand_in import HandIn, NotRun, opened, quiet, told
from jaxbackprop.network import Layer, loss

RIGHT, WRONG, NOT_RUN = 0, 1, 2
NAMES = ("dW1", "db1", "dW2", "db2")
SAMPLES, FEATURES, HIDDEN, CLASSES = 20, 2, 3, 2  # the course's network, on fewer samples


ARGUMENTS = ["W1", "b1", "W2", "b2", "X", "y"]
ADAPTER = """it cannot be told how {file} is called: {reason}.
Paste this below it, with your own calls in it, and audit the function gradient:

    def gradient(W1, b1, W2, b2, X, y):
        network = {cls}(...)                      # with {features} features, {hidden} hidden units, {classes} classes
        network.W1, network.b1 = W1, b1
        network.W2, network.b2 = W2, b2
        network.feedforward(X)
        dW1, db1, dW2, db2 = network.backprop(X, y)
        return dW1, db1, dW2, db2"""


def main(
    target: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = None,
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
    activation: str | None = None,
    l2: float = 0.0,
    one_hot: bool = False,
    classes: int = 2,
    verbose: bool = False,
    all: Path | None = None,
    csv: Path | None = None,
    seconds: float = 60.0,
    codes: Path | None = None,
    seed: int = 0,
) -> int:
    """Is the gradient in a file of your own right? If not, what is the mistake?

    jaxbackprop audit homework.py is enough. The file, a .py or a notebook .ipynb by its code cells, is your own code:
    it is run as by an import, nothing below its `if __name__ == "__main__"`, and nothing protects you from what it
    does. What it prints is kept back. What is looked for in it:

    A class with a method backprop, backward or loss, as the course's NeuralNetwork or CS231n's two-layer net. How it is
    made and called, and what of its results is dW1, is found out by looking and trying, and said in the first line. Its
    weights are found under names as W1, w1, params["W1"], weights[0], layers[0].W. All activations that it offers are
    tried; its forward pass, its loss and its f' are looked at before the gradient. The gradient of the sum over the
    samples is as right as that of their mean.

    A function of a network with one hidden layer, in NumPy, samples first:

        def gradient(W1, b1, W2, b2, X, y):
            ...
            return dW1, db1, dW2, db2

    with W1 (features, hidden), b1 (1, hidden), W2 (hidden, classes), b2 (1, classes), X (samples, features) and y the
    labels 0, 1, ... (samples,), or one-hot (samples, classes) with --one-hot. It may have the gradient of the penalty
    l2/2 * (sum(W1**2) + sum(W2**2)), said by --l2. Instead of the four arrays it may return a dict of them, and of z1,
    a1, z2, y_hat, delta3 and delta2 too: then every stage is looked at.

    The exit status is 0 if the gradient is right, 1 if it is wrong, 2 if it could not be run.

    Args:
        target: The file, also with a name as homework.py:gradient.
        name: The class or function in it, if there are several.
        activation: Of the hidden layer; all that a class offers, or tanh for a function.
        l2: The strength of the penalty on the weights, if your gradient includes one.
        one_hot: Hand over y one-hot instead of as labels.
        classes: How many a class is tried with.
        all: Audit all files of this folder, each in a process and a temporary folder of its own. It is no sandbox.
        csv: Write one row a file there: verdict, mistakes, seconds.
        seconds: The time limit for each file of a folder.
        codes: A file to write the exit status and the codes of the mistakes to, for programs.
        verbose: Show what the file printed.
        seed: Of the parameters and the data.
    """
    try:
        if activation is not None:
            choose("activation", activation, ACTIVATIONS)
        check_real("l2", l2, 0)
        check_integer("seed", seed, 0)
        check_integer("classes", classes, 2)
        if all is not None:
            from jaxbackprop.auditing.marks import SANDBOX, mark_all

            check_real("seconds", seconds, 0)
            print(f"{mark_all(all, csv, seconds).to_string()}\n\n{SANDBOX}")
            return RIGHT
        if target is None:
            raise NotRun("name a file, as homework.py, or a folder by --all")
        path, name = split_target(target, name)
        with opened(path) as hand_in:
            text, ok, mistakes = examine_file(
                hand_in, name, activation, l2=l2, one_hot=one_hot, classes=classes, seed=seed
            )
            if verbose:
                print(hand_in.printed.getvalue())
    except (NotRun, Unclear, ValueError) as error:
        print(f"could not be run: {error}", file=sys.stderr)
        if codes is not None:
            codes.write_text(f"{NOT_RUN}\n{error}")
        return NOT_RUN
    print(text)
    if codes is not None:
        codes.write_text(f"{RIGHT if ok else WRONG}\n{' '.join(mistakes)}")
    return RIGHT if ok else WRONG


def examine_file(
    hand_in: HandIn, name: str | None, activation: str | None, *, l2: float, one_hot: bool, classes: int, seed: int
) -> tuple[str, bool, list[str]]:
    """The report on what a file has, whether it is right, and the codes of its mistakes.

    **Raises:** `NotRun` if there is nothing to audit in it, or if it fails.
    """
    cls = choose_class(hand_in, name)
    if cls is not None:
        try:
            report = audit_class(hand_in, cls, classes=classes, only=activation, seed=seed)
        except Unclear as error:
            facts = {"file": hand_in.path.name, "reason": error, "cls": cls.__name__}
            raise NotRun(ADAPTER.format(**facts, features=FEATURES, hidden=HIDDEN, classes=CLASSES)) from error
        return str(report), report.ok, report.mistakes
    function = choose_function(hand_in, name)
    if function is None:
        raise NotRun(
            f"{hand_in.path} has neither a class with a method backprop, backward or loss nor a function of W1, b1, W2, "
            "b2, X, y; jaxbackprop audit --help shows both"
        )

    def silent(*arrays: Any) -> Any:
        with quiet(hand_in.printed):
            return call_function(function, arrays)

    silent.__name__ = function.__name__
    network = Network(activation or "tanh", l2=l2, samples_first=True)
    reports = examine(silent, network, one_hot=one_hot, seed=seed)
    shown = [r.summary if isinstance(r, NetworkReport) and r.ok else str(r) for r in reports]
    title = f"{function.__name__}({', '.join(inspect.signature(function).parameters)}) of {hand_in.path.name}, {network.activation}"
    found = [f for report in reports if isinstance(report, Report) for f in report.findings if not f.ok]
    mistakes = list(dict.fromkeys(finding.diagnosis or "unknown" for finding in found))
    return "\n\n".join([title, *shown]), all(report.ok for report in reports), mistakes


def split_target(target: str, name: str | None) -> tuple[str, str | None]:
    """The file and what in it: homework.py NAME, or homework.py:NAME."""
    path, _, after = target.rpartition(":")
    if path and after.isidentifier():
        return path, name or after
    return (path, name) if path and not after else (target, name)


def choose_function(hand_in: HandIn, name: str | None) -> Callable[..., Any] | None:
    """The function that is named, else the one whose arguments are W1, b1, W2, b2, X and y."""
    functions = {key: f for key, f in hand_in.own(types.FunctionType).items() if not key.startswith("_")}
    if name is not None:
        try:
            return choose("function", name, functions | hand_in.own(type))
        except ValueError as error:
            raise NotRun(f"{hand_in.path}: {error}") from error
    return next((f for f in functions.values() if takes(f)), None)


def takes(function: Callable[..., Any]) -> str:
    """Whether a function takes the "arrays" W1, b1, W2, b2, X, y in any order, or a "model" of them, X and y."""
    names = list(inspect.signature(function).parameters)
    if sorted(names) == sorted(ARGUMENTS):
        return "arrays"
    return "model" if [role(name) for name in names] == ["model", "X", "y"] else ""


def call_function(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """The call by what the function takes; its results by the names in its `return`, where all four have one."""
    if takes(function) == "model":
        result = function(dict(zip(ARGUMENTS[:4], arrays[:4], strict=True)), *arrays[4:])
    elif takes(function) == "arrays":
        result = function(**dict(zip(ARGUMENTS, arrays, strict=True)))
    else:
        result = function(*arrays)
    names = ["d" + "".join(leaf_kind(name)) for name in returned_names(function)]
    if isinstance(result, tuple) and len(result) == len(names) and sorted(names) == sorted(NAMES):
        return dict(zip(names, result, strict=True))
    return result


def named_results(function: Callable[..., Any], *arrays: Any) -> dict[str, Any]:
    """What the user's function returns, by name.

    **Raises:** `NotRun` if that is neither four arrays nor a dict of them.
    """
    result = function(*arrays)
    if isinstance(result, Mapping) and not all(name in result for name in NAMES):
        raise NotRun(f"the function returned a dict without {', '.join(name for name in NAMES if name not in result)}")
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, tuple | list) and len(result) == len(NAMES):
        return dict(zip(NAMES, result, strict=True))
    got = f"{len(result)} values" if isinstance(result, tuple | list) else type(result).__name__
    raise NotRun(f"the function must return {', '.join(NAMES)}, or a dict of them, got {got}")


class Parameters(NamedTuple):
    """Of a network with one hidden layer, samples first."""

    W1: Any
    b1: Any
    W2: Any
    b2: Any


def examine(
    function: Callable[..., Any], network: Network, *, one_hot: bool, seed: int
) -> list[Report | StageReport | NetworkReport]:
    """The audit of the function on the course's network, also stage by stage if it tells them; then on other networks.

    **Raises:** `NotRun` if the function raises, or returns something else than it should.
    """
    rng = np.random.default_rng(seed)
    params = Parameters(
        rng.normal(size=(FEATURES, HIDDEN)) / np.sqrt(FEATURES),
        rng.normal(0, 0.1, (1, HIDDEN)),
        rng.normal(size=(HIDDEN, CLASSES)) / np.sqrt(HIDDEN),
        rng.normal(0, 0.1, (1, CLASSES)),
    )
    X, y = rng.normal(size=(SAMPLES, FEATURES)), rng.permutation(np.arange(SAMPLES) % CLASSES)
    targets = np.eye(CLASSES)[y] if one_hot else y

    def loss_fn(params: Parameters, X: Any, y: Any) -> Any:
        layers = Layer(params.W1.T, params.b1[0]), Layer(params.W2.T, params.b2[0])
        columns = y.T if one_hot else jax.nn.one_hot(y, CLASSES, axis=0, dtype=X.dtype)
        return loss(layers, X.T, columns, activation=network.activation, l2=network.l2)

    def gradient_fn(params: Parameters, X: Any, y: Any) -> Parameters:
        results = named_results(function, *params, X, y)
        return Parameters(*(results[name] for name in NAMES))

    def backward_fn(layers: Any, X: Any, y: Any, activation: str) -> Any:
        (W1, b1), (W2, b2) = layers
        results = named_results(function, W1, b1[None], W2, b2[None], X, y if one_hot else y.argmax(axis=1))
        return (results["dW1"], results["db1"]), (results["dW2"], results["db2"])

    try:
        first = named_results(function, *params, X.copy(), targets.copy())
    except NotRun:
        raise
    except (Exception, SystemExit) as error:
        name = getattr(function, "__name__", "the function")
        raise NotRun(f"{name}(W1, b1, W2, b2, X, y) raised {told(error)}") from error
    reports: list[Report | StageReport | NetworkReport] = []
    reports.append(audit(gradient_fn, loss_fn, params, X, targets, network=network, seed=seed))
    if set(first) - set(NAMES):
        reports.append(audit_stages(lambda p, X, y: named_results(function, *p, X, y), network, params, X, targets))
    if all(report.ok for report in reports):
        others = audit_network(
            backward_fn,
            activations=(get_activation(network.activation).name,),
            depths=(2,),
            widths=(1, HIDDEN),
            batches=(1, 2, SAMPLES),
            classes=(CLASSES, 3),
            l2=network.l2,
            samples_first=True,
        )
        reports.append(others)
    return reports
