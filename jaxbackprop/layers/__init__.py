"""Further layers, each derived by hand: one file a layer, all under the contract of `contract.py`.

A file has this order: the forward pass, the derivation above the backward pass, whose terms carry the derivation's
names, and the table of the mistakes that people make in it. `find_layer` gives a layer by its name.
"""

from importlib import import_module

from jaxbackprop._checks import choose
from jaxbackprop.layers.contract import Derived as Derived
from jaxbackprop.layers.contract import Mistake as Mistake

ELEMENTWISE = (
    *("sigmoid", "tanh", "relu", "identity", "leaky_relu", "elu"),
    *("selu", "softplus", "silu", "gelu", "mish", "hardshrink"),
)

# The file that holds each layer. A file is loaded when its layer is asked for.
FILES: dict[str, str] = {
    "affine": "affine_layer",
    **dict.fromkeys(ELEMENTWISE, "elementwise"),
    "softmax": "softmax_layer",
    "softmax_cross_entropy": "cross_entropy",
    "hinge": "hinge",
    "squared_error": "squared_error_layer",
    "dropout": "dropout",
    "embedding": "embedding",
    "batch_norm": "batch_norm",
    "spatial_batch_norm": "batch_norm",
    "layer_norm": "layer_norm",
    "rms_norm": "rms_norm",
    "group_norm": "group_norm",
    "convolution": "convolution",
    "convolution_1d": "convolution",
    "max_pool": "pooling_mistakes",
    "average_pool": "pooling_mistakes",
    "rnn_step": "rnn",
    "rnn": "rnn",
    "lstm": "lstm",
    "gru": "gru",
    "attention": "attention",
    "positional_embedding": "positional_embedding",
    "periodic": "periodic",
    "residual": "residual",
}


def find_layer(name: str) -> Derived:
    """The layer of that name, as "affine" or "batch_norm".

    **Raises:** `ValueError` for an unknown name, with the nearest known one.
    """
    file = choose("layer", name, FILES)
    return import_module(f"jaxbackprop.layers.{file}").LAYERS[name]
