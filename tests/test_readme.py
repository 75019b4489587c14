"""The README's Python runs as it stands, and the files it shows exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", TEXT))))
def test_its_python_runs(number, tmp_path):
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[number]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_it_shows_what_its_audit_prints(tmp_path):
    code, shown = re.search(r"```python\n([^`]*print\(audit\([^`]*)```\n\n```text\n(.*?)```", TEXT, re.DOTALL).groups()
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    # The last digits of what is right are rounding, which differs between machines.
    rounding = re.compile(r"\d\.\de-1\d")
    assert rounding.sub("tiny", run.stdout) == rounding.sub("tiny", shown)


def test_its_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_it_names_every_experiment():
    for script in (ROOT / "experiments").glob("*.py"):
        assert f"`{script.name}`" in TEXT
