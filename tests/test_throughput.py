"""What the benchmark compares is the same work, counted right."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def scripts(monkeypatch):
    """`throughput.py` and `peers.py`, as modules."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module("throughput"), importlib.import_module("peers")


@pytest.mark.parametrize("name", ["vmapped_grad", "vmapped_fit"])
@pytest.mark.parametrize("hidden", [1, 5])
def test_programs_train_the_same_networks(scripts, name, hidden):
    _, peers = scripts
    task = peers.make_task(4, hidden)
    assert getattr(peers, name)(task, 30)().loss == pytest.approx(peers.numpy_loop(task, 30)().loss, abs=1e-6)


def test_some_networks_keep_their_own_settings(scripts):
    _, peers = scripts
    task, few = peers.make_task(9, 3), peers.some(peers.make_task(9, 3), 2)
    np.testing.assert_array_equal(few.learning_rates, task.learning_rates[[0, 8]])
    np.testing.assert_array_equal(few.W1, task.W1[[0, 8]])


def test_operations_of_a_step(scripts):
    throughput, _ = scripts
    # 5 samples, 4 features, 3 units, 2 outputs: forward 12 + 6 products, gradients as many, errors sent back 6
    assert throughput.training_flops((4, 3, 2), 5) == 5 * 2 * (18 + 18 + 6)


def test_labels_are_moved_apart_in_their_order(scripts):
    throughput, _ = scripts
    assert throughput.apart({"a": 10.0, "b": 11.0, "c": 100.0}, gap=2.0) == {"a": 10.0, "b": 20.0, "c": 100.0}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc compiles the C program")
def test_a_c_program_is_compiled_for_its_width(scripts, tmp_path):
    _, peers = scripts
    source = tmp_path / "told.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\nint main(int n, char **a) {\n"
        '  printf("{\\"seconds\\": %s, \\"mean_final_loss\\": %d}", a[2], 100 * H + atoi(a[1]));\n}\n'
    )
    outcome = peers.c_program(source, tmp_path)(peers.make_task(4, 3), 7)()
    assert outcome == peers.Outcome(7, 304)


def test_a_missing_c_program_is_refused(scripts, tmp_path):
    _, peers = scripts
    with pytest.raises(ValueError, match="is not a file"):
        peers.c_program(tmp_path / "nothing.c", tmp_path)
