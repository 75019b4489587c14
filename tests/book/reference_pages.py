"""The reference: pdoc's pages of the public modules, with typeset formulas and an example for every public name."""

import importlib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.render
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from typeset import shown_formulas

import jaxbackprop
from jaxbackprop.layers import FILES

HERE = Path(__file__).parent
# The packages whose rooms are their own affair show only the names that they hand out.
CLOSED = ("auditing", "estimators", "sweeps")
OPEN = (
    *("activations", "losses", "network", "backprop", "optimizers", "training", "oracle"),
    *("data", "devices", "plotting", "sweeps.grid", "layers", "layers.contract", "layers.chain"),
    *("layers.normalization", "layers.pooling", "auditing.layered"),
    *(f"layers.{file}" for file in sorted({*FILES.values()} - {"pooling_mistakes"})),
)
ALIGNED = re.compile(r"\S {3,}\S|^ {3,}= |^ {8,}\S", re.MULTILINE)  # formulas set beside or below each other
NAMES = ("jaxbackprop", *(f"jaxbackprop.{name}" for name in sorted((*CLOSED, *OPEN))))

Modules = dict[str, pdoc.doc.Module]


def load_modules() -> Modules:
    """The modules of the reference, all their public names loaded."""
    for name in jaxbackprop.__all__:
        getattr(jaxbackprop, name)
    for name in CLOSED:
        module = importlib.import_module(f"jaxbackprop.{name}")
        module.__all__ = public_names(module)  # type: ignore[attr-defined]
    return {name: pdoc.doc.Module(importlib.import_module(name)) for name in NAMES}


def public_names(module: types.ModuleType) -> list[str]:
    """The names that a package hands out."""
    return sorted(k for k, v in vars(module).items() if not k.startswith("_") and not isinstance(v, types.ModuleType))


def find(name: str, modules: Modules) -> tuple[str, str, int | None] | None:
    """Page, anchor and line of what `backprop.delta`, `sweep` or `layers.gru` names; None if it is no public name."""
    whole = name.removesuffix("()").removeprefix("jb.").removeprefix("jaxbackprop.")
    parts = ["jaxbackprop", *whole.split(".")]
    for cut in range(len(parts), 0, -1):
        module = modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        page = ".".join(parts[:cut]).replace(".", "/") + ".html"
        if cut == len(parts):
            return page, "", None
        found: Any = module.get(".".join(parts[cut:]))
        if found is None or parts[-1].startswith("__"):
            return None
        return page, found.qualname, found.source_lines[0] if found.source_lines else None
    return None


def add_to_docstrings(modules: Modules, formulas: Mapping[str, str], examples: Mapping[str, str]) -> list[str]:
    """Put formulas and examples under the docstrings of what they are named for.

    Returns the formulas in the order of the marks that stand for them.
    """
    for name in ("ACTIVATIONS", "Params"):  # a variable's docstring is known only where it is assigned
        home = next(m for key, m in modules.items() if key != "jaxbackprop" and m.get(name) and m.get(name).docstring)
        modules["jaxbackprop"].get(name).docstring = home.get(name).docstring
    for module in modules.values():
        set_formulas_apart(module)
    placed: list[str] = []
    for name, mathml in formulas.items():
        doc = named(name, modules)
        doc.docstring = f"{doc.docstring}\n\nFORMULA{len(placed)}ENDS"
        placed.append(mathml)
    for name, example in examples.items():
        doc = named(name, modules)
        doc.docstring = f"{doc.docstring}\n\n**Example:**\n\n{example}"
    return placed


def set_formulas_apart(doc: Any) -> None:
    """Paragraphs of aligned formulas become blocks of code, which keep their lines; of what a thing has, too."""
    paragraphs = doc.docstring.split("\n\n")
    formulas = [" = " in text and text[0] not in " `|-" and ALIGNED.search(text) for text in paragraphs]
    doc.docstring = "\n\n".join(
        f"```text\n{text}\n```" if is_formula else text for text, is_formula in zip(paragraphs, formulas, strict=True)
    )
    for member in getattr(doc, "members", {}).values():
        set_formulas_apart(member)


def named(name: str, modules: Modules) -> Any:
    """What a name stands for.

    **Raises:** `KeyError` if it is no public name.
    """
    where = find(name, modules)
    if where is None:
        raise KeyError(f"{name} is no public name")
    module = modules[where[0].removesuffix(".html").replace("/", ".")]
    return module.get(where[1]) if where[1] else module


def highlighted(doc: pdoc.doc.Doc) -> Markup:
    """The source of something, its lines numbered as in its file; pdoc's own numbers are one too high."""
    start = doc.source_lines[0] if doc.source_lines else 1
    formatter = HtmlFormatter(
        cssclass="pdoc-code codehilite",
        linenos="inline",
        anchorlinenos=True,
        linespans=doc.qualname or "L",
        linenostart=max(1, start),
    )
    return Markup(highlight(doc.source, PythonLexer(), formatter))


def without_dead_ends(html: str) -> str:
    """A page without links to its own members that it does not show, as those inherited from a private class."""
    places = set(re.findall(r'id="([^"]+)"', html))

    def kept(match: re.Match[str]) -> str:
        return match[0] if match[1] in places else match[2]

    return re.sub(r'<a href="#([^"]+)">(.*?)</a>', kept, html)


def with_short_types(html: str) -> str:
    """A page whose types are called as the code calls them: `Float[Array, "…"]`, not `<class …>` of a module."""
    html = re.sub(r'(?:<span class="n">(?:jaxtyping|jaxlib|_jax|typing)</span><span class="o">\.</span>)+', "", html)
    html = re.sub(r"\b(?:jaxtyping|typing)\.(?=[A-Z])|jaxlib\._jax\.(?=Array)", "", html)
    return re.sub(r"&lt;class &#(?:x27|39);(.*?)&#(?:x27|39);&gt;", r"\1", html)


def without_hollow_words(html: str) -> str:
    """A page without what Python writes under a named tuple and its fields, which says nothing."""
    hollow = r"<p>(?:Alias for field number \d+|Create new instance of [^<]*)</p>"
    return re.sub(rf'<div class="docstring">{hollow}\s*</div>', "", html)


def configure(chapters: list[tuple[str, str]]) -> None:
    """Set pdoc up: our templates over its own, and what they need to know."""
    pdoc.render.configure(docformat="markdown", template_directory=HERE / "templates")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    pdoc.render.env.filters["highlight"] = highlighted
    pdoc.render.env.globals.update(chapters=chapters, dark_code=dark, reference=NAMES)


def write_reference(modules: Modules, placed: list[str], out: Path) -> None:
    """A page a module, and the index that is searched."""
    for name, module in modules.items():
        page = out / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        html = with_short_types(without_dead_ends(pdoc.render.html_module(module, modules)))
        html = without_hollow_words(html)
        page.write_text(shown_formulas(html, placed), encoding="utf-8")
    index = shown_formulas(pdoc.render.search_index(modules), [" "] * len(placed))
    (out / "search.js").write_text(index, encoding="utf-8")
