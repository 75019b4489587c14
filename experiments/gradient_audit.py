"""Part 1d: what is wrong with a gradient that was derived by hand?

First the package's own gradients, over depths, widths, activations, batches and numbers of classes: all right. Then a
gallery of wrong ones, as a teacher meets them: the line that was written, and what the audit writes beside it. Exits
with 1 if one of our own gradients is wrong, or if a mistake of the gallery is not the one that the audit names.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from gradient_check import numbered
from jaxtyping import Array

from jaxbackprop import ACTIVATIONS, Layer, Network, Params, audit, audit_network, audit_stages, loss
from jaxbackprop.backprop import loss_and_grad
from jaxbackprop.devices import compiler_options
from jaxbackprop.oracle import float64

# A homework: one hidden layer, NumPy, samples first.
HOMEWORK = """
z1 = X @ W1 + b1
a1 = f(z1)
e = np.exp(a1 @ W2 + b2)
y_hat = e / e.sum(axis=1, keepdims=True)
delta3 = (y_hat - Y) / N
dW2 = a1.T @ delta3 + l2 * W2
db2 = delta3.sum(axis=0)
delta2 = delta3 @ W2.T * (1 - a1**2)
dW1 = X.T @ delta2 + l2 * W1
db1 = delta2.sum(axis=0)
"""


class Mistake(NamedTuple):
    """A line of the homework, what was written instead, and the name of the mistake. None is one that has no name."""

    name: str | None
    line: str
    written: str
    activation: str = "tanh"
    l2: float = 0.0
    sizes: tuple[int, int, int] = (2, 3, 2)


DELTA3 = "delta3 = (y_hat - Y) / N"
DELTA2 = "delta2 = delta3 @ W2.T * (1 - a1**2)"
GALLERY = (
    Mistake("sum_not_mean", "db2 = delta3.sum(axis=0)", "db2 = (y_hat - Y).sum(axis=0)"),
    Mistake("slope_missing", DELTA2, "delta2 = delta3 @ W2.T"),
    Mistake("tanh_slope_cosh_2z", DELTA2, "delta2 = delta3 @ W2.T / np.cosh(2 * z1)"),
    Mistake("slope_formula_of_z", DELTA2, "delta2 = delta3 @ W2.T * (1 - z1**2)"),
    Mistake("slope_of_other", DELTA2, DELTA2, activation="sigmoid"),
    Mistake("sigmoid_slope_unfinished", DELTA2, "delta2 = delta3 @ W2.T * a1", activation="sigmoid"),
    Mistake("delta_sign", DELTA3, "delta3 = (Y - y_hat) / N"),
    Mistake("softmax_jacobian_diagonal", DELTA3, "delta3 = -Y / y_hat * y_hat * (1 - y_hat) / N"),
    Mistake("weight_of_another_layer", DELTA2, "delta2 = delta3 @ W1 * (1 - a1**2)"),
    Mistake("weight_updated", DELTA2, "delta2 = delta3 @ (W2 - 0.1 * dW2).T * (1 - a1**2)"),
    Mistake("input_of_another_layer", "dW2 = a1.T @ delta3", "dW2 = X.T @ delta3", sizes=(3, 3, 2)),
    Mistake("not_summed", "db1 = delta2.sum(axis=0)", "db1 = delta2"),
    Mistake("transposed", "dW1 = X.T @ delta2 + l2 * W1", "dW1 = delta2.T @ X"),
    Mistake("l2_over_n", "+ l2 * W2", "+ l2 * W2 / N", l2=0.1),
    Mistake("l2_on_bias", "db1 = delta2.sum(axis=0)", "db1 = delta2.sum(axis=0) + l2 * b1", l2=0.1),
    Mistake("delta_of_another_layer", "db1 = delta2.sum(axis=0)", "db1 = db2", sizes=(2, 3, 3)),
    Mistake("precision", "dW1 = X.T @ delta2", "dW1 = X.T.astype('f4') @ delta2.astype('f4')"),
    Mistake("slope_missing", DELTA2, "delta2 = N * delta3 @ W2.T"),
    Mistake(None, DELTA2, "delta2 = delta3 @ W2.T * np.sqrt(1 - a1**2) * (1 + b1)"),
)


class Parameters(NamedTuple):
    """Of the homework's network."""

    W1: Any
    b1: Any
    W2: Any
    b2: Any


