"""Checkpoints: whatever happens to the process or to the disk, a checkpoint is whole or refused."""

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jaxbackprop.sweeps.checkpoint import fingerprint_of, open_checkpoint, save_checkpoint

FINGERPRINT = fingerprint_of(grid=[{"hidden": (3, 2)}], data=np.eye(3), epochs=100)
DTYPES = ["float32", "float64", "int32", "int64", "uint32", "bool"]


def state(step):
    """Arrays that differ from step to step in every value, so that a mixture of two steps would show."""
    return {
        "weights": np.full((50, 40), step, np.float32),
        "losses": step + np.random.default_rng(step).normal(size=300),
        "step": np.array(step),
        "stopped": np.zeros((0, 4), bool),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is np.ndarray
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()  # so NaNs and signs of zeros count


# --- What is saved comes back ----------------------------------------------------------------------------------------


def test_a_new_directory_holds_no_checkpoint(tmp_path):
    assert open_checkpoint(tmp_path / "runs" / "a", FINGERPRINT) is None
    assert open_checkpoint(str(tmp_path / "runs" / "a"), FINGERPRINT) is None
    assert list((tmp_path / "runs" / "a").iterdir()) == []


@settings(max_examples=15)
@given(data=st.data())
def test_arrays_come_back_bit_for_bit(tmp_path, data):
    some = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, st.just(()) | array_shapes(min_side=0)))
    saved = data.draw(st.dictionaries(st.text(max_size=5), some, max_size=4))
    save_checkpoint(tmp_path, 1, saved, {}, FINGERPRINT)
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, saved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_survive_without_x64(tmp_path, dtype):
    kind = np.dtype(dtype)
    bits = np.array([0, 1, 2**63, 2**64 - 1, 0x7FF8000000000123, 0x8000000080000000], np.uint64)
    values = bits.view(kind) if dtype != "bool" else np.array([True, False])
    save_checkpoint(tmp_path, 1, {"values": values, "zeros": np.zeros_like(values)}, {}, FINGERPRINT)
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, {"values": values, "zeros": np.zeros_like(values)})


def test_a_transposed_a_swapped_and_a_device_array_are_saved_by_value(tmp_path):
    square = np.arange(6.0).reshape(2, 3)
    saved = {"transposed": square.T, "swapped": square.astype(">f8"), "device": jnp.arange(3)}
    save_checkpoint(tmp_path, 1, saved, {}, FINGERPRINT)
    found = open_checkpoint(tmp_path, FINGERPRINT).arrays
    for name, array in saved.items():
        np.testing.assert_array_equal(found[name], array)


def test_notes_come_back(tmp_path):
    notes = {"done": [1, 2], "best": 0.1 + 0.2, "none": None, "text": "λ", "nested": {"a": [True, -(2**70)]}}
    save_checkpoint(tmp_path, 1, {}, notes, FINGERPRINT)
    assert open_checkpoint(tmp_path, FINGERPRINT).notes == notes


def test_only_the_newest_is_kept_whatever_its_step(tmp_path):
    for step in [10, 20, 20, 5]:
        save_checkpoint(tmp_path, step, state(step), {"step": step}, FINGERPRINT)
        assert len(list(tmp_path.iterdir())) == 1
    saved = open_checkpoint(tmp_path, FINGERPRINT)
    assert saved.notes == {"step": 5}
    assert_same(saved.arrays, state(5))


def test_restored_arrays_can_be_written(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
    for array in open_checkpoint(tmp_path, FINGERPRINT).arrays.values():
        array[...] = 0


def test_nothing_is_printed(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
        open_checkpoint(tmp_path, FINGERPRINT)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


# --- Whose it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": np.eye(3) + 1e-16}, None),
        ({"data": np.eye(3) * (1 + 1e-15)}, "its data differs;"),
        ({"data": np.eye(3, dtype=np.float32), "epochs": 101}, "its data and epochs differ;"),
        ({"grid": None, "data": None, "epochs": None}, "its grid, data and epochs differ;"),
        ({"devices": 2}, "its devices differs;"),
    ],
)
def test_the_checkpoint_of_another_sweep_is_refused(tmp_path, other, message):
    parts = {"grid": [{"hidden": (3, 2)}], "data": np.eye(3), "epochs": 100}
    save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
    if message is None:  # 1 + 1e-16 is 1, but 0 + 1e-16 is not 0
        message = "its data differs;"
    with pytest.raises(ValueError, match=message) as error:
        open_checkpoint(tmp_path, fingerprint_of(**parts | other))
    assert f"checkpoint={str(tmp_path)!r} belongs to another sweep" in str(error.value)
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(1))


def test_a_part_that_is_gone_counts(tmp_path):
    save_checkpoint(tmp_path, 1, {}, {}, FINGERPRINT)
    with pytest.raises(ValueError, match="its grid and data differ;"):
        open_checkpoint(tmp_path, fingerprint_of(epochs=100))


