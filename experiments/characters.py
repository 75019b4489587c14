"""Text by hand: what does a transformer block, or an LSTM, write when every gradient is worked out by hand?

It learns one character after another from sentences that the script makes by a small grammar, and then writes some of
its own. No autodiff takes part.
"""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from jaxbackprop import Hyperparameters
from jaxbackprop.layers.chain import Part, chain, fit_chain, part, recurrent, residual, self_attention
from jaxbackprop.plotting import panels, plot_loss_curves, save_figure

WHO = ("the cat", "the dog", "a bird", "one child", "my friend", "the old man")
DOES = ("sees", "likes", "follows", "knows", "hears")
HOW = ("today", "at night", "by the sea", "with joy", "again")
WORDS = {word for phrase in (*WHO, *DOES, *HOW) for word in phrase.split()}


def make_text(sentences: int, rng: np.random.Generator) -> str:
    """Sentences such as "the cat sees my friend at night."."""

    def some(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    return " ".join(f"{some(WHO)} {some(DOES)} {some(WHO)} {some(HOW)}." for _ in range(sentences))


def make_network(kind: str, letters: int, features: int, time: int) -> Part:
    """Characters in, the logits of each next one out: [time, samples] to [letters, time, samples]."""
    inside = (
        [
            part("positional_embedding", (features, time)),
            residual([part("layer_norm", (features,), (features,)), self_attention(features, 4)]),
            residual(
                [
                    part("layer_norm", (features,), (features,)),
                    part("affine", (2 * features, features), (2 * features,)),
                    part("gelu"),
                    part("affine", (features, 2 * features), (features,)),
                ]
            ),
            part("layer_norm", (features,), (features,)),
        ]
        if kind == "transformer"
        else [recurrent("lstm", features, features)]
    )
    return chain([part("embedding", (features, letters)), *inside, part("affine", (letters, features), (letters,))])


def write(network: Part, params, start: Array, length: int, key: Array) -> np.ndarray:
    """Draw one character after another, each from the last ones that the network can see."""

    @jax.jit
    def next_letter(seen: Array, key: Array) -> Array:
        logits, _ = network.forward(params, seen[:, None])
        return jax.random.categorical(key, logits[:, -1, 0])

    letters, window = list(np.asarray(start)), len(start)
    for k in jax.random.split(key, length):
        letters.append(int(next_letter(jnp.asarray(letters[-window:]), k)))
    return np.asarray(letters)


def main(
    out: Path = Path("results"),
    network: Literal["transformer", "lstm"] = "transformer",
    sentences: int = 400,
    features: int = 48,
    time: int = 32,
    steps: int = 600,
    batch_size: int = 32,
    learning_rate: float = 0.003,
    seed: int = 0,
) -> float:
    """Learn the text, draw the loss, and write.

    Args:
        out: Where the figure and the samples go.
        network: A transformer block with causal attention of 4 heads, or an LSTM.
        sentences: How many the text has.
        features: Of each character inside the network.
        time: Characters that the network sees at once.
        steps: Updates by Adam.
        batch_size: Stretches of text a step.
        learning_rate: Step size of Adam.
        seed: Of the text, of the network and of what it writes.
    """
    text = make_text(sentences, np.random.default_rng(seed))
    alphabet = sorted(set(text))
    code = np.array([alphabet.index(letter) for letter in text])
    starts = np.arange(0, len(code) - time - 1, time // 4)
    stretches = code[starts[None, :] + np.arange(time + 1)[:, None]]  # [time + 1, samples]
    x, y = jnp.asarray(stretches[:-1]), jnp.eye(len(alphabet))[:, stretches[1:]]

    model = make_network(network, len(alphabet), features, time)
    every = max(1, steps // 20)
    trained = jax.jit(
        lambda params: fit_chain(
            model,
            params,
            x,
            y,
            Hyperparameters(learning_rate, seed=seed),
            steps=steps,
            optimizer="adam",
            batch_size=min(batch_size, x.shape[1]),
            record_every=every,
        )
    )(model.init(jax.random.key(seed)))
    curve = np.asarray(trained.loss_curve)
    share = np.bincount(code) / len(code)
    entropy = -np.sum(share * np.log(share))
    written = "".join(alphabet[i] for i in write(model, trained.params, x[:, 0], 300, jax.random.key(seed)))[time:]
    words = written.replace(".", " ").split()[1:-1]
    known = np.mean([word in WORDS for word in words]) if words else 0.0
    count = sum(p.size for p in jax.tree.leaves(trained.params))
    print(f"{network}: {count} parameters, {len(alphabet)} characters, {x.shape[1]} stretches of {time}")
    print(f"mean cross-entropy a character: {curve[0]:.3f} at first, {curve[-1]:.3f} after {steps} steps")
    print(f"by the frequency of each character alone it would be {entropy:.3f}")
    print(f"{known:.0%} of the words that it writes are words of the text:\n\n{written}\n")

    figure, axes = panels(1, 1, width=5.5, height=3.5)
    ax = axes[0, 0]
    marks = [*range(0, steps, every), steps]
    plot_loss_curves(marks, {network: curve}, ax=ax)
    ax.axhline(entropy, color="0.4", linestyle="--", label="frequencies alone")
    ax.set(xlabel="step", ylabel="mean cross-entropy", yscale="linear", ylim=(0, None))
    ax.set_title("Characters, by hand-derived gradients")
    ax.legend()
    print("saved", save_figure(figure, out / f"characters_{network}.png"))
    return float(curve[-1])


if __name__ == "__main__":
    tyro.cli(main)
