"""Long short-term memory (Hochreiter and Schmidhuber 1997), with backpropagation through time."""

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
    """What a step knows: the gates i, f, o and the candidate g, the cell before it, and tanh of the cell after it."""

    i: Array
    f: Array
    o: Array
    g: Array
    cell_before: Array
    tanh_cell: Array


Cache = tuple[Array, Array, Array, Array, Array, Step, Static]
ErrorsOfStep = tuple[tuple[Array, Array, Array, Array], Array]


def forward(
    x: Sequence, state: State, input_weight: Array, state_weight: Array, bias: Array, *, truncate: int | None = None
) -> tuple[Float[Array, "units time samples"], Cache]:
    """The states h_1 … h_T; `state` is h_0, and c_0 = 0. The rows of W_x, W_h and b are those of i, f, o, g in turn:

    a = W_x x_t + W_h h_(t-1) + b,   i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o),   g = tanh(a_g)
    c_t = f c_(t-1) + i g,           h_t = o tanh(c_t)
    """
    inputs = jnp.moveaxis(jnp.tensordot(input_weight, x, 1) + bias[:, None, None], 1, 0)

    def step(carry: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], tuple[Array, Step]]:
        h, before = carry
        a_i, a_f, a_o, a_g = jnp.split(z + state_weight @ h, 4)
        i, f, o, g = jax.lax.logistic(a_i), jax.lax.logistic(a_f), jax.lax.logistic(a_o), jnp.tanh(a_g)
        cell = f * before + i * g
        tanh_cell = jnp.tanh(cell)
        h = o * tanh_cell
        return (h, cell), (h, Step(i, f, o, g, before, tanh_cell))

    states, steps = jax.lax.scan(step, (state, jnp.zeros_like(state)), inputs)[1]
    return jnp.moveaxis(states, 0, 1), (x, state, input_weight, state_weight, states, steps, Static(truncate))


