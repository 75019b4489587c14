"""Residual connection (He et al. 2015): what a branch makes of x is added to x."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake

Same = Float[Array, "..."]
Cache = tuple[Array, Array]


def forward(x: Same, branch: Same) -> tuple[Same, Cache]:
    """out = x + F(x), where `branch` is F(x)."""
    return x + branch, (x, branch)


def backward(dout: Same, cache: Cache) -> tuple[Same, Same]:
    """dout/dx = 1 and dout/dF = 1: the error goes both ways whole.

    In a network x is the branch's input, too, so that there dL/dx = dL/dout + (dF/dx)^T dL/dout; see `chain`.
    """
    return dout, dout


MISTAKES = (
    Mistake(
        "skip_forgotten",
        "Nothing goes back along the skip; dout/dx = 1.",
        lambda dout, cache: (jnp.zeros_like(dout), None),
    ),
    Mistake(
        "branch_forgotten",
        "Nothing goes back into the branch; dout/dF = 1.",
        lambda dout, cache: (None, jnp.zeros_like(dout)),
    ),
    Mistake(
        "halved",
        "The error was shared between the skip and the branch; it goes both ways whole.",
        lambda dout, cache: (dout / 2, dout / 2),
    ),
    Mistake(
        "skip_twice",
        "dL/dout was added to the skip's gradient twice.",
        lambda dout, cache: (2 * dout, None),
    ),
    Mistake(
        "multiplied",
        "The derivative is that of a product, x F; a sum has dout/dx = dout/dF = 1.",
        lambda dout, cache: (dout * cache[1], dout * cache[0]),
    ),
    Mistake(
        "mask_of_sum",
        "The error was cut off where x + F is not above 0, as if the activation came after the sum.",
        lambda dout, cache: (dout * (cache[0] + cache[1] > 0),) * 2,
    ),
)

LAYERS = {
    "residual": Derived(
        "residual",
        forward,
        backward,
        ("x", "branch"),
        MISTAKES,
        samples_first=((1, 0), (1, 0)),
        out_samples_first=(1, 0),
    )
}
