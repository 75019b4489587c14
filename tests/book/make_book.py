"""The book, a static site: README, the chapters beside this file, the reference from the docstrings, the experiments.

`nox -s docs` runs it. It stands with the tests, because it is made of what they hold true: the chapters' Python and the
examples of the reference run as tests, the errata are the table of `test_errata.py`, and the site is clicked through in
a browser (`test_book.py`). Nothing of it is loaded from elsewhere: formulas are MathML, and every page is a file.
"""

import argparse
import ast
import os
import re
import shutil
import struct
import sys
from html import escape
from pathlib import Path
from urllib.parse import urldefrag

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import pdoc.render  # noqa: E402
import reference_pages  # noqa: E402
import typeset  # noqa: E402

CHAPTERS = {
    "README.md": "Start",
    "tests/book/derivation.md": "The derivation",
    "tests/book/layers.md": "Further layers",
    "tests/book/sweeps.md": "Sweeps",
    "tests/book/drop_in.md": "Beside scikit-learn",
    "tests/book/ensembles.md": "Ensembles",
    "tests/book/audit.md": "The audit of a gradient",
    "tests/book/experiments.md": "Experiments",
    "tests/book/speed.md": "Speed",
}
FOLDERS = {
    "experiments": "experiments.html",
    "experiments/figures": "experiments.html",
    "jaxbackprop": "jaxbackprop.html",
    "jaxbackprop/layers": "jaxbackprop/layers.html",
}
ERRATA = re.compile(r"<!-- table: errata -->.*?<!-- end -->", re.DOTALL)
FIGURE = re.compile(r'<p>(<img src="([^"]+)"[^>]*>)</p>')
LANGUAGES = {".py": "python", ".c": "c", ".toml": "toml", ".md": "markdown"}


def page_of(chapter: str) -> str:
    """The page of a chapter."""
    return "index.html" if chapter == "README.md" else Path(chapter).with_suffix(".html").name


class Site:
    """A site that is being written: its folder, the modules that it has pages of, and the files that pages link to."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.modules = reference_pages.load_modules()
        self.linked: set[str] = set()

    def address(self, target: str, chapter: str) -> str:
        """Where a link of a chapter leads on the site.

        **Raises:** `ValueError` if it leads to a file that is not there.
        """
        path, anchor = urldefrag(target)
        if "://" in target or not path:
            return target
        path = os.path.normpath(Path(chapter).parent / path)
        if not (ROOT / path).exists():
            raise ValueError(f"{chapter} links to {target}, which is not there")
        file = self.page(path)
        return f"{file}#{anchor}" if anchor else file

    def page(self, path: str) -> str:
        """The page of a file or folder of the repository."""
        if path in CHAPTERS:
            return page_of(path)
        if path in FOLDERS:
            return FOLDERS[path]
        if path.startswith("experiments/figures/"):
            return f"figures/{Path(path).name}"
        if path.startswith("experiments/") and path.endswith(".py"):
            return f"experiments.html#{Path(path).name}"
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if module in self.modules:
            return f"{module.replace('.', '/')}.html"
        self.linked.add(path)
        return f"files/{path}.html"

    def link_names(self, html: str) -> str:
        """Inline code that names something public leads to its page; in tables of code, to its line too."""

        def linked(match: re.Match[str]) -> str:
            where = reference_pages.find(match["name"], self.modules)
            if where is None:
                return match[0]
            page, anchor, line = where
            link = f'<a href="{page}{"#" * bool(anchor)}{anchor}"><code>{match["name"]}</code></a>'
            if line is not None and in_table_of_code(html, match.start()):
                link += f'<a class="line" href="{page}#{anchor}-{line}">line {line}</a>'
            return link

        unlinked = r'(?:(?<!">)|(?<=<td class="long">))<code>(?P<name>[\w.]+(?:\(\))?)</code>(?!</a>)'
        return re.sub(unlinked, linked, html)

    def write(self, file: str, title: str, body: str, sections: list[tuple[str, str]], depth: int = 0) -> None:
        """A page in the book's frame."""
        template = pdoc.render.env.get_template("page.html.jinja2")
        html = template.render(title=title, body=body, here=file, root="../" * depth, sections=sections)
        path = self.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")

    def write_chapter(self, chapter: str) -> None:
        """A chapter's page."""
        text = (ROOT / chapter).read_text(encoding="utf-8")
        body, headings = typeset.to_html(text, lambda target: self.address(target, chapter))
        body = FIGURE.sub(r'<p><a href="\2">\1</a></p>', body)  # on a small screen it is read by itself
        body = self.link_names(body).replace("<!-- gallery -->", gallery())
        body = ERRATA.sub(lambda table: typeset.with_scripts(table[0]), body)
        sections = [(anchor, name) for level, anchor, name in headings if level == 2]
        self.write(page_of(chapter), f"{CHAPTERS[chapter]} · jaxbackprop", body, sections)

    def write_files(self) -> None:
        """The figures, and the files that pages link to."""
        shutil.copytree(ROOT / "experiments" / "figures", self.out / "figures")
        for path in sorted(self.linked):
            file = ROOT / path
            code = typeset.code_page(file.read_text(encoding="utf-8"), LANGUAGES.get(file.suffix, "text"))
            page = f"files/{path}.html"
            self.write(page, path, f"<h1>{escape(path)}</h1>\n{code}", [], depth=page.count("/"))


