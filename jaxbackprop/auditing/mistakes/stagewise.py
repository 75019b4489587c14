"""What people compute in place of one stage, given what they have before it: sentences and what they predict."""

from collections.abc import Mapping

import numpy as np

from jaxbackprop.activations import ACTIVATIONS, Activation
from jaxbackprop.auditing.layered import elementwise
from jaxbackprop.auditing.mistakes.slopes import formula, wrong_slopes

Wrong = tuple[str, np.ndarray]


def affine_mistakes(l: int, weight: np.ndarray, a: np.ndarray, bias: np.ndarray) -> list[Wrong]:
    """In place of z^l = W^l a^(l-1) + b^l."""
    z = weight @ a
    wrong = [("b^{l} is missing", z), ("b^{l} is subtracted", z - bias[:, None])]
    if weight.shape[0] == weight.shape[1]:
        wrong.append(("W^{l} is transposed; it is square, so the shapes do not tell", weight.T @ a + bias[:, None]))
    return [(sentence.format(l=l), values) for sentence, values in wrong]


def activation_mistakes(l: int, z: np.ndarray, activation: Activation) -> list[Wrong]:
    """In place of a^l = f(z^l)."""
    others = [other for other in ACTIVATIONS.values() if other not in (activation, ACTIVATIONS["identity"])]
    return [
        (f"no activation is applied, a^{l} is {activation.name}(z^{l})", z),
        *(
            (f"{other.name} is applied, the activation is {activation.name}", elementwise(other.value, z))
            for other in others
        ),
        (f"{activation.name} is applied twice", elementwise(activation.value, elementwise(activation.value, z))),
    ]


def output_mistakes(l: int, z: np.ndarray) -> list[Wrong]:
    """In place of y-hat = softmax(z^L)."""
    e, shifted = np.exp(z - z.max()), np.exp(z - z.max(axis=0))
    samples = "the softmax is taken over the samples, it goes over the classes"
    return [
        (f"no softmax is applied: these are the logits z^{l}", z),
        (samples, e / e.sum(axis=1, keepdims=True)),
        (samples, shifted / shifted.sum(axis=1, keepdims=True)),
        ("the softmax is normalised over all samples together, it is over the classes of each", e / e.sum()),
        ("e^z is not divided by its sum over the classes", np.exp(z)),
        ("a sigmoid is applied to each class, y-hat is their softmax", 1 / (1 + np.exp(-z))),
    ]


def error_mistakes(y_hat: np.ndarray, y: np.ndarray) -> list[Wrong]:
    """In place of dL/dz^L = (y-hat - y) / N. The document's delta leaves out the 1/N; that is no mistake."""
    n = y.shape[1]
    forms = [
        ("the sign is turned: it is y-hat - y, not y - y-hat", y - y_hat),
        ("- y is missing: it is y-hat - y", y_hat),
        ("only the diagonal of the softmax Jacobian is there; with the rest it is y-hat - y", -y * (1 - y_hat)),
    ]
    again = y_hat * (y_hat - y - np.sum(y_hat * (y_hat - y), axis=0))
    forms.append(("the softmax Jacobian is multiplied in twice: y-hat - y has it inside already", again))
    return [(sentence, values / count) for sentence, values in forms for count in (n, 1)] + [
        ("the mean over the samples is taken twice", (y_hat - y) / n**2)
    ]


def hidden_error_mistakes(
    l: int, e: np.ndarray, back: np.ndarray, weight: np.ndarray, z: np.ndarray, a: np.ndarray, activation: Activation
) -> list[Wrong]:
    """In place of dL/dz^l = W^(l+1)T dL/dz^(l+1) * f'(z^l)."""
    facts = {"f": activation.name, "z": f"z^{l}", "a": f"a^{l}", "formula": formula(activation, f"z^{l}")}
    wrong = [(row.sentence.format(**facts), back * row.values) for row in wrong_slopes(activation, z, a)]
    slope = elementwise(activation.slope, z, a)
    wrong.append(("the sign is turned", -back * slope))
    wrong.append(("divided by the number of samples once more", back * slope / e.shape[1]))
    if weight.shape[0] == weight.shape[1]:
        wrong.append((f"W^{l + 1} is not transposed; it is square, so the shapes do not tell", weight @ e * slope))
        wrong.append((f"it does not go back through W^{l + 1}", e * slope))
    return wrong


def weight_gradient_mistakes(
    l: int, e: np.ndarray, a: Mapping[int, np.ndarray], z: Mapping[int, np.ndarray], penalty: np.ndarray
) -> list[Wrong]:
    """In place of dL/dW^l = dL/dz^l a^(l-1)T + l2 W^l."""
    right, n = e @ a[l - 1].T, e.shape[1]
    wrong = [
        ("it is the sum over the samples, the loss is their mean", n * right + penalty),
        ("the mean over the samples is taken twice", right / n + penalty),
        ("the sign is turned", -right - penalty),
        ("the l2 term is missing", right),
        ("the l2 term is there twice", right + 2 * penalty),
    ]
    if right.shape[0] == right.shape[1]:
        wrong.append(("it is transposed", (right + penalty).T))
    if l > 1:
        wrong.append(
            (f"it multiplies z^{l - 1}, before the activation; layer {l} sees a^{l - 1}", e @ z[l - 1].T + penalty)
        )
    names = {m: "x" if m == 0 else f"a^{m}" for m in a}
    for m, values in a.items():
        if m != l - 1 and values.shape == a[l - 1].shape:
            wrong.append((f"it multiplies {names[m]}; layer {l} sees {names[l - 1]}", e @ values.T + penalty))
    return wrong


def bias_gradient_mistakes(e: np.ndarray, penalty: np.ndarray) -> list[Wrong]:
    """In place of dL/db^l = sum over the samples of dL/dz^l."""
    right, n = e.sum(axis=1), e.shape[1]
    wrong = [
        ("it is the sum over the samples, the loss is their mean", n * right),
        ("the mean over the samples is taken twice", right / n),
        ("the sign is turned", -right),
        ("only the first sample counted", e[:, 0]),
        ("only the last sample counted", e[:, -1]),
    ]
    return wrong if not penalty.any() else [*wrong, ("an l2 term is put on the bias", right + penalty)]
