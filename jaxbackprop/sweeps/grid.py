"""A hyperparameter grid, as scikit-learn's `ParameterGrid` takes it, and the trials that it stands for."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import ParameterGrid

from jaxbackprop._checks import check_integer, check_real, choose
from jaxbackprop.activations import ACTIVATIONS, Activation, OneOrEach, layer_activations
from jaxbackprop.optimizers import BELOW_ONE, OPTIMIZERS, Optimizer
from jaxbackprop.oracle import check_slope

MOST_DROPPED = 0.99  # of a layer: what is left is scaled by its inverse


class Trial(NamedTuple):
    """The settings of one network of a sweep; what a grid leaves out has the value here.

    `hidden` are the widths of the hidden layers, `batch_size` None stands for the full batch, and `seed` draws the
    initial parameters, and the masks where `dropout` is above 0, the share of hidden activations that each step drops.
    `activation` and `optimizer` are names, or objects of one's own; a tuple of activations is one for each hidden
    layer. The rest is as in `Hyperparameters`.
    """

    activation: OneOrEach = "tanh"
    hidden: tuple[int, ...] = (10,)
    learning_rate: float = 0.1
    l2: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    seed: int = 0
    optimizer: str | Optimizer = "sgd"
    batch_size: int | None = None
    dropout: float = 0.0


def each_activation(trial: Trial, slots: int | None = None) -> tuple[Activation, ...]:
    """That of each hidden layer; with `slots`, of so many slots for them: those that it does not use, where none is
    computed, go by the last."""
    return _in_slots(trial.activation, len(trial.hidden), slots)


@lru_cache(maxsize=1024)  # of thousands of trials few differ in it
def _in_slots(activation: OneOrEach, hidden: int, slots: int | None) -> tuple[Activation, ...]:
    own = layer_activations(activation, hidden)
    return own if slots is None else own + own[-1:] * (slots - len(own))


def _hidden(argument: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        raise ValueError(f"{argument}={value!r} must be a tuple of widths, such as (10,) or (64, 32)")
    return tuple(check_integer(f"{argument}[{i}]", width, 1) for i, width in enumerate(value))


def _seed(argument: str, value: Any) -> int:
    seed = check_integer(argument, value, 0)
    if seed >= 2**31:
        raise ValueError(f"{argument}={value!r} must be below 2**31")
    return seed


def _activation(argument: str, value: Any) -> OneOrEach:
    if isinstance(value, tuple):
        each: Any = tuple(_activation(f"{argument}[{i}]", own) for i, own in enumerate(value))
        return each
    if not isinstance(value, Activation):
        return choose(argument, value, ACTIVATIONS).name
    if ACTIVATIONS.get(value.name) == value:
        return value.name
    check_slope(value)
    return value


def _optimizer(argument: str, value: Any) -> str | Optimizer:
    if not isinstance(value, Optimizer):
        return choose(argument, value, OPTIMIZERS).name
    return value.name if OPTIMIZERS.get(value.name) is value else value


def name_of(value: Any) -> Any:
    """What a table shows of a setting: an object's name."""
    return tuple(map(name_of, value)) if isinstance(value, tuple) else getattr(value, "name", value)


# What each key of a grid may hold: the check turns a value into the trial's, or refuses it.
CHECKS: dict[str, Any] = {
    "activation": _activation,
    "hidden": _hidden,
    "learning_rate": lambda argument, value: check_real(argument, value, 0, exclusive=True),
    "l2": lambda argument, value: check_real(argument, value, 0),
    "momentum": lambda argument, value: check_real(argument, value, 0, 1),
    "weight_decay": lambda argument, value: check_real(argument, value, 0),
    "beta_1": lambda argument, value: check_real(argument, value, 0, BELOW_ONE),
    "beta_2": lambda argument, value: check_real(argument, value, 0, BELOW_ONE),
    "epsilon": lambda argument, value: check_real(argument, value, 0, exclusive=True),
    "seed": _seed,
    "optimizer": _optimizer,
    "dropout": lambda argument, value: check_real(argument, value, 0, MOST_DROPPED),
    "batch_size": lambda argument, value: None if value is None else check_integer(argument, value, 1),
}


def expand(grid: Mapping[str, Any] | Sequence[Any]) -> list[Trial]:
    """Every trial of a grid, in `ParameterGrid`'s order.

    **Arguments:** `grid`, a dict of lists, or a list of such dicts, with the keys of `Trial`.

    **Raises:** `ValueError` for a key that does not exist (naming the nearest), an empty list, or a value that its key
    cannot hold.
    """
    grids = [grid] if isinstance(grid, Mapping) else grid
    if isinstance(grids, str) or not isinstance(grids, Sequence) or len(grids) == 0:
        raise ValueError(f"grid must be a dict of lists, or a list of such dicts, got {grid!r}")
    trials = [Trial(**settings) for settings in ParameterGrid([_check_grid(g) for g in grids])]
    for key in ("activation", "optimizer"):
        values = {getattr(trial, key) for trial in trials}
        _check_names(key, {own for value in values for own in (value if isinstance(value, tuple) else (value,))})
    for trial in trials:
        if isinstance(trial.activation, tuple) and len(trial.activation) != len(trial.hidden):
            raise ValueError(
                f"activation={name_of(trial.activation)} must be one for each hidden layer of hidden={trial.hidden}"
            )
    return trials


def _check_names(key: str, values: set[Any]) -> None:
    """Two objects of one name could not be told apart in a table, nor in a checkpoint."""
    names = [name_of(value) for value in values]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"grid[{key!r}] holds two different objects named {min(twice)!r}; give each a name of its own")


def _check_grid(grid: Any) -> dict[str, list[Any]]:
    if not isinstance(grid, Mapping):
        raise ValueError(f"grid must be a dict of lists, or a list of such dicts, got {grid!r} in the list")
    checked = {}
    for key, values in grid.items():
        check = choose("grid key", key, CHECKS)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"grid[{key!r}]={values!r} must be a list of values, such as [{values!r}]")
        checked[key] = [check(key, value) for value in values]
        if not checked[key]:
            raise ValueError(f"grid[{key!r}] is empty; give it a value, or leave the key out")
    return checked
