"""What flows between the layers of a network: a MIL variable and the shape that the layers see.

Layers of the first generations see rank 5, [Sequence, Batch, Channel, Height, Width]; MIL's convolutions take
rank 4. A ``Value`` therefore keeps the two apart: its variable may have any shape with the same elements in
the same row-major order, and is reshaped only where an op needs another one.
"""

import math
from collections.abc import Sequence
from typing import Any

import attrs
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

Shape = tuple[Any, ...]  # integers, or symbols where a dimension is flexible


@attrs.frozen(eq=False)
class Value:
    """A tensor as the layers see it.

    ``variable`` holds the elements (float32, int32 or bool), ``shape`` is what the layers' definitions call
    its shape: of rank 5 for the layers of the first generations.
    """

    variable: Any
    shape: Shape

    @classmethod
    def of(cls, variable: Any) -> "Value":
        """The variable with its own shape."""
        return cls(variable, tuple(variable.shape))

    @property
    def rank(self) -> int:
        """Number of dimensions that the layers see."""
        return len(self.shape)

    @property
    def lead(self) -> Shape:
        """The dimensions before [Channel, Height, Width]: sequence and batch."""
        return self.shape[:-3]

    @property
    def known(self) -> Any:
        """The elements as an array of ``shape`` where they are known before the network runs, else None."""
        value = self.variable.val
        return None if value is None or hasattr(value, "ls") else value.reshape(self.shape)

    def held(self) -> Any:
        """A variable of ``shape`` in the type that it has: for layers that take elements as they are."""
        return reshaped(self.variable, self.shape)

    def exact(self) -> Any:
        """A float32 variable of ``shape``."""
        return self.laid(self.shape)

    def ints(self) -> Any:
        """An int32 variable of ``shape``; fractions are cut off."""
        variable = self.held()
        return variable if variable.dtype == types.int32 else mb.cast(x=variable, dtype="int32")

    def bools(self) -> Any:
        """A bool variable of ``shape``: what is not 0."""
        variable = self.held()
        return variable if variable.dtype == types.bool else mb.not_equal(x=self.exact(), y=0.0)

    def laid(self, shape: Sequence[Any]) -> Any:
        """A float32 variable of another shape with as many elements."""
        return reshaped(floats(self.variable), tuple(shape))

    def batched(self) -> Any:
        """A float32 variable [sequence * batch, channel, height, width]: what MIL's image ops take."""
        if self.rank < 3:
            raise LayerError(f"takes tensors of rank 3 or more, and gets one of shape {self.shape}")
        return self.laid((math.prod(self.lead), *self.shape[-3:]))

    def rebatched(self, variable: Any) -> "Value":
        """``variable`` [sequence * batch, channels, height, width] with the leading dimensions of this."""
        return Value(variable, (*self.lead, *variable.shape[1:]))

    def same(self, variable: Any) -> "Value":
        """The result of an elementwise op over ``self.variable``: of the same shapes."""
        return Value(variable, self.shape)


def floats(variable: Any) -> Any:
    """The variable in float32."""
    return variable if variable.dtype == types.fp32 else mb.cast(x=variable, dtype="fp32")


def reshaped(variable: Any, shape: Shape) -> Any:
    """The variable in another shape, without an op where it has that already.

    Raises ``LayerError`` where a flexible dimension leaves the shape open.
    """
    current = tuple(variable.shape)
    if current == shape:
        return variable
    symbols = [size for size in shape if is_symbolic(size)]
    if not symbols:
        return mb.reshape(x=variable, shape=list(shape))
    if len(symbols) == 1 and not isinstance(symbols[0], int):
        return mb.reshape(x=variable, shape=[-1 if is_symbolic(size) else size for size in shape])
    if [size for size in current if size != 1] == [size for size in shape if size != 1]:
        return _with_ones(variable, current, shape)
    raise LayerError(f"cannot bring a flexible shape {current} to {shape}: read it with fixed input_shapes=")


def _with_ones(variable: Any, current: Shape, shape: Shape) -> Any:
    """Shapes that differ in dimensions of size 1 only."""
    ones = [axis for axis, size in enumerate(current) if size == 1]
    if ones:
        variable = mb.squeeze(x=variable, axes=ones)
    added = [axis for axis, size in enumerate(shape) if size == 1]
    return mb.expand_dims(x=variable, axes=added) if added else variable


def aligned(values: Sequence[Value]) -> tuple[list[Any], int]:
    """Float32 variables that MIL's broadcasting brings together as the layers' does, and the result's rank.

    Leading dimensions that are 1 everywhere are left out down to rank 4, so that images stay of rank 4.
    Raises ``LayerError`` for sizes that do not broadcast; flexible ones may differ in name alone.
    """
    rank = max(value.rank for value in values)
    shapes = [(1,) * (rank - value.rank) + value.shape for value in values]
    broadcast = [{shape[axis] for shape in shapes} - {1} for axis in range(rank)]
    for sizes in broadcast:
        if sum(not is_symbolic(size) for size in sizes) > 1:
            raise LayerError(f"cannot broadcast sizes {', '.join(map(str, sizes))}")
    skip = 0
    while rank - skip > 4 and not broadcast[skip]:
        skip += 1
    return [value.laid(shape[skip:]) for value, shape in zip(values, shapes, strict=True)], rank
