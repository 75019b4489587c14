"""What the pages of scikit-learn's example gallery do with its networks runs with one import changed, and shows the
same: `gallery/` holds short scripts of our own that do what three of these pages do."""

import warnings
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot as plt

IMPORT = "from sklearn.neural_network import MLPClassifier"
OURS = "from jaxbackprop.estimators import BackpropClassifier as MLPClassifier"
SCRIPTS = sorted((Path(__file__).parent / "gallery").glob("*.py"))


def run(source):
    """What a script has computed, and how many axes its figure has."""
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these networks are stopped before they have converged
        exec(compile(source, "script", "exec"), names)
    axes = len(names["figure"].axes)
    plt.close("all")
    return names["scores"], names.get("losses", {}), axes


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_page_runs_with_one_import_changed(script, capsys):
    source = script.read_text()
    assert source.count(IMPORT) == 1
    with matplotlib.rc_context({"backend": "agg"}):
        ours, theirs = run(source.replace(IMPORT, OURS)), run(source)
    assert ours[2] == theirs[2]
    # Up to two samples of 40: the last digits differ, and the order in which samples are taken.
    assert ours[0] == pytest.approx(theirs[0], abs=2.1 / 40)
    assert ours[1] == pytest.approx(theirs[1], rel=0.1, abs=0.03)
    if script.stem == "filters":
        assert capsys.readouterr().out.count("Iteration 8, loss = ") == 2
