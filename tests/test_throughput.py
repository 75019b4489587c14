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


@pytest.fixture
def pack(monkeypatch):
    """`pack.py`, as a module, where there is PyTorch."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module("pack")


def test_a_pack_in_pytorch_trains_the_same_networks(pack):
    small = pack.make_pack(3, 300, (2, 9))
    assert pack.torch_pack(small, 3)().loss == pytest.approx(pack.swept_pack(small, 3)().loss, abs=1e-5)
    assert pack.torch_pack(small, 2)().loss > pack.torch_pack(small, 3)().loss + 1e-4


def test_a_pack_of_other_work_is_refused(pack, monkeypatch):
    small, swept = pack.make_pack(3, 300, (2, 9)), pack.swept_pack
    monkeypatch.setattr(pack, "swept_pack", lambda given, epochs: swept(given, epochs + 1))
    with pytest.raises(ValueError, match="the pack in PyTorch ends at the loss"):
        pack.check_pack(small)


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang"))), reason="no C compiler")


@pytest.fixture
def c(scripts, tmp_path):
    """The C program."""
    program = scripts[1].c_program(tmp_path)
    if program is None:
        pytest.skip("the C compiler has no OpenMP")
    return program


@needs_compiler
@pytest.mark.parametrize("hidden", [1, 3, 32])
def test_the_c_program_trains_the_same_networks(scripts, c, hidden):
    _, peers = scripts
    task = peers.make_task(4, hidden)
    assert c(task, 30)().loss == pytest.approx(peers.numpy_loop(task, 30)().loss, abs=1e-6)
    assert peers.check_c(c, hidden) < 1e-5


@needs_compiler
def test_a_c_program_of_other_work_is_refused(scripts, c):
    _, peers = scripts
    with pytest.raises(ValueError, match="ends at the loss"):
        peers.check_c(lambda task, steps: c(task, steps - 1), 3)


def test_without_a_compiler_it_says_so(scripts, tmp_path, monkeypatch, capsys):
    _, peers = scripts
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert peers.c_program(tmp_path) is None
    assert "no C compiler here" in capsys.readouterr().out
