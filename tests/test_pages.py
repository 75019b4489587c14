"""Pages to look at: whole, self-contained, escaped, small; and in a real browser, where there is one."""

import json
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest

import jaxbackprop as jb
from jaxbackprop import pages
from jaxbackprop.activations import ACTIVATIONS, Activation
from jaxbackprop.auditing.command import main
from jaxbackprop.auditing.drawing import find_pairs, verdicts_of
from jaxbackprop.auditing.formulas import formulas_of, term_of
from jaxbackprop.auditing.mistakes.backward_steps import NETWORK_HYPOTHESES
from jaxbackprop.auditing.report import Finding, Report, StageFinding, StageReport
from jaxbackprop.auditing.summary import NetworkReport, Outcome
from jaxbackprop.sweeps.sweep_page import by_loss, planes_of

pytestmark = pytest.mark.usefixtures("as_users_run_it")

MOST_BYTES = 6_000_000
EVIL = "</script><script>document.title='broken in'</script><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "br", "rect", "path", "line"}


class Outline(HTMLParser):
    """Tags opened and closed, and the addresses that a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loaded, self.shown = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for key, value in attributes if key in ("src", "href") and not value.startswith("data:")]
        if tag not in VOID or tag in ("path", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown.append(data)


def outline(path):
    """The page's outline, once it is held to be whole and self-contained."""
    content = path.read_text(encoding="utf-8")
    assert len(content.encode()) < MOST_BYTES
    assert content.startswith("<!doctype html>")
    assert content.endswith("</html>\n")
    parsed = Outline()
    parsed.feed(content)
    parsed.close()
    assert parsed.open == []
    assert parsed.loaded == []
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", content.replace("http-equiv", ""))
    return parsed


def gradient_report(name="W1", size=(4, 3)):
    rng = np.random.default_rng(0)
    right = rng.normal(size=size)
    wrong = Finding(name, size, 1.0, False, "slope_missing", f"{name} lacks f'(z^1)", 1.0, 2 * right, right)
    bias = rng.normal(size=size[:1])
    return Report(
        (
            wrong,
            Finding("b1", size[:1], 1.0, False, "slope_missing", f"{name} lacks f'(z^1)", 1.0, -bias, bias),
            Finding("W2", (2, size[0]), 0.0, True, None, "", None, np.eye(2, size[0]), np.eye(2, size[0])),
            Finding("b2", (2,), np.inf, False, "shape", "of the wrong shape"),
        ),
        "jax.grad",
        4,
    )


