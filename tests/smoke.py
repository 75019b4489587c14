"""Does an installed package work? `nox -s build` runs this with the Python that it was installed for, without pytest.

It imports the package, trains a small sweep, and audits two small files with the command that was installed.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

HOMEWORK = """
import numpy as np


def gradient(W1, b1, W2, b2, X, y):
    a1 = np.tanh(X @ W1 + b1)
    e = np.exp(a1 @ W2 + b2)
    delta3 = e / e.sum(axis=1, keepdims=True)
    delta3[np.arange(len(y)), y] -= 1
    delta3 /= len(y)
    delta2 = delta3 @ W2.T * (1 - a1**2)
    return X.T @ delta2, delta2.SUMMED(axis=0), a1.T @ delta3, delta3.sum(axis=0)
"""


def audited(folder: Path, summed: str) -> subprocess.CompletedProcess[str]:
    """What the installed command says of a homework whose bias gradient is a sum, or a mean."""
    file = folder / f"{summed}.py"
    file.write_text(HOMEWORK.replace("SUMMED", summed))
    command = Path(sys.executable).parent / "jaxbackprop"
    return subprocess.run([command, "audit", file], capture_output=True, text=True, check=False, timeout=300)


def main() -> None:
    """Raises `AssertionError` where something does not work."""
    import numpy as np

    import jaxbackprop as jb

    assert jb.__version__ == version("jaxbackprop")
    assert files("jaxbackprop").joinpath("py.typed").is_file()
    for name in jb.__all__:
        getattr(jb, name)

    X = np.random.default_rng(0).normal(size=(60, 2))
    grid = {"activation": ["tanh", "relu"], "hidden": [(3,), (4, 4)], "learning_rate": [0.1, 1.0]}
    result = jb.sweep(grid, X, X[:, 0] > 0, epochs=50, progress=False)
    assert len(result.table) == 8
    assert result.table["validation_loss"].notna().all()

    with tempfile.TemporaryDirectory() as folder:
        right, wrong = audited(Path(folder), "sum"), audited(Path(folder), "mean")
        assert right.returncode == 0, right.stdout + right.stderr
        assert wrong.returncode == 1, wrong.stdout + wrong.stderr
        assert "mean" in wrong.stdout, wrong.stdout
    print(f"jaxbackprop {jb.__version__} works: {Path(jb.__file__).parent}")


if __name__ == "__main__":
    main()
