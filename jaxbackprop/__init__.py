"""Backpropagation derived by hand, proven against autodiff, and fast enough to train thousands of networks at once.

The modules hold the mathematics as plain functions; `forward`, `loss` and `loss_and_grad` here are the same, compiled.
A name is loaded when it is first used, so that importing the package costs nothing beyond Python itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # the same names for readers and type checkers, who do not run `__getattr__`
    from jaxbackprop.activations import ACTIVATIONS as ACTIVATIONS
    from jaxbackprop.activations import Activation as Activation
    from jaxbackprop.auditing import Network as Network
    from jaxbackprop.auditing import assert_gradient as assert_gradient
    from jaxbackprop.auditing import audit as audit
    from jaxbackprop.auditing import audit_network as audit_network
    from jaxbackprop.auditing import audit_stages as audit_stages
    from jaxbackprop.auditing import audit_vjp as audit_vjp
    from jaxbackprop.compiled import forward as forward
    from jaxbackprop.compiled import loss as loss
    from jaxbackprop.compiled import loss_and_grad as loss_and_grad
    from jaxbackprop.devices import compiler_options as compiler_options
    from jaxbackprop.devices import join_hosts as join_hosts
    from jaxbackprop.devices import use_all_cores as use_all_cores
    from jaxbackprop.devices import use_compilation_cache as use_compilation_cache
    from jaxbackprop.losses import Objective as Objective
    from jaxbackprop.network import Layer as Layer
    from jaxbackprop.network import Params as Params
    from jaxbackprop.network import init_params as init_params
    from jaxbackprop.optimizers import Hyperparameters as Hyperparameters
    from jaxbackprop.optimizers import Optimizer as Optimizer
    from jaxbackprop.sweeps import Plan as Plan
    from jaxbackprop.sweeps import SweepResult as SweepResult
    from jaxbackprop.sweeps import plan as plan
    from jaxbackprop.sweeps import sweep as sweep
    from jaxbackprop.training import batch_order as batch_order
    from jaxbackprop.training import fit as fit

HOMES = {
    "activations": ("ACTIVATIONS", "Activation"),
    "auditing": ("Network", "assert_gradient", "audit", "audit_network", "audit_stages", "audit_vjp"),
    "compiled": ("forward", "loss", "loss_and_grad"),
    "devices": ("compiler_options", "join_hosts", "use_all_cores", "use_compilation_cache"),
    "losses": ("Objective",),
    "network": ("Layer", "Params", "init_params"),
    "optimizers": ("Hyperparameters", "Optimizer"),
    "sweeps": ("Plan", "SweepResult", "plan", "sweep"),
    "training": ("batch_order", "fit"),
}
_HOME_OF = {name: module for module, names in HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxbackprop' has no attribute {name!r}")
    value = getattr(import_module(f"jaxbackprop.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
