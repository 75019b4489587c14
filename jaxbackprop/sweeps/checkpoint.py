"""Checkpoints: the book of a training on disk, whole and verified, or refused with the reason.

A directory holds one file, which is replaced as a whole, and a lock that belongs to the process at work:

    runs/a/sweep.safetensors    the book's arrays; in its metadata the fingerprint, and the SHA-256 of every array

Only numbers and JSON are read: nothing is unpickled or run. As the book knows nothing of devices, programs or budgets,
a training is taken up on others than it was left on. Among several processes process 0 alone touches the disk, and
tells the others what it found.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from jaxbackprop.activations import Activation
from jaxbackprop.devices import compiler_options
from jaxbackprop.files import whole_file
from jaxbackprop.network import Layer, Params
from jaxbackprop.optimizers import Hyperparameters, Optimizer
from jaxbackprop.oracle import float64
from jaxbackprop.sweeps.host import Job
from jaxbackprop.sweeps.interruption import agree
from jaxbackprop.sweeps.splits import Splits
from jaxbackprop.sweeps.state import Book
from jaxbackprop.sweeps.transfer import spans_processes

FORMAT = 6
NAME, LOCK, KEY = "sweep.safetensors", ".lock", "jaxbackprop"


class Keeper:
    """Keeps the book of one training in a directory: `take_up` fills it, `save_if_due` and `save` write it. Used as a
    context: the directory is locked inside it.

    **Raises:** `ValueError`, in every process, if the directory can't be used, is in use by another training, or holds
    what is damaged or belongs to another sweep.
    """

    def __init__(self, directory: str | Path, every: float, job: Job, book: Book) -> None:
        if not isinstance(directory, str | Path) or not str(directory):
            raise ValueError(f"checkpoint={directory!r} must be the path of a directory")
        self.directory, self.every, self.mesh, self.book = Path(directory), every, job.mesh, book
        self.fingerprint = fingerprint(job)
        self.writes = not spans_processes(job.mesh) or jax.process_index() == 0
        self.lock = filelock.FileLock(self.directory / LOCK)
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Keeper":
        content, problem = b"", ""
        if self.writes:
            try:
                content = self._open()
            except ValueError as error:
                problem = str(error)
        problem = _share(problem.encode(), self.mesh).decode()
        if problem:
            raise ValueError(problem)
        content = _share(content, self.mesh)
        if content:
            arrays = load(content)
            for name, own in self.book.arrays().items():
                own[...] = arrays[name]
        return self

    def __exit__(self, *error: Any) -> None:
        self.lock.release()

    def save_if_due(self, settle: Any) -> None:
        """Save, if the last time is long enough ago; `settle` brings the book up to date."""
        if agree(time.monotonic() - self.saved_at >= self.every, self.mesh):
            settle()
            self.save()

    def save(self) -> None:
        """Save now. A save that fails is reported and does not end the training."""
        if self.writes:
            arrays = self.book.arrays()
            try:
                about = {
                    "format": FORMAT,
                    "fingerprint": self.fingerprint,
                    "arrays": {name: _digest(array) for name, array in arrays.items()},
                }
                with whole_file(self.directory / NAME) as partial:
                    save_file(arrays, partial, metadata={KEY: json.dumps(about)})
            except (OSError, SafetensorError) as error:
                warnings.warn(f"checkpoint not saved, the sweep goes on: {error}", RuntimeWarning, stacklevel=2)
        self.saved_at = time.monotonic()

    def _open(self) -> bytes:
        """Lock the directory and read its file, empty if there is none; what a killed save left is cleared."""
        shown = f"checkpoint={str(self.directory)!r}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"{shown} is in use by another sweep; wait for it, or choose another directory") from None
        except OSError as error:
            raise ValueError(
                f"{shown} can't be written: {error.strerror or error}; choose another directory"
            ) from error
        try:
            for left in self.directory.glob(f".{NAME}.*.partial"):
                left.unlink(missing_ok=True)
            path = self.directory / NAME
            if not path.exists():
                with whole_file(self.directory / ".written") as trial:  # told now and not after an hour of training
                    trial.touch()
                (self.directory / ".written").unlink()
                return b""
            content = path.read_bytes()
            self._check(content, shown)
            return content
        except OSError as error:
            self.lock.release()
            raise ValueError(f"{shown} can't be used: {error.strerror or error}; choose another directory") from error
        except ValueError:
            self.lock.release()
            raise

    def _check(self, content: bytes, shown: str) -> None:
        """Refuse what is not, byte by byte, a book of this sweep."""
        try:
            size = int.from_bytes(content[:8], "little")
            about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
            stored, written, digests = about["fingerprint"], about["format"], about["arrays"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{NAME} does not say what it is: {type(error).__name__}"
            raise ValueError(f"{shown} is damaged ({reason}); choose another directory or delete it") from error
        if written != FORMAT:
            raise ValueError(f"{shown} has format {written!r}, this version reads {FORMAT}; delete it or start anew")
        differ = [name for name in {**self.fingerprint, **stored} if stored.get(name) != self.fingerprint.get(name)]
        if differ:
            names = " and ".join([", ".join(differ[:-1]), differ[-1]] if len(differ) > 1 else differ)
            raise ValueError(
                f"{shown} belongs to another sweep, which differs in {names}; choose another directory or delete it"
            )
        try:
            arrays = load(content)
            for name, own in self.book.arrays().items():
                array = arrays[name]
                if digests[name] != _digest(array) or (array.shape, array.dtype) != (own.shape, own.dtype):
                    raise ValueError(f"{name} is not as it was saved")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{shown} is damaged ({NAME}: {error}); choose another directory or delete it") from error


def fingerprint(job: Job) -> dict[str, str]:
    """One SHA-256 for each part of what decides a training's outcome."""
    parts = {
        "grid": [tuple(trial) for trial in job.trials],
        "data": list(job.splits.data[:-1]),  # without the frequencies
        "objective": [job.splits.objective.name, *_outcomes(job.splits), job.splits.targets],
        "epochs": [job.marks.tolist(), [list(rung) for rung in job.rungs]],
        "starts": getattr(job.draw, "keywords", None),
        "order": job.shuffle_seed,
        "early stopping": [job.monitor, [float(s) for s in job.stopping]],
        "options": [job.shared_l2, job.assess, job.curves],
    }
    if job.splits.data.frequency is not None:
        parts["frequencies"] = job.splits.data.frequency
    return {name: hashlib.sha256(_canonical(part).encode()).hexdigest() for name, part in parts.items()}


