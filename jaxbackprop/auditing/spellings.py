"""The activations that a file offers, as it spells them: 'tanh', 'Tanh', 'ReLU'."""

import ast

from jaxbackprop.auditing.hand_in import HandIn
from jaxbackprop.auditing.subjects import our_name


def find_spellings(hand_in: HandIn) -> dict[str, tuple[str, ...]]:
    """Of every activation the words by which the file, or a file beside it that it imports from, may mean it."""
    trees = [hand_in.tree, *neighbours(hand_in)]
    found: dict[str, list[str]] = {}
    for weight, tree in enumerate(trees):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 30:
                name = our_name(node.value)
                if name and node.value not in found.setdefault(name, []):
                    found[name].append(node.value)
        if weight == 0 and found:
            break
    return {name: tuple(found[name]) for name in ("tanh", "sigmoid", "relu", *found) if name in found}


def words_used(hand_in: HandIn) -> list[str]:
    """Activations whose functions the file defines or calls: np.tanh, a function `sigmoid`, np.maximum."""
    found = []
    for node in ast.walk(hand_in.tree):
        word = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        name = "relu" if word == "maximum" else our_name(word) if word else None
        if name and name not in found:
            found.append(name)
    return found


def neighbours(hand_in: HandIn) -> list[ast.Module]:
    """The files of its folder that it imported."""
    import sys
    from pathlib import Path

    folder, trees = hand_in.path.resolve().parent, []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).parent == folder and Path(file).resolve() != hand_in.path.resolve():
            try:
                trees.append(ast.parse(Path(file).read_text(encoding="utf-8-sig")))
            except (OSError, SyntaxError, ValueError):
                continue
    return trees
