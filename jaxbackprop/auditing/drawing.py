"""The network as a drawing: forward z and a, backward delta, and the gradients, each with its verdict."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxbackprop.auditing.formulas import IN_DELTA, in_every_layer, term_of
from jaxbackprop.auditing.mistakes.general import is_bias
from jaxbackprop.auditing.report import Finding, StageFinding
from jaxbackprop.pages import MARKS, text

WIDTH, HEIGHT = 88, 46  # of a box
Verdicts = dict[str, str]  # by stage: z1, a1, delta1 (the error at z1), dW1, db1


class Point(NamedTuple):
    x: float
    y: float


class Pairs(NamedTuple):
    """The layers in a report: the findings of each one's weight and bias, in order."""

    layers: tuple[tuple[Finding, Finding], ...]

    @property
    def depth(self) -> int:
        return len(self.layers)

    def place(self, finding: Finding) -> tuple[str, int]:
        """ "W" or "b", and the layer, the first being 1."""
        return next(
            (kind, l)
            for l, pair in enumerate(self.layers, start=1)
            for kind, one in zip("Wb", pair, strict=True)
            if one is finding
        )


def find_pairs(findings: Sequence[Finding]) -> Pairs | None:
    """The leaves as a chain of layers, whichever way the weights lie; None if they are none."""
    natural = lambda f: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", f.path) if p]  # noqa: E731
    ordered = sorted(findings, key=natural)
    biases = [f for f in ordered if is_bias(f.path, f.shape)]
    weights = [f for f in ordered if not is_bias(f.path, f.shape)]
    if not weights or len(weights) != len(biases) or any(len(f.shape) != 2 for f in weights):
        return None
    lengths = [max(f.shape, default=1) for f in biases]
    for turn in (1, -1):  # [out, in], or (in, out)
        shapes = [f.shape[::turn] for f in weights]
        chained = all(shapes[l][0] == shapes[l + 1][1] for l in range(len(shapes) - 1))
        if chained and all(shape[0] == length for shape, length in zip(shapes, lengths, strict=True)):
            return Pairs(tuple(zip(weights, biases, strict=True)))
    return None


def verdicts_of(
    pairs: Pairs, stages: Sequence[StageFinding] = (), forward: Mapping[str, bool] | None = None
) -> Verdicts:
    """What is known of each stage. `forward` says of those of the forward pass that were seen whether they are right;
    what follows the first wrong one is its consequence."""
    known: Verdicts = {}
    sources: dict[str, int] = {}  # the layer that a mistake in delta enters at, by its explanation
    for l, (weight, bias) in reversed(list(enumerate(pairs.layers, start=1))):
        known[f"dW{l}"], known[f"db{l}"] = ("right" if f.ok else "wrong" for f in (weight, bias))
        if weight.ok or bias.ok:  # it is made of delta, and so delta is right
            known[f"delta{l}"] = "right"
            continue
        cause = next((f for f in (bias, weight) if term_of(f.diagnosis) in IN_DELTA), None)
        if cause is None:
            continue
        here = in_every_layer(cause.explanation) and term_of(cause.diagnosis) != "error"
        here = sources.setdefault(cause.explanation, l) == l or here
        known[f"delta{l}"] = "wrong" if here else "consequence"
        for name, leaf in ((f"dW{l}", weight), (f"db{l}", bias)):
            if leaf.explanation == cause.explanation:
                known[name] = "consequence"
    wrong = False
    for name, ok in (forward or {}).items():
        known[f"a{pairs.depth}" if name == "probs" else name] = "right" if ok else "consequence" if wrong else "wrong"
        wrong |= not ok
    return known | stage_verdicts(stages, pairs.depth)


def stage_verdicts(stages: Sequence[StageFinding], depth: int) -> Verdicts:
    """By our names: an error is numbered as the z that it belongs to."""
    matches = {f.name: re.fullmatch(r"(z|a|delta|dW|db)_?(\d+)", f.name) for f in stages}
    numbers = [int(m[2]) for m in matches.values() if m and m[1] == "delta"]
    shift = max(numbers, default=0) > depth  # the document's delta^(l+1) belongs to z^l
    known = {}
    for finding in stages:
        match = matches[finding.name]
        if match:
            known[f"{match[1]}{int(match[2]) - (shift and match[1] == 'delta')}"] = finding.verdict
        elif finding.name in ("y_hat", "probs"):
            known[f"a{depth}"] = finding.verdict
    return known


def draw_network(depth: int, verdicts: Mapping[str, str]) -> str:
    """The same drawing lying, for wide screens, and standing, for narrow ones."""
    return "".join(draw_one(depth, verdicts, standing=standing) for standing in (False, True))


