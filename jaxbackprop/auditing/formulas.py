"""The document's formulas of a backward pass, typeset as MathML, with the term lit up that a mistake is in."""

import re
from collections.abc import Sequence

from jaxbackprop.auditing.mistakes.outputs import OUTPUT_MISTAKES
from jaxbackprop.pages import text

# The term that is wrong, by the mistake's code or by how it begins.
TERMS = {
    "slope": "slope",
    "tanh_slope": "slope",
    "sigmoid_slope": "slope",
    "relu_slope": "slope",
    "weight": "weight",
    "input": "input",
    "transposed": "input",
    "delta_of_another_layer": "delta",
    "sum_not_mean": "mean",
    "mean": "mean",
    "few_samples": "sum",
    "not_summed": "sum",
    "summed": "sum",
    "l2": "penalty",
    "zero": "left",
    "sign": "mean",
    "double": "mean",
    "half": "mean",
    "mean_twice": "mean",
    "other_activation": "activation",
    "activations_differ": "slope",
}
IN_DELTA = ("slope", "weight", "error")  # terms that stand in the formula of delta


def term_of(code: str | None) -> str:
    """The term that a mistake is in; "" if that is not known."""
    if code is None or code in TERMS:
        return TERMS.get(code or "", "")
    if code in {mistake.code for mistake in OUTPUT_MISTAKES}:
        return "error"
    fitting = [start for start in TERMS if code.startswith(start)]
    return TERMS[max(fitting, key=len)] if fitting else ""


def weight_gradient(l: int, term: str) -> str:
    """dL/dW^l = 1/N delta^(l+1) a^(l-1)^T."""
    penalty = f"<mo>+</mo>{lit(row(letter('λ'), power(letter('W'), l)), True)}" if term == "penalty" else ""
    error, before = lit(power(letter("δ"), l + 1), term == "delta"), lit(transposed_input(l), term == "input")
    product = lit(row(error, before), term == "sum")  # it sums over the samples
    return equation(partial("W", l, term), row(mean(term), product) + penalty)


def bias_gradient(l: int, term: str) -> str:
    """dL/db^l = 1/N sum over n of delta^(l+1)."""
    total = lit("<munder><mo>∑</mo><mi>n</mi></munder>", term == "sum")
    error = f"<msubsup><mi>δ</mi><mi>n</mi><mn>{l + 1}</mn></msubsup>"
    return equation(partial("b", l, term), row(mean(term), total, lit(error, term == "delta")))


def delta(l: int, depth: int, term: str) -> str:
    """delta^(l+1), the error at z^l: y-hat - y at the output, (W^(l+1))^T delta^(l+2) * f'(z^l) below."""
    left = power(letter("δ"), l + 1)
    if l == depth:
        y_hat = "<mover><mi>y</mi><mo>^</mo></mover>"
        return equation(left, lit(row(y_hat, "<mo>−</mo>", letter("y")), term == "error"))
    weight = lit(f"<msup><mi>W</mi><mrow><mn>{l + 1}</mn><mi>T</mi></mrow></msup>", term == "weight")
    slope = row("<mi>f</mi><mo>′</mo>", of_z(l))
    return equation(left, row(weight, power(letter("δ"), l + 2), "<mo>⊙</mo>", lit(slope, term == "slope")))


def of_a_leaf(path: str) -> str:
    """dL/d of a leaf that belongs to no known formula."""
    below = row("<mo>∂</mo>", f"<mtext>{text(path)}</mtext>")
    return f'<math displaystyle="true">{fraction(row("<mo>∂</mo>", letter("L")), below)}</math>'


def partial(name: str, l: int, term: str) -> str:
    below = row("<mo>∂</mo>", power(letter(name), l))
    return lit(fraction(row("<mo>∂</mo>", letter("L")), below), term == "left")


def mean(term: str) -> str:
    return lit(fraction("<mn>1</mn>", letter("N")), term == "mean")


def transposed_input(l: int) -> str:
    """x^T for the first layer, a^(l-1)^T for the others."""
    if l == 1:
        return f"<msup>{letter('x')}{letter('T')}</msup>"
    return f"<msup>{letter('a')}<mrow><mn>{l - 1}</mn>{letter('T')}</mrow></msup>"


def letter(name: str) -> str:
    return f"<mi>{name}</mi>"


def of_z(index: int | str) -> str:
    return f"<mo>(</mo>{power(letter('z'), index)}<mo>)</mo>"


def power(base: str, index: int | str) -> str:
    return f"<msup>{base}<mn>{index}</mn></msup>"


def fraction(above: str, below: str) -> str:
    return f"<mfrac>{above}{below}</mfrac>"


def row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def lit(part: str, on: bool) -> str:
    return f'<mrow class="hit">{part}</mrow>' if on else part


def equation(left: str, right: str) -> str:
    return f'<math displaystyle="true">{left}<mo>=</mo>{right}</math>'


def in_every_layer(explanation: str) -> bool:
    """Whether a sentence speaks of all layers, as of z^l, and not of one, as of z^2."""
    return bool(re.search(r"\^(\(?l\b)", explanation))


def formulas_of(
    leaves: Sequence[tuple[str, int]], depth: int, code: str | None, *, everywhere: bool = True
) -> list[str]:
    """The formulas that a mistake touches: `leaves` are ("W" or "b", layer), those with the mistake in them.

    A mistake in delta is made where it enters, in the uppermost of its layers, unless it is made `everywhere`.
    """
    term = term_of(code)
    layers = list(dict.fromkeys(l for _, l in leaves))
    if term == "error":
        layers = [depth]
    if term in IN_DELTA:
        inside = [l for l in layers if term == "error" or l < depth]
        inside = inside if everywhere else [max(inside)] if inside else []
        chosen = [delta(l, depth, term) for l in inside]
        if chosen:
            return chosen
    if term == "activation":
        return [equation(power(letter("a"), "l"), row(lit(letter("f"), True), of_z("l")))]
    return [(weight_gradient if kind == "W" else bias_gradient)(l, term) for kind, l in leaves]
