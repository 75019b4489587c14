"""Checkpoints: the state of a long sweep on disk, whole and verified, or refused with the reason.

A directory holds one checkpoint, written under another name and renamed when it is whole:

    runs/a/000007-step-1200/arrays/       the arrays, as orbax writes them, each named by its place in the record
    runs/a/000007-step-1200/record.json   the notes, the fingerprint, and the SHA-256 of every file of the arrays

All is verified before it is used, and only numbers and JSON are read: nothing is unpickled or run.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbackprop._checks import check_integer

COMPLETE = re.compile(r"(\d{6,})-step-\d+")
INCOMPLETE = re.compile(COMPLETE.pattern + r"\.[0-9a-f]+\.tmp")
ARRAYS, RECORD = "arrays", "record.json"
SLACK = 2**20  # bytes, room for the record and for orbax's own files


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
    if not isinstance(directory, str | os.PathLike) or not str(directory):
        raise ValueError(f"{_shown(directory)} must be the path of a directory")
    _orbax()
    path, shown = Path(directory), _shown(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        names = sorted(entry.name for entry in path.iterdir())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{shown} can't be written: {why}; choose another directory") from error
    foreign = [name for name in names if not (COMPLETE.fullmatch(name) or INCOMPLETE.fullmatch(name))]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ValueError(
            f"{shown} holds other files ({', '.join(foreign[:3])}{more}); choose a new or an empty directory"
        )
    if jax.process_index() == 0:
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

    Among several processes process 0 alone may call this; it waits for none of the others.

    **Arguments:**
    - `directory`: one that `open_checkpoint` has accepted.
    - `step`: how far the sweep is, for people who list the directory.
    - `arrays`: numbers or truth values, of any shape.
    - `notes`: anything else, as JSON.
    - `fingerprint`: of the sweep, see `fingerprint_of`.

    **Raises:** `OSError` if it can't be written, on a full disk for instance: the checkpoint before it is still there.
    `ValueError` for arrays and notes that it can't hold.
    """
    ocp = _orbax()
    step = check_integer("step", step, 0)
    if jax.process_index() != 0:  # orbax would write nothing, and not say so
        raise ValueError(f"process {jax.process_index()} can't save a checkpoint, process 0 must")
    path = Path(directory).absolute()
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    content = {
        "step": step,
        "fingerprint": dict(fingerprint),
        "arrays": [{"name": name, "dtype": x.dtype.name, "shape": x.shape} for name, x in plain.items()],
        "notes": dict(notes),
    }
    try:
        content = json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"notes must be JSON: {error}") from error
    # orbax has no arrays of size zero: those are in the record alone.
    stored = {str(i): array for i, array in enumerate(plain.values()) if array.size}
    before = _complete(path)
    whole = path / f"{_number(before[-1]) + 1 if before else 1:06d}-step-{step}"
    # A name of its own, since orbax's threads go on writing for a moment when Ctrl-C ends a save.
    partial = whole.with_name(f"{whole.name}.{secrets.token_hex(4)}.tmp")
    try:
        partial.mkdir(parents=True)
        _check_space(path, sum(array.nbytes for array in stored.values()) + SLACK)
        if stored:
            with _checkpointer(ocp) as checkpointer:
                checkpointer.save(partial / ARRAYS, args=ocp.args.PyTreeSave(stored))
        content["files"] = _hashes(partial)
        with open(partial / RECORD, "w") as file:
            json.dump({"content": content, "sha256": _hash_json(content)}, file)
            file.flush()
            os.fsync(file.fileno())  # as orbax does with the arrays
        partial.rename(whole)
    except Exception as error:
        code = _os_error(error)
        why = os.strerror(code) if code else _reason(error)
        kept = "the checkpoint before it is intact" if before else "there was none before it"
        message = f"{_shown(directory)}: step {step} can't be saved: {why}; {kept}"
        raise (OSError(code, message) if code else OSError(message)) from error
    finally:
        _clear_incomplete(path)
    for old in before:
        shutil.rmtree(old, ignore_errors=True)


