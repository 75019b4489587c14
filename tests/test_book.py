"""The book: its Python runs, its links lead somewhere, and it is readable in a browser."""

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from test_pages import browser as browser
from test_pages import visit

import jaxbackprop
from jaxbackprop import estimators

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "tests" / "book"
CHAPTERS = sorted(BOOK.glob("*.md"))
QUESTIONS = {
    "How do I sweep my own activation?": "sweep-your-own-activation",
    "Why does my homework's gradient come out N times too large?": "why-is-my-gradient-n-times-too-large",
    "How do I resume a sweep on another machine?": "resume-a-sweep-on-another-machine",
    "What exactly differs from `MLPClassifier`?": "what-exactly-differs-from-mlpclassifier",
    "How do I use eight GPUs?": "use-eight-gpus",
}
RUN_EACH = """
import re, sys
from pathlib import Path
for code in re.findall(r"```python\\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.DOTALL):
    exec(compile(code, sys.argv[1], "exec"), {"__name__": "example"})
"""


class Links(HTMLParser):
    """Where a page leads, what it loads, and the places in it that can be led to."""

    def __init__(self, text):
        super().__init__()
        self.leads, self.loads, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key == "id" or (tag == "a" and key == "name"):
                self.places.add(value)
            elif key in ("href", "src"):
                (self.leads if tag == "a" else self.loads).append(value)

    handle_startendtag = handle_starttag


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, made as `nox -s docs` makes it."""
    out = tmp_path_factory.mktemp("book") / "site"
    command = [sys.executable, BOOK / "make_book.py", out]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture
def tables(monkeypatch):
    """`tables.py`, as a module."""
    monkeypatch.syspath_prepend(BOOK)
    return importlib.import_module("tables")


@functools.cache
def links_of(path):
    return Links(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=[chapter.stem for chapter in CHAPTERS])
def test_its_python_runs(chapter, tmp_path):
    command = [sys.executable, "-W", "error", "-c", RUN_EACH, chapter]
    environment = {"MPLBACKEND": "agg", **os.environ}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert run.returncode == 0, run.stderr


def test_every_public_name_has_an_example():
    text = (BOOK / "examples.md").read_text(encoding="utf-8")
    shown = {name for heading in re.findall(r"^## (.+)$", text, re.MULTILINE) for name in heading.split(", ")}
    public = {name for name in jaxbackprop.__all__ if not name.startswith("__")}
    public |= {
        f"estimators.{name}" for name, value in vars(estimators).items() if name[0] != "_" and not ismodule(value)
    }
    assert public - shown == set()


def test_the_readme_answers_its_questions():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= 180
    for question, anchor in QUESTIONS.items():
        page = re.search(rf"\| {re.escape(question)} \| \[.*?\]\((.*?)#{re.escape(anchor)}\) \|", readme)
        assert page is not None, question
        headings = re.findall(r"^#+ (.*)$", (ROOT / page[1]).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_measured_tables_come_from_results(tables, tmp_path, monkeypatch):
    programs = {"sweep": {"network_steps_per_second": 3e6, "of_c": 0.75}, "sweep, adam": {}}
    numbers = {
        "hardware": {"cpu": "a processor", "cores": 2, "jax": "1", "numpy": "2", "python": "3"},
        "peers": {"3": programs, "32": programs},
        "adam_cost": {"3": 1.2, "32": 1.1},
        "digits_gflops": {"training": 250.0, "NumPy, 1024 x 1024": 400.0, "jnp.matmul, 1024 x 1024": 500.0},
        "ten_activations": {
            "network_steps_per_second": 5e5, "programs": 3, "waste": 0.24, "seconds_with_compiling": 7.4
        },
        "microseconds_per_network_step": {"1000": 0.5, "100000": 0.6},
    }  # fmt: skip
    (tmp_path / "throughput.json").write_text(json.dumps(numbers))
    row = {"network_steps_per_second": 1234.5, "sweep_over_it": 2.5, "of_matrix_product": 0.125}
    (tmp_path / "pack.json").write_text(json.dumps({"programs": {"PyTorch bmm": row, "PyTorch bmm, one core": row}}))
    head = 'data,candidates,timed,scikit-learn / s,ours / s,ratio,second call / s,"ratio, second",scikit-learn\'s best'
    (tmp_path / "versus_sklearn.csv").write_text(f"{head},our best\niris,144,10,8.2,3.1,2.7,0.4,20,0.97,0.98\n")
    judged = "data,model,fold,score,loss,calibration error\n"
    for model, loss in (("ensemble", 0.2), ("best candidate", 0.3)):
        judged += f"wine,{model},0,0.9,{loss},\nwine,{model},1,0.9,{loss + 0.2},\n"
    (tmp_path / "ensemble_accuracy_folds.csv").write_text(judged)
    for name in ("README", "HERE", "SPEED"):
        copied = tmp_path / getattr(tables, name).name
        monkeypatch.setattr(tables, name, tmp_path if name == "HERE" else copied)
    for source in (
        ROOT / "README.md",
        *(BOOK / f"{name}.md" for name in ("speed", "drop_in", "derivation", "ensembles")),
    ):
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(tables, "errata", lambda: "| none |")
    tables.refresh(tmp_path)
    speed = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert (
        "| `jaxbackprop.sweep`, from the grid to the table | 3,000,000 | 0.75 |" in (tmp_path / "README.md").read_text()
    )
    assert "250 / 500 GFLOP/s = 0.50" in speed
    assert "Measured on 2 cores of a processor" in speed
    assert "| PyTorch, `baddbmm` and autograd | one core | 1,230 | 2.5 | 0.12 |" in speed
    assert "| iris | 144 | 8.2 (10 timed) | 3.1 | 2.7 | 0.4 | 0.97, 0.98 |" in (tmp_path / "drop_in.md").read_text()
    # The mean of 0.2 and 0.4, and half of their distance: the standard deviation 0.1414 by the root of 2.
    assert "| wine | 2 | 0.400 ± 0.100 | **0.300 ± 0.100** | - | - | - |" in (tmp_path / "ensembles.md").read_text()
    with pytest.raises(ValueError, match="no place for the table"):
        tables.replace(tmp_path / "speed.md", "nothing", "")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(site):
    dead = []
    for page in sorted(site.rglob("*.html")):
        found = links_of(page)
        assert not [address for address in found.loads if "://" in address], page
        for address in (*found.leads, *found.loads):
            if "://" in address or address.startswith("data:"):
                continue
            path, anchor = urldefrag(unquote(address))
            target = (page.parent / path).resolve() if path else page
            if not target.is_file() or (anchor and anchor not in links_of(target).places):
                dead.append(f"{page.relative_to(site)}: {address}")
    assert dead == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_everything_public_is_there(site):
    places = links_of(site / "jaxbackprop.html").places
    assert {name for name in jaxbackprop.__all__ if not name.startswith("__")} <= places
    derivation = (site / "derivation.html").read_text(encoding="utf-8")
    line = re.search(r'href="(jaxbackprop/backprop.html)#(delta-(\d+))">line \3<', derivation)
    shown = (ROOT / "jaxbackprop" / "backprop.py").read_text().splitlines()[int(line[3]) - 1]
    assert shown == "def delta("
    assert 'class="line"' not in (site / "speed.html").read_text(encoding="utf-8")  # where `sweep` is a row's name
    assert derivation.count("<math") > 12
    assert "e<sup>z<sub>j</sub></sup>" in derivation
    assert "Alias for field" not in (site / "jaxbackprop/network.html").read_text(encoding="utf-8")
    assert "$" not in re.sub(r"<(pre|script).*?</\1>", "", derivation, flags=re.DOTALL)
    gallery = (site / "experiments.html").read_text(encoding="utf-8")
    for script in (ROOT / "experiments").glob("*.py"):
        assert f'id="{script.name}"' in gallery
    for figure in (ROOT / "experiments" / "figures").glob("*.png"):
        assert f'src="figures/{figure.name}"' in gallery


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_its_pages_in_the_browser(browser, site, width, scheme):
    for page in sorted(site.rglob("*.html")):
        visit(browser, page, width, scheme)
        contrast = browser.execute_script(CONTRAST)
        assert min(contrast) > 4.5, (page, contrast)
        if width == 1400:
            assert browser.execute_script(CUT_CODE) == [], page


# What of the code is not seen without scrolling to the side.
CUT_CODE = """
return [...document.querySelectorAll("main pre")]
    .filter(code => code.offsetParent && !code.closest("details") && code.scrollWidth > code.clientWidth + 1)
    .map(code => code.innerText.slice(0, 80));
