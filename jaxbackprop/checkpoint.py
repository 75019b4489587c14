"""Checkpoints: the state of a long sweep on disk, complete and verified, or refused with the reason.

A directory holds one checkpoint, written by orbax under another name and renamed when it is complete:

    runs/a/000007-step-1200/arrays/   the arrays, each under its place in the record
    runs/a/000007-step-1200/record/   JSON: the notes, the fingerprint, and every array's name, dtype, shape and SHA-256

Only data are read, as JSON and as bytes: nothing is unpickled or run.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

COMPLETE = re.compile(r"(\d{6,})-step-\d+")
INCOMPLETE = re.compile(COMPLETE.pattern + r"\.orbax-checkpoint-tmp.*")


class Saved(NamedTuple):
    """What a checkpoint holds."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


def fingerprint_of(**parts: Any) -> dict[str, str]:
    """One SHA-256 for each part of what decides a sweep's outcome: arrays, plain values, and dicts and lists of them.

    **Raises:** `ValueError` for an object that does not show its value, such as a function.
    """
    return {name: hashlib.sha256(_canonical(name, part).encode()).hexdigest() for name, part in parts.items()}


def open_checkpoint(directory: str | Path, fingerprint: Mapping[str, str]) -> Saved | None:
    """The newest complete checkpoint of a directory, which is made if need be; what a killed save left is cleared.

    **Arguments:**
    - `directory`: a directory of its own, new or empty or from an earlier call of the same sweep.
    - `fingerprint`: of the sweep, see `fingerprint_of`.

    **Returns:** the arrays bit for bit and the notes, or None if there is no checkpoint yet.

    **Raises:** `ValueError` if the directory can't be written or holds other files, and if its checkpoint is damaged or
    belongs to another sweep.
    """
    _orbax()
    path = Path(directory)
    shown = _shown(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"0")
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise ValueError(f"{shown} can't be written: {error.strerror or error}; choose another directory") from error
    foreign = [name for name in names if not (COMPLETE.fullmatch(name) or INCOMPLETE.fullmatch(name))]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ValueError(
            f"{shown} holds other files ({', '.join(foreign[:3])}{more}); choose a new or an empty directory"
        )
    _clear_incomplete(path)
    complete = _complete(path)
    return _read(complete[-1], shown, fingerprint) if complete else None


def save_checkpoint(
    directory: str | Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    fingerprint: Mapping[str, str],
) -> None:
    """Write a checkpoint, then remove the one before it; a kill at any moment leaves one of the two, complete.

    **Arguments:**
    - `directory`: one that `open_checkpoint` has accepted.
    - `step`: how far the sweep is, for those who list the directory.
    - `arrays`: numbers or truth values, of any shape.
    - `notes`: anything else, as JSON.
    - `fingerprint`: of the sweep, see `fingerprint_of`.

    **Raises:** `OSError` if it can't be written, on a full disk for instance: the checkpoint before it is still there.
    `ValueError` for arrays and notes that it can't hold.
    """
    ocp = _orbax()
    path = Path(directory).absolute()
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    content = {
        "step": step,
        "fingerprint": dict(fingerprint),
        "arrays": [_described(name, array) for name, array in plain.items()],
        "notes": dict(notes),
    }
    try:
        content = json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"notes must be JSON: {error}") from error
    # orbax has no arrays of size zero: those are in the record alone.
    stored = {str(i): array for i, array in enumerate(plain.values()) if array.size}
    before = _complete(path)
    number = _number(before[-1]) + 1 if before else 1
    try:
        with _checkpointer(ocp) as checkpointer:
            checkpointer.save(
                path / f"{number:06d}-step-{step}",
                args=ocp.args.Composite(
                    record=ocp.args.JsonSave({"content": content, "sha256": _record_hash(content)}),
                    **({"arrays": ocp.args.PyTreeSave(stored)} if stored else {}),
                ),
            )
    except Exception as error:
        kept = "the checkpoint before it is intact" if before else "there was none before it"
        raise OSError(f"{_shown(directory)}: step {step} could not be saved ({_reason(error)}); {kept}") from error
    finally:
        _clear_incomplete(path)
    for old in before:
        shutil.rmtree(old, ignore_errors=True)


