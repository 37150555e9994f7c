"""Layers that move values: concatenation, splits, slices, reshapes, permutations, constants."""

import math
from collections.abc import Sequence

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb


@layer("concat")
def concat(layer: Layer) -> Value:
    """Along the channels, or along the sequence."""
    first, inputs = layer.value, layer.inputs
    if len({value.rank for value in inputs}) > 1:
        raise LayerError(f"joins tensors of different ranks: {', '.join(str(v.shape) for v in inputs)}")
    if layer.params.sequenceConcat:
        if first.rank < 5:
            raise LayerError(f"joins sequences, and gets a tensor of shape {first.shape}")
        y = mb.concat(values=[v.exact() for v in inputs], axis=first.rank - 5, name=layer.name)
        return Value.of(y)
    if first.rank < 3:
        raise LayerError(f"joins channels, and gets a tensor of shape {first.shape}")
    return first.rebatched(mb.concat(values=[v.batched() for v in inputs], axis=1, name=layer.name))


@layer("split")
def split(layer: Layer) -> Sequence[Value]:
    """The channels in equal parts."""
    value, count = layer.value, int(layer.params.nOutputs)
    if count == 1:
        return [value]
    parts = mb.split(x=value.batched(), num_splits=count, axis=1, name=layer.name)
    return [value.rebatched(part) for part in parts]


@layer("slice")
def slice_axis(layer: Layer) -> Value:
    """Every stride-th of an interval of channels, rows or columns."""
    value, params = layer.value, layer.params
    back = 3 - int(params.axis)
    if value.rank < back:
        raise LayerError(f"slices axis -{back} of a tensor of shape {value.shape}")
    x = value.batched() if value.rank > 3 else value.exact()
    axis, sizes = len(x.shape) - back, list(x.shape)
    begin, end, stride = [0] * len(sizes), list(sizes), [1] * len(sizes)
    begin[axis], end[axis], stride[axis] = _interval(params, sizes[axis])
    y = mb.slice_by_index(x=x, begin=begin, end=end, stride=stride, name=layer.name)
    return value.rebatched(y) if value.rank > 3 else Value.of(y)


def _interval(params: object, size: int) -> tuple[int, int, int]:
    start, stop = int(getattr(params, "startIndex")), int(getattr(params, "endIndex"))  # noqa: B009
    start = start + size if start < 0 else start
    stop = stop + size if stop < 0 else min(stop, size)
    if not 0 <= start < stop:
        raise LayerError(f"takes {start} to {stop} of {size}: nothing")
    return start, stop, int(getattr(params, "stride")) or 1  # noqa: B009


@layer("flatten")
def flatten(layer: Layer) -> Value:
    """[.., C * H * W, 1, 1], channels first or last."""
    value = layer.value
    shape = (*value.lead, math.prod(value.shape[-3:]), 1, 1)
    if not layer.params.mode:
        return Value(value.variable, shape)
    return Value(mb.transpose(x=value.batched(), perm=[0, 2, 3, 1], name=layer.name), shape)


@layer("reshape")
def reshape(layer: Layer) -> Value:
    """To [C, H, W], or to [Seq, C, H, W] with another sequence length; channels first or last."""
    value, target = layer.value, [int(size) for size in layer.params.targetShape]
    lead = value.lead
    if len(target) == 4:
        lead = (target[0], *((1,) if value.rank == 5 else ()))
        if value.rank == 5 and value.shape[1] != 1:
            lead = (target[0], value.shape[1])
            if target[0] != value.shape[0]:
                raise LayerError("changes the sequence length of a batch")
        elif value.rank < 4:
            lead = (target[0],)
    elif len(target) != 3:
        raise LayerError(f"the target shape has 3 or 4 dimensions, and this is {tuple(target)}")
    shape = (*lead, *target[-3:])
    if math.prod(shape) != math.prod(value.shape):
        raise LayerError(f"cannot bring {value.shape} to {shape}")
    if not layer.params.mode:
        return Value(value.variable, shape)
    channels, height, width = target[-3:]
    last = mb.transpose(x=value.batched(), perm=[0, 2, 3, 1])
    turned = mb.reshape(x=last, shape=[math.prod(lead), height, width, channels])
    return Value(mb.transpose(x=turned, perm=[0, 3, 1, 2], name=layer.name), shape)


