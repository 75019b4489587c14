"""The space of settings that an ensemble draws its candidates from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import loguniform, randint, uniform
from sklearn.model_selection import ParameterSampler

from jaxbackprop._checks import check_integer, choose
from jaxbackprop.sweeps.grid import CHECKS

SEEDS = 2**31 - 1

# Hidden layers of one width, `depth` of them. Ranges around those that Gorishniy et al. (2021, 2024) search for
# multi-layer perceptrons on tables, with larger steps: trainings here are short.
DEFAULT_SPACE: dict[str, Any] = {
    "width": loguniform(16, 128),
    "depth": randint(1, 4),
    "activation": ["relu", "silu", "tanh", "gelu"],
    "learning_rate": loguniform(1e-3, 2e-2),
    "weight_decay": loguniform(1e-4, 1.0),
    "dropout": uniform(0, 0.5),
    "seed": randint(0, SEEDS),
}


def draw_candidates(space: Mapping[str, Any] | None, count: int, seed: int, **fixed: Any) -> list[dict[str, list[Any]]]:
    """Settings drawn at random, as a grid of `sweep` with one dict a candidate.

    **Arguments:** `space`, what to draw in place of `DEFAULT_SPACE`'s entries: for each key a scipy distribution or a
    list; `hidden`, whole tuples of widths, takes the place of `width` and `depth`. `fixed`, settings of all candidates,
    where the space does not say otherwise.

    **Raises:** `ValueError` for an unknown key, or an entry that nothing can be drawn from.
    """
    own = {} if space is None else space
    if not isinstance(own, Mapping):
        raise ValueError(f"space must be a dict of distributions or lists, got {type(own).__name__}")
    for key, values in own.items():
        choose("space key", key, dict.fromkeys((*CHECKS, "width", "depth")))
        if not hasattr(values, "rvs") and (not isinstance(values, list | tuple) or len(values) == 0):
            example = np.asarray(values).tolist() if isinstance(values, np.ndarray | range) else [values]
            raise ValueError(f"space[{key!r}]={values!r} must be a scipy distribution, or a list such as {example!r}")
    whole = {**DEFAULT_SPACE, **own}
    if "hidden" in own:
        whole = {key: values for key, values in whole.items() if key not in ("width", "depth")}
    drawn = ParameterSampler(whole, count, random_state=seed)
    return [{key: [value] for key, value in (fixed | _settings(one)).items()} for one in drawn]


def _settings(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What was drawn, as the engine takes it: a width that is no whole number is rounded."""
    settings = dict(drawn)
    if "width" in settings:
        width, depth = round(settings.pop("width")), settings.pop("depth")
        settings["hidden"] = (check_integer("width", width, 1),) * check_integer("depth", int(depth), 0)
    return settings
