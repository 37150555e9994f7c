"""A small MobileNet whose channels have very unequal ranges: trained on digits, then scaled, exactly."""

import logging
from itertools import pairwise
from typing import Any

import coremltools as ct
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from bench._tasks_measure import Hits, Task, count_weights
from bench.models import CACHE
from milpasses.interpreter import Interpreter

MEASURED = 360
CALIBRATED = 256
_SPREAD = 4.0  # powers of two, either way


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise convolutions, each behind a ReLU, and a linear on the mean."""

    def __init__(self, channels: tuple[int, ...] = (24, 48, 64, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels[0], 3, padding=1), nn.ReLU()]
        for index, (inside, outside) in enumerate(pairwise(channels)):
            layers += [
                nn.Conv2d(inside, inside, 3, stride=1 + index % 2, padding=1, groups=inside),
                nn.ReLU(),
            ]
            layers += [nn.Conv2d(inside, outside, 1), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, 10) of images (n, 1, 8, 8)."""
        return self.head(self.body(x).mean((2, 3)))


def _data() -> Any:
    """Images and labels to train with, and to measure on."""
    digits: Any = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    return train_test_split(images, digits.target, test_size=MEASURED, stratify=digits.target, random_state=0)


def trained(steps: int = 1500) -> Separable:
    """Trained with Adam on the images that do not measure."""
    torch.manual_seed(0)
    own, _, labels, _ = _data()
    images, targets = torch.from_numpy(own), torch.from_numpy(labels).long()
    network = Separable()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        loss = nn.functional.cross_entropy(network(images[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def unequal(network: Separable, spread: float = _SPREAD) -> Separable:
    """Scale each channel by a random power of two, and undo that in what takes it: the same function."""
    rng = np.random.default_rng(0)
    convolutions = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for first, second in pairwise(convolutions):
            powers = np.round(rng.uniform(-spread, spread, first.out_channels))
            scale = torch.from_numpy((2.0**powers).astype(np.float32))
            assert first.bias is not None
            first.weight /= scale[:, None, None, None]
            first.bias /= scale
            second.weight *= scale[:, None, None, None] if second.groups > 1 else scale[None, :, None, None]
    return network


def unequal_task() -> tuple[Task, list[dict[str, Any]]]:
    """The network as a task, and the inputs that it measures on."""
    path = CACHE / "unequal-iOS18.mlpackage"
    if not path.exists():
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        network = unequal(trained())
        with torch.no_grad():
            traced = torch.jit.trace(network, torch.zeros(1, 1, 8, 8))
        model: Any = ct.convert(
            traced,
            inputs=[ct.TensorType("image", (1, 1, 8, 8))],
            outputs=[ct.TensorType("scores")],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        CACHE.mkdir(exist_ok=True)
        model.save(str(path))
    own, others, _, labels = _data()
    measured = [{"image": image[None]} for image in others]

    def hits(model: Any) -> Hits:
        run = Interpreter(model).run
        return np.array([run(each)["scores"][0].argmax() for each in measured]) == labels

    inputs = [{"image": image[None]} for image in own[:CALIBRATED]]
    return Task("unequal", path, inputs, count_weights(path), hits), measured