def draw(sizes: tuple[int, int, int], samples: int, rng: np.random.Generator) -> tuple[Parameters, Any, Any]:
    """Parameters, inputs and one-hot targets, samples first."""
    features, hidden, classes = sizes
    params = Parameters(
        rng.normal(size=(features, hidden)) / np.sqrt(features),
        rng.normal(0, 0.3, hidden),
        rng.normal(size=(hidden, classes)) / np.sqrt(hidden),
        rng.normal(0, 0.3, classes),
    )
    return params, rng.normal(size=(samples, features)), np.eye(classes)[np.arange(samples) % classes]


def homework(mistake: Mistake) -> Callable[[Parameters, Any, Any], dict[str, Any]]:
    """The homework with one line of it replaced; it returns all that it computes."""
    lines = HOMEWORK.replace(mistake.line, mistake.written)
    f = {"tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: z * (z > 0)}[mistake.activation]

    def run(params: Parameters, X: Any, Y: Any) -> dict[str, Any]:
        names = {"np": np, "f": f, "X": X, "Y": Y, "N": len(X), "l2": mistake.l2, **params._asdict()}
        exec(lines, names)
        return names

    return run


def loss_of(params: Parameters, X: Any, Y: Any, activation: str, l2: float) -> Any:
    """The loss of the homework, by the package."""
    layers = Layer(params.W1.T, params.b1), Layer(params.W2.T, params.b2)
    return loss(layers, X.T, Y.T, activation=activation, l2=l2)


def gallery(samples: int, seed: int) -> Iterator[tuple[str, bool]]:
    """The report of each mistake, and whether it is named."""
    for mistake in GALLERY:
        params, X, Y = draw(mistake.sizes, samples, np.random.default_rng(seed))
        run = homework(mistake)

        def gradient(params: Parameters, X: Any, Y: Any, run: Callable = run) -> Parameters:
            names = run(params, X, Y)
            return Parameters(names["dW1"], names["db1"], names["dW2"], names["db2"])

        network = Network(mistake.activation, l2=mistake.l2, samples_first=True)
        judge = partial(loss_of, activation=mistake.activation, l2=mistake.l2)
        report = audit(gradient, judge, params, X, Y, network=network, seed=seed)
        named = not report.ok and all(f.diagnosis == mistake.name for f in report.findings if not f.ok)
        about = f"{mistake.activation}, {'-'.join(map(str, mistake.sizes))}" + f", l2 = {mistake.l2}" * (mistake.l2 > 0)
        yield f"{heading(f'{mistake.written}   ({about})')}\n{report}", named


def beyond(samples: int, seed: int) -> Iterator[tuple[str, bool]]:
    """A rule for jax.custom_vjp; a gradient that remembers; a mistake stage by stage; and one in many networks."""

    @jax.custom_vjp
    def softplus(z: jax.Array) -> jax.Array:
        return jnp.logaddexp(z, 0)

    softplus.defvjp(lambda z: (softplus(z), z), lambda z, g: (g * jnp.tanh(z),))
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(samples, 3)), rng.choice([-1.0, 1.0], samples)

    def logistic_loss(w: Any, X: Any, y: Any) -> Any:
        return jnp.mean(softplus(-y * (X @ w)))

    report = audit(jax.grad(logistic_loss), logistic_loss, rng.normal(size=3), X, y, seed=seed)
    yield f"{heading('a custom_vjp for softplus whose rule is g * tanh(z)')}\n{report}", not report.ok

    params, X, Y = draw((2, 3, 2), samples, rng)
    right = homework(GALLERY[0]._replace(line="", written=""))
    first: list[Any] = []

    def remembering(params: Parameters, X: Any, Y: Any) -> Parameters:
        first.append(right(params, X, Y))
        return Parameters(*(first[0][name] for name in ("dW1", "db1", "dW2", "db2")))

    judge = partial(loss_of, activation="tanh", l2=0.0)
    report = audit(remembering, judge, params, X, Y, network=Network("tanh", samples_first=True), seed=seed)
    yield (
        f"{heading('a gradient that is worked out once and remembered')}\n{report}",
        all(f.diagnosis == "stale" for f in report.findings),
    )

    wrong = homework(Mistake(None, DELTA2, "delta2 = delta3 @ W2.T * (1 - z1**2)"))
    names = ("z1", "a1", "y_hat", "delta3", "dW2", "db2", "delta2", "dW1", "db1")
    stages = audit_stages(
        lambda *args: {name: wrong(*args)[name] for name in names}, Network("tanh", samples_first=True), params, X, Y
    )
    yield f"{heading('stage by stage: delta2 = delta3 @ W2.T * (1 - z1**2)')}\n{stages}", stages.first_wrong == "delta2"

    def always_tanh(layers: Any, X: Any, Y: Any, activation: str) -> Any:
        (W1, b1), (W2, b2) = layers
        run = homework(Mistake(None, "", "", activation=activation))
        names = run(Parameters(W1, b1, W2, b2), X, Y)
        return (names["dW1"], names["db1"]), (names["dW2"], names["db2"])

    everywhere = audit_network(always_tanh, depths=(2,), samples_first=True, seed=seed)
    said = "Right for tanh; wrong for sigmoid and relu: the derivative of tanh is used for all."
    yield (
        f"{heading('delta2 = delta3 @ W2.T * (1 - a1**2), whatever the activation')}\n{everywhere}",
        everywhere.summary == said,
    )


