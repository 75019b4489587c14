"""What the file of a mixture of networks holds, beside what `model_file` says of every file.

    stack0/weight/0, stack0/bias/0, …   networks of one depth and activation: [networks, out, in], [networks, out]
    stack0/shares                       what each of them counts in the mean
    stack0/frequency                    those of a periodic embedding: [networks, features, waves]
    members, weights, curve/loss, …     the attributes of that name

The stacks of a search's ensemble stand behind the steps of a fold each:

    part0/stack0/weight/0, …            as above
    part0/step0/mean_, …                what a step has learned
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, QuantileTransformer, RobustScaler, StandardScaler

from jaxbackprop.embedded import Waves
from jaxbackprop.estimators.network_file import rebuild_untrained, untrained_contents
from jaxbackprop.estimators.plain_data import plain, plain_labels, restored, restored_labels
from jaxbackprop.estimators.search_ensemble import Part, SearchEnsemble
from jaxbackprop.network import Layer
from jaxbackprop.sweeps.mixture import Choice, Mixture, Stack

Arrays = Mapping[str, np.ndarray]
Contents = tuple[dict[str, np.ndarray], dict[str, Any]]

# What these have learned are arrays and numbers.
STEPS = {
    kind.__name__: kind for kind in (StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, QuantileTransformer, PCA)
}


def mixture_contents(mixture: Mixture) -> Contents:
    """The arrays of a mixture, and what is to be said about them.

    **Raises:** `ValueError` for an activation or an objective of one's own, which no file can hold.
    """
    if not isinstance(mixture.objective, str):
        raise ValueError(f"estimator has the objective {mixture.objective.name!r}, a function that no file can hold")
    arrays, about = _stacks_contents(mixture.stacks)
    arrays |= _choice_arrays(mixture)
    about |= _choice_facts(mixture) | {"objective": mixture.objective}
    return arrays, about


def rebuild_mixture(about: Mapping[str, Any], arrays: Arrays) -> Mixture:
    """The inverse of `mixture_contents`."""
    choice, stacks = _choice(about, arrays), _stacks(about, arrays)
    return Mixture(*choice, stacks, about["objective"], about["targets"], _classes(about))


def search_ensemble_contents(ensemble: SearchEnsemble) -> Contents:
    """The arrays of a search's ensemble, and what is to be said about them.

    **Raises:** `ValueError` for an activation of one's own, or a step that is none of `STEPS`.
    """
    arrays, parts = _choice_arrays(ensemble), []
    for p, part in enumerate(ensemble.parts):
        own, about = _stacks_contents(part.stacks, f"part{p}/")
        steps: Any = None
        if part.steps is not None:
            learned, steps = _steps_contents(part.steps, f"part{p}/")
            own |= learned
        arrays |= own
        parts.append(about | {"network": untrained_contents(part.template), "steps": steps})
    return arrays, _choice_facts(ensemble) | {"parts": parts}


def rebuild_search_ensemble(about: Mapping[str, Any], arrays: Arrays) -> SearchEnsemble:
    """The inverse of `search_ensemble_contents`."""
    parts = tuple(
        Part(
            None if part["steps"] is None else _steps(part["steps"], arrays, f"part{p}/"),
            rebuild_untrained(part["network"]),
            _stacks(part, arrays, f"part{p}/"),
        )
        for p, part in enumerate(about["parts"])
    )
    return SearchEnsemble(*_choice(about, arrays), parts, about["targets"], _classes(about))


def _choice_arrays(chosen: Any) -> dict[str, np.ndarray]:
    curve = {f"curve/{key}": line for key, line in chosen.curve.items()}
    return {"members": chosen.members, "weights": chosen.weights, **curve}


def _choice_facts(chosen: Any) -> dict[str, Any]:
    numbers = {name: float(getattr(chosen, name)) for name in ("temperature", "score", "loss")}
    labels = None if chosen.classes is None else plain_labels(chosen.classes)
    return numbers | {"targets": chosen.targets, "labels": labels}


def _choice(about: Mapping[str, Any], arrays: Arrays) -> Choice:
    curve = {key: arrays[f"curve/{key}"] for key in ("members", "loss", "score")}
    return Choice(arrays["members"], arrays["weights"], about["temperature"], about["score"], about["loss"], curve)


def _classes(about: Mapping[str, Any]) -> Any:
    return None if about["labels"] is None else restored_labels(about["labels"])


def _stacks_contents(stacks: Sequence[Stack], prefix: str = "") -> Contents:
    arrays: dict[str, Any] = {}
    for k, stack in enumerate(stacks):
        each = stack.activation if isinstance(stack.activation, tuple) else (stack.activation,)
        own = [activation.name for activation in each if not isinstance(activation, str)]
        if own:
            raise ValueError(f"estimator has the activation {own[0]!r}, a function that no file can hold")
        arrays[f"{prefix}stack{k}/shares"] = stack.shares
        layers = stack.params
        if isinstance(layers[0], Waves):
            arrays[f"{prefix}stack{k}/frequency"], layers = layers[0].frequency, layers[1:]
        for l, layer in enumerate(layers):
            arrays |= {f"{prefix}stack{k}/weight/{l}": layer.weight, f"{prefix}stack{k}/bias/{l}": layer.bias}
    about = {
        "activations": [stack.activation for stack in stacks],
        "layers": [sum(isinstance(part, Layer) for part in stack.params) for stack in stacks],
    }
    return arrays, about


def _stacks(about: Mapping[str, Any], arrays: Arrays, prefix: str = "") -> tuple[Stack, ...]:
    make: Any = Layer
    make_waves: Any = Waves
    found = []
    for k, (activation, layers) in enumerate(zip(about["activations"], about["layers"], strict=True)):
        own = f"{prefix}stack{k}"
        waves = [make_waves(arrays[name]) for name in [f"{own}/frequency"] if name in arrays]
        params = [make(arrays[f"{own}/weight/{l}"], arrays[f"{own}/bias/{l}"]) for l in range(layers)]
        names = tuple(activation) if isinstance(activation, list) else activation
        found.append(Stack(names, (*waves, *params), arrays[f"{own}/shares"]))
    return tuple(found)


def _steps_contents(steps: Pipeline, prefix: str) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    arrays: dict[str, np.ndarray] = {}
    about: list[dict[str, Any]] = []
    for k, (name, step) in enumerate(steps.steps):
        if step is None or step == "passthrough":
            about.append({"name": name, "kind": None})
            continue
        kind = type(step).__name__
        if STEPS.get(kind) is not type(step):
            raise ValueError(
                f"the networks stand behind the step {name!r}, a {kind}, which a file cannot hold; it holds "
                f"{', '.join(STEPS)}. Apply other steps to X before the search"
            )
        settings = step.get_params(deep=False)
        learned = {key: value for key, value in vars(step).items() if key not in settings}
        numeric = {key for key, a in learned.items() if isinstance(a, np.ndarray) and a.dtype.kind in "iuf"}
        arrays |= {f"{prefix}step{k}/{key}": learned[key] for key in numeric}
        about.append(
            {
                "name": name,
                "kind": kind,
                "settings": {key: plain(f"{name}__{key}", value) for key, value in settings.items()},
                "arrays": sorted(numeric),
                "learned": {key: _learned(f"{name}.{key}", learned[key]) for key in learned.keys() - numeric},
            }
        )
    return arrays, about


def _learned(name: str, value: Any) -> Any:
    return {"names": value.tolist()} if isinstance(value, np.ndarray) else {"value": plain(name, value)}


def _steps(about: Sequence[Mapping[str, Any]], arrays: Arrays, prefix: str) -> Pipeline:
    steps: list[tuple[str, Any]] = []
    for k, one in enumerate(about):
        if one["kind"] is None:
            steps.append((one["name"], "passthrough"))
            continue
        step = STEPS[one["kind"]](**{key: restored(value) for key, value in one["settings"].items()})
        for key in one["arrays"]:
            setattr(step, key, arrays[f"{prefix}step{k}/{key}"])
        for key, value in one["learned"].items():
            names = np.array(value["names"], dtype=object) if "names" in value else None
            setattr(step, key, restored(value["value"]) if names is None else names)
        steps.append((one["name"], step))
    return Pipeline(steps)
