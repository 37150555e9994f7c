"""Convolution and pooling of volumes [batch, channels, depth, height, width]."""

import math
from collections.abc import Sequence
from typing import Any

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

_AXES = ("Depth", "Height", "Width")
_SIDES = ("Front", "Back", "Top", "Bottom", "Left", "Right")


@layer("convolution3d")
def convolution3d(layer: Layer) -> Value:
    """Convolution, grouped and dilated, or deconvolution."""
    p, x = layer.params, _volume(layer)
    kernel, strides = _sizes(p, "kernel", 3), _sizes(p, "stride", 1)
    groups, out, channels = int(p.nGroups or 1), int(p.outputChannels), int(p.inputChannels)
    bias = layer.bias(p.hasBias, p.bias, out)
    options: dict[str, Any] = {
        "strides": strides,
        "dilations": _sizes(p, "dilation", 1),
        "groups": groups,
        "name": layer.name,
        **_padding(p),
        **({} if bias is None else {"bias": bias}),
    }
    if not p.isDeconvolution:
        weight = layer.weight(p.weights, (out, channels // groups, *kernel))
        return Value.of(mb.conv(x=x, weight=weight, **options))
    weight = layer.weight(p.weights, (channels, out // groups, *kernel), channel=1 if groups == 1 else 0)
    if len(p.outputShape):
        wanted = [int(size) for size in p.outputShape][-3:]
        if wanted != _deconvolved(x.shape[2:], kernel, options):  # else it goes without saying
            options["output_shape"] = [x.shape[0], out, *wanted]
    return Value.of(mb.conv_transpose(x=x, weight=weight, **options))


def _deconvolved(sizes: Sequence[Any], kernel: list[int], options: dict[str, Any]) -> list[Any]:
    """The sizes of a deconvolution's result that strides, dilations and the padding that is listed give."""
    pads = options.get("pad", [0] * 6) if options["pad_type"] in ("custom", "valid") else []
    if not pads:
        return []
    return [
        (size - 1) * stride + (k - 1) * dilation + 1 - pads[2 * axis] - pads[2 * axis + 1]
        for axis, (size, k, stride, dilation) in enumerate(
            zip(sizes, kernel, options["strides"], options["dilations"], strict=True)
        )
    ]


@layer("pooling3d")
def pooling3d(layer: Layer) -> Value:
    """The largest or the mean of each window."""
    p, x = layer.params, _volume(layer)
    options: dict[str, Any] = {
        "kernel_sizes": _sizes(p, "kernel", 1),
        "strides": _sizes(p, "stride", 1),
        "name": layer.name,
        **_padding(p),
    }
    if p.type == 0:
        return Value.of(mb.max_pool(x=x, **options))
    return Value.of(mb.avg_pool(x=x, exclude_padding_from_average=bool(p.countExcludePadding), **options))


@layer("globalPooling3d")
def global_pooling3d(layer: Layer) -> Value:
    """The largest or the mean of each channel."""
    op = mb.reduce_max if layer.params.type == 0 else mb.reduce_mean
    return Value.of(op(x=layer.value.exact(), axes=[-3, -2, -1], keep_dims=True, name=layer.name))


def _volume(layer: Layer) -> Any:
    value = layer.value
    if value.rank < 5:
        raise LayerError(f"takes volumes [batch, C, D, H, W], and gets a tensor of shape {value.shape}")
    return value.laid((math.prod(value.shape[:-4]), *value.shape[-4:]))


def _sizes(params: Any, what: str, default: int) -> list[int]:
    return [int(getattr(params, what + axis)) or default for axis in _AXES]


def _padding(params: Any) -> dict[str, Any]:
    """0: as listed; 1: none; 2: so that the strides alone divide the size."""
    if params.paddingType == 0:
        return {"pad_type": "custom", "pad": [int(getattr(params, "customPadding" + s)) for s in _SIDES]}
    return {"pad_type": "valid" if params.paddingType == 1 else "same"}