def test_fingerprints_tell_values_apart_and_equal_values_not():
    big = np.zeros(10_000)
    almost = big.copy()
    almost[5_000] = 1e-300  # repr would print neither
    values = [
        None, "None", 0, 0.0, -0.0, False, "0", [], {}, [0], [[0]], ["0", "1"], ["0,1"], {"a": 1}, {"a": [1]}, big,
        almost, big.astype(np.float32), big.reshape(100, 100), big[:, None], [big], (big, 1), (almost, 1), np.zeros(0),
        np.zeros((0, 2)), np.array(["a", None], object), np.array(["b", None], object), np.array(["a", "b"]),
    ]  # fmt: skip
    hashes = [fingerprint_of(part=value)["part"] for value in values]
    assert len(set(hashes)) == len(values)
    equal = [
        (big, big.copy()), (big, np.zeros((10_000, 2))[:, 1]), (np.eye(3), np.asfortranarray(np.eye(3))),
        (np.float64(0.5), 0.5), (np.int32(3), 3), (np.ones(3, np.float32), jnp.ones(3)),
    ]  # fmt: skip
    for one, other in equal:
        assert fingerprint_of(part=one) == fingerprint_of(part=other)


def test_a_value_that_does_not_show_itself_has_no_fingerprint():
    with pytest.raises(ValueError, match=r"schedule=.*has no fingerprint"):
        fingerprint_of(schedule=[lambda step: step])


def test_other_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    (tmp_path / "000001-step-1.0a.tmp").mkdir()
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.tex\); choose a new or an empty directory"):
        open_checkpoint(tmp_path, FINGERPRINT)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in [tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs"), tmp_path / ("a" * 300)]:
        with pytest.raises(ValueError, match=r"checkpoint='.*' can't be written: ") as error:
            open_checkpoint(path, FINGERPRINT)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("directory", [5, True, "", ["runs"]])
def test_what_is_no_path_is_refused(directory, as_users_run_it):
    with pytest.raises(ValueError, match="must be the path of a directory") as error:
        open_checkpoint(directory, FINGERPRINT)
    assert str(error.value).startswith(f"checkpoint={directory!r} ")


def test_a_name_that_no_directory_can_have_is_refused():
    with pytest.raises(ValueError, match="can't be written: embedded null byte"):
        open_checkpoint("a\0b", FINGERPRINT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="can't be written: Permission denied"):
        open_checkpoint(tmp_path, FINGERPRINT)


@pytest.mark.parametrize(
    ("arrays", "notes", "message"),
    [
        ({"names": np.array(["a"])}, {}, r"arrays\['names'\] has dtype <U1"),
        ({"mixed": np.array([1, None])}, {}, r"arrays\['mixed'\] has dtype object"),
        ({}, {"path": Path()}, "notes must be JSON"),
    ],
)
def test_what_can_not_be_saved_is_refused_and_the_last_checkpoint_kept(tmp_path, arrays, notes, message):
    save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, 2, arrays, notes, FINGERPRINT)
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(1))


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact")
    save_checkpoint(path, 1, state(1), {"step": 1}, FINGERPRINT)
    return path


