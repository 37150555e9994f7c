"""A published SqueezeNet against torch, photo by photo, and what it weighs as a compressed ML Program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpasses.data.samples import Sample, Samples
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import upgrade
from milpasses.neuralnetwork.spec.legacy_model import open_legacy_model

torch = pytest.importorskip("torch")
functional = torch.nn.functional
FOOD = Path(__file__).parents[3] / "shared" / "data" / "food"
MODEL = FOOD / "food.mlmodel"
PER_CLASS = 5

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the food model is not here")


@pytest.fixture(scope="module")
def photos() -> list[Sample]:
    """The first photos of each class, centre-cropped."""
    return list(Samples.of(str(FOOD / "photos"), str(MODEL), limit=7 * PER_CLASS))


def squeezenet() -> Callable[[Any], np.ndarray]:
    """SqueezeNet 1.1 with the file's weights: RGB pixels [227, 227, 3] to probabilities."""
    network = open_legacy_model(MODEL).spec.neuralNetworkClassifier
    mean = torch.tensor(list(network.preprocessing[0].meanImage.meanImage)).reshape(1, 3, 227, 227)
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in network.layers:
        if layer.WhichOneof("layer") == "convolution":
            conv = layer.convolution
            shape = (conv.outputChannels, conv.kernelChannels, *conv.kernelSize)
            kernels = torch.tensor(list(conv.weights.floatValue)).reshape(shape)
            weights[layer.name] = kernels, torch.tensor(list(conv.bias.floatValue))

    def conv(x: torch.Tensor, name: str, **options: Any) -> torch.Tensor:
        return functional.relu(functional.conv2d(x, *weights[name], **options))

    def run(pixels: np.ndarray) -> np.ndarray:
        x = torch.tensor(pixels[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() - mean
        x = functional.max_pool2d(conv(x, "conv1", stride=2), 3, 2, ceil_mode=True)
        for fire in range(2, 10):
            squeezed = conv(x, f"fire{fire}/squeeze1x1")
            wide = conv(squeezed, f"fire{fire}/expand3x3", padding=1)
            x = torch.cat([conv(squeezed, f"fire{fire}/expand1x1"), wide], 1)
            if fire in (3, 5):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return torch.softmax(conv(x, "conv10_food").mean((2, 3)), 1)[0].numpy()

    return run


def accuracy(labels: list[str], photos: list[Sample]) -> dict[str, float]:
    """The share of right answers for each class; folders write a space as an underscore."""
    right: dict[str, list[bool]] = {}
    for label, photo in zip(labels, photos, strict=True):
        right.setdefault(str(photo.label), []).append(label == str(photo.label).replace("_", " "))
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


def test_reader_and_interpreter_agree_with_torch(photos: list[Sample]) -> None:
    run, torch_run = Interpreter(MODEL), squeezenet()
    names = list(open_legacy_model(MODEL).spec.neuralNetworkClassifier.stringClassLabels.vector)
    ours: list[str] = []
    theirs: list[str] = []
    for photo in photos:
        found, wanted = run.run(photo.inputs), torch_run(photo.inputs["data"])
        np.testing.assert_allclose(list(found["prob"].values()), wanted, atol=1e-4)
        ours.append(found["classLabel"])
        theirs.append(names[int(wanted.argmax())])
    mine, independent = accuracy(ours, photos), accuracy(theirs, photos)
    assert len(mine) == 7
    assert all(abs(mine[name] - independent[name]) <= 0.04 for name in mine)
    assert np.mean(list(mine.values())) > 0.4  # of 101 classes


def test_four_bits_a_weight(photos: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "food.mlpackage"
    model = upgrade(MODEL, "pal4", output=path)
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 560_000
    mean_image = next(record for record in model.report if record.shape == (1, 3, 227, 227))
    assert mean_image.status == "compressed"
    spec = model.get_spec()
    assert spec.description.metadata.author == "Reza Shirazian"
    assert [feature.name for feature in spec.description.output] == ["prob", "classLabel"]
    run = Interpreter(path)
    labels = [run.run(photo.inputs)["classLabel"] for photo in photos]
    assert np.mean(list(accuracy(labels, photos).values())) > 0.4
