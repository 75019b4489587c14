"""The programs that `throughput.py` measures side by side, each training the same small networks.

The work has no random numbers: data, initial parameters and learning rates are closed formulas, so that programs in any
language can do it and compare their losses. Two interleaved half moons of 100 points each; K networks of one hidden
tanh layer and a softmax output; full-batch gradient descent on the mean cross-entropy plus l2/2 * sum(W^2).

Every one is a function `peer(task, steps)` that prepares the training and returns a function to run it, which returns
how long it took and the mean of the networks' final losses. Those of this project come last.
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from jaxbackprop import Hyperparameters, Layer, compiler_options, fit, sweep

SAMPLES, L2 = 200, 1e-4
C_SOURCE = Path(__file__).with_name("networks.c")


class Task(NamedTuple):
    """Networks to train, features first: x is [2, samples], y is one-hot, a weight is [networks, out, in]."""

    x: np.ndarray
    y: np.ndarray
    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray
    learning_rates: np.ndarray


class Outcome(NamedTuple):
    """Seconds that a training took, and the mean final loss (NaN where it would not be the same loss)."""

    seconds: float
    loss: float


Run = Callable[[], Outcome]
Peer = Callable[[Task, int], Run]


def make_task(networks: int, hidden: int) -> Task:
    """The first `networks` networks of `hidden` units."""
    n = np.arange(SAMPLES)
    label, t = n % 2, np.pi * n / (SAMPLES - 1)
    x = np.where(label, [1 - np.cos(t), 0.5 - np.sin(t)], [np.cos(t), np.sin(t)])
    k, h, two = np.arange(networks)[:, None, None], np.arange(hidden), np.arange(2)
    arrays = (
        x,
        np.stack([1 - label, label]),
        np.sin(1 + 7 * k + 3 * h[:, None] + two),
        np.zeros((networks, hidden)),
        np.cos(2 + 5 * k + 2 * h + two[:, None]),
        np.zeros((networks, 2)),
        0.05 + 0.45 * np.arange(networks) / networks,
    )
    return Task(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def some(task: Task, networks: int) -> Task:
    """A few networks of a task, evenly spaced, for programs that train one after another."""
    chosen = np.linspace(0, len(task.b1) - 1, networks).astype(int)
    return Task(task.x, task.y, *(array[chosen] for array in task[2:]))


def clocked(train: Callable[[], Any]) -> Run:
    """Measure a training that returns final losses."""

    def run() -> Outcome:
        start = time.perf_counter()
        losses = jax.block_until_ready(train())
        return Outcome(time.perf_counter() - start, float(np.mean(losses)))

    return run


def numpy_loop(task: Task, steps: int) -> Run:
    """The course's program: NumPy, samples first, in double precision, one network after another."""
    X, Y = task.x.T.astype(float), task.y.T.astype(float)
    N = len(X)

    def train_one(W1: np.ndarray, b1: np.ndarray, W2: np.ndarray, b2: np.ndarray, rate: float) -> float:
        for step in range(steps + 1):
            a1 = np.tanh(X @ W1 + b1)
            z2 = a1 @ W2 + b2
            exp_scores = np.exp(z2 - z2.max(axis=1, keepdims=True))
            probs = exp_scores / exp_scores.sum(axis=1, keepdims=True)
            if step == steps:  # the loss after the last update
                break
            delta3 = (probs - Y) / N
            delta2 = delta3 @ W2.T * (1 - a1**2)
            dW2, dW1 = a1.T @ delta3 + L2 * W2, X.T @ delta2 + L2 * W1
            W1, b1 = W1 - rate * dW1, b1 - rate * delta2.sum(axis=0)
            W2, b2 = W2 - rate * dW2, b2 - rate * delta3.sum(axis=0)
        return float(-np.log((probs * Y).sum(axis=1)).mean() + L2 / 2 * ((W1**2).sum() + (W2**2).sum()))

    networks = [
        (W1.T, b1, W2.T, b2, float(rate)) for W1, b1, W2, b2, rate in zip(*_doubled(task[2:]), strict=True)
    ]  # samples first, a weight is [in, out]
    return clocked(lambda: [train_one(*network) for network in networks])