def flipped(byte):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(byte * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    return damage


DAMAGES = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    **{f"flipped at {byte}": flipped(byte) for byte in [0.0, 0.25, 0.5, 0.9, 1.0]},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_refused_by_name(tmp_path, intact, damage, capfd):
    files = [path.relative_to(intact) for path in sorted(intact.rglob("*")) if path.is_file()]
    assert len(files) > 5
    for i, file in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(intact, copy)
        DAMAGES[damage](copy / file)
        with pytest.raises(
            ValueError, match=r"is damaged \(000001-step-1: .*; choose another directory or delete it"
        ) as error:
            open_checkpoint(copy, FINGERPRINT)
        assert f"checkpoint={str(copy)!r}" in str(error.value)
        assert file.name == "record.json" or file.name in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_too_many_is_damage(tmp_path, intact):
    shutil.copytree(intact, tmp_path / "copy")
    (tmp_path / "copy" / "000001-step-1" / "arrays" / "more").write_text("")
    with pytest.raises(ValueError, match=r"is damaged .*arrays/more is not as it was saved"):
        open_checkpoint(tmp_path / "copy", FINGERPRINT)


def test_missing_arrays_are_damage(tmp_path, intact):
    shutil.copytree(intact, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "000001-step-1" / "arrays")
    with pytest.raises(ValueError, match=r"is damaged .*arrays/.* is missing"):
        open_checkpoint(tmp_path / "copy", FINGERPRINT)


def test_a_file_in_place_of_a_checkpoint_is_damage(tmp_path):
    (tmp_path / "000001-step-1").write_text("")
    with pytest.raises(ValueError, match="is damaged"):
        open_checkpoint(tmp_path, FINGERPRINT)


def test_a_damaged_checkpoint_is_not_passed_over_for_an_older_one(tmp_path, intact):
    shutil.copytree(intact / "000001-step-1", tmp_path / "000001-step-1")
    save_checkpoint(tmp_path, 2, state(2), {}, FINGERPRINT)
    shutil.copytree(intact / "000001-step-1", tmp_path / "000001-step-1")  # as a kill before its removal leaves it
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(2))
    (tmp_path / "000002-step-2" / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        open_checkpoint(tmp_path, FINGERPRINT)


# --- Kills and full disks --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start():
    """Starts a function in a new process; imports are made once, in the server that all are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["jaxbackprop.sweeps.checkpoint", "orbax.checkpoint", "hypothesis.extra.numpy", "pytest"]
    )

    def start(function, *args):
        process = context.Process(target=function, args=args)
        process.start()
        return process

    return start


def save_for_ever(directory, returned):
    """Continue from the checkpoint of `directory`, and write to `returned` each step whose save has returned."""
    saved = open_checkpoint(directory, FINGERPRINT)
    step = saved.notes["step"] if saved else 0
    with open(returned, "ab", buffering=0) as log:
        while True:
            step += 1
            save_checkpoint(directory, step, state(step), {"step": step}, FINGERPRINT)
            log.write(f"{step}\n".encode())


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_last_checkpoint_or_the_next(tmp_path, start):
    """Kills and interruptions in a row, each process resuming what the one before left."""
    directory, returned = tmp_path / "runs", tmp_path / "returned"
    returned.touch()
    random = np.random.default_rng(0)
    for i in range(20):
        known = returned.stat().st_size
        process = start(save_for_ever, directory, returned)
        while returned.stat().st_size == known:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL if i % 4 else signal.SIGINT)
        process.join()
        last = int(returned.read_text().split()[-1])
        saved = open_checkpoint(directory, FINGERPRINT)
        assert saved.notes["step"] in (last, last + 1)
        assert_same(saved.arrays, state(saved.notes["step"]))
        assert not list(directory.glob("*tmp*"))


def test_what_a_killed_save_left_is_cleared(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
    shutil.copytree(tmp_path / "000001-step-1", tmp_path / "000002-step-2.0a.tmp")
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["000001-step-1"]


def test_a_full_disk_is_said_and_the_last_checkpoint_kept(tmp_path, monkeypatch, capfd):
    save_checkpoint(tmp_path, 1, state(1), {}, FINGERPRINT)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 5000, 5000))
        with pytest.raises(OSError, match="No space left on device; the checkpoint before it is intact") as error:
            save_checkpoint(tmp_path, 2, state(2), {}, FINGERPRINT)
    assert error.value.errno == errno.ENOSPC
    assert f"checkpoint={str(tmp_path)!r}: step 2 can't be saved" in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["000001-step-1"]
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(1))
    save_checkpoint(tmp_path, 2, state(2), {}, FINGERPRINT)
    assert_same(open_checkpoint(tmp_path, FINGERPRINT).arrays, state(2))


def save_more_than_may_be_written(directory, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    arrays = {str(i): np.ones(n) for i, n in enumerate([10, 10**5, 10**5])}
    try:
        save_checkpoint(directory, 2, arrays, {}, FINGERPRINT)
    except OSError as error:
        said.write_text(f"{error.errno} {error}")


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path, start):
    """The operating system refuses to write more: the case of a disk that fills while the save is under way."""
    directory, said = tmp_path / "runs", tmp_path / "said"
    save_checkpoint(directory, 1, state(1), {}, FINGERPRINT)
    start(save_more_than_may_be_written, directory, said).join()
    assert said.read_text().startswith(f"{errno.EFBIG} ")
    assert f"step 2 can't be saved: {os.strerror(errno.EFBIG)}; the checkpoint before it is intact" in said.read_text()
    assert [path.name for path in directory.iterdir()] == ["000001-step-1"]
    assert_same(open_checkpoint(directory, FINGERPRINT).arrays, state(1))


# --- Its place in a program ------------------------------------------------------------------------------------------


def save_as_one_of_two(me, port, directory, said):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, me)
    try:
        for step in range(3):
            save_checkpoint(directory, step, state(step), {}, FINGERPRINT)
        assert_same(open_checkpoint(directory, FINGERPRINT).arrays, state(2))
        said.write_text("saved")
    except ValueError as error:
        said.write_text(str(error))
    jax.distributed.shutdown()


@pytest.mark.slow
def test_process_0_of_two_saves_without_the_other(tmp_path, start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(save_as_one_of_two, me, port, tmp_path / "runs", tmp_path / f"{me}") for me in (0, 1)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert (tmp_path / "0").read_text() == "saved"
    assert (tmp_path / "1").read_text() == "process 1 can't save a checkpoint, process 0 must"
    assert_same(open_checkpoint(tmp_path / "runs", FINGERPRINT).arrays, state(2))


def test_without_orbax_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ValueError, match=r'pip install "jaxbackprop\[checkpoint\]"'):
        open_checkpoint(tmp_path / "runs", FINGERPRINT)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_orbax_is_imported_only_for_a_checkpoint():
    check = "import sys, jaxbackprop.sweeps.checkpoint; sys.exit(any(name.startswith('orbax') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
