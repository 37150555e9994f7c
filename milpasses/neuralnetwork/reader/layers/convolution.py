"""Convolution and deconvolution of images."""

from typing import Any

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

Pads = list[int]  # top, bottom, left, right


@layer("convolution")
def convolution(layer: Layer) -> Value:
    """Convolution [batch, C, H, W], grouped and dilated; with two inputs the second holds the kernels."""
    value, params = layer.value, layer.params
    x = value.batched()
    if params.isDeconvolution:
        return value.rebatched(_deconvolution(layer, x))
    kernel = pair(params.kernelSize, 3)
    out, groups = int(params.outputChannels), int(params.nGroups or 1)
    shape = (out, int(params.kernelChannels), *kernel)
    if x.shape[1] != shape[1] * groups:
        raise LayerError(f"takes {shape[1] * groups} channels and gets {x.shape[1]}")
    dynamic = len(layer.inputs) > 1
    weight = layer.inputs[1].laid(shape) if dynamic else layer.weight(params.weights, shape)
    bias = layer.bias(params.hasBias and not dynamic, params.bias, out)
    y = mb.conv(
        x=x,
        weight=weight,
        strides=pair(params.stride, 1),
        dilations=pair(params.dilationFactor, 1),
        groups=groups,
        name=layer.name,
        **padding(params, params.WhichOneof("ConvolutionPaddingType")),
        **optional("bias", bias),
    )
    return value.rebatched(y)


def _deconvolution(layer: Layer, x: Any) -> Any:
    """What the padding cuts off is stated in full: MIL's ``same`` differs for strides beyond the kernel."""
    params = layer.params
    kernel, stride = pair(params.kernelSize, 3), pair(params.stride, 1)
    dilations = pair(params.dilationFactor, 1)
    groups, out = int(params.nGroups or 1), int(params.outputChannels)
    shape = (int(params.kernelChannels), out // groups, *kernel)
    if x.shape[1] != shape[0]:
        raise LayerError(f"takes {shape[0]} channels and gets {x.shape[1]}")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [(size - 1) * s + extent for size, s, extent in zip(x.shape[2:], stride, extents, strict=True)]
    cut, missing = _cut(params, list(x.shape[2:]), full, stride)
    y = mb.conv_transpose(
        x=x,
        weight=layer.weight(params.weights, shape, channel=1),
        strides=stride,
        dilations=dilations,
        groups=groups,
        pad_type="custom" if any(cut) else "valid",
        name=layer.name,
        **optional("pad", cut if any(cut) else None),
        **optional("bias", layer.bias(params.hasBias, params.bias, out)),
    )
    if any(missing):  # an output larger than what the kernels reach: zeros, and the bias
        y = mb.pad(x=y, pad=[0, 0, 0, 0, 0, missing[0], 0, missing[1]], mode="constant", constant_val=0.0)
    return y


def _cut(params: Any, sizes: list[Any], full: list[Any], stride: list[int]) -> tuple[Pads, list[int]]:
    """What to cut from the full result, and what it lacks at its ends."""
    wanted: list[Any] = [int(size) for size in params.outputShape]
    same = params.WhichOneof("ConvolutionPaddingType") == "same"
    if not wanted and not same:
        return borders(params.valid.paddingAmounts), [0, 0]
    wanted = wanted or [size * s for size, s in zip(sizes, stride, strict=True)]
    cut: Pads = []
    declared = borders(params.valid.paddingAmounts)
    missing = [max(0, want - have) for want, have in zip(wanted, full, strict=True)]
    for axis, (want, have) in enumerate(zip(wanted, full, strict=True)):
        total = max(0, have - want)
        small, large = total // 2, total - total // 2
        first = large if same and params.same.asymmetryMode == 1 else small
        if not same and sum(declared[2 * axis : 2 * axis + 2]) >= total:
            first = min(declared[2 * axis], total)
        cut += [first, total - first]
    return cut, missing


def pair(sizes: Any, default: int) -> list[int]:
    """A setting for height and width, or its default."""
    return [int(size) for size in sizes] or [default, default]


def borders(amounts: Any) -> Pads:
    """The amounts at top, bottom, left and right; 0 where nothing is set."""
    edges = [(int(edge.startEdgeSize), int(edge.endEdgeSize)) for edge in amounts.borderAmounts]
    if not edges:
        return [0, 0, 0, 0]
    if len(edges) != 2:
        raise LayerError(f"border amounts are for height and width, and {len(edges)} are given")
    return [*edges[0], *edges[1]]


def padding(params: Any, kind: str | None) -> dict[str, Any]:
    """``pad_type`` and ``pad`` of MIL's convolutions and poolings."""
    if kind == "same":
        return {"pad_type": "same_lower" if params.same.asymmetryMode == 1 else "same"}
    pads = borders(params.valid.paddingAmounts)
    return {"pad_type": "custom", "pad": pads} if any(pads) else {"pad_type": "valid"}


def optional(name: str, value: Any) -> dict[str, Any]:
    """The argument ``name``, unless it is None."""
    return {} if value is None else {name: value}