def step_errors(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    """One step back, from dL/dh_t and what the next step hands to the cell. As h = o tanh(c) and c = f c_(t-1) + i g,

    dL/dc = dL/dh o (1 - tanh(c)^2) + dL/dc from step t + 1        (output path, cell path)
    dL/di = dL/dc g,   dL/df = dL/dc c_(t-1),   dL/do = dL/dh tanh(c),   dL/dg = dL/dc i,   dL/dc_(t-1) = dL/dc f

    and through each gate's slope, sigmoid' = s (1 - s) or tanh' = 1 - g^2, to its a.
    """
    dcell = dh * s.o * (1 - s.tanh_cell**2) + dcell_next
    da_i = dcell * s.g * s.i * (1 - s.i)
    da_f = dcell * s.cell_before * s.f * (1 - s.f)
    da_o = dh * s.tanh_cell * s.o * (1 - s.o)
    da_g = dcell * s.i * (1 - s.g**2)
    return (da_i, da_f, da_o, da_g), dcell * s.f


def backward(dout: Float[Array, "units time samples"], cache: Cache) -> tuple[Array, Array, Array, Array, Array]:
    """From the last step to the first, with dL/dh_t = dL/dout_t + W_h^T dL/da_(t+1) and `step_errors`; then

    dL/dW_x = sum dL/da_t x_t^T,   dL/dW_h = sum dL/da_t h_(t-1)^T,   dL/db = sum dL/da_t,   dL/dx_t = W_x^T dL/da_t.
    """
    return _through_time(dout, cache)


def _through_time(
    dout: Array,
    cache: Cache,
    errors_of: Callable[[Array, Array, Step], ErrorsOfStep] = step_errors,
    *,
    state_path: bool = True,
    previous: Array | None = None,
    first_alone: bool = False,
) -> tuple[Array, Array, Array, Array, Array]:
    x, state, input_weight, state_weight, states, steps, truncate = cache
    if previous is None:
        previous = jnp.concatenate([state[None], states[:-1]])

    def step(carry: tuple[Array, Array], at_step: tuple[Array, Step, Array]) -> tuple[tuple[Array, Array], Array]:
        dout, s, keep = at_step
        parts, dcell = errors_of(dout + carry[0], carry[1], s)
        da = jnp.concatenate(parts)
        dstate = state_weight.T @ da if state_path else jnp.zeros_like(carry[0])
        return (jnp.where(keep, dstate, 0), jnp.where(keep, dcell, 0)), da

    at_steps = jnp.moveaxis(dout, 1, 0), steps, kept(len(states), truncate.value)
    (dstate, _), da = jax.lax.scan(step, (jnp.zeros_like(state), jnp.zeros_like(state)), at_steps, reverse=True)
    dx = jnp.einsum("ad,tan->dtn", input_weight, da)
    if first_alone:
        da = da.at[1:].set(0)
    dinput = summed_over_time(da, jnp.moveaxis(x, 1, 0))
    return dx, dstate, dinput, summed_over_time(da, previous), jnp.sum(da, (0, 2))


def _preactivation(s: Array) -> Array:
    """a from sigmoid(a)."""
    return jnp.log(s) - jnp.log1p(-s)


def _cell_path_forgotten(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    return step_errors(dh, jnp.zeros_like(dcell_next), s)


def _output_path_forgotten(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    (_, _, da_o, _), _ = step_errors(dh, dcell_next, s)
    (da_i, da_f, _, da_g), dcell = step_errors(jnp.zeros_like(dh), dcell_next, s)
    return (da_i, da_f, da_o, da_g), dcell


def _cell_tanh_forgotten(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    (_, _, da_o, _), _ = step_errors(dh, dcell_next, s)
    (da_i, da_f, _, da_g), dcell = step_errors(jnp.zeros_like(dh), dh * s.o + dcell_next, s)
    return (da_i, da_f, da_o, da_g), dcell


def _forget_gate_forgotten(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    parts, dcell = step_errors(dh, dcell_next, s)
    return parts, dcell / s.f


def _cell_for_previous(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    return step_errors(dh, dcell_next, s._replace(cell_before=s.f * s.cell_before + s.i * s.g))


def _slopes_at_preactivation(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    parts, dcell = step_errors(dh, dcell_next, s)
    slopes = [p * (1 - p) for p in map(_preactivation, s[:3])] + [1 - jnp.arctanh(s.g) ** 2]
    rights = [p * (1 - p) for p in s[:3]] + [1 - s.g**2]
    wrong = [part / right * slope for part, right, slope in zip(parts, rights, slopes, strict=True)]
    return (wrong[0], wrong[1], wrong[2], wrong[3]), dcell


def _slopes_forgotten(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    (da_i, da_f, da_o, da_g), dcell = step_errors(dh, dcell_next, s)
    gates = da_i / (s.i * (1 - s.i)), da_f / (s.f * (1 - s.f)), da_o / (s.o * (1 - s.o))
    return (*gates, da_g / (1 - s.g**2)), dcell


def _candidate_as_gate(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    (da_i, da_f, da_o, da_g), dcell = step_errors(dh, dcell_next, s)
    return (da_i, da_f, da_o, da_g / (1 - s.g**2) * s.g * (1 - s.g)), dcell


def _gates_exchanged(dh: Array, dcell_next: Array, s: Step) -> ErrorsOfStep:
    (da_i, da_f, da_o, da_g), dcell = step_errors(dh, dcell_next, s)
    return (da_f, da_i, da_o, da_g), dcell


def _through(errors_of: Callable[[Array, Array, Step], ErrorsOfStep]) -> Callable[[Array, Cache], tuple]:
    return lambda dout, cache: _through_time(dout, cache, errors_of)


MISTAKES = (
    Mistake(
        "state_gradient_forgotten",
        "dL/dh_t is dL/dout_t alone; what the next step hands back, W_h^T dL/da_(t+1), is not added.",
        lambda dout, c: _through_time(dout, c, state_path=False),
    ),
    Mistake(
        "cell_path_forgotten",
        "dL/dc_t comes from h_t alone; what the next step hands back to the cell, dL/dc_(t+1) f_(t+1), is not added.",
        _through(_cell_path_forgotten),
    ),
    Mistake(
        "output_path_forgotten",
        "dL/dc_t comes from the next step alone; h_t = o tanh(c_t) adds dL/dh o (1 - tanh(c)^2).",
        _through(_output_path_forgotten),
    ),
    Mistake(
        "cell_tanh_forgotten",
        "dL/dc_t has dL/dh o; the slope 1 - tanh(c)^2 is missing.",
        _through(_cell_tanh_forgotten),
    ),
    Mistake(
        "forget_gate_forgotten",
        "dL/dc_t was handed to step t - 1 as it is; c_t = f c_(t-1) + i g gives it the factor f.",
        _through(_forget_gate_forgotten),
    ),
    Mistake(
        "cell_for_previous",
        "dL/df was made with c_t; f multiplies c_(t-1).",
        _through(_cell_for_previous),
    ),
    Mistake(
        "slopes_at_preactivation",
        "The gates' slopes were taken at a: a (1 - a) and 1 - a^2; they are in terms of the gates.",
        _through(_slopes_at_preactivation),
    ),
    Mistake(
        "slopes_forgotten",
        "dL/da was taken as the gates' own gradients; their slopes s (1 - s) and 1 - g^2 are missing.",
        _through(_slopes_forgotten),
    ),
    Mistake(
        "candidate_as_gate",
        "The candidate g was given sigmoid's slope g (1 - g); it is a tanh, 1 - g^2.",
        _through(_candidate_as_gate),
    ),
    Mistake(
        "gates_exchanged",
        "The errors of the input gate and of the forget gate were exchanged.",
        _through(_gates_exchanged),
    ),
    Mistake(
        "next_state_for_previous",
        "dL/dW_h was made with h_t; W_h multiplies h_(t-1).",
        lambda dout, c: (None, None, None, _through_time(dout, c, previous=c[4])[3], None),
    ),
    Mistake(
        "weights_overwritten",
        "The gradients of the weights hold step 1 alone, as where the loop assigns; they are sums over the steps.",
        lambda dout, c: (None, None, *_through_time(dout, c, first_alone=True)[2:]),
    ),
)

LAYERS: dict[str, Any] = {
    "lstm": Derived(
        "lstm",
        forward,
        backward,
        ("x", "state", "input_weight", "state_weight", "bias"),
        MISTAKES,
        samples_first=((2, 1, 0), (1, 0), (1, 0), (1, 0), None),
        out_samples_first=(2, 1, 0),
        read_options=read_options,
    )
}
