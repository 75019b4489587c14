"""The same numbers on any number of devices and processes, and no more memory than was planned."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "sweep_program.py"


def start(out, environment=None, **options):
    arguments = [f"{key}={value}" for key, value in options.items()]
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(out), *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, timeout=240):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def assert_same(one, other, tolerance):
    a, b = np.load(one), np.load(other)
    assert sorted(a.files) == sorted(b.files)
    for name in a.files:
        if name != "devices":
            np.testing.assert_allclose(a[name], b[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "one.npz"
    finish(start(out))
    return out


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(tmp_path, one_device):
    finish(start(tmp_path / "eight.npz", devices=8))
    assert np.load(tmp_path / "eight.npz")["devices"] == 8
    assert_same(one_device, tmp_path / "eight.npz", 1e-6)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path, one_device):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    both = [start(tmp_path / "two.npz", told | {"JAX_PROCESS_ID": str(k)}) for k in (0, 1)]
    for process in both:
        finish(process)
    assert np.load(tmp_path / "two.npz")["devices"] == 2
    assert_same(one_device, tmp_path / "two.npz", 1e-6)


MEMORY = """
import numpy as np, jaxbackprop as jb

def peak():  # of this process alone; what getrusage tells includes the parent's
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

jb.use_all_cores(2)
generator = np.random.default_rng(0)
X = generator.normal(size=(1000, 10)).astype(np.float32)
y = (X[:, 0] * X[:, 1] > 0).astype(int)
before = peak()
result = jb.sweep({"hidden": [(100,)], "seed": range(10_000)}, X, y, epochs=1, validation=None, progress=False)
after = peak()
assert np.isfinite(result.table["train_loss"]).all() and len(result.table) == 10_000
print(before * 1024, after * 1024, result.plan.memory)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak of memory")
def test_ten_thousand_networks_of_a_hundred_units_fit_in_two_gibibytes():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr
    before, after, planned = map(int, run.stdout.split())
    assert after < 2 * 2**30
    assert after - before < 4 * planned + 400 * 2**20  # the compiler itself takes a few hundred MiB
