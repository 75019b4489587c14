"""One activation out of several, chosen while a compiled program runs."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbackprop.activations import Activation, get_activation


def choose_activation(options: Sequence[str | Activation], index: Int[Array, ""]) -> Activation:
    """The activation at place `index`, which may be traced: one of the branches runs and not all."""
    known = [get_activation(option) for option in options]
    if len(set(known)) == 1:
        return known[0]
    # A branch of a single operation, such as tanh alone, is compiled to a loop several times slower than a fused one.
    # Adding a zero that the compiler cannot know to be one makes every branch a fusion; so does adding it to the
    # chosen slope, for the product that follows.
    zero = jnp.minimum(index, 0)
    values = [lambda z, zero, f=f: f.value(z + zero) for f in known]
    slopes = [lambda z, a, zero, f=f: f.slope(z + zero, a + zero) for f in known]

    def value(z: Float[Array, "units samples"]) -> Float[Array, "units samples"]:
        own = zero.astype(z.dtype)
        return lax.switch(index, values, flat(z), own).reshape(z.shape)

    def slope(z: Float[Array, "units samples"], a: Float[Array, "units samples"]) -> Float[Array, "units samples"]:
        own = zero.astype(z.dtype)
        return lax.switch(index, slopes, flat(z), flat(a), own).reshape(z.shape) + own

    return Activation("/".join(f.name for f in known), value, slope)


def flat(z: Float[Array, "units samples"]) -> Float[Array, "..."]:
    """Small batches as one row: a branch's loop over few samples would leave most of a vector register empty."""
    return z.reshape(-1) if z.shape[-1] < 48 else z