def in_table_of_code(html: str, place: int) -> bool:
    """Whether a place lies in a table with a column of code, which leads from formulas to their lines."""
    start = html.rfind("<table", 0, place)
    return start > html.rfind("</table>", 0, place) and re.search(r"<th[^>]*>code</th>", html[start:place]) is not None


def gallery() -> str:
    """Every experiment: its question, the command, its figures, and the script itself."""
    parts = []
    for script in sorted((ROOT / "experiments").glob("*.py")):
        source = script.read_text(encoding="utf-8")
        question, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
        parts.append(f'<h2 id="{script.name}">{escape(script.name)}</h2>')
        parts.append(typeset.to_html(f"**{question}**\n\n{rest}", lambda target: target)[0])
        if "__main__" in source:
            parts.append(typeset.highlighted(f"python experiments/{script.name}", "sh"))
        for figure in sorted((ROOT / "experiments" / "figures").glob(f"{script.stem}*.png")):
            name = f"figures/{figure.name}"
            alt = f"{question.replace('`', '')} {figure.stem.replace('_', ' ')}"
            width, height = struct.unpack(">II", figure.read_bytes()[16:24])  # so that nothing jumps when it comes
            size = f'width="{width}" height="{height}" loading="lazy"'
            parts.append(f'<p><a href="{name}"><img src="{name}" alt="{escape(alt)}" {size}></a></p>')
        shown = typeset.code_page(source, "python").replace("L-", f"{script.stem}-")
        parts.append(f'<details class="script"><summary>{escape(script.name)}, the script</summary>{shown}</details>')
    return "\n".join(parts)


def formulas_of_tables() -> dict[str, str]:
    """The MathML of each function that a table of the chapters has a formula of: the first formula, the first name."""
    found: dict[str, str] = {}
    for name in ("derivation.md", "layers.md"):
        for row in re.findall(r"^\|.*\|$", (HERE / name).read_text(encoding="utf-8"), re.MULTILINE):
            formulas, names = re.findall(r"\$([^$]+)\$", row), re.findall(r"`([\w.]+)`", row)
            if formulas and names:
                found.setdefault(names[0], typeset.mathml(formulas[-1]))
    return found


def examples() -> dict[str, str]:
    """The example of each public name, from `examples.md`."""
    parts = re.split(r"^## (.+)$", (HERE / "examples.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        for name in heading.split(", "):
            found[name] = text.strip()
    return found


def make(out: Path) -> Path:
    """Write the whole site into a folder, which is emptied first. Returns its first page."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    reference_pages.configure([(page_of(chapter), title) for chapter, title in CHAPTERS.items()])
    site = Site(out)
    placed = reference_pages.add_to_docstrings(site.modules, formulas_of_tables(), examples())
    reference_pages.write_reference(site.modules, placed, out)
    for chapter in CHAPTERS:
        site.write_chapter(chapter)
    site.write_files()
    return out / "index.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "dist" / "book")
    print(make(parser.parse_args().out.resolve()))
