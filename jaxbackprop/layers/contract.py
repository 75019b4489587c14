"""The contract of every layer here, stated once and relied on everywhere.

A layer is a pair of pure functions:

    out, cache = forward(x, *parameters, **options)
    gradients = backward(dout, cache)

`dout` is dL/dout, of out's shape; `gradients` is a tuple with dL/d(argument) for each differentiable argument of
`forward`, in its order. `cache` is a pytree of whatever backward needs. As everywhere in this package features come
first and samples last: x is [features, samples], [features, time, samples] or [channels, height, width, samples].

What is not differentiated, such as indices, targets, a mask or a stride, is a keyword of `forward`. What has to stay a
number of Python in the cache, as a stride does, is `Static` there, so that a cache may leave a compiled function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

Axes = tuple[int, ...]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A value in a cache that is part of the program, not of its data; it must be hashable."""

    value: Any


class Mistake(NamedTuple):
    """A mistake that people make in a backward pass, as the wrong gradients that it leads to.

    - `code`: its name, such as "mean_path_forgotten".
    - `text`: what was done and what is right, in a sentence or two, with the derivation's symbols.
    - `predict`: `predict(dout, cache)` gives a tuple as `backward` does, with None for each gradient that the mistake
      leaves right. All are None where the mistake cannot be made, as a transpose forgotten where no shape would fit.
    """

    code: str
    text: str
    predict: Callable[[Any, Any], tuple[Any, ...]]


class Derived(NamedTuple):
    """A layer with its derivative, and what people get wrong in it.

    - `name`: the layer's, for `find_layer`.
    - `forward`, `backward`: see above.
    - `arguments`: the names of forward's differentiable arguments, in order.
    - `mistakes`: the table of the file.
    - `samples_first`: for each differentiable argument how an array in the courses' layout, samples first and weights
      [in, out], becomes ours: the axes of `numpy.transpose`; None where both are the same. Where an array has another
      rank than these axes, as x of a single time step or of a sequence, the axes are all reversed.
    - `out_samples_first`: the same for `out`.
    - `read_options`: turns the further arguments of a person's forward, in order, such as CS231n's
      `{"stride": 1, "pad": 1}`, into keywords of `forward`, still in the person's layout. A function among them is
      called with the shape of the person's x.
    - `with_samples`: which keywords are arrays that have an axis of samples, as a target; their axes are reversed.
    """

    name: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[Any, Any], tuple[Any, ...]]
    arguments: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    samples_first: tuple[Axes | None, ...]
    out_samples_first: Axes | None
    read_options: Callable[..., Mapping[str, Any]] = lambda *rest: {}
    with_samples: tuple[str, ...] = ()


def turn(array: Any, axes: Axes | None) -> Any:
    """An array from the courses' layout in ours, by an entry of `samples_first` or `out_samples_first`."""
    if axes is None:
        return array
    return array.transpose(axes if len(axes) == array.ndim else tuple(range(array.ndim))[::-1])


def turn_back(array: Any, axes: Axes | None) -> Any:
    """The inverse of `turn`."""
    if axes is None:
        return array
    if len(axes) != array.ndim:
        return array.transpose(tuple(range(array.ndim))[::-1])
    return array.transpose(tuple(sorted(range(array.ndim), key=axes.__getitem__)))
