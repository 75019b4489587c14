"""The grid engine: a hyperparameter grid, trained in few compiled programs, on every device there is."""

from jaxbackprop.sweeps.interface import plan as plan
from jaxbackprop.sweeps.interface import sweep as sweep
from jaxbackprop.sweeps.planner import Plan as Plan
from jaxbackprop.sweeps.result import SweepResult as SweepResult
