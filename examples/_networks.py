"""The networks of the examples: really trained, small, and here. No download, no torch.

The digits network is that of ``milpasses demo``. The language model predicts the next character of Python's
own manual (``pydoc_data.topics``); ``scripts/train_transformer.py`` made its weights.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder
from milpasses_tools import digits

import milpasses as mp
from milpasses.interpreter import Interpreter

mb: Any = Builder
HEADS, LAYERS, CONTEXT = 4, 2, 64
LETTERS = Path(__file__).parent / "_data" / "letters.npz"


def digits_model(folder: Path) -> Path:
    """The digits network as a package."""
    path = folder / "digits.mlpackage"
    digits.convert().save(str(path))
    return path


def digits_data(first: int, last: int) -> list[mp.Sample]:
    """Images that training never saw, with their labels."""
    data = digits.load()
    pairs = zip(data.images[first:last], data.labels[first:last], strict=True)
    return [mp.Sample({digits.INPUT: image[None]}, int(label)) for image, label in pairs]


def digits_accuracy(model: Any) -> float:
    """Share of 360 images that the network reads right, by the interpreter."""
    data = digits.load()
    interpreter = Interpreter(model)
    rows = [interpreter.run({digits.INPUT: image[None]})[digits.OUTPUT] for image in data.images]
    return float((np.concatenate(rows).argmax(1) == data.labels).mean())


def letters_model(target: Any = ct.target.iOS18, pass_pipeline: Any = None) -> Any:
    """The language model, converted: ``tokens`` (1, 64) int32 to ``scores`` (1, 64, letters)."""
    with np.load(LETTERS, allow_pickle=False) as file:
        data = {name: value for name, value in file.items() if name != "alphabet"}
    data = {name: value.astype(np.float32) for name, value in data.items()}
    width = data["places"].shape[1]
    blocked = np.triu(np.full((CONTEXT, CONTEXT), -1e4, np.float32), 1)

    def linear(x: Any, name: str) -> Any:
        bias = data.get(f"{name}.bias", np.zeros(len(data[f"{name}.weight"]), np.float32))
        return mb.linear(x=x, weight=data[f"{name}.weight"], bias=bias, name=name.replace(".", "_"))

    def norm(x: Any, name: str) -> Any:
        return mb.layer_norm(x=x, axes=[-1], gamma=data[f"{name}.weight"], beta=data[f"{name}.bias"])

    def heads(x: Any) -> Any:
        split = mb.reshape(x=x, shape=[1, CONTEXT, HEADS, width // HEADS])
        return mb.transpose(x=split, perm=[0, 2, 1, 3])

    def attention(x: Any, name: str) -> Any:
        query, key, value = (heads(linear(x, f"{name}.{part}")) for part in ("query", "key", "value"))
        scores = mb.matmul(x=mb.mul(x=query, y=(width // HEADS) ** -0.5), y=key, transpose_y=True)
        mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=blocked), axis=-1), y=value)
        joined = mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, CONTEXT, width])
        return linear(joined, f"{name}.output")

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, CONTEXT), dtype=ct.converters.mil.mil.types.int32)])
    def letters(tokens: Any) -> Any:
        x = mb.gather(x=data["letters.weight"], indices=tokens, axis=0, name="letters")
        x = mb.add(x=x, y=data["places"])
        for index in range(LAYERS):
            name = f"layers.{index}"
            x = mb.add(x=x, y=attention(norm(x, f"{name}.attention_norm"), name))
            hidden = mb.gelu(x=linear(norm(x, f"{name}.mlp_norm"), f"{name}.up"), mode="EXACT")
            x = mb.add(x=x, y=linear(hidden, f"{name}.down"))
        last = norm(x, "norm")
        return mb.linear(x=last, weight=data["scores.weight"], bias=data["scores.bias"], name="scores")

    options = {} if pass_pipeline is None else {"pass_pipeline": pass_pipeline}
    return ct.convert(letters, minimum_deployment_target=target, skip_model_load=True, **options)


def texts(held_out: bool, count: int) -> Iterator[np.ndarray]:
    """Pieces of the manual as tokens (1, 65): of the tenth that training never saw, or of the rest."""
    with np.load(LETTERS, allow_pickle=False) as file:
        alphabet = file["alphabet"].tobytes().decode("ascii")
    places = {letter: place for place, letter in enumerate(alphabet)}
    names = sorted(topics)
    chosen = [name for place, name in enumerate(names) if (place % 10 == 0) == held_out]
    text = "\n".join(topics[name] for name in chosen)
    step = (len(text) - CONTEXT - 1) // count
    for start in islice(range(0, len(text) - CONTEXT - 1, step), count):
        piece = text[start : start + CONTEXT + 1]
        yield np.array([[places.get(letter, 0) for letter in piece]], np.int32)


def bits_a_character(model: Any, count: int = 40) -> float:
    """What a character of unseen text costs to write down with the model's guesses: less is better."""
    interpreter, costs = Interpreter(model), []
    for tokens in texts(True, count):
        scores = interpreter.run({"tokens": tokens[:, :-1]})["scores"][0].astype(np.float64)
        shifted = scores - scores.max(1, keepdims=True)
        probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        costs.append(-probability[np.arange(CONTEXT), tokens[0, 1:]] / np.log(2))
    return float(np.mean(costs))
