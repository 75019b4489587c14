"""Scaled dot-product attention (Vaswani et al. 2017): several heads, causal or any mask, keys shared by several heads.

Letters: g key head, r query head of a key head, d feature, i query, j key, e feature of a value, n sample.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxbackprop.layers.contract import Derived, Mistake, Static

Heads = Float[Array, "..."]
Gradients = tuple[Array, Array, Array]
Wrong = tuple[Array | None, Array | None, Array | None]


class Cache(NamedTuple):
    """q [g, r, d, i, n], k [g, d, j, n], v [g, e, j, n], A [g, r, i, j, n], the mask, the shapes given."""

    query: Array
    key: Array
    value: Array
    attention: Array
    mask: Array
    shapes: Static


def forward(
    query: Heads,
    key: Heads,
    value: Heads,
    *,
    heads: int = 1,
    key_heads: int | None = None,
    causal: bool = False,
    mask: Bool[Array, "queries keys"] | None = None,
) -> tuple[Heads, Cache]:
    """S_ij = q_i . k_j / sqrt(D),   A_i = softmax_j(S_ij) where the mask allows j,   out_i = sum_j A_ij v_j.

    Arrays are [heads, features, time, samples], or [heads * features, time, samples] with the numbers of `heads` and
    `key_heads`. A key head serves heads / key_heads query heads that follow one another. Causal: j <= i.

    **Raises:** `ValueError` if the number of key heads does not divide that of the query heads.
    """
    shapes = (query.shape, key.shape, value.shape)
    if query.ndim == 3:
        shared = heads if key_heads is None else key_heads
        query = query.reshape(heads, -1, *query.shape[1:])
        key, value = (a.reshape(shared, -1, *a.shape[1:]) for a in (key, value))
    groups = len(key)
    if len(query) % groups:
        raise ValueError(f"the {groups} key heads do not divide the {len(query)} query heads")
    query = query.reshape(groups, -1, *query.shape[1:])
    allowed = jnp.ones((query.shape[3], key.shape[2]), bool) if mask is None else jnp.asarray(mask)
    if causal:
        allowed = allowed & jnp.tri(allowed.shape[0], allowed.shape[1], dtype=bool)
    scores = _scores(query, key)
    attention = _softmax(jnp.where(allowed[:, :, None], scores, -jnp.inf))
    out = jnp.einsum("grijn,gejn->grein", attention, value)
    cache = Cache(query, key, value, attention, allowed, Static(shapes))
    return out.reshape(_out_shape(cache)), cache


def _scores(query: Array, key: Array) -> Array:
    return jnp.einsum("grdin,gdjn->grijn", query * query.shape[2] ** -0.5, key)


def _softmax(scores: Array) -> Array:
    e = jnp.exp(scores - jnp.max(scores, axis=3, keepdims=True))
    return e / jnp.sum(e, axis=3, keepdims=True)


def _out_shape(cache: Cache) -> tuple[int, ...]:
    groups, shared, _, queries, samples = cache.query.shape
    features = cache.value.shape[1]
    three = len(cache.shapes.value[0]) == 3
    return (groups * shared * features, queries, samples) if three else (groups * shared, features, queries, samples)


def backward(dout: Heads, cache: Cache) -> Gradients:
    """From the last product to the first, with softmax's Jacobian dA_ij/dS_il = A_ij (1[j = l] - A_il):

    dL/dv_j  = sum_r sum_i A_ij dL/dout_i                      (all query heads r of the key head)
    dL/dA_ij = dL/dout_i . v_j
    dL/dS_ij = A_ij (dL/dA_ij - sum_l dL/dA_il A_il)           (0 where masked, as A is 0 there)
    dL/dq_i  = sum_j dL/dS_ij k_j / sqrt(D)
    dL/dk_j  = sum_r sum_i dL/dS_ij q_i / sqrt(D)
    """
    dout = _five(dout, cache)
    dvalue = jnp.einsum("grijn,grein->gejn", cache.attention, dout)
    dattention = jnp.einsum("grein,gejn->grijn", dout, cache.value)
    dscores = _softmax_backward(dattention, cache.attention)
    return _shaped(cache, *_query_and_key(dscores, cache), dvalue)


def _five(dout: Array, cache: Cache) -> Array:
    groups, shared, _, queries, samples = cache.query.shape
    return dout.reshape(groups, shared, -1, queries, samples)


def _softmax_backward(dattention: Array, attention: Array) -> Array:
    return attention * (dattention - jnp.sum(dattention * attention, axis=3, keepdims=True))


def _query_and_key(dscores: Array, cache: Cache) -> tuple[Array, Array]:
    dscores = dscores * cache.query.shape[2] ** -0.5
    dquery = jnp.einsum("grijn,gdjn->grdin", dscores, cache.key)
    return dquery, jnp.einsum("grijn,grdin->gdjn", dscores, cache.query)


def _shaped(cache: Cache, *gradients: Array | None) -> Any:
    rows = zip(gradients, cache.shapes.value, strict=True)
    return tuple(None if g is None else g.reshape(shape) for g, shape in rows)


def read_options(options: Any = None, *rest: Any) -> dict[str, Any]:
    """A mask that is True where a query may look, or keywords such as `{"causal": True, "heads": 4}`."""
    if isinstance(options, Mapping):
        return dict(options)
    return {} if options is None else {"mask": jnp.asarray(np.asarray(options), bool)}


def _with_scores(dout: Array, cache: Cache, rule: Any) -> Wrong:
    """dL/dq and dL/dk from another dL/dS."""
    dattention = jnp.einsum("grein,gejn->grijn", _five(dout, cache), cache.value)
    return _shaped(cache, *_query_and_key(rule(dattention, cache.attention), cache), None)


def _times(dout: Array, cache: Cache, power: float) -> Wrong:
    scale = cache.query.shape[2] ** power
    dquery, dkey, _ = backward(dout, cache)
    return dquery * scale, dkey * scale, None


def _mask_forgotten(dout: Array, cache: Cache, *, normalized: bool) -> Wrong:
    scores = _scores(cache.query, cache.key)
    if normalized:
        attention = _softmax(scores)
    else:
        allowed = jnp.where(cache.mask[:, :, None], scores, -jnp.inf)
        largest = jnp.max(allowed, axis=3, keepdims=True)
        attention = jnp.exp(scores - largest) / jnp.sum(jnp.exp(allowed - largest), axis=3, keepdims=True)
    return backward(dout, cache._replace(attention=attention))


def _one_head(dout: Array, cache: Cache, head: int) -> Wrong:
    if cache.query.shape[1] == 1:
        return None, None, None
    alone = jnp.zeros_like(_five(dout, cache)).at[:, head].set(_five(dout, cache)[:, head])
    _, dkey, dvalue = backward(alone, cache)
    return None, dkey, dvalue


def _heads_averaged(dout: Array, cache: Cache) -> Wrong:
    _, dkey, dvalue = backward(dout, cache)
    shared = cache.query.shape[1]
    return (None, dkey / shared, dvalue / shared) if shared > 1 else (None, None, None)


def _transposed(dout: Array, cache: Cache, *, key: bool) -> Wrong:
    """A or dL/dS not transposed in the sum over the queries; possible where there are as many keys."""
    if cache.query.shape[3] != cache.key.shape[2]:
        return None, None, None
    dout = _five(dout, cache)
    if not key:
        return _shaped(cache, None, None, jnp.einsum("grjin,grein->gejn", cache.attention, dout))
    dattention = jnp.einsum("grein,gejn->grijn", dout, cache.value)
    dscores = _softmax_backward(dattention, cache.attention) * cache.query.shape[2] ** -0.5
    return _shaped(cache, None, jnp.einsum("grjin,grdin->gdjn", dscores, cache.query), None)


def _scores_for_attention(dout: Array, cache: Cache) -> Wrong:
    scores = jnp.where(cache.mask[:, :, None], _scores(cache.query, cache.key), 0)
    return _shaped(cache, None, None, jnp.einsum("grijn,grein->gejn", scores, _five(dout, cache)))


def _sum_over_queries(dattention: Array, attention: Array) -> Array:
    return attention * (dattention - jnp.sum(dattention * attention, axis=2, keepdims=True))


MISTAKES = (
    Mistake(
        "scale_forgotten",
        "dL/dq and dL/dk lack the 1 / sqrt(D) of the scores.",
        lambda dout, c: _times(dout, c, 0.5),
    ),
    Mistake(
        "scale_twice",
        "dL/dq and dL/dk have 1 / sqrt(D) twice.",
        lambda dout, c: _times(dout, c, -0.5),
    ),
    Mistake(
        "mask_forgotten",
        "A was made again in the backward pass without the mask, from the forward's normaliser.",
        lambda dout, c: _mask_forgotten(dout, c, normalized=False),
    ),
    Mistake(
        "softmax_without_mask",
        "A was made again in the backward pass by a softmax over all keys, without the mask.",
        lambda dout, c: _mask_forgotten(dout, c, normalized=True),
    ),
    Mistake(
        "softmax_diagonal_alone",
        "dL/dS is dL/dA A (1 - A), the diagonal of softmax's Jacobian; every A_il depends on S_ij.",
        lambda dout, c: _with_scores(dout, c, lambda da, a: da * a * (1 - a)),
    ),
    Mistake(
        "softmax_sum_forgotten",
        "dL/dS is A dL/dA; - A_ij sum_l dL/dA_il A_il is missing.",
        lambda dout, c: _with_scores(dout, c, lambda da, a: da * a),
    ),
    Mistake(
        "softmax_forgotten",
        "dL/dS was taken as dL/dA; the softmax lies between.",
        lambda dout, c: _with_scores(dout, c, lambda da, a: da),
    ),
    Mistake(
        "sum_over_queries",
        "The sum in softmax's derivative was taken over the queries; it runs over the keys of one query.",
        lambda dout, c: _with_scores(dout, c, _sum_over_queries),
    ),
    Mistake(
        "key_not_transposed",
        "dL/dk was taken as dL/dS q; it is (dL/dS)^T q, a sum over the queries.",
        lambda dout, c: _transposed(dout, c, key=True),
    ),
    Mistake(
        "value_not_transposed",
        "dL/dv was taken as A dL/dout; it is A^T dL/dout, a sum over the queries.",
        lambda dout, c: _transposed(dout, c, key=False),
    ),
    Mistake(
        "shared_heads_overwritten",
        "A key head has the gradient of its last query head alone; all that share it add up.",
        lambda dout, c: _one_head(dout, c, -1),
    ),
    Mistake(
        "shared_heads_first",
        "A key head has the gradient of its first query head alone; all that share it add up.",
        lambda dout, c: _one_head(dout, c, 0),
    ),
    Mistake(
        "shared_heads_averaged",
        "The gradients of the query heads that share a key head were averaged; they add up.",
        _heads_averaged,
    ),
    Mistake(
        "scores_for_attention",
        "dL/dv was made with the scores S; out = A v, so it is A^T dL/dout.",
        _scores_for_attention,
    ),
)

LAYERS = {
    "attention": Derived(
        "attention",
        forward,
        backward,
        ("query", "key", "value"),
        MISTAKES,
        samples_first=((2, 1, 0), (2, 1, 0), (2, 1, 0)),
        out_samples_first=(2, 1, 0),
        read_options=read_options,
    )
}
