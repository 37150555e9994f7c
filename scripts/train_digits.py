"""Train the demo network on scikit-learn's digits and write its package data file.

    python scripts/train_digits.py [--out FILE] [--seed N] [--epochs N]

Needs torch and scikit-learn, which milpasses itself does not. Takes under two minutes on two CPU cores.
The file holds the weights (convolutions and linears as float16, batch norms as float32), 360 images that
training never saw, their labels, and a text of how it was made. Nothing in it is pickled.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

OUT = Path(__file__).parent.parent / "tools" / "milpasses_tools" / "demo_data" / "digits.npz"
HELD_OUT = 360

ABOUT = """\
A convolutional network for 8x8 images of handwritten digits, made by scripts/train_digits.py.
Data: the 1,797 images of scikit-learn's load_digits (UCI, Optical Recognition of Handwritten Digits,
E. Alpaydin and C. Kaynak, 1998, CC BY 4.0): {train:,} for training, {held_out} held out.
The split is stratified; seed {seed}.
Training: {epochs} epochs, AdamW, one-cycle schedule, images shifted by up to one pixel.
Held-out accuracy with the stored weights: {accuracy:.4f}.
Input: values 0..16 divided by 16, shape (N, 1, 8, 8). Output: 10 scores, one a digit.
"""


def conv(inputs: int, outputs: int, size: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size; the batch norm behind it brings the bias."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)


class Network(nn.Module):
    """Plain, depthwise, pointwise, grouped and residual convolutions, then two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = conv(1, 32, 3), nn.BatchNorm2d(32)
        self.depthwise, self.depthwise_norm = conv(32, 32, 3, groups=32), nn.BatchNorm2d(32)
        self.pointwise, self.pointwise_norm = conv(32, 64, 1), nn.BatchNorm2d(64)
        self.grouped, self.grouped_norm = conv(64, 64, 3, groups=2), nn.BatchNorm2d(64)
        self.residual, self.residual_norm = conv(64, 64, 3), nn.BatchNorm2d(64)
        self.hidden = nn.Linear(256, 96)
        self.scores = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = self.depthwise_norm(self.depthwise(x)).relu()
        x = self.pointwise_norm(self.pointwise(x)).relu()
        x = nn.functional.max_pool2d(x, 2)
        x = self.grouped_norm(self.grouped(x)).relu()
        x = (x + self.residual_norm(self.residual(x))).relu()
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        x = nn.functional.dropout(self.hidden(x).relu(), 0.2, self.training)
        return self.scores(x)


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> Network:
    """Fit a network to ``images`` (N, 1, 8, 8) and ``labels`` (N,)."""
    network, batch = Network(), 64
    steps = -(-len(images) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs=epochs, steps_per_epoch=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch):
            down, right = torch.randint(-1, 2, (2,)).tolist()
            shifted = images[chosen].roll((down, right), (2, 3))
            loss = nn.functional.cross_entropy(network(shifted), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def stored(network: Network) -> dict[str, np.ndarray]:
    """The network's arrays as the file keeps them: matrices in float16, vectors in float32."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            arrays[name] = value.numpy().astype(np.float16 if value.ndim > 1 else np.float32)
    return arrays


def accuracy(
    network: Network, arrays: dict[str, np.ndarray], images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Share of ``images`` that the network gets right with the rounded ``arrays`` as its weights."""
    rounded = {name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()}
    network.load_state_dict(rounded, strict=False)  # batch norm's step counters are not stored
    with torch.no_grad():
        return (network(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    digits: Any = load_digits()
    pixels, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    split: Any = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=options.seed
    )
    train_pixels, test_pixels, train_labels, test_labels = split

    def inputs(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images[:, None].astype(np.float32) / 16)

    network = train(inputs(train_pixels), torch.from_numpy(train_labels.astype(np.int64)), options.epochs)
    arrays = stored(network)
    score = accuracy(network, arrays, inputs(test_pixels), torch.from_numpy(test_labels.astype(np.int64)))
    about = ABOUT.format(
        train=len(train_pixels), held_out=HELD_OUT, seed=options.seed, epochs=options.epochs, accuracy=score
    )
    arrays |= {"images": test_pixels, "labels": test_labels, "about": np.array(about)}
    np.savez_compressed(options.out, **arrays)  # pyright: ignore[reportArgumentType]  (its stub has no **kwds)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes\n{about}")


if __name__ == "__main__":
    main()
