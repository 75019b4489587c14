"""Recurrent network (Elman 1990): one step, and a sequence with backpropagation through time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.layers.contract import Derived, Mistake, Static

Step = Float[Array, "features samples"]
Sequence = Float[Array, "features time samples"]
State = Float[Array, "units samples"]
StepCache = tuple[Array, Array, Array, Array, Array]
Cache = tuple[Array, Array, Array, Array, Array, Static]


def step_forward(
    x: Step, state: State, input_weight: Array, state_weight: Array, bias: Array
) -> tuple[State, StepCache]:
    """h_t = tanh(z_t), z_t = W_x x_t + W_h h_(t-1) + b."""
    h = jnp.tanh(input_weight @ x + state_weight @ state + bias[:, None])
    return h, (x, state, input_weight, state_weight, h)


def step_backward(dout: State, cache: StepCache) -> tuple[Array, Array, Array, Array, Array]:
    """dL/dz = dL/dh (1 - h^2), as tanh' = 1 - tanh^2; then as in every affine layer

    dL/dx = W_x^T dL/dz, dL/dh_(t-1) = W_h^T dL/dz, dL/dW_x = dL/dz x^T, dL/dW_h = dL/dz h_(t-1)^T, dL/db = sum dL/dz.
    """
    x, state, input_weight, state_weight, h = cache
    dz = dout * (1 - h * h)
    return input_weight.T @ dz, state_weight.T @ dz, dz @ x.T, dz @ state.T, jnp.sum(dz, axis=1)


def forward(
    x: Sequence, state: State, input_weight: Array, state_weight: Array, bias: Array, *, truncate: int | None = None
) -> tuple[Float[Array, "units time samples"], Cache]:
    """The states h_1 … h_T, each from the one before; `state` is h_0.

    With `truncate` the states after every so many steps count as constants in the backward pass.
    """
    inputs = jnp.moveaxis(jnp.tensordot(input_weight, x, 1) + bias[:, None, None], 1, 0)

    def step(h: Array, z: Array) -> tuple[Array, Array]:
        h = jnp.tanh(z + state_weight @ h)
        return h, h

    states = jax.lax.scan(step, state, inputs)[1]
    return jnp.moveaxis(states, 0, 1), (x, state, input_weight, state_weight, states, Static(truncate))


def kept(steps: int, truncate: int | None) -> Array:
    """1 where step t hands its error to the step before, 0 where the state before it counts as a constant."""
    t = jnp.arange(steps)
    return jnp.ones(steps, bool) if truncate is None else (t % truncate != 0) | (t == 0)


def summed_over_time(
    errors: Float[Array, "time outputs samples"], inputs: Float[Array, "time inputs samples"]
) -> Array:
    """sum_t errors_t inputs_t^T. One product a step, then their sum: contracting both axes at once would have XLA
    transpose the arrays first, which takes longer."""
    return jnp.sum(errors @ jnp.swapaxes(inputs, 1, 2), 0)


def backward(dout: Float[Array, "units time samples"], cache: Cache) -> tuple[Array, Array, Array, Array, Array]:
    """h_t has two readers: the output of its step, and the next step. From the last step to the first

    dL/dh_t     = dL/dout_t + W_h^T dL/dz_(t+1)        (output path, state path)
    dL/dz_t     = dL/dh_t (1 - h_t^2)

    and, as the weights are the same at every step, with sums over t and over the samples

    dL/dW_x = sum dL/dz_t x_t^T,   dL/dW_h = sum dL/dz_t h_(t-1)^T,   dL/db = sum dL/dz_t,   dL/dx_t = W_x^T dL/dz_t.
    """
    return _through_time(dout, cache)


def _through_time(
    dout: Array,
    cache: Cache,
    slope: Callable[[Array, Array], Array] = lambda h, z: 1 - h * h,
    carry: Callable[[Array, Array, Array], Array] = lambda weight, dz, dh: weight.T @ dz,
) -> tuple[Array, Array, Array, Array, Array]:
    x, state, input_weight, state_weight, states, truncate = cache
    previous = jnp.concatenate([state[None], states[:-1]])

    def step(from_next: Array, at_step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        dout, h, z, keep = at_step
        dh = dout + from_next  # output path + state path
        dz = dh * slope(h, z)
        return jnp.where(keep, carry(state_weight, dz, dh), 0), dz

    errors = jnp.moveaxis(dout, 1, 0)
    z = jnp.arctanh(states)  # only a mistake looks at it; what is not looked at is not computed
    at_steps = errors, states, z, kept(len(states), truncate.value)
    dstate, dz = jax.lax.scan(step, jnp.zeros_like(state), at_steps, reverse=True)
    dx = jnp.einsum("hd,thn->dtn", input_weight, dz)
    return (
        dx,
        dstate,
        jnp.einsum("thn,dtn->hd", dz, x),
        jnp.einsum("thn,tkn->hk", dz, previous),
        jnp.sum(dz, (0, 2)),
    )


def read_options(options: Any = None, *rest: Any) -> dict[str, Any]:
    """`{"truncate": 10}`."""
    return {"truncate": options["truncate"]} if isinstance(options, dict) and "truncate" in options else {}


def _z(cache: StepCache) -> Array:
    return jnp.arctanh(cache[4])


def _step_with(dout: Array, cache: StepCache, slope: Array) -> tuple[Array, ...]:
    x, state, input_weight, state_weight, _ = cache
    dz = dout * slope
    return input_weight.T @ dz, state_weight.T @ dz, dz @ x.T, dz @ state.T, jnp.sum(dz, axis=1)


def _only(gradients: tuple, *numbers: int) -> tuple:
    return tuple(g if i in numbers else None for i, g in enumerate(gradients))


def _dz(dout: Array, cache: StepCache) -> Array:
    return dout * (1 - cache[4] ** 2)


STEP_MISTAKES = (
    Mistake(
        "slope_forgotten",
        "dL/dz was taken as dL/dh; the slope 1 - h^2 of tanh is missing.",
        lambda dout, c: _step_with(dout, c, jnp.ones_like(c[4])),
    ),
    Mistake(
        "slope_at_preactivation",
        "The slope was taken as 1 - z^2; tanh' = 1 - tanh(z)^2 = 1 - h^2.",
        lambda dout, c: _step_with(dout, c, 1 - _z(c) ** 2),
    ),
    Mistake(
        "slope_of_sigmoid",
        "The slope was taken as h (1 - h), which is sigmoid's; tanh has 1 - h^2.",
        lambda dout, c: _step_with(dout, c, c[4] * (1 - c[4])),
    ),
    Mistake(
        "state_weight_not_transposed",
        "dL/dh_(t-1) was taken as W_h dL/dz; it is W_h^T dL/dz.",
        lambda dout, c: (None, c[3] @ _dz(dout, c), None, None, None),
    ),
    Mistake(
        "next_state_for_previous",
        "dL/dW_h was made with h_t; W_h multiplies h_(t-1).",
        lambda dout, c: (None, None, None, _dz(dout, c) @ c[4].T, None),
    ),
    Mistake(
        "state_forgotten",
        "Nothing goes back to h_(t-1); it is W_h^T dL/dz.",
        lambda dout, c: (None, jnp.zeros_like(c[1]), None, None, None),
    ),
    Mistake(
        "bias_averaged",
        "dL/db was divided by N; it is a sum over the samples.",
        lambda dout, c: (None, None, None, None, jnp.mean(_dz(dout, c), axis=1)),
    ),
    Mistake(
        "weights_averaged",
        "dL/dW_x and dL/dW_h were divided by N; they are sums over the samples.",
        lambda dout, c: _only(tuple(g / dout.shape[-1] for g in step_backward(dout, c)), 2, 3),
    ),
)


def _first(dout: Array, cache: Cache) -> tuple:
    """The gradients of step 1, which a loop from the last step to the first reaches last."""
    x, state, input_weight, state_weight, states, _ = cache
    if len(states) > 1:
        rest = (x[:, 1:], states[0], input_weight, state_weight, states[1:], Static(None))
        from_next = backward(dout[:, 1:], rest)[1] * kept(2, cache[5].value)[1]
    else:
        from_next = jnp.zeros_like(state)
    return step_backward(dout[:, 0] + from_next, (x[:, 0], state, input_weight, state_weight, states[0]))


def _errors(dout: Array, cache: Cache) -> Array:
    """dL/dz of every step: dL/dx for inputs that are added to z as they are."""
    x, state, _, state_weight, states, truncate = cache
    eye = jnp.eye(len(state), dtype=dout.dtype)
    zeros = jnp.zeros((len(state), *x.shape[1:]), dout.dtype)
    return jnp.moveaxis(_through_time(dout, (zeros, state, eye, state_weight, states, truncate))[0], 1, 0)


MISTAKES = (
    Mistake(
        "state_gradient_forgotten",
        "dL/dh_t is dL/dout_t alone; what the next step hands back, W_h^T dL/dz_(t+1), is not added.",
        lambda dout, c: _through_time(dout, c, carry=lambda weight, dz, dh: jnp.zeros_like(dh)),
    ),
    Mistake(
        "slope_forgotten",
        "dL/dz_t was taken as dL/dh_t; the slope 1 - h_t^2 of tanh is missing.",
        lambda dout, c: _through_time(dout, c, slope=lambda h, z: jnp.ones_like(h)),
    ),
    Mistake(
        "slope_at_preactivation",
        "The slope was taken as 1 - z_t^2; tanh' = 1 - tanh(z)^2 = 1 - h_t^2.",
        lambda dout, c: _through_time(dout, c, slope=lambda h, z: 1 - z * z),
    ),
    Mistake(
        "slope_of_sigmoid",
        "The slope was taken as h (1 - h), which is sigmoid's; tanh has 1 - h^2.",
        lambda dout, c: _through_time(dout, c, slope=lambda h, z: h * (1 - h)),
    ),
    Mistake(
        "state_path_without_slope",
        "The state path was taken as W_h^T dL/dh_(t+1); the slope of step t + 1 lies between.",
        lambda dout, c: _through_time(dout, c, carry=lambda weight, dz, dh: weight.T @ dh),
    ),
    Mistake(
        "state_weight_not_transposed",
        "The state path was taken as W_h dL/dz_(t+1); it is W_h^T dL/dz_(t+1).",
        lambda dout, c: _through_time(dout, c, carry=lambda weight, dz, dh: weight @ dz),
    ),
    Mistake(
        "weights_overwritten",
        "The gradients of the weights hold step 1 alone, as where the loop assigns; they are sums over the steps.",
        lambda dout, c: _only(_first(dout, c), 2, 3, 4),
    ),
    Mistake(
        "next_state_for_previous",
        "dL/dW_h was made with h_t; W_h multiplies h_(t-1).",
        lambda dout, c: (None, None, None, jnp.einsum("thn,tkn->hk", _errors(dout, c), c[4]), None),
    ),
    Mistake(
        "initial_state_forgotten",
        "Nothing goes back to h_0; it is W_h^T dL/dz_1.",
        lambda dout, c: (None, jnp.zeros_like(c[1]), None, None, None),
    ),
    Mistake(
        "averaged_over_time",
        "The gradients of the weights were divided by the number of steps; they are sums over the steps.",
        lambda dout, c: _only(tuple(g / dout.shape[1] for g in backward(dout, c)), 2, 3, 4),
    ),
    Mistake(
        "bias_averaged",
        "dL/db was divided by N; it is a sum over the samples.",
        lambda dout, c: _only(tuple(g / dout.shape[-1] for g in backward(dout, c)), 4),
    ),
)

ARGUMENTS = ("x", "state", "input_weight", "state_weight", "bias")

LAYERS = {
    "rnn_step": Derived(
        "rnn_step",
        step_forward,
        step_backward,
        ARGUMENTS,
        STEP_MISTAKES,
        samples_first=((1, 0), (1, 0), (1, 0), (1, 0), None),
        out_samples_first=(1, 0),
    ),
    "rnn": Derived(
        "rnn",
        forward,
        backward,
        ARGUMENTS,
        MISTAKES,
        samples_first=((2, 1, 0), (1, 0), (1, 0), (1, 0), None),
        out_samples_first=(2, 1, 0),
        read_options=read_options,
    ),
}
