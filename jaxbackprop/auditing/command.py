"""`jaxbackprop audit path/to/file.py:function`: the audit of a gradient in a file of one's own."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.auditing.calling import Unclear
from jaxbackprop.auditing.class_form import SIZES, class_subject
from jaxbackprop.auditing.door import HandInReport, audit_subject, choose_classes
from jaxbackprop.auditing.function_form import choose_function, function_subject
from jaxbackprop.auditing.hand_in import HandIn, NotRun, opened
from jaxbackprop.auditing.layer_door import LayersReport, audit_layers
from jaxbackprop.auditing.report import listed
from jaxbackprop.auditing.subjects import Subject

RIGHT, WRONG, NOT_RUN = 0, 1, 2
FEATURES, HIDDEN = SIZES[0][:2]
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
    html: Path | None = None,
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

    Functions: a forward and a backward pass that hand each other a cache and a dictionary of parameters, features or
    samples first; a function of such a dictionary `model`; a training loop as build_model of WildML's tutorial, of
    which one step is taken; or, for one hidden layer,

        def gradient(W1, b1, W2, b2, X, y):
            ...
            return dW1, db1, dW2, db2

    with W1 (features, hidden), b1 (1, hidden), W2 (hidden, classes), b2 (1, classes), X (samples, features) and y the
    labels 0, 1, ... (samples,), or one-hot (samples, classes); which, is found out by trying. The gradient may include
    that of an l2 penalty: how strong it is, is found out by the file's own loss, or said by --l2. Instead of the four
    arrays it may return a dict of them, and of z1, a1, z2, y_hat, delta3 and delta2 too: then every stage is looked at.

    Layers: classes with a forward and a backward pass of their own, losses among them, and pairs of functions, as
    affine_forward and affine_backward, tanh and tanh_prime, mse and mse_prime. Where a file has no network that can be
    audited as a whole, each of them is judged alone, by differences of its own forward pass.

    The exit status is 0 if all gradients are right, 1 if one is wrong, 2 if something could not be run; with --all it
    is 0 whenever the table could be made.

    Args:
        target: The file, also with a name as homework.py:gradient.
        name: The class or function in it, if there are several.
        activation: Of the hidden layer; all that the file offers.
        l2: The strength of the penalty l2/2 sum(W**2), if your gradient includes one that cannot be set.
        one_hot: Hand over y one-hot, and do not try labels.
        classes: How many classes the network is tried with.
        all: Audit all files of this folder, each in a process and a temporary folder of its own. It is no sandbox.
        csv: Write one row a file there: verdict, mistakes, seconds.
        seconds: The time limit for each file of a folder.
        codes: A file to write the exit status and the codes of the mistakes to, for programs.
        html: A file to write the report to as a page to look at, with the network and the matrices drawn.
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
                hand_in, name, activation, l2=l2, one_hot=one_hot, classes=classes, seed=seed, html=html
            )
            if verbose:
                print(hand_in.printed.getvalue())
    except (NotRun, Unclear, ValueError) as error:
        print(f"could not be run: {error}", file=sys.stderr)
        if codes is not None:
            codes.write_text(f"{NOT_RUN}\n{error}")
        return NOT_RUN
    print(text)
    status = RIGHT if ok else WRONG if mistakes else NOT_RUN  # what is right as far as it could be run
    if codes is not None:
        codes.write_text(f"{status}\n{' '.join(mistakes) if mistakes or ok else 'a part of it was not audited'}")
    return status


def examine_file(
    hand_in: HandIn,
    name: str | None,
    activation: str | None,
    *,
    l2: float,
    one_hot: bool,
    classes: int,
    seed: int,
    html: Path | None = None,
) -> tuple[str, bool, list[str]]:
    """The report on what a file has, whether it is right, and the codes of its mistakes.

    **Raises:** `NotRun` if there is nothing to audit in it, or if it fails.
    """
    report: HandInReport | LayersReport | None = None
    refusals: list[Unclear | NotRun] = []
    for network in networks_of(hand_in, name, classes, one_hot):
        try:
            report = audit_subject(hand_in, network(np.random.default_rng(seed)), only=activation, l2=l2, seed=seed)
            break
        except (Unclear, NotRun) as error:
            refusals.append(error)
    if report is None:  # no network as a whole, but parts of one
        report = audit_layers(hand_in, name, seed)
        if not report.outcomes:
            raise not_told(hand_in, name, classes, refusals[:1], report.failed) from next(iter(refusals), None)
        given = {"--activation": activation, "--l2": l2, "--one-hot": one_hot, "--classes": classes != 2}
        if unused := [option for option, value in given.items() if value]:
            title = f"{report.title}; {listed(unused)} would be for a network, and changed nothing"
            report = replace(report, title=title)
    save_page(html, [report], report.title)
    return str(report), report.ok, report.mistakes


def networks_of(
    hand_in: HandIn, name: str | None, classes: int, one_hot: bool
) -> list[Callable[[np.random.Generator], Subject]]:
    """What of a file may be a network as a whole, in the order in which it is tried."""
    if networks := choose_classes(hand_in, name):
        return [partial(class_subject, hand_in, cls, classes) for cls in networks]
    function = choose_function(hand_in, name)
    return [] if function is None else [lambda rng: function_subject(hand_in, function, classes, rng, one_hot)]


def not_told(
    hand_in: HandIn, name: str | None, classes: int, refusals: Sequence[Unclear | NotRun], layers: Mapping[str, str]
) -> NotRun:
    """Why a file could not be audited, as a network and as layers, and what to do about it."""
    if not refusals:
        return NotRun(
            f"{hand_in.path} has neither a class with a method backprop, backward or loss, nor layers of a forward and "
            "a backward pass, nor functions of W1, b1, W2, b2, X, y; jaxbackprop audit --help shows them"
        )
    (error,) = refusals
    if isinstance(error, NotRun):
        return error
    cls = next((cls.__name__ for cls in choose_classes(hand_in, name)), "NeuralNetwork")
    reason = "; ".join([str(error), *(f"{layer} as a layer: {why}" for layer, why in layers.items())])
    facts = {"file": hand_in.path.name, "reason": reason, "cls": cls, "classes": classes}
    return NotRun(ADAPTER.format(**facts, features=FEATURES, hidden=HIDDEN))


def save_page(html: Path | None, reports: Sequence[Any], title: str) -> None:
    if html is not None:
        from jaxbackprop.auditing.page import save_reports

        save_reports(html, reports, title)


def split_target(target: str, name: str | None) -> tuple[str, str | None]:
    """The file and what in it: homework.py NAME, or homework.py:NAME."""
    path, _, after = target.rpartition(":")
    if path and after.isidentifier():
        return path, name or after
    return (path, name) if path and not after else (target, name)
