"""Gated recurrent unit (Cho et al. 2014, in PyTorch's form), with backpropagation through time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake, Static
from jaxbackprop.layers.rnn import kept, read_options, summed_over_time

Sequence = Float[Array, "features time samples"]
State = Float[Array, "units samples"]


class Step(NamedTuple):
    """What a step knows: the gates r and z, the candidate n, its part u that r multiplies, and the state before."""

    r: Array
    z: Array
    n: Array
    u: Array
    before: Array


Cache = tuple[Array, Array, Array, Array, Array, Step, Static]
ErrorsOfStep = tuple[tuple[Array, Array, Array], Array, Array]


def forward(
    x: Sequence,
    state: State,
    input_weight: Array,
    state_weight: Array,
    input_bias: Array,
    state_bias: Array,
    *,
    truncate: int | None = None,
) -> tuple[Float[Array, "units time samples"], Cache]:
    """The states h_1 … h_T; `state` is h_0. The rows of the weights are those of r, z, n in turn:

    p = W_x x_t + b_x,   q = W_h h_(t-1) + b_h,   r, z = sigmoid(p_r + q_r), sigmoid(p_z + q_z)
    n = tanh(p_n + r u) with u = q_n,             h_t = (1 - z) n + z h_(t-1)
    """
    inputs = jnp.moveaxis(jnp.tensordot(input_weight, x, 1) + input_bias[:, None, None], 1, 0)

    def step(h: Array, p: Array) -> tuple[Array, tuple[Array, Step]]:
        (p_r, p_z, p_n), (q_r, q_z, u) = jnp.split(p, 3), jnp.split(state_weight @ h + state_bias[:, None], 3)
        r, z = jax.lax.logistic(p_r + q_r), jax.lax.logistic(p_z + q_z)
        n = jnp.tanh(p_n + r * u)
        new = (1 - z) * n + z * h
        return new, (new, Step(r, z, n, u, h))

    states, steps = jax.lax.scan(step, state, inputs)[1]
    return jnp.moveaxis(states, 0, 1), (x, state, input_weight, state_weight, states, steps, Static(truncate))


def step_errors(dh: Array, s: Step) -> ErrorsOfStep:
    """One step back, from dL/dh_t:

    dL/dn = dL/dh (1 - z),   dL/dz = dL/dh (h_(t-1) - n),   dL/dh_(t-1) = dL/dh z       (the direct path)
    dL/dp_n = dL/dn (1 - n^2),   dL/dr = dL/dp_n u,   dL/du = dL/dp_n r

    and dL/dp_r, dL/dp_z by sigmoid' = s (1 - s). Returns dL/dp in three parts, dL/du, and the direct path.
    """
    dp_n = dh * (1 - s.z) * (1 - s.n**2)
    dp_z = dh * (s.before - s.n) * s.z * (1 - s.z)
    dp_r = dp_n * s.u * s.r * (1 - s.r)
    return (dp_r, dp_z, dp_n), dp_n * s.r, dh * s.z


def backward(dout: Float[Array, "units time samples"], cache: Cache) -> tuple[Array, Array, Array, Array, Array, Array]:
    """From the last step to the first, with `step_errors`, and with dL/dq = (dL/dp_r, dL/dp_z, dL/du)

    dL/dh_t = dL/dout_t + W_h^T dL/dq_(t+1) + dL/dh_(t+1) z_(t+1)        (output path, state path, direct path)
    dL/dW_x = sum dL/dp_t x_t^T,   dL/dW_h = sum dL/dq_t h_(t-1)^T,   dL/db_x = sum dL/dp_t,   dL/db_h = sum dL/dq_t
    """
    return _through_time(dout, cache)


def _through_time(
    dout: Array,
    cache: Cache,
    errors_of: Callable[[Array, Step], ErrorsOfStep] = step_errors,
    *,
    state_path: bool = True,
    first_alone: bool = False,
    next_state: bool = False,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    x, state, input_weight, state_weight, states, steps, truncate = cache
    previous = states if next_state else jnp.concatenate([state[None], states[:-1]])

    def step(from_next: Array, at_step: tuple[Array, Step, Array]) -> tuple[Array, tuple[Array, Array]]:
        dout, s, keep = at_step
        (dp_r, dp_z, dp_n), du, direct = errors_of(dout + from_next, s)
        dq = jnp.concatenate([dp_r, dp_z, du])
        dstate = state_weight.T @ dq + direct if state_path else direct
        return jnp.where(keep, dstate, 0), (jnp.concatenate([dp_r, dp_z, dp_n]), dq)

    at_steps = jnp.moveaxis(dout, 1, 0), steps, kept(len(states), truncate.value)
    dstate, (dp, dq) = jax.lax.scan(step, jnp.zeros_like(state), at_steps, reverse=True)
    dx = jnp.einsum("ad,tan->dtn", input_weight, dp)
    if first_alone:
        dp, dq = dp.at[1:].set(0), dq.at[1:].set(0)
    dinput, dweight = summed_over_time(dp, jnp.moveaxis(x, 1, 0)), summed_over_time(dq, previous)
    return dx, dstate, dinput, dweight, jnp.sum(dp, (0, 2)), jnp.sum(dq, (0, 2))


def _direct_path_forgotten(dh: Array, s: Step) -> ErrorsOfStep:
    parts, du, direct = step_errors(dh, s)
    return parts, du, jnp.zeros_like(direct)


def _update_gate_inverted(dh: Array, s: Step) -> ErrorsOfStep:
    """As for h_t = z n + (1 - z) h_(t-1), in dL/dn and the direct path."""
    (_, dp_z, _), _, _ = step_errors(dh, s)
    dp_n = dh * s.z * (1 - s.n**2)
    return (dp_n * s.u * s.r * (1 - s.r), dp_z, dp_n), dp_n * s.r, dh * (1 - s.z)


def _previous_state_forgotten(dh: Array, s: Step) -> ErrorsOfStep:
    (dp_r, _, dp_n), du, direct = step_errors(dh, s)
    return (dp_r, -dh * s.n * s.z * (1 - s.z), dp_n), du, direct


def _reset_gate_forgotten(dh: Array, s: Step) -> ErrorsOfStep:
    parts, _, direct = step_errors(dh, s)
    return parts, parts[2], direct


def _reset_of_state(dh: Array, s: Step) -> ErrorsOfStep:
    (_, dp_z, dp_n), du, direct = step_errors(dh, s)
    return (dp_n * s.before * s.r * (1 - s.r), dp_z, dp_n), du, direct


def _slopes_forgotten(dh: Array, s: Step) -> ErrorsOfStep:
    dn = dh * (1 - s.z)
    return (dn * s.u, dh * (s.before - s.n), dn), dn * s.r, dh * s.z


def _slopes_at_preactivation(dh: Array, s: Step) -> ErrorsOfStep:
    a_r, a_z, a_n = jnp.log(s.r) - jnp.log1p(-s.r), jnp.log(s.z) - jnp.log1p(-s.z), jnp.arctanh(s.n)
    dp_n = dh * (1 - s.z) * (1 - a_n**2)
    dp_z = dh * (s.before - s.n) * a_z * (1 - a_z)
    return (dp_n * s.u * a_r * (1 - a_r), dp_z, dp_n), dp_n * s.r, dh * s.z


def _through(errors_of: Callable[[Array, Step], ErrorsOfStep]) -> Callable[[Array, Cache], tuple]:
    return lambda dout, cache: _through_time(dout, cache, errors_of)


MISTAKES = (
    Mistake(
        "state_path_forgotten",
        "dL/dh_t lacks what the next step's gates hand back, W_h^T dL/dq_(t+1).",
        lambda dout, c: _through_time(dout, c, state_path=False),
    ),
    Mistake(
        "direct_path_forgotten",
        "dL/dh_t lacks dL/dh_(t+1) z_(t+1), from h_(t+1) = (1 - z) n + z h_t.",
        _through(_direct_path_forgotten),
    ),
    Mistake(
        "update_gate_inverted",
        "z and 1 - z were exchanged: h_t = (1 - z) n + z h_(t-1).",
        _through(_update_gate_inverted),
    ),
    Mistake(
        "previous_state_forgotten",
        "dL/dz was taken as -dL/dh n; it is dL/dh (h_(t-1) - n).",
        _through(_previous_state_forgotten),
    ),
    Mistake(
        "reset_gate_forgotten",
        "dL/du was taken as dL/dp_n; n = tanh(p_n + r u) gives it the factor r.",
        _through(_reset_gate_forgotten),
    ),
    Mistake(
        "reset_of_state",
        "dL/dr was made with h_(t-1); r multiplies u = W_h h_(t-1) + b_h.",
        _through(_reset_of_state),
    ),
    Mistake(
        "slopes_forgotten",
        "The slopes s (1 - s) and 1 - n^2 are missing.",
        _through(_slopes_forgotten),
    ),
    Mistake(
        "slopes_at_preactivation",
        "The slopes were taken at the pre-activations: a (1 - a) and 1 - a^2; they are in terms of r, z and n.",
        _through(_slopes_at_preactivation),
    ),
    Mistake(
        "next_state_for_previous",
        "dL/dW_h was made with h_t; W_h multiplies h_(t-1).",
        lambda dout, c: (None, None, None, _through_time(dout, c, next_state=True)[3], None, None),
    ),
    Mistake(
        "weights_overwritten",
        "The gradients of the weights hold step 1 alone, as where the loop assigns; they are sums over the steps.",
        lambda dout, c: (None, None, *_through_time(dout, c, first_alone=True)[2:]),
    ),
)

LAYERS: dict[str, Any] = {
    "gru": Derived(
        "gru",
        forward,
        backward,
        ("x", "state", "input_weight", "state_weight", "input_bias", "state_bias"),
        MISTAKES,
        samples_first=((2, 1, 0), (1, 0), (1, 0), (1, 0), None, None),
        out_samples_first=(2, 1, 0),
        read_options=read_options,
    )
}
