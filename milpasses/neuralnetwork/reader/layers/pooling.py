"""Pooling over windows and over whole images."""

from typing import Any

from milpasses.neuralnetwork.reader.layers.convolution import padding, pair
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.program.builder import mb

MAX, AVERAGE, L2 = 0, 1, 2


@layer("pooling")
def pooling(layer: Layer) -> Value:
    """Maximum, mean or root of the sum of squares over windows [batch, C, H, W]."""
    value, params = layer.value, layer.params
    x = value.batched()
    if params.globalPooling:
        reduce = {MAX: mb.reduce_max, AVERAGE: mb.reduce_mean, L2: mb.reduce_l2_norm}[params.type]
        return value.rebatched(reduce(x=x, axes=[2, 3], keep_dims=True, name=layer.name))
    settings: dict[str, Any] = {
        "kernel_sizes": pair(params.kernelSize, 3),
        "strides": pair(params.stride, 1),
        **_padding(params),
    }
    if params.type == AVERAGE:
        settings["exclude_padding_from_average"] = bool(params.avgPoolExcludePadding)
    pool = {MAX: mb.max_pool, AVERAGE: mb.avg_pool, L2: mb.l2_pool}[params.type]
    return value.rebatched(pool(x=x, name=layer.name, **settings))


def _padding(params: Any) -> dict[str, Any]:
    """``includeLastPixel`` is MIL's ceil mode, without windows that lie in the padding alone."""
    kind = params.WhichOneof("PoolingPaddingType")
    if kind != "includeLastPixel":
        return padding(params, kind)
    height, width = pair(params.includeLastPixel.paddingAmounts, 0)
    return {"pad_type": "custom", "pad": [height, height, width, width], "ceil_mode": True}
