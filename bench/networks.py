"""The usual architectures at their usual sizes, in torch, with made-up but realistic weights.

No weight is downloaded. Matrices are drawn from a mix of a Gaussian and a Student-t, and batch norms take
their statistics from a batch of smooth noise: weights get the tails, and activations the range, of trained
ones. Accuracy cannot be measured on them.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Draw float32 weights: Gaussian, with one in five from a Student-t of 5 degrees of freedom.

    The excess kurtosis is 2 to 3.
    """
    values = rng.standard_normal(shape, np.float32)
    flat = values.reshape(-1)
    chosen = np.flatnonzero(rng.random(flat.size, np.float32) < 0.2)
    flat[chosen] *= np.sqrt(2.5 / rng.standard_gamma(2.5, chosen.size, np.float32))
    return values * np.float32(std / math.sqrt(0.8 + 0.2 * 5 / 3))


def realistic(network: nn.Module, images: Tensor | None = None, seed: int = 0) -> nn.Module:
    """Give ``network`` heavy-tailed matrices and, from ``images``, batch statistics.

    The standard deviation is sqrt(2 / inputs) in convolutions (He et al., 2015), sqrt(1 / inputs) elsewhere.
    """
    rng = np.random.default_rng(seed)
    for module in network.modules():
        gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.data = torch.from_numpy(
                    heavy_tailed(rng, parameter.shape, math.sqrt(gain / fan_in))
                )
            elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and name == "weight":
                parameter.data = torch.from_numpy(
                    rng.lognormal(-0.1, 0.3, parameter.shape).astype(np.float32)
                )
            else:
                parameter.data = torch.from_numpy(rng.normal(0, 0.05, parameter.shape).astype(np.float32))
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics become those of the batches seen
    if images is not None:
        with torch.no_grad():
            network.train()(images)
    return network.eval()


