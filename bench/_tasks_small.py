"""Two small networks trained on real data: handwritten digits, and the text of Python's manual."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from milpasses_tools import digits
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bench._tasks_measure import Hits, Task, count_weights
from bench.models import CACHE
from milpasses.interpreter import Interpreter
from scripts import train_transformer as transformer

CALIBRATION, WINDOWS = 512, 256  # images; windows of text to calibrate with and to measure on


def digits_task() -> Task:
    """The demo's network: calibrated on images it was trained with, measured on the 360 held out."""
    path = CACHE / "digits-iOS18.mlpackage"
    if not path.exists():
        digits.convert().save(str(path))
    held_out = digits.load()
    data: Any = load_digits()
    split: Any = train_test_split(  # that of scripts/train_digits.py
        data.images, data.target, test_size=len(held_out.labels), stratify=data.target, random_state=0
    )
    own, other = (part[:, None].astype(np.float32) / 16 for part in split[:2])
    if not np.array_equal(other, held_out.images):
        raise RuntimeError("scikit-learn splits the digits in another way than when the demo was trained")

    def hits(model: Any) -> Hits:
        run = Interpreter(model).run
        scores = np.stack([run({digits.INPUT: image[None]})[digits.OUTPUT][0] for image in held_out.images])
        return scores.argmax(axis=1) == held_out.labels

    inputs = [{digits.INPUT: image[None]} for image in own[:CALIBRATION]]
    return Task("digits", path, inputs, count_weights(path), hits)


def transformer_task() -> Task:
    """A language model, trained once and kept: calibrated on its own text, measured on other topics."""
    path = CACHE / "manual-iOS18.mlpackage"
    if not path.exists():
        _train(path)
    texts = transformer.texts()
    letters = transformer.alphabet(texts[0])
    (own, _), (seen, following) = (_windows(text, letters) for text in texts)

    def hits(model: Any) -> Hits:
        run = Interpreter(model).run
        guesses = np.stack([run({"characters": ids[None]})["scores"][0].argmax(axis=-1) for ids in seen])
        return (guesses == following).reshape(-1)

    inputs = [{"characters": ids[None]} for ids in own]
    return Task("transformer", path, inputs, count_weights(path, ["mask"]), hits)


def measured_windows() -> list[dict[str, Any]]:
    """The inputs that ``transformer_task`` measures on."""
    texts = transformer.texts()
    seen, _ = _windows(texts[1], transformer.alphabet(texts[0]))
    return [{"characters": ids[None]} for ids in seen]


def _windows(text: str, letters: str) -> tuple[np.ndarray, np.ndarray]:
    """``WINDOWS`` windows spread over ``text``, and the characters that follow."""
    codes = torch.from_numpy(transformer.encode(text, letters))
    starts = torch.linspace(0, len(codes) - transformer.CONTEXT - 1, WINDOWS).long()
    seen, following = transformer.windows(codes, starts)
    return seen.numpy(), following.numpy()


def _train(path: Path) -> None:
    """Train with the script's own settings, and convert."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "transformer.npz"
        transformer.fit(weights)
        network, _ = transformer.load(weights)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    traced = torch.jit.trace(network, torch.zeros(1, transformer.CONTEXT, dtype=torch.long))
    model: Any = ct.convert(
        traced,
        inputs=[ct.TensorType("characters", (1, transformer.CONTEXT), dtype=np.int32)],
        outputs=[ct.TensorType("scores", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    CACHE.mkdir(exist_ok=True)
    model.save(str(path))