def _read(path: Path, shown: str, fingerprint: Mapping[str, str]) -> Saved:
    """The checkpoint at `path`, if it is this sweep's and every byte of it is as it was saved."""
    ocp = _orbax()
    with _refused_if_damaged(path, shown):
        record = json.loads((path / RECORD).read_bytes())
        if record["sha256"] != _hash_json(record["content"]):
            raise ValueError(f"{RECORD} is not as it was saved")
    content = record["content"]
    _check_fingerprint(shown, content["fingerprint"], fingerprint)
    with _refused_if_damaged(path, shown):
        found = _hashes(path)
        del found[RECORD]
        for name in sorted({**content["files"], **found}):
            if content["files"].get(name) != found.get(name):
                raise ValueError(f"{name} is {'not as it was saved' if name in found else 'missing'}")
        arrays = [np.zeros(about["shape"], about["dtype"]) for about in content["arrays"]]
        wanted = {str(i): ocp.RestoreArgs(restore_type=np.ndarray) for i, array in enumerate(arrays) if array.size}
        if wanted:
            with _checkpointer(ocp) as checkpointer:
                # A tree to fill, and of NumPy arrays: through JAX's, 64 bits would become 32.
                args = ocp.args.PyTreeRestore(dict.fromkeys(wanted, 0), restore_args=wanted)
                for key, array in checkpointer.restore(path.absolute() / ARRAYS, args=args).items():
                    arrays[int(key)] = np.asarray(array)
    return Saved(
        {about["name"]: array for about, array in zip(content["arrays"], arrays, strict=True)}, content["notes"]
    )


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
    # Trained parameters hardly compress: a tenth of the space would cost twice the time.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextmanager
def _refused_if_damaged(path: Path, shown: str) -> Iterator[None]:
    """A file may be short, missing or altered anywhere, and reading fails in as many ways: all mean the same here."""
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
    return sorted((entry for entry in path.glob("*") if COMPLETE.fullmatch(entry.name)), key=_number)


def _number(path: Path) -> int:
    """Which of the saves wrote `path`; steps would not do, since one step may be saved twice."""
    return int(path.name.split("-")[0])


def _clear_incomplete(path: Path) -> None:
    for entry in path.glob("*"):
        if INCOMPLETE.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def _check_space(path: Path, needed: int) -> None:
    """A full disk is noticed before the first byte, where it can be: orbax's threads fail noisily."""
    if shutil.disk_usage(path).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _os_error(error: Exception) -> int | None:
    """The operating system's number of what went wrong, which tensorstore has in its text alone."""
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def _plain(name: str, array: Any) -> np.ndarray:
    """`array` in NumPy's memory, rows first, in this machine's byte order."""
    array = np.asarray(array)
    # bfloat16 and its like are of kind V, and are told from records by having no fields.
    if array.dtype.kind not in "biufcV" or array.dtype.names or array.dtype.type is np.void:
        raise ValueError(f"arrays[{name!r}] has dtype {array.dtype}, must be of numbers or truth values")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _hashes(path: Path) -> dict[str, str]:
    """The SHA-256 of every file below `path`."""
    hashes = {}
    for file in path.rglob("*"):
        if file.is_file():
            with open(file, "rb") as stream:
                hashes[file.relative_to(path).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _hash_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _hash_json(content: Any) -> str:
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
        data = _canonical(name, array.tolist()) if array.dtype.hasobject else _hash_array(array)
        return f"array({array.dtype.str},{array.shape},{data})"
    text = repr(value)
    if " at 0x" in text:
        raise ValueError(f"{name}={text} has no fingerprint: it doesn't show its value")
    return text


def _reason(error: Exception) -> str:
    """What an error says, without the pages of state that tensorstore adds."""
    text = str(error).partition(" [tensorstore_spec=")[0].partition("\n")[0]
    return text or type(error).__name__


def _shown(directory: Any) -> str:
    return f"checkpoint={(str(directory) if isinstance(directory, os.PathLike) else directory)!r}"
