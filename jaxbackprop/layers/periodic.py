"""Periodic embedding of numerical features (Gorishniy, Rubachev and Babenko 2022): sines and cosines of each."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.embedded import angles, by_angles, by_frequencies
from jaxbackprop.layers.contract import Derived, Mistake

Samples = Float[Array, "features samples"]
Frequencies = Float[Array, "features waves"]
Out = Float[Array, "features two_waves samples"]
Cache = tuple[Array, Array, Array]


def forward(x: Samples, frequency: Frequencies) -> tuple[Out, Cache]:
    """v_dkn = 2 pi c_dk x_dn; out holds sin v over cos v along its second axis."""
    v = angles(frequency, x)
    return jnp.concatenate([jnp.sin(v), jnp.cos(v)], axis=1), (x, frequency, v)


def backward(dout: Out, cache: Cache) -> tuple[Samples, Frequencies]:
    """dL/dv = cos(v) dL/dsin - sin(v) dL/dcos, since v goes into both.

    v is 2 pi c x: dL/dx_dn = sum_k 2 pi c_dk dL/dv_dkn, and dL/dc_dk = sum_n 2 pi x_dn dL/dv_dkn.
    """
    v = cache[2]
    dsin, dcos = jnp.split(dout, 2, axis=1)
    return _from_angles(by_angles(v, dsin, dcos), cache)


def _from_angles(dv: Array, cache: Cache) -> tuple[Array, Array]:
    x, frequency, _ = cache
    dx = 2 * jnp.pi * jnp.einsum("dk,dkn->dn", frequency, dv)
    return dx, by_frequencies(dv, x)


def _cosine_added(dout: Array, cache: Cache) -> tuple[Array, Array]:
    dsin, dcos = jnp.split(dout, 2, axis=1)
    return _from_angles(jnp.cos(cache[2]) * dsin + jnp.sin(cache[2]) * dcos, cache)


def _cosine_forgotten(dout: Array, cache: Cache) -> tuple[Array, Array]:
    return _from_angles(jnp.cos(cache[2]) * jnp.split(dout, 2, axis=1)[0], cache)


def _not_differentiated(dout: Array, cache: Cache) -> tuple[Array, Array]:
    dsin, dcos = jnp.split(dout, 2, axis=1)
    return _from_angles(jnp.sin(cache[2]) * dsin + jnp.cos(cache[2]) * dcos, cache)


MISTAKES = (
    Mistake(
        "averaged",
        "dL/dc was averaged over the samples; it is their sum, the loss's 1/N is in dL/dout already.",
        lambda dout, c: (None, backward(dout, c)[1] / c[0].shape[1]),
    ),
    Mistake(
        "two_pi_forgotten",
        "The factor 2 pi is missing; dv/dx = 2 pi c and dv/dc = 2 pi x.",
        lambda dout, c: tuple(grad / (2 * jnp.pi) for grad in backward(dout, c)),
    ),
    Mistake("cosine_added", "The cosine's part was added; its derivative is -sin v.", _cosine_added),
    Mistake("cosine_forgotten", "Only the sine's part goes back; v goes into the cosine too.", _cosine_forgotten),
    Mistake(
        "not_differentiated",
        "dL/dout was multiplied by sin v and cos v; the derivatives are cos v and -sin v.",
        _not_differentiated,
    ),
    Mistake(
        "input_forgotten",
        "Nothing goes back to x; dL/dx = sum_k 2 pi c_k dL/dv_k.",
        lambda dout, c: (jnp.zeros_like(c[0]), None),
    ),
)

LAYERS = {
    "periodic": Derived(
        "periodic",
        forward,
        backward,
        ("x", "frequency"),
        MISTAKES,
        samples_first=((1, 0), None),
        out_samples_first=(1, 2, 0),
    )
}
