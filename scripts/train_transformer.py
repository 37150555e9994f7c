"""Train a small language model on the text of Python's own reference manual.

    python scripts/train_transformer.py [--out FILE] [--seed N] [--steps N] [--width N]

Needs torch, which milpasses itself does not. Takes under two minutes on two CPU cores. The text is
``pydoc_data.topics``, which every CPython carries: half a megabyte of what ``help`` shows. Nine topics of ten
are for training; every tenth is held out. The file holds the weights in float16 and the alphabet; nothing in
it is pickled. ``examples/_data/letters.npz`` is what ``--width 64 --steps 4000`` gave.
"""

import argparse
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTEXT = 64  # characters
WIDTH, HEADS, LAYERS = 128, 4, 2
OUT = Path("transformer.npz")


def texts() -> tuple[str, str]:
    """The text to train on, and the text held out: every tenth topic, in alphabetical order."""
    names = sorted(topics)
    held_out = "\n".join(topics[name] for name in islice(names, 0, None, 10))
    return "\n".join(topics[name] for place, name in enumerate(names) if place % 10), held_out


def alphabet(text: str) -> str:
    """The characters of ``text`` that are ASCII, in order; the first stands for all others."""
    return "\0" + "".join(sorted({c for c in text if c.isascii()} - {"\0"}))


def encode(text: str, letters: str) -> np.ndarray:
    """int32 indices into ``letters``, one a character."""
    places = {letter: place for place, letter in enumerate(letters)}
    return np.array([places.get(letter, 0) for letter in text], np.int32)


class Layer(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, width = self.attention_norm(x), x.shape[-1]
        query, key, value = (
            part(y).reshape(-1, CONTEXT, HEADS, width // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * (width // HEADS) ** -0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, CONTEXT, width)
        x = x + self.output(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.mlp_norm(x))))


class Network(nn.Module):
    """Characters (N, CONTEXT) to scores of the next one, (N, CONTEXT, letters)."""

    mask: Tensor

    def __init__(self, letters: int, width: int = WIDTH) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        nn.init.normal_(self.letters.weight, std=0.1)
        self.places = nn.Parameter(0.1 * torch.randn(CONTEXT, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(LAYERS))
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, letters)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e4).triu(1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.letters(ids) + self.places
        for layer in self.layers:
            x = layer(x, self.mask)
        return self.scores(self.norm(x))


def windows(codes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """At each of ``starts``: CONTEXT characters, and for each of them the one that follows."""
    places = starts[:, None] + torch.arange(CONTEXT + 1)
    found = codes[places]
    return found[:, :-1], found[:, 1:]


def train(codes: Tensor, letters: int, steps: int, batch: int = 16, width: int = WIDTH) -> Network:
    """Fit a network to ``codes`` (N,), with draws from torch's global generator."""
    network = Network(letters, width)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        seen, following = windows(codes, torch.randint(len(codes) - CONTEXT, (batch,)))
        loss = nn.functional.cross_entropy(network(seen).flatten(0, 1), following.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def accuracy(network: Network, codes: Tensor, count: int = 256) -> float:
    """Share of the next characters that are guessed right, in ``count`` windows spread over ``codes``."""
    starts = torch.linspace(0, len(codes) - CONTEXT - 1, count).long()
    seen, following = windows(codes, starts)
    with torch.no_grad():
        return (network(seen).argmax(-1) == following).float().mean().item()


def fit(out: Path, seed: int = 0, steps: int = 1200, width: int = WIDTH) -> float:
    """Train, write the weights and the alphabet to ``out`` and return the accuracy on the held-out text."""
    torch.manual_seed(seed)
    first, second = texts()
    letters = alphabet(first)
    own, held_out = (torch.from_numpy(encode(text, letters)).long() for text in (first, second))
    network = train(own, len(letters), steps, width=width)
    arrays: dict[str, Any] = {
        name: value.numpy().astype(np.float16) for name, value in network.state_dict().items()
    }
    network.load_state_dict(
        {name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()}
    )
    np.savez(out, **arrays, alphabet=np.frombuffer(letters.encode("ascii"), np.uint8))
    return accuracy(network, held_out)


def load(path: Path) -> tuple[Network, str]:
    """The network that ``fit`` wrote, and its alphabet."""
    with np.load(path, allow_pickle=False) as data:
        arrays = dict(data)
    letters = arrays.pop("alphabet").tobytes().decode("ascii")
    network = Network(len(letters), arrays["places"].shape[1])
    network.load_state_dict(
        {name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()}
    )
    return network.eval(), letters


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--width", type=int, default=WIDTH)
    options = parser.parse_args()
    score = fit(options.out, options.seed, options.steps, options.width)
    print(
        f"{options.out}: {options.out.stat().st_size:,} bytes, {score:.4f} of the held-out characters right"
    )


if __name__ == "__main__":
    main()