def _read(path: Path, shown: str, fingerprint: Mapping[str, str]) -> Saved:
    """The checkpoint at `path`, if it is this sweep's and every bit of it is as it was saved."""
    ocp = _orbax()
    with _refused_if_damaged(path, shown), _checkpointer(ocp) as checkpointer:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = checkpointer.restore(path.absolute(), args=args)["record"]
        content = record["content"]
        if record["sha256"] != _record_hash(content):
            raise ValueError("its record is not what was saved")
    _check_fingerprint(shown, content["fingerprint"], fingerprint)
    described = content["arrays"]
    with _refused_if_damaged(path, shown), _checkpointer(ocp) as checkpointer:
        wanted = [str(i) for i, array in enumerate(described) if 0 not in array["shape"]]
        restored: Mapping[str, Any] = {}
        if wanted:
            as_numpy = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in wanted}
            args = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(dict.fromkeys(wanted, 0), restore_args=as_numpy))
            restored = checkpointer.restore(path.absolute(), args=args)["arrays"]
        arrays = {}
        for i, about in enumerate(described):
            array = np.zeros(about["shape"], about["dtype"]) if 0 in about["shape"] else np.asarray(restored[str(i)])
            if _described(about["name"], array) != about:
                raise ValueError(f"its array {about['name']!r} is not what was saved")
            arrays[about["name"]] = array
    return Saved(arrays, content["notes"])


def _orbax() -> ModuleType:
    """orbax, imported only where a checkpoint is asked for: it is an extra, and takes two seconds."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ValueError('checkpoint=... needs orbax: pip install "jaxbackprop[checkpoint]"') from error
    return ocp


def _checkpointer(ocp: ModuleType) -> Any:
    """One that waits for no other process, since only one of them writes and reads."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"jaxbackprop{me}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        arrays=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
        record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextmanager
def _refused_if_damaged(path: Path, shown: str) -> Iterator[None]:
    """A file may be short, missing or altered in any place, and orbax fails in as many ways: all mean the same here."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{shown} is damaged ({path.name}: {_reason(error)}); choose another directory or delete it"
        ) from error


def _check_fingerprint(shown: str, stored: Mapping[str, str], fingerprint: Mapping[str, str]) -> None:
    """Refuse the checkpoint of another sweep, and say what differs."""
    differ = [name for name in {**fingerprint, **stored} if stored.get(name) != fingerprint.get(name)]
    if differ:
        names = " and ".join([", ".join(differ[:-1]), differ[-1]] if len(differ) > 1 else differ)
        raise ValueError(
            f"{shown} belongs to another sweep: its {names} differ{'' if len(differ) > 1 else 's'}; "
            "choose another directory or delete it"
        )


def _complete(path: Path) -> list[Path]:
    """The complete checkpoints, the newest last: two if a save was killed before it removed the one before."""
    return sorted((entry for entry in path.iterdir() if COMPLETE.fullmatch(entry.name)), key=_number)


def _number(path: Path) -> int:
    """Which of the saves wrote `path`; steps would not do, since one step may be saved twice."""
    return int(path.name.split("-")[0])


def _clear_incomplete(path: Path) -> None:
    for entry in path.iterdir():
        if INCOMPLETE.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def _plain(name: str, array: Any) -> np.ndarray:
    """`array` in NumPy's memory, rows first, in this machine's byte order."""
    array = np.asarray(array)
    # bfloat16 and its like are of kind V, and are told from records by having no fields.
    if array.dtype.kind not in "biufcV" or array.dtype.names or array.dtype.type is np.void:
        raise ValueError(f"arrays[{name!r}] has dtype {array.dtype}, must be of numbers or truth values")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "sha256": _array_hash(array)}


def _array_hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _record_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _canonical(name: str, value: Any) -> str:
    """A text that is the same for the same value in every process, and another for another value."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key!r}:{_canonical(name, item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"[{','.join(_canonical(name, item) for item in value)}]"
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        # An array of objects holds addresses: what they point to is what counts.
        data = _canonical(name, array.tolist()) if array.dtype.hasobject else _array_hash(array)
        return f"array({array.dtype.str},{array.shape},{data})"
    text = repr(value)
    if " at 0x" in text:
        raise ValueError(f"{name}={text} has no fingerprint: it doesn't show its value")
    return text


def _reason(error: Exception) -> str:
    """The first line of an error, since those of tensorstore run to pages."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _shown(directory: str | Path) -> str:
    return f"checkpoint={str(directory)!r}"