@pytest.fixture(scope="module")
def result():
    """A sweep over two features, one of whose activations has a name that would break out."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = np.where(X[:, 0] * X[:, 1] > 0, EVIL, "plain")
    own = Activation(EVIL, ACTIVATIONS["tanh"].value, ACTIVATIONS["tanh"].slope)
    grid = {"activation": [own, "relu"], "hidden": [(3,), (4, 3)], "learning_rate": [0.01, 0.1, 1.0], "seed": [0, 1]}
    return jb.sweep(grid, X, y, epochs=12, progress=False), X, y


def test_the_page_of_an_audit(tmp_path):
    path = gradient_report().save_html(tmp_path / "new" / "report.html")
    parsed = outline(path)
    assert path == tmp_path / "new" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]  # and no partial one beside it
    said = "".join(parsed.shown)
    assert "The gradient is wrong in 3 of 4 leaves." in said
    assert parsed.tags.count("math") == 2  # delta^2 for the slope, dL/db^2 for the shape
    assert parsed.tags.count("svg") == 2 + 3 * 4  # two drawings; three maps and a scale for the leaves with arrays


def test_the_line_of_the_file_is_shown_where_it_is_known(tmp_path):
    report = gradient_report()
    object.__setattr__(report.findings[0], "line", "homework.py, line 12: dW1 = X.T @ <d2>")
    parsed = outline(report.save_html(tmp_path / "report.html"))
    assert "homework.py, line 12: dW1 = X.T @ <d2>" in parsed.shown
    assert parsed.tags.count("pre") == 1


def test_names_of_users_stay_text(tmp_path, result):
    audited = outline(gradient_report(EVIL).save_html(tmp_path / "report.html"))
    assert audited.tags.count("script") == 0
    swept = outline(result[0].save_html(tmp_path / "sweep.html", result[1], result[2]))
    assert swept.tags.count("script") == 2
    assert "img" not in audited.tags + swept.tags
    assert json.loads(pages.embedded({"a": EVIL + "\u2028"})) == {"a": EVIL + "\u2028"}
    assert "<" not in pages.embedded(EVIL)
    with pytest.raises(ValueError, match="JSON"):
        pages.embedded(np.nan)
    assert pages.text('"<&') == "&quot;&lt;&amp;"
    assert pages.prose("<z^1> and (W^2)^T") == "&lt;z<sup>1</sup>&gt; and (W<sup>2</sup>)<sup>T</sup>"


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        gradient_report().save_html(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_other_reports_have_pages(tmp_path):
    stages = StageReport(
        (StageFinding("z1", (5, 3), 0.0, "right", ""), StageFinding("delta2", (5, 3), 1.0, "wrong", "no f'")), 3
    )
    assert "The first wrong stage is delta2." in "".join(outline(stages.save_html(tmp_path / "stages.html")).shown)
    case = {"activation": "tanh", "layers": 2, "samples": 5, "classes": 2, "width": 3}
    outcomes = Outcome(case, gradient_report(), None), Outcome({**case, "layers": 3}, None, f"ValueError: {EVIL}")
    parsed = outline(NetworkReport(outcomes).save_html(tmp_path / "networks.html"))
    assert "script" not in parsed.tags


def test_the_command_writes_a_page(tmp_path, capsys):
    homework = tmp_path / "homework.py"
    homework.write_text(
        "import numpy as np\ndef gradient(W1, b1, W2, b2, X, y):\n    a1 = np.tanh(X @ W1 + b1)\n"
        "    e = np.exp(a1 @ W2 + b2)\n    d3 = e / e.sum(1, keepdims=True)\n    d3[np.arange(len(X)), y] -= 1\n"
        "    d3 /= len(X)\n    d2 = d3 @ W2.T\n    return X.T @ d2, d2.sum(0, keepdims=True), a1.T @ d3, d3.sum(0)\n"
    )
    assert main(str(homework), html=tmp_path / "page.html") == 1
    said = "".join(outline(tmp_path / "page.html").shown)
    assert "gradient(W1, b1, W2, b2, X, y) of homework.py" in said
    assert "slope_missing" in said


def test_large_and_strange_matrices(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.normal(size=(300, 500))
    got = right.copy()
    got[123, 321], got[0, 0] = 99.0, np.nan
    cells, steps = pages.as_blocks(got)
    assert steps == (7, 11)
    assert np.nanmax(cells) == 99.0  # a single wrong entry is not lost
    assert np.isnan(cells[0, 0])
    scalar = Finding("scale", (), 1.0, False, None, "", None, np.array(2.0), np.array(1.0))
    empty = Finding("none", (0, 3), 0.0, True, None, "", None, np.zeros((0, 3)), np.zeros((0, 3)))
    kernel = Finding("kernel", (2, 2, 3), 0.0, True, None, "", None, np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))
    leaf = Finding("W", got.shape, 1.0, False, None, "unknown", None, got, right)
    outline(Report((leaf, scalar, empty, kernel), "jax.grad", 1).save_html(tmp_path / "large.html"))
    assert pages.decimals_of(0.0587) == (4, 0)
    assert pages.decimals_of(3e-7) == (2, -7)


def test_what_the_drawing_tells():
    report = gradient_report()
    pairs = find_pairs(report.findings)
    known = verdicts_of(pairs)
    assert (known["delta1"], known["dW1"], known["delta2"], known["db2"]) == ("wrong", "consequence", "right", "wrong")
    told = verdicts_of(
        pairs, [StageFinding("delta3", (), 0.0, "wrong", ""), StageFinding("y_hat", (), 0.0, "right", "")]
    )
    assert (told["delta2"], told["a2"]) == ("wrong", "right")  # delta^3 is the error at z^2
    assert find_pairs(report.findings[:1]) is None
    assert find_pairs([Finding("a", (2, 3), 0.0, True), Finding("b", (5,), 0.0, True)]) is None


def test_every_mistake_of_a_network_lights_up_a_term():
    for code in {hypothesis.code for hypothesis in NETWORK_HYPOTHESES}:
        assert term_of(code), code
        (first, *_) = formulas_of([("W", 1), ("b", 1)], 2, code)
        assert 'class="hit"' in first, code
    assert term_of(None) == ""


def test_a_sweep_of_a_thousand_trials_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    grid = {"hidden": [(3,)], "learning_rate": np.geomspace(1e-3, 1e4, 100).tolist(), "seed": list(range(10))}
    result = jb.sweep(grid, X, X[:, 0] > 0, epochs=100, record_every=1, progress=False)
    started = time.perf_counter()
    path = result.save_html(tmp_path / "sweep.html", X, X[:, 0] > 0)
    assert time.perf_counter() - started < 20
    outline(path)
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "options",
    [
        {"validation": None},
        {"folds": 3},
        {"objective": "squared", "y": "numbers"},
        {"objective": "sigmoid", "y": "labels"},
        {"grid": {"learning_rate": [1e8], "optimizer": ["sgd"]}},
        {"grid": {}},
    ],
    ids=str,
)
def test_pages_of_all_kinds_of_sweeps(tmp_path, options):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    kinds = {"numbers": X[:, 0] * 2, "labels": (X > 0).astype(int)}
    options = dict(options)
    grid, y = options.pop("grid", {"learning_rate": [0.01, 0.1]}), kinds.get(options.pop("y", ""), X[:, 0] > 0)
    result = jb.sweep(grid, X, y, epochs=4, progress=False, **options)
    outline(result.save_html(tmp_path / "sweep.html", X, y if y.ndim == 1 else None))
    outline(result.save_html(tmp_path / "sweep.html"))


def test_samples_and_labels_belong_together(tmp_path, result):
    with pytest.raises(ValueError, match=r"y has the shape \(3,\) where X has 80 samples"):
        result[0].save_html(tmp_path / "sweep.html", result[1], result[2][:3])
    assert not (tmp_path / "sweep.html").exists()


def test_a_sample_has_the_colour_of_its_class_in_the_plane():
    """Also where the samples that are shown are of some classes alone."""
    rng = np.random.default_rng(0)
    names = np.array(["high", "low", "middle"])[np.arange(60) % 3]
    X = rng.normal(size=(60, 2))
    for y in (names, names == "low"):
        result = jb.sweep({}, X, y, epochs=2, progress=False)
        some = y == y[1]
        plane = planes_of(result, by_loss(result), X[some], y[some])
        assert plane["kinds"] == list(map(str, result.classes))
        assert {plane["kinds"][kind] for kind in plane["kind"]} == {str(y[1])}
    labels = (X[:, :1] > 0).astype(int)
    result = jb.sweep({}, X, labels, epochs=2, progress=False)
    assert planes_of(result, by_loss(result), X[labels[:, 0] == 1], np.ones(labels.sum(), int))["kind"][0] == 1


def test_what_is_no_class_has_no_plane():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    for y, objective in ((rng.poisson(2, 40), "poisson"), ((X > 0).astype(int), "sigmoid"), (X[:, 0], "squared")):
        result = jb.sweep({}, X, y, epochs=2, objective=objective, progress=False)
        assert planes_of(result, by_loss(result), X, None) is None
        assert planes_of(result, by_loss(result), X, y) is None


# In the browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window, a new profile, and no network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for name in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage",
                 "disable-background-networking", "disable-component-update", "disable-sync"):  # fmt: skip
        options.add_argument(f"--{name}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    opened.set_page_load_timeout(60)
    yield opened
    opened.quit()


def visit(browser, path, width=1400, scheme="light"):
    """Open a page; it must not complain, and not be wider than the window."""
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title != "broken in"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def texts_off_their_drawing(browser):
    """Texts of drawings that reach beyond the drawing's edge."""
    return browser.execute_script("""
        return [...document.querySelectorAll("svg text")].filter(text => {
            const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
            return own.width > 0 && (own.left < all.left - 2 || own.right > all.right + 2
                || own.top < all.top - 2 || own.bottom > all.bottom + 2);
        }).map(text => text.textContent);""")


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_audit_in_the_browser(browser, tmp_path, width, scheme):
    visit(browser, gradient_report(EVIL).save_html(tmp_path / "report.html"), width, scheme)
    assert texts_off_their_drawing(browser) == []
    drawings = browser.find_elements("css selector", "svg.network")
    assert [drawing.is_displayed() for drawing in drawings] == [width == 1400, width == 390]
    assert EVIL in browser.find_element("tag name", "body").text
    wide = browser.execute_script("return document.querySelector('math').getBoundingClientRect().width")
    assert 60 < wide < width  # typeset, and not a stack of letters
    folded = browser.find_element("css selector", "details.leaf.right")
    assert folded.get_attribute("open") is None
    folded.find_element("tag name", "summary").click()
    assert folded.find_element("css selector", "svg.cells").is_displayed()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_sweep_in_the_browser(browser, tmp_path, result, width, scheme):
    swept, X, y = result
    visit(browser, swept.save_html(tmp_path / "sweep.html", X, y), width, scheme)
    assert texts_off_their_drawing(browser) == []

    def chosen():
        return int(browser.execute_script("return document.body.dataset.chosen"))

    def order():
        rows = "document.querySelectorAll('tbody tr')"
        return browser.execute_script(f"return [...{rows}].map(row => Number(row.dataset.trial))")

    def drawn():
        return browser.execute_script("""return [
            document.querySelector("#parallel .line.chosen").getAttribute("d"),
            document.querySelector("#curves .line.chosen.dashed").getAttribute("d"),
            document.querySelector("#plane image").getAttribute("href")]""")

    assert chosen() == swept.best()
    assert order() == swept.table["validation_loss"].sort_values(kind="stable").index.tolist()
    heads = {head.text.strip(" ▲▼"): head for head in browser.find_elements("css selector", "th button")}
    click(browser, heads["train loss"])
    assert order() == swept.table["train_loss"].sort_values(kind="stable").index.tolist()
    click(browser, heads["train loss"])
    assert order()[0] == swept.table["train_loss"].idxmax()

    before = drawn()
    second = int(swept.table["validation_loss"].argsort().iloc[1])
    click(browser, browser.find_element("css selector", f"tr[data-trial='{second}']"))
    assert chosen() == second
    assert all(one != other for one, other in zip(before, drawn(), strict=True))
    assert f"trial {second}." in browser.find_element("id", "chosen").text
    assert len(browser.find_elements("css selector", "tr.chosen")) == 1

    # A click on a line chooses a trial too.
    for chart in ("parallel", "curves"):
        now = chosen()
        for share in (0.2, 0.5, 0.8):
            browser.execute_script(
                """const svg = document.querySelector(`#${arguments[0]} svg`), box = svg.getBoundingClientRect();
                svg.dispatchEvent(new MouseEvent("click", {bubbles: true, clientX: box.left + 0.45 * box.width,
                    clientY: box.top + arguments[1] * box.height}))""",
                chart,
                share,
            )
            if chosen() != now:
                break
        assert chosen() != now, chart
    assert browser.get_log("browser") == []


def test_a_page_is_redrawn_for_another_width(browser, tmp_path, result):
    path = result[0].save_html(tmp_path / "sweep.html", result[1], result[2])
    visit(browser, path, 1400)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    deadline = time.perf_counter() + 10
    wide = "return document.documentElement.scrollWidth"
    while browser.execute_script(wide) > 390 and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert browser.execute_script(wide) <= 390
    assert browser.get_log("browser") == []


def click(browser, element):
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', inline: 'center'}); arguments[0].click()", element
    )
