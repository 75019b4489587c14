"""Part 1d: are the gradients right that were worked out by hand?

Every derivative that the document names, from dz/dW to dL/db, is compared with autodiff and with finite differences: in
the document's own network of two layers of weights and in one of five, with every activation, in float64 and float32.
Exits with 1 if one of them is off by more than its tolerance.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from jaxtyping import Array, Int

from jaxbackprop import ACTIVATIONS, Activation, Layer
from jaxbackprop.devices import compiler_options
from jaxbackprop.layers import FILES, find_layer
from jaxbackprop.layers.examples import example
from jaxbackprop.oracle import Stage, finite_difference_gradient, float64, relative_error, stages

# A difference quotient in float64 is only right to about 4e-11 of the loss, which is 1e-6 of a derivative as small as
# 4e-5 of it; what is computed in float32 has its own 1e-5.
TOLERANCES = {
    ("float64", "autodiff"): 1e-12,
    ("float64", "differences"): 1e-6,
    ("float32", "autodiff"): 1e-5,
    ("float32", "differences"): 1e-5,
}
WITNESSES = ["autodiff", "differences"]


def numbered(k: Int[Array, ""]) -> Activation:
    """The k-th activation, k being traced, so that one compiled program serves all of them."""
    values = [activation.value for activation in ACTIVATIONS.values()]
    slopes = [activation.slope for activation in ACTIVATIONS.values()]
    return Activation("numbered", lambda z: jax.lax.switch(k, values, z), lambda z, a: jax.lax.switch(k, slopes, z, a))


def check_network(precision: str, layers: int, samples: int, seed: int) -> list[dict]:
    """One row for each activation and stage of a network with so many layers of weights."""
    sizes = (2, 3, 2) if layers == 2 else (2, *[4] * (layers - 1), 3)
    rng = np.random.default_rng(seed)
    with float64(), jax.default_matmul_precision("highest"):  # a GPU would round float32 products to 10 bits
        draw = partial(jnp.asarray, dtype=precision)
        params = tuple(
            Layer(draw(rng.normal(0, width**-0.5, (out, width))), draw(rng.normal(0, 0.1, out)))
            for width, out in pairwise(sizes)
        )
        x, y = draw(rng.normal(size=(sizes[0], samples))), draw(np.eye(sizes[-1])[:, np.arange(samples) % sizes[-1]])

        @partial(jax.jit, compiler_options=compiler_options(quick=True))
        def compare(k: Int[Array, ""]) -> list[Stage]:
            return stages(params, x, y, activation=numbered(k), l2=0.01)

        results = [(activation, stage) for k, activation in enumerate(ACTIVATIONS) for stage in compare(k)]
    return [
        {
            "precision": precision,
            "network": "-".join(map(str, sizes)),
            "activation": activation,
            "stage": stage.name,
            "shape": "x".join(map(str, stage.by_hand.shape)),
            "witness": witness,
            "relative error": relative_error(stage.by_hand, derivative),
            "tolerance": TOLERANCES[precision, witness],
        }
        for activation, stage in results
        for witness, derivative in zip(WITNESSES, (stage.autodiff, stage.finite_difference), strict=True)
    ]


def check_layer(name: str, seed: int) -> list[dict]:
    """One row for each gradient of a layer, in a case of random shapes: against autodiff and finite differences."""
    layer, rng = find_layer(name), np.random.default_rng(seed)
    with float64():
        arguments, options = example(name, rng)
        if name == "max_pool":  # no finite difference is right where entries tie
            arguments = (arguments[0] + rng.normal(size=arguments[0].shape),)
        out, cache = layer.forward(*arguments, **options)
        dout = jnp.asarray(rng.normal(size=out.shape))
        by_hand = layer.backward(dout, cache)
        right = jax.vjp(lambda *a: layer.forward(*a, **options)[0], *arguments)[1](dout)
        differences = finite_difference_gradient(
            lambda a: jnp.sum(dout * layer.forward(*a, **options)[0]), tuple(arguments)
        )
        # The largest entry of all gradients is the scale: one that is zero has no digits of its own.
        scale = max(float(jnp.max(jnp.abs(g))) for g in right)
    return [
        {
            "layer": name,
            "gradient": f"dL/d{argument}",
            "shape": "x".join(map(str, got.shape)),
            "autodiff": float(np.max(np.abs(got - one))) / scale,
            "differences": float(np.max(np.abs(got - two))) / scale,
        }
        for argument, got, one, two in zip(layer.arguments, by_hand, right, differences, strict=True)
    ]


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The largest relative error against each witness in each precision, and whether it is within its tolerance."""
    columns = ["precision", "witness", "tolerance"]
    worst = table.pivot_table(index=by, columns=columns, values="relative error", aggfunc="max", sort=False)
    fine = table.groupby(by, sort=False)["ok"].all()
    worst.columns = [f"{precision} {witness}" for precision, witness, _ in worst.columns]
    return worst.assign(ok=fine.map({True: "yes", False: "NO"})).reset_index()