def smooth_noise(batch: int, size: int) -> Tensor:
    """Images (batch, 3, size, size) of noise with the correlations of photographs, standardised."""
    noise = torch.randn(batch, 3, size // 16, size // 16, generator=torch.Generator().manual_seed(0))
    image = functional.interpolate(noise, size=(size, size), mode="bicubic")
    return (image - image.mean()) / image.std()


def conv_norm(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = conv_norm(inputs, width)
        self.spatial = conv_norm(width, width, 3, stride)
        self.expand = conv_norm(width, 4 * width)
        same = inputs == 4 * width
        self.shortcut = nn.Identity() if same else conv_norm(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.expand(self.spatial(self.reduce(x).relu()).relu()) + self.shortcut(x)).relu()


def resnet50() -> nn.Module:
    """ResNet-50 (He et al., 2015; stride in the 3x3 convolution): 25,557,032 parameters."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
    return realistic(network, smooth_noise(4, 224))


def conv_silu(inputs: int, outputs: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_norm(inputs, outputs, size, stride), nn.SiLU())


class Residual(nn.Module):
    """x + two 3x3 convolutions of x."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(conv_silu(width, inside, 3), conv_silu(inside, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class CrossStage(nn.Module):
    """Half of the channels through ``inside``, and all that there was before it, to ``outputs`` channels."""

    def __init__(self, inputs: int, width: int, outputs: int, inside: nn.Module) -> None:
        super().__init__()
        self.split, self.inside, self.join = (
            conv_silu(inputs, 2 * width),
            inside,
            conv_silu(3 * width, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.split(x).chunk(2, 1)
        return self.join(torch.cat([first, second, self.inside(second)], 1))


def yolo_classifier() -> nn.Module:
    """A classifier of the kind and size of the smallest that Ultralytics exports: 2.7 million parameters.

    Without the attention of its last block, in whose place are convolutions.
    """

    def deep(width: int) -> nn.Module:
        blocks = nn.Sequential(Residual(width // 2, width // 2), Residual(width // 2, width // 2))
        return CrossStage(width, width // 2, width, blocks)

    network = nn.Sequential(
        *(conv_silu(3, 16, 3, 2), conv_silu(16, 32, 3, 2), CrossStage(32, 16, 64, Residual(16, 8))),
        *(conv_silu(64, 64, 3, 2), CrossStage(64, 32, 128, Residual(32, 16))),
        *(conv_silu(128, 128, 3, 2), CrossStage(128, 64, 128, deep(64))),
        *(conv_silu(128, 256, 3, 2), CrossStage(256, 128, 256, deep(128)), conv_silu(256, 256)),
        *(conv_silu(256, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000), nn.Softmax(1)),
    )
    return realistic(network, smooth_noise(4, 224))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, 8 * int(channels / 32 + 0.5))
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu())
        return x * functional.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, size: int, width: int, outputs: int, se: bool, act: type, stride: int
    ) -> None:
        super().__init__()
        expand = [] if width == inputs else [conv_norm(inputs, width), act()]
        gate = [SqueezeExcite(width)] if se else []
        depthwise = conv_norm(width, width, size, stride, groups=width)
        self.layers = nn.Sequential(*expand, depthwise, act(), *gate, conv_norm(width, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet_v3_small() -> nn.Module:
    """MobileNetV3-Small (Howard et al., 2019, table 2): 2,542,856 parameters."""
    relu, swish = nn.ReLU, nn.Hardswish
    table = [  # kernel, expanded, out, squeeze-excite, activation, stride
        (3, 16, 16, True, relu, 2),
        (3, 72, 24, False, relu, 2),
        (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1),
        (5, 240, 40, True, swish, 1),
        (5, 120, 48, True, swish, 1),
        (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2),
        (5, 576, 96, True, swish, 1),
        (5, 576, 96, True, swish, 1),
    ]
    layers: list[nn.Module] = [conv_norm(3, 16, 3, 2), swish()]
    inputs = 16
    for row in table:
        layers.append(InvertedResidual(inputs, *row))
        inputs = row[2]
    layers += [conv_norm(96, 576), swish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(576, 1024), swish(), nn.Linear(1024, 1000))
    return realistic(network, smooth_noise(16, 224))


class EncoderLayer(nn.Module):
    """BERT's layer: attention and MLP, each followed by the sum with its input and a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.attention_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down, self.norm = (
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
            nn.LayerNorm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.output(mixed))
        return self.norm(x + self.down(functional.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, vocab: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.pooler = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.pooler(self.layers(self.norm(x))[:, 0]).tanh()


def transformer_encoder(layers: int = 12, width: int = 768, heads: int = 12, vocab: int = 30522) -> nn.Module:
    """An encoder of BERT's shape (base by default: 109,480,704 parameters).

    Ids (1, n) become a vector (1, width).
    """
    return realistic(Encoder(layers, width, heads, vocab))


class CachedDecoder(nn.Module):
    """A decoder that keeps keys and values of the tokens so far in its state, one token a call."""

    def __init__(self, layers: int, width: int, heads: int, vocab: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.output = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        cache = torch.zeros(layers, heads, context, width // heads)
        self.keys: Tensor
        self.values: Tensor
        self.register_buffer("keys", cache)
        self.register_buffer("values", cache.clone())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids)[0]
        end = mask.shape[-1]
        start = end - ids.shape[1]
        for i in range(len(self.qkv)):
            parts = self.qkv[i](self.norms[2 * i](x)).unflatten(-1, (3, self.heads, -1))
            query, key, value = parts.permute(1, 2, 0, 3).unbind()
            self.keys[i : i + 1, :, start:end] = key[None]
            self.values[i : i + 1, :, start:end] = value[None]
            keys, values = self.keys[i : i + 1, :, :end], self.values[i : i + 1, :, :end]
            mixed = functional.scaled_dot_product_attention(query[None], keys, values, mask)
            x = x + self.output[i](mixed[0].transpose(0, 1).flatten(1))
            x = x + self.down[i](functional.gelu(self.up[i](self.norms[2 * i + 1](x))))
        return self.head(self.norms[-1](x))


def stateful_decoder(
    layers: int = 2, width: int = 128, heads: int = 4, vocab: int = 1000, context: int = 64
) -> nn.Module:
    """A small decoder with a key-value cache of ``context`` tokens: buffers ``keys`` and ``values``."""
    return realistic(CachedDecoder(layers, width, heads, vocab, context))


class Recurrent(nn.Module):
    def __init__(self, cell: type, width: int) -> None:
        super().__init__()
        self.cell, self.head = cell(64, width), nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


def recurrent(kind: str = "lstm", width: int = 128) -> nn.Module:
    """One LSTM or GRU layer over (20, 1, 64), and a linear on each step."""
    return realistic(Recurrent({"lstm": nn.LSTM, "gru": nn.GRU}[kind], width))
