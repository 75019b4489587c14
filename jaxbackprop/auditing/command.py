"""`jaxbackprop auditing path/to/file.py:function`: the audit of a gradient in a file of one's own."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.activations import ACTIVATIONS, get_activation
from jaxbackprop.auditing import Network, NetworkReport, Report, StageReport, audit, audit_network, audit_stages
from jaxbackprop.network import Layer, loss

RIGHT, WRONG, NOT_RUN = 0, 1, 2
NAMES = ("dW1", "db1", "dW2", "db2")
SAMPLES, FEATURES, HIDDEN, CLASSES = 20, 2, 3, 2  # the course's network, on fewer samples


class NotRun(Exception):
    """Why the user's function could not be audited."""


def main(
    target: Annotated[str, tyro.conf.Positional],
    activation: str = "tanh",
    l2: float = 0.0,
    one_hot: bool = False,
    seed: int = 0,
) -> int:
    """Is the gradient in a file of your own right? If not, what is the mistake?

    The file is your own code: it is imported, and its function is called; nothing else is run, and nothing protects you
    from what it does. The function is that of a network with one hidden layer, in NumPy, samples first:

        def gradient(W1, b1, W2, b2, X, y):
            ...
            return dW1, db1, dW2, db2

    with W1 (features, hidden), b1 (1, hidden), W2 (hidden, classes), b2 (1, classes), X (samples, features) and y the
    labels 0, 1, ... (samples,), or one-hot (samples, classes) with --one-hot. It returns the gradient of the mean
    cross-entropy of the softmax, plus l2/2 * (sum(W1**2) + sum(W2**2)) with --l2. Instead of the four arrays it may
    return a dict of them, and of z1, a1, z2, y_hat, delta3 and delta2 too: then every stage is looked at.

    The exit status is 0 if the gradient is right, 1 if it is wrong, 2 if it could not be run.

    Args:
        target: The file and the function in it, as homework.py:gradient.
        activation: Of the hidden layer.
        l2: The strength of the penalty on the weights, if your gradient includes one.
        one_hot: Hand over y one-hot instead of as labels.
        seed: Of the parameters and the data.
    """
    try:
        choose("activation", activation, ACTIVATIONS)
        check_real("l2", l2, 0)
        check_integer("seed", seed, 0)
        function = load(target)
        reports = examine(function, Network(activation, l2=l2, samples_first=True), one_hot=one_hot, seed=seed)
    except (NotRun, ValueError) as error:
        print(f"could not be run: {error}", file=sys.stderr)
        return NOT_RUN
    print(
        "\n\n".join(
            report.summary if isinstance(report, NetworkReport) and report.ok else str(report) for report in reports
        )
    )
    return RIGHT if all(report.ok for report in reports) else WRONG


def load(target: str) -> Callable[..., Any]:
    """The function that a target names, from a file that is imported.

    **Raises:** `NotRun` if there is no such file or function, or if the file cannot be imported.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise NotRun(f"{target!r} must name a file and a function in it, as homework.py:gradient")
    file = Path(path)
    if not file.is_file():
        raise NotRun(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise NotRun(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))  # as when Python runs the file
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise NotRun(f"importing {path} failed with {told(error)}") from error
    functions = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    try:
        return choose("function", name, functions)
    except ValueError as error:
        raise NotRun(f"{path}: {error}") from error


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


def told(error: BaseException) -> str:
    """An error in a line, with the last place outside of libraries that it passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    if isinstance(error, SyntaxError) or not frames:
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}: {error} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
