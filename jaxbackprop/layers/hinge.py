"""The multiclass hinge loss of a support vector machine (Weston and Watkins 1999)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake
from jaxbackprop.layers.cross_entropy import as_columns, read_target

Columns = Float[Array, "classes samples"]
Scalar = Float[Array, ""]
Cache = tuple[Array, Array]


def forward(z: Columns, *, target: Any) -> tuple[Scalar, Cache]:
    """L = (1/N) sum_n sum_{j != c} max(0, m_j), m_j = z_j - z_c + 1, where c is the class of sample n."""
    y = as_columns(target, z)
    margin = _margin(z, y)
    return jnp.sum(jnp.where(margin > 0, margin, 0) * (1 - y)) / z.shape[1], (z, y)


def _margin(z: Array, y: Array) -> Array:
    return z - jnp.sum(z * y, axis=0) + 1


def backward(dout: Scalar, cache: Cache) -> tuple[Columns]:
    """max(0, m) has slope 1[m > 0]; m_j depends on z_j with 1 and on z_c with -1. So

    dL/dz_j = (1/N) 1[m_j > 0]                        for j != c
    dL/dz_c = -(1/N) sum_{j != c} 1[m_j > 0]
    """
    z, y = cache
    others = _violated(z, y)
    own = -y * jnp.sum(others, axis=0)
    return (dout / z.shape[1] * (others + own),)


def _violated(z: Array, y: Array) -> Array:
    """1[m_j > 0] for j != c, 0 for c."""
    return jnp.where(_margin(z, y) > 0, 1 - y, 0)


def _assembled(dout: Array, cache: Cache, others: Array, own: Array) -> tuple[Array]:
    return (dout / cache[0].shape[1] * (others - cache[1] * own),)


def _own_class_forgotten(dout: Array, cache: Cache) -> tuple[Array]:
    return _assembled(dout, cache, _violated(*cache), jnp.zeros(()))


def _own_class_once(dout: Array, cache: Cache) -> tuple[Array]:
    return _assembled(dout, cache, _violated(*cache), jnp.ones(()))


def _own_margin_counted(dout: Array, cache: Cache) -> tuple[Array]:
    others = _violated(*cache)
    return _assembled(dout, cache, others, jnp.sum(others, axis=0) + 1)


def _margin_forgotten(dout: Array, cache: Cache) -> tuple[Array]:
    z, y = cache
    others = jnp.where(_margin(z, y) > 1, 1 - y, 0)
    return _assembled(dout, cache, others, jnp.sum(others, axis=0))


def _margin_for_indicator(dout: Array, cache: Cache) -> tuple[Array]:
    others = _violated(*cache) * _margin(*cache)
    return _assembled(dout, cache, others, jnp.sum(others, axis=0))


MISTAKES = (
    Mistake(
        "own_class_forgotten",
        "dL/dz_c is 0; every violated margin contains -z_c.",
        _own_class_forgotten,
    ),
    Mistake(
        "own_class_once",
        "dL/dz_c is -1/N; it is -1/N for each violated margin.",
        _own_class_once,
    ),
    Mistake(
        "own_margin_counted",
        "dL/dz_c counts the margin of the class c itself, which is always 1; the sum leaves j = c out.",
        _own_margin_counted,
    ),
    Mistake(
        "margin_forgotten",
        "The indicator is 1[z_j > z_c]; the margin's 1 is missing: z_j - z_c + 1 > 0.",
        _margin_forgotten,
    ),
    Mistake(
        "margin_for_indicator",
        "m_j stands where 1[m_j > 0] belongs, as for the squared hinge.",
        _margin_for_indicator,
    ),
    Mistake(
        "not_averaged",
        "The 1/N of the mean is missing.",
        lambda dout, cache: (backward(dout, cache)[0] * cache[0].shape[1],),
    ),
    Mistake(
        "averaged_twice",
        "dL/dz was divided by N twice.",
        lambda dout, cache: (backward(dout, cache)[0] / cache[0].shape[1],),
    ),
    Mistake(
        "sign_flipped",
        "dL/dz has the wrong sign: the others' scores raise the loss, the class's own lowers it.",
        lambda dout, cache: (-backward(dout, cache)[0],),
    ),
)

LAYERS = {
    "hinge": Derived(
        "hinge",
        forward,
        backward,
        ("z",),
        MISTAKES,
        samples_first=((1, 0),),
        out_samples_first=None,
        read_options=read_target,
        with_samples=("target",),
    )
}