def main(
    out: Path = Path("results"),
    layers: tuple[int, ...] = (2, 5),
    samples: int = 8,
    seed: int = 0,
    kinds: tuple[str, ...] = tuple(FILES),
) -> pd.DataFrame:
    """Compare every hand-derived derivative with autodiff and with finite differences.

    Args:
        out: Where the table goes.
        layers: Networks of so many layers of weights; the document's has 2.
        samples: How many samples a batch has.
        seed: Of the parameters and the samples.
        kinds: Names of further layers, each checked on its own.
    """
    cases = list(product(layers, ("float64", "float32")))
    with ThreadPoolExecutor() as pool:  # one core compiles while another one does too
        networks = pool.map(lambda case: check_network(case[1], case[0], samples, seed), cases)
        table = pd.DataFrame([row for network in networks for row in network])
    table["ok"] = table["relative error"] <= table["tolerance"]

    show = partial(pd.DataFrame.to_string, index=False, float_format="{:.1e}".format)
    for name, network in table.groupby("network", sort=False):
        print(f"\nEvery stage of the {name} network: largest relative error over {len(ACTIVATIONS)} activations\n")
        print(show(summary(network, ["stage", "shape"])))
    print("\nEvery activation: largest relative error over all stages and networks\n")
    print(show(summary(table, ["activation"])))
    for name in kinds:
        find_layer(name)  # imported here: CPython 3.11 cannot always do so in several threads at once
    with ThreadPoolExecutor() as pool:
        of_layers = pd.DataFrame(
            [row for rows in pool.map(lambda name: check_layer(name, seed), kinds) for row in rows]
        )
    print("\nEvery layer in float64: largest error of each gradient, relative to the layer's largest\n")
    print(show(of_layers))
    out.mkdir(parents=True, exist_ok=True)
    of_layers.to_csv(out / "gradient_check_layers.csv", index=False)
    table.to_csv(out / "gradient_check.csv", index=False)
    limits = ", ".join(f"{limit:.0e} {precision} {witness}" for (precision, witness), limit in TOLERANCES.items())
    print(f"\nTolerances: {limits}\n{out / 'gradient_check.csv'}\n{out / 'gradient_check_layers.csv'}")
    wrong = table[~table["ok"]]
    if len(wrong):
        sys.exit(f"{len(wrong)} of {len(table)} comparisons are off by more than their tolerance:\n{show(wrong)}")
    allowed = {witness: TOLERANCES["float64", witness] for witness in WITNESSES}
    off = of_layers[(of_layers[WITNESSES] > pd.Series(allowed)).any(axis=1)]
    if len(off):
        sys.exit(f"{len(off)} gradients of layers are off by more than their tolerance:\n{show(off)}")
    print(f"All {len(table)} comparisons are within their tolerance.")
    return table


if __name__ == "__main__":
    tyro.cli(main)
