"""Small networks written by hand, one for each architecture that the interpreter has to run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> nn.Sequential:
    layers = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Bottleneck(nn.Module):
    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(c_in, width, 1), conv_bn(width, width, 3, stride), conv_bn(width, 4 * width, 1, act=None)
        )
        plain = stride == 1 and c_in == 4 * width
        self.skip = nn.Identity() if plain else conv_bn(c_in, 4 * width, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    """ResNet50 with the defaults."""

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(channels, width << stage, 2 if stage and not block else 1))
                channels = 4 * (width << stage)
        self.body = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MobileNetV3Block(nn.Module):
    """Expand, depthwise, squeeze and excite, project; hard activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2, act=nn.Hardswish)
        self.expand = conv_bn(16, 48, 1, act=nn.Hardswish)
        self.depthwise = conv_bn(48, 48, 5, 2, groups=48, act=nn.Hardswish)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 12, 1), nn.ReLU(), nn.Conv2d(12, 48, 1), nn.Hardsigmoid()
        )
        self.project = conv_bn(48, 24, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(self.stem(x)))
        return self.project(x * self.squeeze(x))


class DenseNet(nn.Module):
    """A dense block and a transition with average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 8, 3, padding=1))
            for i in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.transition(x)


class ConvNeXt(nn.Module):
    """Patchify, then depthwise 7x7, channels-last LayerNorm, GELU, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.depthwise = nn.Conv2d(24, 24, 7, padding=3, groups=24)
        self.norm = nn.LayerNorm(24)
        self.up, self.down = nn.Linear(24, 96), nn.Linear(96, 24)
        self.gamma = nn.Parameter(torch.full((24,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """Shifted-window attention with a relative bias on an 8x8 map of windows of 4x4."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(heads, 16, 16) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.reshape(1, 2, 4, 2, 4, 32).permute(0, 1, 3, 2, 4, 5).reshape(4, 16, 32)
        q, k, v = self.qkv(y).reshape(4, 16, 3, self.heads, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5 + self.bias, -1)
        y = self.out((weights @ v).transpose(1, 2).reshape(4, 16, 32))
        y = y.reshape(1, 2, 2, 4, 4, 32).permute(0, 1, 3, 2, 4, 5).reshape(1, 8, 8, 32)
        return x + torch.roll(y, (2, 2), (1, 2))


class DeepLab(nn.Module):
    """Dilated convolutions, image pooling and bilinear upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2))
        self.branches = nn.ModuleList(nn.Conv2d(24, 8, 3, padding=d, dilation=d) for d in (1, 2, 3))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 8, 1))
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        pooled = functional.interpolate(self.pool(y), (8, 8), mode="bilinear", align_corners=False)
        y = self.head(torch.cat([*(b(y) for b in self.branches), pooled], 1))
        return functional.interpolate(y, (32, 32), mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """A transformer encoder; ``norm_first`` tells ViT and Whisper from BERT."""

    def __init__(self, dim: int, heads: int, layers: int, norm_first: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, norm_first) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.norm_first = heads, norm_first
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def attend(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = (
            p(x).reshape(batch, length, self.heads, dim // self.heads).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5, -1)
        return self.o((weights @ v).transpose(1, 2).reshape(batch, length, dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attend(self.norm1(x))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class Bert(nn.Module):
    """BERT-base with the defaults."""

    def __init__(self, vocabulary: int = 30522, dim: int = 768, heads: int = 12, layers: int = 12) -> None:
        super().__init__()
        self.tokens, self.positions = (
            nn.Embedding(vocabulary, dim),
            nn.Parameter(torch.randn(512, dim) * 0.02),
        )
        self.norm, self.encoder = nn.LayerNorm(dim), Encoder(dim, heads, layers, norm_first=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(self.norm(self.tokens(ids) + self.positions[: ids.shape[1]]))


class ViT(nn.Module):
    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, 8)
        self.token, self.positions = (
            nn.Parameter(torch.randn(1, 1, dim)),
            nn.Parameter(torch.randn(1, 17, dim)),
        )
        self.encoder, self.head = Encoder(dim, 4, 1, norm_first=True), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class WhisperEncoder(nn.Module):
    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(16, dim, 3, padding=1), nn.Conv1d(dim, dim, 3, 2, padding=1)
        self.positions = nn.Parameter(torch.randn(20, dim) * 0.1)
        self.encoder, self.norm = Encoder(dim, 4, 1, norm_first=True), nn.LayerNorm(dim)

    def forward(self, mel: Tensor) -> Tensor:
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).transpose(1, 2)
        return self.norm(self.encoder(x + self.positions))


class Recurrent(nn.Module):
    """Two layers of LSTM (both directions) or GRU."""

    def __init__(self, kind: type[nn.Module], bidirectional: bool) -> None:
        super().__init__()
        self.layer: Any = kind(12, 16, num_layers=2, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Decoder(nn.Module):
    """One step of attention over a cache kept in states."""

    def __init__(self, dim: int = 16, length: int = 8) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.register_buffer("keys", torch.zeros(1, length, dim))
        self.register_buffer("values", torch.zeros(1, length, dim))

    def forward(self, x: Tensor, slot: Tensor, mask: Tensor) -> Tensor:
        self.keys.mul_(1 - slot).add_(slot * self.k(x))
        self.values.mul_(1 - slot).add_(slot * self.v(x))
        weights = torch.softmax(self.q(x) @ self.keys.transpose(-2, -1) * 0.25 + mask, -1)
        return weights @ self.values


class Flexible(nn.Module):
    """Convolutions, a reshape and a resize whose sizes follow from the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.interpolate(functional.relu(self.conv(x)), scale_factor=2.0, mode="nearest")
        return y.flatten(2).mean(-1)