def _doubled(arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [array.astype(float) for array in arrays]


def scikit_learn(task: Task, steps: int) -> Run:
    """`MLPClassifier`, one network after another. It gives two classes a single logistic output, which is less work and
    another loss."""
    X, y = task.x.T, task.y.argmax(axis=0)

    def train() -> float:
        for k, rate in enumerate(task.learning_rates):
            network = MLPClassifier(
                (task.b1.shape[1],),
                activation="tanh",
                solver="sgd",
                alpha=L2 * SAMPLES,  # scikit-learn divides it by the number of samples
                batch_size=SAMPLES,
                learning_rate_init=float(rate),
                max_iter=steps,
                shuffle=False,
                random_state=k,
                tol=0.0,
                momentum=0.0,
                nesterovs_momentum=False,
                n_iter_no_change=steps + 1,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # all the steps were taken, as they should be
                network.fit(X, y)
        return np.nan

    return clocked(train)


def vmapped_grad(task: Task, steps: int) -> Run:
    """`jax.vmap` of `jax.grad`, samples first, jitted, on one CPU device: the JAX program that everyone writes."""
    X, Y = jnp.asarray(task.x.T), jnp.asarray(task.y.T)
    params = {
        "W1": jnp.asarray(task.W1.swapaxes(1, 2)),
        "b1": jnp.asarray(task.b1),
        "W2": jnp.asarray(task.W2.swapaxes(1, 2)),
        "b2": jnp.asarray(task.b2),
    }
    rates = jnp.asarray(task.learning_rates)

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = jnp.tanh(X @ params["W1"] + params["b1"])
        logits = hidden @ params["W2"] + params["b2"]
        cross_entropy = -jnp.mean(jnp.sum(Y * jax.nn.log_softmax(logits), axis=1))
        return cross_entropy + L2 / 2 * (jnp.sum(params["W1"] ** 2) + jnp.sum(params["W2"] ** 2))

    def train(params: dict[str, jax.Array], rate: jax.Array) -> jax.Array:
        def step(params: dict[str, jax.Array], _: None) -> tuple[dict[str, jax.Array], None]:
            return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)), None

        return loss(lax.scan(step, params, length=steps)[0])

    program = jax.jit(jax.vmap(train))
    return clocked(lambda: program(params, rates))


def torch_is_there() -> bool:
    """Whether `vmapped_torch` can run."""
    return importlib.util.find_spec("torch") is not None


def vmapped_torch(task: Task, steps: int) -> Run:
    """`torch.func.vmap` of `torch.func.grad`, samples first, on all cores."""
    import torch

    X, y = torch.tensor(task.x.T.copy()), torch.tensor(task.y.argmax(axis=0))
    arrays = (task.W1.swapaxes(1, 2), task.b1, task.W2.swapaxes(1, 2), task.b2)
    start = tuple(torch.tensor(array.copy()) for array in arrays)
    rates = torch.tensor(task.learning_rates)

    def loss(W1: Any, b1: Any, W2: Any, b2: Any) -> Any:
        logits = torch.tanh(X @ W1 + b1) @ W2 + b2
        return torch.nn.functional.cross_entropy(logits, y) + L2 / 2 * ((W1**2).sum() + (W2**2).sum())

    gradient = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)))

    def train() -> Any:
        params = start
        with torch.no_grad():
            for _ in range(steps):
                pairs = zip(params, gradient(*params), strict=True)
                params = tuple(p - rates.reshape(-1, *[1] * (p.ndim - 1)) * g for p, g in pairs)
            return torch.func.vmap(loss)(*params).numpy()

    return clocked(train)


