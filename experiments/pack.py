"""How fast is a pack of networks of many widths, beside a PyTorch program written for such packs?

Both train the same networks from the same starts, on the same mini-batches in the same order, with the same AdamW, each
network at a rate and a decay of its own; their final losses are held against each other before either is timed. As in
`throughput.py` they take turns, and each counts with its fastest round. What is useful of their work, products of the
true widths, is set beside the fastest matrix product of the machine. PyTorch's threads wait for each other at every
operation, which a busy machine makes costly: both are measured on one core too.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import peers
import tyro
from peers import Run, clocked
from sklearn.datasets import make_classification
from throughput import QUICK, Size, hardware, race, rate_of, save_json, show, training_flops

from jaxbackprop import init_params, plan, sweep, use_all_cores

SWEEP, TORCH = "sweep", "PyTorch bmm"  # on all cores, and with ", one core" behind it on one
BATCH, BETA_1, BETA_2, EPSILON = 256, 0.9, 0.999, 1e-8


class Pack(NamedTuple):
    """Networks of one hidden relu layer to train: X is [samples, features], y are labels; the rest is one a network."""

    X: np.ndarray
    y: np.ndarray
    widths: np.ndarray
    learning_rates: np.ndarray
    weight_decays: np.ndarray


def make_pack(networks: int = 64, samples: int = 10_000, widths: tuple[int, int] = (64, 384)) -> Pack:
    """Widths evenly spaced, rates and decays logarithmically, each in an order of its own; data drawn by
    scikit-learn."""
    X, y = make_classification(samples, 26, n_informative=13, random_state=0)
    order = np.random.default_rng(0)
    return Pack(
        X.astype(np.float32),
        y,
        np.linspace(*widths, networks).astype(int),
        order.permutation(np.geomspace(1e-4, 1e-2, networks)).astype(np.float32),
        order.permutation(np.geomspace(1e-5, 1e-1, networks)).astype(np.float32),
    )


def grid_of(pack: Pack) -> list[dict[str, Any]]:
    """The pack as a grid of `sweep`, network k drawn from seed k."""
    return [
        {
            "activation": ["relu"],
            "hidden": [(int(width),)],
            "learning_rate": [float(rate)],
            "weight_decay": [float(decay)],
            "optimizer": ["adamw"],
            "batch_size": [BATCH],
            "seed": [k],
        }
        for k, (width, rate, decay) in enumerate(zip(*pack[2:], strict=True))
    ]


def swept_pack(pack: Pack, epochs: int, devices: int | None = None) -> Run:
    """`sweep`, recorded once, at the end."""

    def train() -> np.ndarray:
        options: dict[str, Any] = {"validation": None, "record_every": epochs, "devices": devices}
        return sweep(grid_of(pack), pack.X, pack.y, epochs=epochs, progress=False, **options).table["train_loss"].array

    return clocked(train)


def starts(pack: Pack) -> list[np.ndarray]:
    """W1, b1, W2, b2 as `sweep` draws them, stacked: weights [networks, in, out], biases [networks, 1, out].

    Units up to the widest are zeros, and need no mask: relu gives them neither an output nor a gradient."""
    features, outputs, widest = pack.X.shape[1], int(pack.y.max()) + 1, int(pack.widths.max())
    shapes = ((features, widest), (1, widest), (widest, outputs), (1, outputs))
    stacked = [np.zeros((len(pack.widths), *shape), np.float32) for shape in shapes]
    for k, width in enumerate(pack.widths.tolist()):
        (W1, _), (W2, _) = init_params(jax.random.key(k), (features, width, outputs), dtype=np.float32)
        stacked[0][k, :, :width], stacked[2][k, :width] = np.asarray(W1).T, np.asarray(W2).T
    return stacked


def torch_pack(pack: Pack, epochs: int, threads: int = 1) -> Run:
    """The pack in PyTorch: batched matrix products over [networks, samples, features], autograd, and AdamW over all the
    parameters at once, with rates and decays as vectors, which `torch.optim` does not have."""
    import torch

    X, y = torch.tensor(pack.X), torch.tensor(pack.y)
    networks, start = len(pack.widths), [torch.tensor(array) for array in starts(pack)]
    rates, decays = (torch.tensor(array).reshape(-1, 1, 1) for array in pack[3:])
    kept = [1 - rates * decays] * len(start)

    def losses(params: list[Any], x: Any, labels: Any) -> Any:
        W1, b1, W2, b2 = params
        hidden = torch.relu_(torch.baddbmm(b1, x.expand(networks, *x.shape), W1))
        logits = torch.baddbmm(b2, hidden, W2)
        each = labels.expand(networks, len(labels))
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), each, reduction="none").mean(dim=1)

    def update(params: list[Any], gradient: Any, first: list[Any], second: list[Any], steps: int) -> None:
        torch._foreach_lerp_(first, gradient, 1 - BETA_1)
        torch._foreach_mul_(second, BETA_2)
        torch._foreach_addcmul_(second, gradient, gradient, 1 - BETA_2)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - BETA_2**steps) ** 0.5)
        torch._foreach_add_(root, EPSILON)
        change = torch._foreach_div(first, root)
        torch._foreach_mul_(change, [rates / (1 - BETA_1**steps)] * len(params))
        torch._foreach_mul_(params, kept)
        torch._foreach_sub_(params, change)

    def train() -> np.ndarray:
        torch.set_num_threads(threads)
        params = [p.clone().requires_grad_() for p in start]
        first, second = ([torch.zeros_like(p) for p in start] for _ in range(2))
        steps = 0
        for epoch in range(epochs):
            # the order that `sweep` draws
            order = torch.from_numpy(np.random.default_rng((0, epoch)).permutation(len(X)))
            for batch in order.split(BATCH):
                steps += 1
                gradient = torch.autograd.grad(losses(params, X[batch], y[batch]).sum(), params)
                with torch.no_grad():
                    update(params, gradient, first, second, steps)
        with torch.no_grad():
            parts = zip(X.split(BATCH), y.split(BATCH), strict=True)
            return sum(losses(params, x, labels) * (len(x) / len(X)) for x, labels in parts).numpy()

    return clocked(train)


def check_pack(pack: Pack, epochs: int = 1) -> float:
    """How far the mean final losses of both programs are from each other, before either is timed.

    **Raises:** `ValueError` if it is more than 1e-3: then they would not do the same work.
    """
    theirs, ours = torch_pack(pack, epochs)().loss, swept_pack(pack, epochs)().loss
    if not abs(theirs - ours) <= 1e-3:
        raise ValueError(f"the pack in PyTorch ends at the loss {theirs}, that of sweep at {ours}")
    return abs(theirs - ours)


def useful_flops(pack: Pack) -> float:
    """Floating-point operations of a network-step's matrix products at the true widths, on average."""
    samples = len(pack.X) / -(-len(pack.X) // BATCH)  # the last batch of an epoch is smaller
    features, outputs = pack.X.shape[1], int(pack.y.max()) + 1
    return float(np.mean([training_flops((features, width, outputs), 1) for width in pack.widths.tolist()])) * samples


def measure_pack(pack: Pack, epochs: int, cores: int, size: Size) -> pd.DataFrame:
    """Network-steps a second of each program, what `sweep` makes of it, and the share of the fastest product."""
    programs = {SWEEP: swept_pack(pack, epochs), f"{SWEEP}, one core": swept_pack(pack, epochs, 1)}
    if peers.torch_is_there():
        programs |= {TORCH: torch_pack(pack, epochs, cores), f"{TORCH}, one core": torch_pack(pack, epochs, 1)}
    n = 2048 if size.rounds > 1 else 256
    products = peers.matrix_products(n)
    best = race(programs | products, min(size.rounds, 3))[0]
    fastest = max(rate_of(best[name], 2 * n**3) for name in products)
    steps = len(pack.widths) * -(-len(pack.X) // BATCH) * epochs
    rates = pd.Series({name: rate_of(best[name], steps) for name in programs})
    return pd.DataFrame(
        {
            "network_steps_per_second": rates,
            "sweep_over_it": {name: rates[name.replace(TORCH, SWEEP)] / rates[name] for name in programs},
            "gflops": rates * useful_flops(pack) / 1e9,
            "of_matrix_product": rates * useful_flops(pack) / fastest,
            "final_loss": {name: best[name].loss for name in programs},
        }
    )


def main(out: Path = Path("results"), quick: bool = False) -> pd.DataFrame:
    """Measure; print the table and save its numbers.

    Args:
        out: Where pack.json goes.
        quick: Measure next to nothing, to see that everything runs.
    """
    cores = use_all_cores()
    machine = hardware()
    if peers.torch_is_there():
        import torch

        machine["torch"] = torch.__version__
    print(", ".join(f"{key} {value}" for key, value in machine.items()), "\n")
    pack, epochs, size = (make_pack(6, 600, (4, 24)), 1, QUICK) if quick else (make_pack(), 5, Size())
    if peers.torch_is_there():
        print(f"the pack in PyTorch ends {check_pack(pack):.0e} from the loss of sweep\n")
    else:
        print("no PyTorch here: nothing is compared with it\n")
    shape = {"features": pack.X.shape[1], "outputs": int(pack.y.max()) + 1, "samples": len(pack.X)}
    waste = plan(grid_of(pack), epochs=epochs, **shape).waste
    table = measure_pack(pack, epochs, cores, size)
    print(
        f"{len(pack.widths)} networks of {pack.widths.min()} to {pack.widths.max()} hidden units, "
        f"{len(pack.X):,} samples of {pack.X.shape[1]} features, batches of {BATCH}, AdamW; "
        f"{100 * waste:.0f} % of sweep's work is padding\n"
    )
    show(
        table,
        network_steps_per_second="{:,.0f}",
        sweep_over_it="{:.2f}",
        gflops="{:.0f}",
        of_matrix_product="{:.2f}",
        final_loss="{:.6f}",
    )
    numbers = {"hardware": machine, "programs": table.to_dict("index"), "waste": waste}
    print("saved", save_json(numbers, out / "pack.json"))
    return table


if __name__ == "__main__":
    tyro.cli(main)
