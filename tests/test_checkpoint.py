"""A checkpoint is whole and of this sweep, or refused with its reason; a kill at any moment loses no more than the last
save."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import jaxbackprop as jb
from jaxbackprop import data
from jaxbackprop.sweeps import checkpoint, host

MOONS = data.load("moons", samples=40)
GRID = {"hidden": [(2,), (3,)], "learning_rate": [0.1, 0.5]}


def sweep(directory, grid=None, *, X=MOONS.X, y=MOONS.y, epochs=20, **options):
    grid = GRID if grid is None else grid
    return jb.sweep(grid, X, y, epochs=epochs, progress=False, checkpoint=directory, **options)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The bytes of a finished sweep's checkpoint."""
    directory = tmp_path_factory.mktemp("runs")
    sweep(directory)
    return (directory / "sweep.safetensors").read_bytes()


def test_a_finished_sweep_is_not_trained_again(tmp_path, monkeypatch):
    first = sweep(tmp_path)
    monkeypatch.setattr(host, "make_program", None)  # whoever trained would call it
    again = sweep(tmp_path)
    assert again.table.equals(first.table)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["sweep.safetensors"]


SIGMOID = np.stack([MOONS.y, 1 - MOONS.y], axis=1)
OTHERS = {
    "grid": ("grid", {"grid": {"hidden": [(2,), (4,)], "learning_rate": [0.1, 0.5]}}),
    "data": ("data", {"X": MOONS.X + 1}),
    "epochs": ("epochs", {"epochs": 40}),
    "records": ("epochs", {"record_every": 7}),
    "halving": ("epochs", {"halving": 2}),
    "patience": ("early stopping", {"patience": 2}),
    "scheme": ("starts", {"scheme": "he"}),
    "folds": ("data", {"folds": 2}),
    "weights": ("data", {"weights": np.arange(1, 41)}),
    "shuffle_seed": ("data and order", {"shuffle_seed": 1}),
    "objective": ("objective", {"objective": "sigmoid"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_checkpoint_of_another_sweep_is_refused(tmp_path, name):
    part, change = OTHERS[name]
    y = SIGMOID if name == "objective" else MOONS.y
    before = {"y": y, **({"objective": "softmax"} if name == "objective" else {})}
    grid = change.pop("grid", GRID) if name == "grid" else GRID
    sweep(tmp_path, **before)
    with pytest.raises(ValueError, match=rf"belongs to another sweep, which differs in .*{part}"):
        sweep(tmp_path, grid, **{**before, **change})


def test_own_functions_of_one_name_are_told_apart(tmp_path):
    def swish(beta):
        import jax

        def value(z):
            return z * jax.nn.sigmoid(beta * z)

        def slope(z, a):
            s = jax.nn.sigmoid(beta * z)
            return s + beta * z * s * (1 - s)

        return jb.Activation("swish", value, slope)

    sweep(tmp_path, {"activation": [swish(1.0)]})
    sweep(tmp_path, {"activation": [swish(1.0)]})  # another object that computes the same
    with pytest.raises(ValueError, match="another sweep, which differs in grid;"):
        sweep(tmp_path, {"activation": [swish(2.0)]})


def test_own_functions_that_differ_far_from_zero_are_told_apart(tmp_path):
    def cut(top):
        slope = lambda z, a: ((a > 0) & (a < top)).astype(a.dtype)  # noqa: E731
        return jb.Activation("cut", lambda z: z.clip(0, top), slope, (0.0, top))

    def huber(delta):
        import optax

        return jb.Objective(
            "huber",
            predict=lambda z: z,
            per_sample=lambda z, y: optax.huber_loss(z, y, delta=delta).sum(axis=0),
            error=lambda z, y: (z - y).clip(-delta, delta),
        )

    sweep(tmp_path / "cut", {"activation": [cut(6.0)]})
    with pytest.raises(ValueError, match="another sweep, which differs in grid;"):
        sweep(tmp_path / "cut", {"activation": [cut(8.0)]})
    numbers = MOONS.X[:, 0] * 20
    sweep(tmp_path / "huber", y=numbers, objective=huber(5.0))
    with pytest.raises(ValueError, match="which differs in objective;"):
        sweep(tmp_path / "huber", y=numbers, objective=huber(10.0))


def test_a_function_that_rounds_otherwise_as_on_another_machine_is_the_same(tmp_path):
    """Each kind of processor has its own last bits of exp and tanh; a sweep goes on on any of them."""

    def tanh(value):
        return jb.Activation("bend", value, lambda z, a: 1 - a * a, (-1.0, 1.0))

    def squared(per_sample):
        return jb.Objective("squares", lambda z: z, per_sample)

    one, other = tanh(jnp.tanh), tanh(lambda z: 1 - 2 / (jnp.exp(2 * z) + 1))
    sweep(tmp_path / "tanh", {"activation": [one]})
    sweep(tmp_path / "tanh", {"activation": [other]})
    numbers = MOONS.X[:, 0]
    sweep(tmp_path / "squares", y=numbers, objective=squared(lambda z, y: ((z - y) ** 2 / 2).sum(axis=0)))
    sweep(tmp_path / "squares", y=numbers, objective=squared(lambda z, y: (z * z / 2 - y * (z - y / 2)).sum(axis=0)))


@given(data=st.data())
@settings(max_examples=30)
def test_damage_to_any_byte_is_refused(tmp_path_factory, intact, data):
    directory = tmp_path_factory.mktemp("damaged")
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    # A part of the header is its own padding with blanks, which says nothing.
    place = data.draw(st.integers(0, len(intact) - 1).filter(lambda k: intact[k] != 0x20))
    if kind == "flip":
        changed = intact[:place] + bytes([intact[place] ^ 0x41]) + intact[place + 1 :]
    else:
        changed = intact[:place] + (b"x" + intact[place:] if kind == "insert" else b"")
    (directory / "sweep.safetensors").write_bytes(changed)
    with pytest.raises(ValueError, match=r"is damaged|belongs to another sweep|has format"):
        sweep(directory)
    assert (directory / "sweep.safetensors").read_bytes() == changed


def test_an_array_of_another_shape_is_damage(tmp_path, intact):
    path = tmp_path / "sweep.safetensors"
    path.write_bytes(intact)
    size = int.from_bytes(intact[:8], "little")
    about = json.loads(json.loads(intact[8 : 8 + size])["__metadata__"]["jaxbackprop"])
    arrays = load_file(path)
    arrays["epoch"] = arrays["epoch"][:2]
    about["arrays"]["epoch"] = checkpoint._digest(arrays["epoch"])
    save_file(arrays, path, metadata={"jaxbackprop": json.dumps(about)})
    with pytest.raises(ValueError, match=r"is damaged .*epoch is not as it was saved"):
        sweep(tmp_path)


def test_what_a_killed_save_left_is_cleared(tmp_path):
    left = tmp_path / ".sweep.safetensors.0123.partial"
    left.write_bytes(b"half")
    sweep(tmp_path)
    assert not left.exists()


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    sweep(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("directory", [5, True, "", ["runs"]])
def test_what_is_no_path_is_refused(directory, as_users_run_it):
    with pytest.raises(ValueError, match=r"checkpoint=.* must be the path of a directory"):
        sweep(directory)


def test_a_directory_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        sweep(tmp_path / "file" / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="choose another"):
        sweep(tmp_path)


def test_a_second_sweep_on_the_directory_is_refused_from_a_thread_and_from_a_process(tmp_path, monkeypatch):
    refused = []

    def other():
        try:
            sweep(tmp_path)
        except ValueError as error:
            refused.append(str(error))

    call = host._call

    def while_training(*args):
        if not refused:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(timeout=60)
            code = (
                "import jaxbackprop as jb; from jaxbackprop import data; m = data.load('moons', samples=40)\n"
                f"jb.sweep({GRID!r}, m.X, m.y, epochs=20, progress=False, checkpoint={str(tmp_path)!r})"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
            refused.append(done.stderr)
        return call(*args)

    monkeypatch.setattr(host, "_call", while_training)
    assert sweep(tmp_path).finished.all()
    assert len(refused) == 2
    assert all("is in use by another sweep" in text for text in refused)
    monkeypatch.undo()
    assert sweep(tmp_path).finished.all()  # and free again


def test_a_write_that_fails_keeps_the_checkpoint_before(tmp_path, monkeypatch, intact):
    (tmp_path / "sweep.safetensors").write_bytes(intact)

    def half(arrays, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.warns(RuntimeWarning, match="checkpoint not saved"):
        sweep(tmp_path)
    assert (tmp_path / "sweep.safetensors").read_bytes() == intact
    assert not list(tmp_path.glob("*.partial"))


def test_a_second_ctrl_c_while_saving_ends_the_call_and_keeps_the_checkpoint_before(tmp_path, monkeypatch, intact):
    (tmp_path / "sweep.safetensors").write_bytes(intact)

    def interrupted(arrays, path, metadata):
        Path(path).write_bytes(b"half")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path)
    assert (tmp_path / "sweep.safetensors").read_bytes() == intact
    assert not list(tmp_path.glob("*.partial"))


SAVER = """
import sys, numpy as np, jaxbackprop as jb
from jaxbackprop import data
moons = data.load("moons", samples=40)
print("ready", flush=True)
jb.sweep({"hidden": [(40, 40)], "seed": range(200)}, moons.X, moons.y, epochs=30_000, record_every=1, progress=False,
         checkpoint=sys.argv[1], checkpoint_every=0.0)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    generator = np.random.default_rng(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            deadline = time.monotonic() + 200
            while not (tmp_path / "sweep.safetensors").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(generator.uniform(0.1, 1.5))
        finally:
            child.kill()
            child.wait(timeout=20)
            child.stdout.close()
        content = (tmp_path / "sweep.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["jaxbackprop"])
        for name, array in load_file(tmp_path / "sweep.safetensors").items():
            assert checkpoint._digest(array) == about["arrays"][name]
