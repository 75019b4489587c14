"""Backward passes of layers in plain NumPy, samples first as courses have them, each right or with one mistake.

`MUTANTS[name](dout, *arguments, **options, mistake=code)`: None or a code of the layer's table. They share nothing
with the package.
"""

from functools import partial

import layer_mutants_pointwise as pointwise
import layer_mutants_sequence as sequence
import layer_mutants_spatial as spatial

MUTANTS = {
    "affine": pointwise.affine,
    **{name: partial(pointwise.activation, name) for name in pointwise.ACTIVATIONS},
    "softmax": pointwise.softmax,
    "softmax_cross_entropy": pointwise.softmax_cross_entropy,
    "hinge": pointwise.hinge,
    "squared_error": pointwise.squared_error,
    "dropout": pointwise.dropout,
    "embedding": pointwise.embedding,
    "batch_norm": spatial.batch_norm,
    "spatial_batch_norm": spatial.spatial_batch_norm,
    "layer_norm": spatial.layer_norm,
    "rms_norm": spatial.rms_norm,
    "group_norm": spatial.group_norm,
    "convolution": spatial.convolution,
    "convolution_1d": spatial.convolution_1d,
    "max_pool": spatial.max_pool,
    "average_pool": spatial.average_pool,
    "rnn_step": sequence.rnn_step,
    "rnn": sequence.rnn,
    "lstm": sequence.lstm,
    "gru": sequence.gru,
    "attention": sequence.attention,
    "positional_embedding": pointwise.positional_embedding,
    "periodic": pointwise.periodic,
    "residual": pointwise.residual,
}
