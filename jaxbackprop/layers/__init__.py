"""Further layers, each derived by hand: one file a layer, all under the contract of `contract.py`."""

from jaxbackprop.layers.contract import Derived as Derived
from jaxbackprop.layers.contract import Mistake as Mistake
