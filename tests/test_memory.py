"""No more memory than was planned."""

import subprocess
import sys
from pathlib import Path

import pytest

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
