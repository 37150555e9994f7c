"""Layers of the N-dimensional generation that change a shape and leave the elements where they are."""

import math
from typing import Any

import numpy as np
from coremltools.converters.mil.mil.types.symbolic import any_symbolic, is_symbolic

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb


def lifted(variable: Any) -> Value:
    """The variable as a value; the format has no scalars, so that one becomes [1]."""
    return Value.of(mb.expand_dims(x=variable, axes=[0]) if len(variable.shape) == 0 else variable)


def scalar(value: Value, integer: bool = False) -> Any:
    """A value of one element as a scalar variable."""
    x = value.ints() if integer else value.exact()
    return mb.squeeze(x=x) if len(x.shape) else x


def static(value: Value, what: str) -> list[int]:
    """The integers of a value that are known before the network runs."""
    known = value.known
    if known is None:
        raise LayerError(f"takes {what} that are known only when the network runs: not supported")
    return [int(x) for x in np.asarray(known).reshape(-1)]


@layer("copy")
def copy(layer: Layer) -> Value:
    """The same elements under another name."""
    return layer.value


@layer("squeeze")
def squeeze(layer: Layer) -> Value:
    """Without dimensions of size 1; at least one stays."""
    params, x = layer.params, layer.value.exact()
    if params.squeezeAll:
        return lifted(mb.squeeze(x=x, name=layer.name))
    return lifted(mb.squeeze(x=x, axes=[int(axis) for axis in params.axes], name=layer.name))


@layer("expandDims")
def expand_dims(layer: Layer) -> Value:
    """With dimensions of size 1."""
    axes = [int(axis) for axis in layer.params.axes]
    rank = layer.value.rank + len(axes)
    axes = sorted(axis % rank for axis in axes)
    return Value.of(mb.expand_dims(x=layer.value.exact(), axes=axes, name=layer.name))


@layer("flattenTo2D")
def flatten_to_2d(layer: Layer) -> Value:
    """The dimensions before an axis as one, the others as another."""
    value = layer.value
    axis = layer.params.axis + (value.rank if layer.params.axis < 0 else 0)
    sizes = [value.shape[:axis], value.shape[axis:]]
    if any_symbolic(value.shape):
        return Value.of(mb.flatten2d(x=value.exact(), axis=axis, name=layer.name))
    return Value.of(mb.reshape(x=value.exact(), shape=[math.prod(part) for part in sizes], name=layer.name))


@layer("reshapeStatic")
def reshape_static(layer: Layer) -> Value:
    """To a shape in which one size may be -1: what is left."""
    return Value.of(mb.reshape(x=layer.value.exact(), shape=_ints(layer.params.targetShape), name=layer.name))


@layer("reshapeLike", "reshapeDynamic")
def reshape_dynamic(layer: Layer) -> Value:
    """To the shape of the second input, or to the one that it lists."""
    value, other = layer.inputs
    if layer.kind == "reshapeDynamic":
        shape: Any = other.ints()
    else:
        shape = mb.shape(x=other.exact()) if any_symbolic(other.shape) else list(other.shape)
    return Value.of(mb.reshape(x=value.exact(), shape=shape, name=layer.name))


@layer("rankPreservingReshape")
def rank_preserving_reshape(layer: Layer) -> Value:
    """To a shape of the same rank: 0 takes the size as it is, -1 what is left."""
    value, wanted = layer.value, _ints(layer.params.targetShape)
    if len(wanted) != value.rank:
        raise LayerError(f"keeps the rank, and reshapes {value.shape} to {tuple(wanted)}")
    taken = [have if size == 0 else size for size, have in zip(wanted, value.shape, strict=True)]
    shape = wanted if any(is_symbolic(size) for size in taken) else taken
    return Value.of(mb.reshape(x=value.exact(), shape=shape, name=layer.name))


@layer("getShape")
def get_shape(layer: Layer) -> Value:
    """The sizes as a vector."""
    return Value.of(mb.shape(x=layer.value.exact(), name=layer.name))


@layer("transpose")
def transpose(layer: Layer) -> Value:
    """Dimensions in another order."""
    return Value.of(mb.transpose(x=layer.value.exact(), perm=_ints(layer.params.axes), name=layer.name))


