"""Backpropagation derived by hand, proven against autodiff, and fast enough to train thousands of networks at once.

The modules hold the mathematics as plain functions; `forward`, `loss` and `loss_and_grad` here are the same, compiled.
"""

import jax as _jax

from jaxbackprop import backprop as _backprop
from jaxbackprop import network as _network
from jaxbackprop.activations import ACTIVATIONS as ACTIVATIONS
from jaxbackprop.activations import Activation as Activation
from jaxbackprop.audit import Network as Network
from jaxbackprop.audit import audit as audit
from jaxbackprop.audit import audit_network as audit_network
from jaxbackprop.audit import audit_stages as audit_stages
from jaxbackprop.devices import compiler_options as compiler_options
from jaxbackprop.devices import join_hosts as join_hosts
from jaxbackprop.devices import use_all_cores as use_all_cores
from jaxbackprop.devices import use_compilation_cache as use_compilation_cache
from jaxbackprop.network import Layer as Layer
from jaxbackprop.network import Params as Params
from jaxbackprop.network import init_params as init_params
from jaxbackprop.optimizers import Hyperparameters as Hyperparameters
from jaxbackprop.planner import Plan as Plan
from jaxbackprop.results import SweepResult as SweepResult
from jaxbackprop.sweep import plan as plan
from jaxbackprop.sweep import sweep as sweep
from jaxbackprop.training import batch_order as batch_order
from jaxbackprop.training import fit as fit

forward = _jax.jit(_network.forward, static_argnames=("activation", "objective"))
loss = _jax.jit(_network.loss, static_argnames=("activation", "objective"))
loss_and_grad = _jax.jit(_backprop.loss_and_grad, static_argnames=("activation", "objective"))
