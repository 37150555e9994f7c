"""Slices, windows and reversals of the N-dimensional generation."""

from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.layers.tensor_nd_shape import lifted, scalar, static
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.program.builder import mb


@layer("sliceStatic")
def slice_static(layer: Layer) -> Value:
    """Every stride-th from begin to end along each axis; masks stand for all of it, or take it out."""
    p, rank = layer.params, layer.value.rank
    y = mb.slice_by_index(
        x=layer.value.held(),
        begin=_numbers(p.beginIds, rank, 0),
        end=_numbers(p.endIds, rank, 1),
        stride=_numbers(p.strides, rank, 1),
        begin_mask=_masks(p.beginMasks, rank),
        end_mask=_masks(p.endMasks, rank),
        squeeze_mask=_masks(p.squeezeMasks, rank),
        name=layer.name,
    )
    return lifted(y)


@layer("sliceDynamic")
def slice_dynamic(layer: Layer) -> Value:
    """The same, with begin and perhaps end, strides and masks as inputs."""
    p, rank = layer.params, layer.value.rank
    inputs = dict(enumerate(layer.inputs))

    def numbers(index: int, field: Any) -> Any:
        if index not in inputs:
            return _numbers(field, rank, 1)
        return inputs[index].ints() if inputs[index].known is None else static(inputs[index], "numbers")

    def masks(index: int, field: Any) -> list[bool]:
        return _masks(static(inputs[index], "masks") if index in inputs else field, rank)

    y = mb.slice_by_index(
        x=layer.value.held(),
        begin=numbers(1, ()),
        end=numbers(2, p.endIds),
        stride=static(inputs[3], "strides") if 3 in inputs else _numbers(p.strides, rank, 1),
        begin_mask=masks(4, p.beginMasks),
        end_mask=masks(5, p.endMasks),
        squeeze_mask=masks(6, p.squeezeMasks),
        name=layer.name,
    )
    return lifted(y)


@layer("sliceBySize")
def slice_by_size(layer: Layer) -> Value:
    """A part of an axis that begins where the second input says."""
    value, size = layer.value, int(layer.params.size)
    axis = layer.params.axis % value.rank
    start = mb.reshape(x=layer.inputs[1].ints(), shape=[1])
    parts = [mb.const(val=np.zeros(axis, np.int32))] if axis else []
    after = value.rank - axis - 1
    parts += [start, *([mb.const(val=np.zeros(after, np.int32))] if after else [])]
    begin = mb.concat(values=parts, axis=0) if len(parts) > 1 else start
    sizes = [size if index == axis else -1 for index in range(value.rank)]
    return Value.of(mb.slice_by_size(x=value.exact(), begin=begin, size=sizes, name=layer.name))


@layer("slidingWindows")
def sliding_windows(layer: Layer) -> Value:
    """[.., windows, size, ..]: parts of an axis, each a step further."""
    params, rank = layer.params, layer.value.rank
    y = mb.sliding_windows(
        x=layer.value.exact(),
        axis=params.axis % rank,
        size=int(params.windowSize),
        stride=int(params.step) or 1,
        name=layer.name,
    )
    return Value.of(y)


@layer("reverse")
def reverse(layer: Layer) -> Value:
    """Backwards along the marked axes."""
    axes = [axis for axis, marked in enumerate(layer.params.reverseDim) if marked]
    if not axes:
        return layer.value
    return Value.of(mb.reverse(x=layer.value.exact(), axes=axes, name=layer.name))


@layer("reverseSeq")
def reverse_sequence(layer: Layer) -> Value:
    """The first elements along an axis backwards: for each of a batch as many as the second input says."""
    value, lengths = layer.inputs
    params, rank = layer.params, value.rank
    y = mb.reverse_sequence(
        x=value.exact(),
        lengths=lengths.ints(),
        seq_axis=params.sequenceAxis % rank,
        batch_axis=params.batchAxis % rank,
        name=layer.name,
    )
    return Value.of(y)


@layer("rangeStatic")
def range_static(layer: Layer) -> Value:
    """From start to before end in steps."""
    p = layer.params
    return _range(layer, np.float32(p.startValue), np.float32(p.endValue), np.float32(p.stepSizeValue))


@layer("rangeDynamic")
def range_dynamic(layer: Layer) -> Value:
    """The same; the inputs are end, or end and start, or end, start and step."""
    inputs = [scalar(value) for value in layer.inputs]
    start: Any = np.float32(layer.params.startValue)
    step: Any = np.float32(layer.params.stepSizeValue)
    if len(inputs) == 1:
        return _range(layer, start, inputs[0], step)
    return _range(layer, inputs[1], inputs[0], inputs[2] if len(inputs) > 2 else step)


def _range(layer: Layer, start: Any, end: Any, step: Any) -> Value:
    return Value.of(mb.range_1d(start=start, end=end, step=step, name=layer.name))


def _numbers(values: Any, rank: int, default: int) -> list[int]:
    """One number for each axis: builders write five at least, whatever the rank."""
    return [int(values[axis]) if axis < len(values) else default for axis in range(rank)]


def _masks(values: Any, rank: int) -> list[bool]:
    return [bool(values[axis]) if axis < len(values) else False for axis in range(rank)]