@layer("permute")
def permute(layer: Layer) -> Value:
    """The dimensions [Seq, C, H, W] in another order; the batch stays where it is."""
    value, axes = layer.value, [int(axis) for axis in layer.params.axis]
    if not axes or axes == [0, 1, 2, 3]:
        return value
    if sorted(axes) != [0, 1, 2, 3] or value.rank < 3:
        raise LayerError(f"orders the axes {axes} of a tensor of shape {value.shape}")
    if axes[0] == 0:
        return value.rebatched(mb.transpose(x=value.batched(), perm=axes, name=layer.name))
    x = Value(value.variable, (1,) * (5 - value.rank) + value.shape).exact()
    places = [0, 2, 3, 4]
    order = [places[axes[0]], 1, *(places[axis] for axis in axes[1:])]
    return Value.of(mb.transpose(x=x, perm=order, name=layer.name))


@layer("reorganizeData")
def reorganize(layer: Layer) -> Value:
    """Blocks of pixels to channels and back."""
    value, params = layer.value, layer.params
    x, block = value.batched(), int(params.blockSize)
    if params.mode == 0:
        y = mb.space_to_depth(x=x, block_size=block, name=layer.name)
    elif params.mode == 1:
        y = mb.depth_to_space(x=x, block_size=block, name=layer.name)
    else:
        y = mb.pixel_shuffle(x=x, upscale_factor=block, name=layer.name)
    return value.rebatched(y)


@layer("sequenceRepeat")
def sequence_repeat(layer: Layer) -> Value:
    """The whole sequence several times over."""
    value, count = layer.value, int(layer.params.nRepetitions or 1)
    if value.rank < 5:
        raise LayerError(f"repeats sequences, and gets a tensor of shape {value.shape}")
    if count == 1:
        return value
    reps = [1] * value.rank
    reps[value.rank - 5] = count
    return Value.of(mb.tile(x=value.exact(), reps=reps, name=layer.name))


@layer("loadConstant")
def load_constant(layer: Layer) -> Value:
    """A constant [1, 1, C, H, W]."""
    shape = tuple(int(size) for size in layer.params.shape)
    if len(shape) != 3:
        raise LayerError(f"a constant has shape [C, H, W], and this has {shape}")
    data = layer.load(layer.weight(layer.params.data, (1, *shape), "data", channel=1), layer.name)
    return Value(data, (1, 1, *shape))


@layer("reduce")
def reduce(layer: Layer) -> Value:
    """Sum, mean, norm and the like over channel, height or width, which become 1."""
    value, params = layer.value, layer.params
    back = [(3, 2, 1), (2, 1), (3,), (2,), (1,)][params.axis]
    if value.rank < back[0]:
        raise LayerError(f"reduces axis -{back[0]} of a tensor of shape {value.shape}")
    x = value.batched() if value.rank > 3 else value.exact()
    axes = [len(x.shape) - axis for axis in back]
    if params.mode == 9:
        if len(axes) > 1:
            raise LayerError("takes the argument of the maximum along one axis only")
        y = mb.reduce_argmax(x=x, axis=axes[0], keep_dims=True, name=layer.name)
    else:
        if params.mode == 3:
            x = mb.log(x=x, epsilon=layer.number(params.epsilon, 1e-6))
        y = _REDUCTIONS[params.mode](x=x, axes=axes, keep_dims=True, name=layer.name)
    return value.rebatched(y) if value.rank > 3 else Value.of(y)


_REDUCTIONS = (
    mb.reduce_sum,
    mb.reduce_mean,
    mb.reduce_prod,
    mb.reduce_sum,  # of logarithms
    mb.reduce_sum_square,
    mb.reduce_l1_norm,
    mb.reduce_l2_norm,
    mb.reduce_max,
    mb.reduce_min,
)