@layer("broadcastToLike", "broadcastToStatic", "broadcastToDynamic")
def broadcast_to(layer: Layer) -> Value:
    """Repeated along dimensions of size 1 and new leading ones."""
    value = layer.value
    if layer.kind == "broadcastToStatic":
        shape: Any = _ints(layer.params.targetShape)
    elif layer.kind == "broadcastToLike":
        like = layer.inputs[1]
        shape = mb.shape(x=like.exact()) if any_symbolic(like.shape) else list(like.shape)
    else:
        known = layer.inputs[1].known
        shape = layer.inputs[1].ints() if known is None else [int(size) for size in known.reshape(-1)]
    if isinstance(shape, list) and not any_symbolic(value.shape):
        full = (1,) * (len(shape) - value.rank) + value.shape
        reps = [size if have == 1 else 1 for size, have in zip(shape, full, strict=True)]
        return Value.of(mb.tile(x=value.laid(full), reps=reps, name=layer.name))
    return Value.of(mb.add(x=value.exact(), y=mb.fill(shape=shape, value=np.float32(0)), name=layer.name))


@layer("tile")
def tile(layer: Layer) -> Value:
    """Repeated as a whole, along each axis as often as said."""
    if len(layer.inputs) > 1:
        known = layer.inputs[1].known
        reps: Any = layer.inputs[1].ints() if known is None else [int(n) for n in known.reshape(-1)]
    else:
        reps = _ints(layer.params.reps)
    value = layer.value
    if isinstance(reps, list):  # as in NumPy, the shorter of shape and repetitions gets ones in front
        reps = [1] * (value.rank - len(reps)) + reps
        value = Value.of(value.laid((1,) * (len(reps) - value.rank) + value.shape))
    return Value.of(mb.tile(x=value.exact(), reps=reps, name=layer.name))


@layer("stack")
def stack(layer: Layer) -> Value:
    """Side by side along a new axis."""
    axis, rank = layer.params.axis, layer.value.rank + 1
    values = [value.exact() for value in layer.inputs]
    return Value.of(mb.stack(values=values, axis=axis % rank, name=layer.name))


@layer("concatND")
def concat_nd(layer: Layer) -> Value:
    """One after the other along an axis, or taking turns."""
    values, axis = [value.exact() for value in layer.inputs], layer.params.axis
    return Value.of(
        mb.concat(values=values, axis=axis, interleave=bool(layer.params.interleave), name=layer.name)
    )


@layer("splitND")
def split_nd(layer: Layer) -> list[Value]:
    """Parts along an axis: of given sizes, or equal ones, the first of them larger by one if need be."""
    params, value = layer.params, layer.value
    count = int(params.numSplits) or len(layer.spec.output)
    size = value.shape[params.axis]
    sizes = _ints(params.splitSizes)
    if not sizes and not is_symbolic(size):
        sizes = [size // count + (index < size % count) for index in range(count)]
    if len(sizes) == 1 or count == 1:
        return [value]
    parts: dict[str, Any] = {"split_sizes": sizes} if sizes else {"num_splits": count}
    variables = mb.split(x=value.exact(), axis=params.axis, name=layer.name, **parts)
    return [Value.of(variable) for variable in variables]


@layer("constantPad")
def constant_pad(layer: Layer) -> Value:
    """A number around; amounts (before, after) of each axis, or the sizes to reach."""
    value, params = layer.value, layer.params
    amounts = static(layer.inputs[1], "amounts") if len(layer.inputs) > 1 else _ints(params.padAmounts)
    if len(amounts) != 2 * value.rank:
        raise LayerError(f"takes {2 * value.rank} amounts and has {len(amounts)}")
    pad: list[int] = []
    for axis, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        if params.padToGivenOutputSizeMode:
            # The amount that is not 0 is the size that the axis gets, by padding on its side.
            if before and after:
                raise LayerError(f"axis {axis} is padded to a size on one side only")
            size = value.shape[axis]
            before, after = (max(0, wanted - size) if wanted else 0 for wanted in (before, after))
        pad += [before, after]
    constant = np.float32(params.value)
    return Value.of(mb.pad(x=value.exact(), pad=pad, mode="constant", constant_val=constant, name=layer.name))


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]