def c_compiler() -> str | None:
    """The compiler that builds `networks.c`, if there is one: `gcc`, else `clang`."""
    return next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def c_program(directory: Path) -> Peer | None:
    """`networks.c`, the same work in C, compiled for each number of hidden units into `directory`.

    None where there is no compiler, or none with OpenMP, which is then said.
    """
    compiler = c_compiler()
    if compiler is None:
        print("no C compiler here (gcc or clang): nothing is compared with the C program\n")
        return None

    @functools.cache
    def built(hidden: int) -> Path:
        binary = directory / f"networks_{hidden}"
        options = ["-Ofast", "-march=native", "-fopenmp", f"-DUNITS={hidden}"]
        subprocess.run([compiler, *options, str(C_SOURCE), "-o", str(binary), "-lm"], check=True, capture_output=True)
        return binary

    def peer(task: Task, steps: int) -> Run:
        networks, hidden = task.b1.shape
        command = [str(built(hidden)), str(networks), str(steps)]

        def run() -> Outcome:
            said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            return Outcome(said["seconds"], said["mean_final_loss"])

        return run

    try:
        built(1)
    except subprocess.CalledProcessError as error:
        print(f"{compiler} cannot build networks.c, so nothing is compared with it:\n{error.stderr.decode()}")
        return None
    return peer


def check_c(c: Peer, hidden: int, networks: int = 16, steps: int = 50) -> float:
    """How far the mean final loss of the C program is from ours, before either is timed.

    **Raises:** `ValueError` if it is more than 1e-5: then they would not do the same work.
    """
    task = make_task(networks, hidden)
    theirs, ours = c(task, steps)().loss, vmapped_fit(task, steps)().loss
    if not abs(theirs - ours) <= 1e-5:
        raise ValueError(f"networks.c of {hidden} hidden units ends at the loss {theirs}, vmap(fit) at {ours}")
    return abs(theirs - ours)


def vmapped_fit(task: Task, steps: int) -> Run:
    """`jax.vmap(fit)`, with the grid axis sharded over one device a core."""
    devices = jax.devices()[: gcd(len(task.b1), len(jax.devices()))]
    mesh = Mesh(np.array(devices), ("grid",))
    whole, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("grid",)))
    x, y = jax.device_put((task.x, task.y), whole)
    params = jax.device_put((Layer(task.W1, task.b1), Layer(task.W2, task.b2)), spread)
    rates = jax.device_put(task.learning_rates, spread)

    def train(params: Any, rate: jax.Array) -> jax.Array:
        settings = Hyperparameters(rate, L2)
        return fit(params, x, y, settings, activation="tanh", steps=steps, record_every=steps).loss_curve[-1]

    program = jax.jit(jax.vmap(train), compiler_options=compiler_options())
    return clocked(lambda: program(params, rates))


def swept(task: Task, steps: int, optimizer: str = "sgd") -> Run:
    """`sweep`, which draws initial parameters of its own; otherwise the same networks."""
    settings: dict[str, Any] = {
        "hidden": [(task.b1.shape[1],)],
        "learning_rate": task.learning_rates.tolist(),
        "l2": [L2],
        "optimizer": [optimizer],
    }
    return whole_sweep(settings, task.x.T, task.y.argmax(axis=0), steps)


def whole_sweep(settings: Mapping[str, Any], X: np.ndarray, y: np.ndarray, epochs: int) -> Run:
    """A call of `sweep` that records nothing on the way."""
    options: dict[str, Any] = {"validation": None, "record_every": epochs, "progress": False}

    def run() -> Outcome:
        start = time.perf_counter()
        sweep(settings, X, y, epochs=epochs, **options)
        return Outcome(time.perf_counter() - start, np.nan)

    return run


def matrix_products(n: int) -> dict[str, Run]:
    """Plain float32 products of squares, 2 n^3 floating-point operations each: what there is to be reached."""
    square = np.random.default_rng(0).standard_normal((n, n), np.float32)
    on_device, product = jax.device_put(square), jax.jit(jnp.matmul)
    return {
        f"jnp.matmul, {n} x {n}": clocked(lambda: product(on_device, on_device)),
        f"NumPy, {n} x {n}": clocked(lambda: square @ square),
    }
