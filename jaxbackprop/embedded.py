"""A network behind a periodic embedding of its first features (Gorishniy, Rubachev and Babenko 2022), whose frequencies
c are trained with it:

    v_dk = 2 pi c_dk x_d,    h^0 = (x, sin v, cos v),    z^1 = W^1 h^0 + b^1,    …

What comes back to h^0 is dL/dh^0 = W^1T dL/dz^1. As v goes into both the sine and the cosine, dL/dv = cos(v) dL/dsin(v)
- sin(v) dL/dcos(v), and since dv/dc = 2 pi x, dL/dc_dk = sum over the samples of 2 pi x_d dL/dv_dk.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.network import Params


class Waves(NamedTuple):
    """c, in periods for each unit of a feature. A sweep trains what they have moved from where they started, so that a
    decay of the weights draws them back there and not to 0: in its programs they are counted from there."""

    frequency: Float[Array, "embedded waves"]


Embedded = tuple[Any, ...]
"""The parameters of a network that may stand behind an embedding: its `Waves`, if it does, and its layers."""

Frequencies = Float[Array, "embedded waves"]
Angles = Float[Array, "embedded waves samples"]


def embed(frequency: Frequencies, x: Float[Array, "features samples"]) -> Float[Array, "inputs samples"]:
    """h^0: the features, and sines and cosines of the first of them, as many as there are rows of frequencies."""
    v = angles(frequency, x).reshape(frequency.size, -1)
    return jnp.concatenate([x, jnp.sin(v), jnp.cos(v)])


def angles(frequency: Frequencies, x: Float[Array, "features samples"]) -> Angles:
    """v_dk = 2 pi c_dk x_d."""
    return 2 * jnp.pi * frequency[:, :, None] * x[: len(frequency), None]


def by_angles(v: Angles, of_sines: Angles, of_cosines: Angles) -> Angles:
    """dL/dv = cos(v) dL/dsin(v) - sin(v) dL/dcos(v), since v goes into both."""
    return jnp.cos(v) * of_sines - jnp.sin(v) * of_cosines


def by_frequencies(of_angles: Angles, x: Float[Array, "features samples"]) -> Frequencies:
    """dL/dc_dk = sum_n 2 pi x_dn dL/dv_dkn, since v is 2 pi c x."""
    return 2 * jnp.pi * jnp.einsum("dkn,dn->dk", of_angles, x[: len(of_angles)])


def frequency_gradient(
    frequency: Frequencies, x: Float[Array, "features samples"], error: Float[Array, "inputs samples"]
) -> Frequencies:
    """dL/dc, from the error dL/dh^0."""
    of_sines, of_cosines = error[len(x) :].reshape(2, *frequency.shape, -1)
    return by_frequencies(by_angles(angles(frequency, x), of_sines, of_cosines), x)


def behind(
    params: Embedded, x: Float[Array, "features samples"], start: Any = 0.0
) -> tuple[Params, Float[Array, "inputs samples"]]:
    """The layers of a network and what the first of them is given. The frequencies are counted from `start`, which is
    not looked at if the network stands behind no embedding."""
    return (params[1:], embed(start + params[0].frequency, x)) if isinstance(params[0], Waves) else (params, x)


def features_of(params: Embedded) -> int:
    """How many features a network is given, be it behind an embedding or not; of a stack, each of its networks."""
    if not isinstance(params[0], Waves):
        return params[0].weight.shape[-1]
    embedded, waves = params[0].frequency.shape[-2:]
    return params[1].weight.shape[-1] - 2 * embedded * waves