def _canonical(value: Any) -> str:
    """A text that is the same for the same value in every process, and another for another value."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key!r}:{_canonical(item)}' for key, item in value.items())}}}"
    if isinstance(value, Activation | Optimizer):
        return f"{type(value).__name__}({value.name!r},{_canonical(_numbers(value))})"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"[{','.join(_canonical(item) for item in value)}]"
    if isinstance(value, np.ndarray):
        return f"array({value.dtype.str},{value.shape},{_digest(value)})"
    return repr(value)


def _outcomes(splits: Splits) -> list[np.ndarray]:
    """What an objective does to some numbers, for as many outputs as there are."""
    objective, outputs = splits.objective, len(splits.data.y)
    z, y = _spread(outputs), np.eye(outputs)[:, np.arange(20) % outputs]
    return _evaluated(lambda z, y: [objective.predict(z), objective.per_sample(z, y)], z, y)


@lru_cache(maxsize=256)
def _numbers(value: Activation | Optimizer) -> list[np.ndarray]:
    """What a function does to some numbers tells it from another of its name."""
    if isinstance(value, Activation):
        return _evaluated(lambda z: [value.value(z), value.derivative(z)], _spread(3))
    optimizer = value

    def updated(z: Array) -> list[Array]:
        params: Params = (Layer(z, z[:, 0]),)
        state = optimizer.init(params)
        for _ in range(3):
            params, state = optimizer.update(params, state, params, Hyperparameters(0.1))
        return [params[0].weight]

    return _evaluated(updated, _spread(3))


def _spread(rows: int) -> np.ndarray:
    """Numbers from -27 to 27, most of them near 0, in so many rows of 20."""
    return np.linspace(-3, 3, rows * 20).reshape(rows, 20) ** 3


def _evaluated(function: Callable[..., list[Array]], *numbers: np.ndarray) -> list[np.ndarray]:
    """In float64 and in one program: one operation after another, each would be compiled by itself."""
    with float64():
        return [_rounded(array) for array in jax.jit(function, compiler_options=compiler_options(quick=True))(*numbers)]


def _rounded(values: Array) -> np.ndarray:
    """To six places near 0, six digits far from it: the last bits are another machine's own, or a GPU's."""
    rounded = np.round(np.arcsinh(np.asarray(values, np.float64)), 6)
    return np.where(np.isnan(rounded), np.nan, rounded) + 0.0  # neither NaN nor 0 has a sign


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _share(content: bytes, mesh: Mesh) -> bytes:
    """Process 0's bytes, in every process."""
    if not spans_processes(mesh):
        return content
    from jax.experimental import multihost_utils

    halves = np.array(divmod(len(content), 2**30), np.int32)  # JAX may be without 64-bit integers
    most, rest = multihost_utils.broadcast_one_to_all(halves)
    size = int(most) * 2**30 + int(rest)
    if size == 0:
        return b""
    own = np.frombuffer(content, np.uint8) if len(content) == size else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()