def draw_one(depth: int, verdicts: Mapping[str, str], *, standing: bool) -> str:
    """Steps of the forward pass follow each other `along`; lane 0 is theirs, 1 is delta's and 2 the gradients'."""
    along_step, lane_step = (66, 112) if standing else (112, 92)

    def at(along: int, lane: int) -> Point:
        x, y = (lane * lane_step, along * along_step) if standing else (along * along_step, lane * lane_step)
        return Point(x + WIDTH / 2 + 8, y + HEIGHT / 2 + 26)

    arrows: list[list[Point]] = []
    boxes = [box(at(0, 0), "x", "", ""), box(at(2 * depth + 1, 0), "L", "", "")]
    for l in range(1, depth + 1):
        error, weight, bias = at(2 * l - 1, 1), at(2 * l - 1, 2), at(2 * l, 2)
        for name, label, place in (
            (f"z{l}", f"z^{l}", at(2 * l - 1, 0)),
            (f"a{l}", f"a^{l}" if l < depth else "ŷ", at(2 * l, 0)),
            (f"delta{l}", f"δ^{l + 1}", error),
            (f"dW{l}", f"∂L/∂W^{l}", weight),
            (f"db{l}", f"∂L/∂b^{l}", bias),
        ):
            boxes.append(box(place, label, verdicts.get(name, "unseen"), name))
        arrows += [between(error, weight), between(error, bias)]
        if l < depth:
            arrows.append(between(at(2 * l + 1, 1), error))
    arrows += [between(at(step, 0), at(step + 1, 0)) for step in range(2 * depth + 1)]
    loss, top = at(2 * depth + 1, 0), at(2 * depth - 1, 1)  # the loss hands its error back around the corner
    arrows.append(
        [loss, Point(top.x, loss.y), Point(top.x, top.y + HEIGHT / 2 + 4)]
        if standing
        else [loss, Point(loss.x, top.y), Point(top.x + WIDTH / 2 + 4, top.y)]
    )
    paths = [arrow(points) for points in arrows]
    names = []
    for lane, name in enumerate(("forward", "errors" if standing else "errors, backward", "gradients of L")):
        x, y = (8 + lane * lane_step, 16) if standing else (8, 16 + lane * lane_step)
        names.append(f'<text class="lane" x="{x}" y="{y}">{name}</text>')
    end = at(2 * depth + 1, 2)
    width, height = end.x + WIDTH / 2 + 8, end.y + HEIGHT / 2 + 8
    return (
        f'<svg class="network {"tall" if standing else "wide"}" role="img" aria-label="the network, stage by stage" '
        f'viewBox="0 0 {width:g} {height:g}" style="width:{width:g}px">{"".join([*paths, *boxes, *names])}</svg>'
    )


def box(place: Point, label: str, verdict: str, name: str) -> str:
    x, y = place
    base, _, index = label.partition("^")
    power = f'<tspan dy="-7">{index}</tspan>' if index else ""
    sign = f'<text class="sign" x="{x + WIDTH / 2 - 13:g}" y="{y:g}">{MARKS[verdict]}</text>' if verdict else ""
    shift, kind = (8 if verdict else 0), ("long" if len(base) > 2 else "short")
    return (
        f'<g class="box {verdict}" data-stage="{name}"><title>{name or text(base)}: {verdict or "given"}</title>'
        f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>'
        f'<text class="{kind}" x="{x - shift:g}" y="{y:g}">{text(base)}{power}</text>{sign}</g>'
    )


def arrow(points: Sequence[Point]) -> str:
    """A line through points, with a head at its end."""
    before, end = points[-2:]
    turn = math.degrees(math.atan2(end.y - before.y, end.x - before.x))
    line = "L".join(f"{point.x:g} {point.y:g}" for point in points)
    head = f'<path class="arrowhead" d="M1 0L-9 -5V5z" transform="translate({end.x:g} {end.y:g}) rotate({turn:.1f})"/>'
    return f'<path class="arrow" d="M{line}"/>{head}'


def between(start: Point, end: Point) -> list[Point]:
    """From the edge of one box to the edge of another."""
    dx, dy = end.x - start.x, end.y - start.y
    across, down = abs(dx) / (WIDTH / 2 + 4), abs(dy) / (HEIGHT / 2 + 4)
    inside = 1 / max(across, down)  # the share of the line between the centres that lies within a box
    return [Point(start.x + share * dx, start.y + share * dy) for share in (inside, 1 - inside)]
