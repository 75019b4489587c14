"""Markdown to HTML, with the formulas between dollar signs as MathML, which a browser sets without script or font."""

import re
from collections.abc import Callable
from functools import cache
from html import escape
from itertools import pairwise

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

CODE_OR_FORMULA = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL
)
FUNCTION = re.compile(r"(?<!<msup>)<mi>(?:log|sin|cos)</mi>")
WHOLE = re.compile(r"\d\w*(?:-\d+)+|[\d.,]+\d ± [\d.,]+\d|\d[\d.,]* (?:s|GFLOP/s|%)(?!\w)")  # broken by no line's end
LONG = 24  # letters of a cell that on a small screen is not to be one word a line
BARRED = re.compile(r'<mover>(<mrow>(?:(?!<mover><mrow>).)*?</mrow>)<mo accent="true">&#x02015;</mo></mover>')


@cache
def mathml(latex: str, display: str = "inline") -> str:
    """A formula in LaTeX as MathML; a bar over several letters is as long as they are, and log stands off from x."""
    html = BARRED.sub(r'<mrow class="bar">\1</mrow>', convert(latex.strip(), display=display))
    return FUNCTION.sub(r'\g<0><mspace width="0.17em"></mspace>', html)


def with_scripts(html: str) -> str:
    """Plain formulas such as `e^{z_j}` and `Σ_{j=1}^C` with their subscripts and superscripts in place."""
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        html = re.sub(rf"{mark}([A-Za-z]+)", rf"<{tag}>\1</{tag}>", html)
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        html = re.sub(rf"{mark}\{{([^{{}}]*)\}}", rf"<{tag}>\1</{tag}>", html)
    return html


def slug(heading: str) -> str:
    """The anchor of a heading, as repository hosts make it: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def highlighted(code: str, language: str) -> str:
    """Code in colours."""
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return highlight(code, lexer, HtmlFormatter(cssclass="pdoc-code codehilite"))


def hidden_formulas(text: str, formulas: list[str]) -> str:
    """The text with each formula replaced by its place in `formulas`, where Markdown leaves it alone."""

    def hide(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        latex, display = (match["inline"], "inline") if match["block"] is None else (match["block"], "block")
        formulas.append(mathml(latex, display))
        return f"FORMULA{len(formulas) - 1}ENDS"

    return CODE_OR_FORMULA.sub(hide, text)


def shown_formulas(html: str, formulas: list[str]) -> str:
    """The MathML back in its places."""
    return re.sub(r"FORMULA(\d+)ENDS", lambda match: formulas[int(match[1])], html)


def unbroken(match: re.Match[str]) -> str:
    """A number that stays on one line."""
    return f'<span class="whole">{match[0]}</span>'


def to_html(text: str, address: Callable[[str], str]) -> tuple[str, list[tuple[int, str, str]]]:
    """A page of Markdown as HTML, and its headings as (level, anchor, text).

    `address` says where a link of the page leads on the site.
    """
    formulas: list[str] = []
    parser = MarkdownIt("commonmark", {"html": True, "highlight": None}).enable("table")
    parser.add_render_rule("fence", lambda self, tokens, i, *_: highlighted(tokens[i].content, tokens[i].info.strip()))
    parser.add_render_rule("text", lambda self, tokens, i, *_: WHOLE.sub(unbroken, escapeHtml(tokens[i].content)))
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(hidden_formulas(text, formulas))
    headings = []
    for token, inside in pairwise(tokens):
        if token.type == "heading_open":
            title = "".join(child.content for child in inside.children or [])
            token.attrSet("id", slug(title))
            headings.append((int(token.tag[1]), slug(title), title))
        elif token.type == "td_open" and len(inside.content) > LONG:
            token.attrSet("class", "long")
    for token in tokens:
        for child in token.children or []:
            for key in ("href", "src"):
                if key in child.attrs:
                    child.attrSet(key, address(str(child.attrs[key])))
    return shown_formulas(parser.renderer.render(tokens, parser.options, {}), formulas), headings


def code_page(code: str, language: str) -> str:
    """A whole file in colours, with numbered lines."""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return f"<pre>{escape(code)}</pre>"
    formatter = HtmlFormatter(cssclass="pdoc-code codehilite", linenos="inline", lineanchors="L", anchorlinenos=True)
    return highlight(code, lexer, formatter)