"""

# The contrast of text and background, as WCAG 2 counts it: of the page, its first link, and its first inline code.
CONTRAST = """
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const light = color => {
    const linear = c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
    for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor;
        if ((numbers(color)[3] ?? 1) > 0.5) return color;
    }
    return "rgb(255, 255, 255)";
};
return ["main", "main a[href]", "main p code", "main pre", "nav a"].map(s => document.querySelector(s)).filter(e => e)
    .map(element => {
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    });
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_line_of_the_equations_opens_its_source(browser, site):
    visit(browser, site / "derivation.html")
    line = browser.find_element("css selector", 'a.line[href*="backprop.html#delta-"]')
    anchor = line.get_attribute("href").partition("#")[2]
    browser.execute_script("arguments[0].click()", line)
    shown = browser.find_element("id", anchor)
    assert shown.is_displayed()
    assert "def delta(" in shown.text


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_reference_can_be_searched(browser, site):
    visit(browser, site / "index.html")
    box = browser.find_element("css selector", "nav input[type=search]")
    box.click()
    box.send_keys("softmax_jacobian")
    from selenium.webdriver.support.ui import WebDriverWait

    found = "section.search-result a"
    WebDriverWait(browser, 30).until(lambda b: b.find_elements("css selector", found))
    assert "backprop.softmax_jacobian" in browser.find_element("css selector", found).text
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