@partial(jax.jit, compiler_options=compiler_options(quick=True))
def by_number(params: Params, x: Array, y: Array, k: Array) -> Params:
    return loss_and_grad(params, x, y, activation=numbered(k))[1]


def by_hand(params: Params, x: Array, y: Array, activation: str) -> Params:
    """Our own gradient; the activation by its number, so that one compiled program serves all of them."""
    with float64():
        return by_number(params, x, y, list(ACTIVATIONS).index(activation))


def heading(text: str) -> str:
    return f"\n{'=' * 88}\n{text}\n{'=' * 88}"


def main(out: Path = Path("results"), samples: int = 20, depths: tuple[int, ...] = (1, 2, 3, 5), seed: int = 0) -> None:
    """Audit our own gradients, then a gallery of wrong ones.

    Args:
        out: Where the reports go.
        samples: How many samples a batch of the gallery has.
        depths: Layers of weights of our own networks.
        seed: Of the parameters and the data.
    """
    own = audit_network(by_hand, activations=tuple(ACTIVATIONS), depths=depths, seed=seed)
    texts = [f"{heading('our own loss_and_grad')}\n{own}"]
    print(texts[0], flush=True)
    unnamed = 0
    for make in (gallery, beyond):
        for text, named in make(samples, seed):
            texts.append(text)
            print(text, flush=True)
            unnamed += not named
    out.mkdir(parents=True, exist_ok=True)
    (out / "gradient_audit.txt").write_text("\n".join(texts).lstrip() + "\n")
    print(f"\nsaved {out / 'gradient_audit.txt'}")
    if not own.ok:
        sys.exit("our own gradients are wrong")
    if unnamed:
        sys.exit(f"{unnamed} mistakes of the gallery are not the ones that the audit names")


if __name__ == "__main__":
    tyro.cli(main)
