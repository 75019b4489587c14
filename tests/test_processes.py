"""Two processes that train together: every feature of a sweep, every process with the same result, and none that waits
for another that has given up."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "sweep_program.py"
TIMEOUT = 100  # of a pair of processes; some tests start two pairs
pytestmark = pytest.mark.timeout(300)


def start(out, environment=None, **options):
    arguments = [f"{key}={value}" for key, value in options.items()]
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(out), *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(processes):
    """The output and exit status of each; a process that does not end is killed, and fails the test."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=20)
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def finish(*processes):
    for status, output in end(processes):
        assert status == 0, output


def start_two(tmp_path, name="two", each=lambda k: {}, **options):
    """Both processes, with results in NAME0.npz and NAME1.npz."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        start(tmp_path / f"{name}{k}.npz", told | {"JAX_PROCESS_ID": str(k)}, each=1, **options, **each(k))
        for k in (0, 1)
    ]


def assert_same(one, other, tolerance):
    a, b = np.load(one), np.load(other)
    assert sorted(a.files) == sorted(b.files)
    for name in a.files:
        if name != "devices":
            np.testing.assert_allclose(a[name], b[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The result of one process for some options, trained once."""
    directory, known = tmp_path_factory.mktemp("alone"), {}

    def train(**options):
        name = "_".join(f"{key}{value}" for key, value in options.items()) or "plain"
        if name not in known:
            known[name] = directory / f"{name}.npz"
            finish(start(known[name], **options))
        return known[name]

    return train


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(tmp_path, alone):
    finish(start(tmp_path / "eight.npz", devices=8))
    assert np.load(tmp_path / "eight.npz")["devices"] == 8
    assert_same(alone(), tmp_path / "eight.npz", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"patience": 2}, {"halving": 2}, {"patience": 1, "halving": 2}, {"prune": 1}, {"waves": 1}], ids=str
)
def test_two_processes_give_the_numbers_of_one_each(tmp_path, alone, options):
    finish(*start_two(tmp_path, **options))
    assert np.load(tmp_path / "two0.npz")["devices"] == 2
    assert_same(tmp_path / "two0.npz", tmp_path / "two1.npz", 0)
    assert_same(alone(**options), tmp_path / "two0.npz", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"patience": 2, "halving": 2, "waves": 1}, {"prune": 1}], ids=str)
def test_two_processes_resume_after_a_kill(tmp_path, alone, options):
    saved = tmp_path / "runs"
    both = start_two(tmp_path, "killed", checkpoint=saved, slow=0.2, **options)
    deadline = time.monotonic() + 60
    while not (saved / "sweep.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    for process in both:
        process.kill()
        process.communicate(timeout=20)
    finish(*start_two(tmp_path, "resumed", checkpoint=saved, **options))
    assert_same(tmp_path / "resumed0.npz", tmp_path / "resumed1.npz", 0)
    assert_same(alone(**options), tmp_path / "resumed0.npz", 1e-6)
    finish(start(tmp_path / "one.npz", checkpoint=saved, **options))  # and by one process after two
    assert_same(tmp_path / "resumed0.npz", tmp_path / "one.npz", 0)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_ctrl_c_in_either_process_ends_both_and_they_resume(tmp_path, alone, who):
    saved = tmp_path / "runs"
    finish(*start_two(tmp_path, "stopped", checkpoint=saved, each=lambda k: {"interrupt": 3} if k == who else {}))
    assert_same(tmp_path / "stopped0.npz", tmp_path / "stopped1.npz", 0)
    assert np.load(tmp_path / "stopped0.npz")["finished"].sum() < len(np.load(tmp_path / "stopped0.npz")["finished"])
    finish(*start_two(tmp_path, "resumed", checkpoint=saved))
    assert_same(alone(), tmp_path / "resumed0.npz", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["damaged", "foreign", "in use"])
def test_a_refusal_is_raised_in_both(tmp_path, cause):
    saved = tmp_path / "runs"
    saved.mkdir()
    waiting = []
    if cause == "damaged":
        (saved / "sweep.safetensors").write_bytes(b"nothing")
    elif cause == "foreign":
        finish(start(tmp_path / "other.npz", checkpoint=saved, epochs=20))
    else:
        waiting = [start(tmp_path / "other.npz", checkpoint=saved, slow=5)]
        deadline = time.monotonic() + 60
        while not (saved / "sweep.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        for status, output in end(start_two(tmp_path, checkpoint=saved)):
            assert status == 1
            text = {"damaged": "is damaged", "foreign": "belongs to another sweep", "in use": "is in use by"}[cause]
            assert f"ValueError: checkpoint='{saved}' {text}" in output
    finally:
        for process in waiting:
            process.kill()
            process.communicate(timeout=20)


@pytest.mark.slow
def test_estimators_and_searches_end_alike_in_both(tmp_path, alone):
    finish(*start_two(tmp_path, estimators=1))
    assert_same(tmp_path / "two0.npz", tmp_path / "two1.npz", 0)
    assert_same(alone(estimators=1), tmp_path / "two0.npz", 1e-5)


@pytest.mark.slow
def test_searches_by_lbfgs_end_alike_on_two_devices_and_in_two_processes(tmp_path, alone):
    finish(start(tmp_path / "devices.npz", lbfgs=1, devices=2))
    finish(*start_two(tmp_path, lbfgs=1))
    assert np.load(tmp_path / "devices.npz")["devices"] == np.load(tmp_path / "two0.npz")["devices"] == 2
    assert_same(tmp_path / "two0.npz", tmp_path / "two1.npz", 0)
    assert_same(alone(lbfgs=1), tmp_path / "devices.npz", 1e-8)
    assert_same(alone(lbfgs=1), tmp_path / "two0.npz", 1e-8)


def test_alone_there_is_nobody_to_join():
    code = "import jaxbackprop as jb; assert jb.join_hosts() == 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr


def test_an_address_alone_is_handed_to_jax(monkeypatch):
    """Slurm and its like tell the number of processes by variables of their own."""
    import jax

    import jaxbackprop as jb

    seen = {}
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: seen.update(given))
    assert jb.join_hosts() == jax.process_count()
    assert seen == {}
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    jb.join_hosts()
    assert seen == {"num_processes": 2, "process_id": 1}
