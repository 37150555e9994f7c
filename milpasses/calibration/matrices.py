"""A weight as the matrices that its inputs meet: (groups, outputs, inputs), as ``Moments`` count them."""

from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.moments import Moments
from milpasses.encoding.blocks import Shape
from milpasses.errors import MilpassesError
from milpasses.program.weights import Weight

Array = NDArray[Any]


@attrs.frozen
class Layout:
    """How a weight of ``shape`` is ``groups`` matrices of ``width`` inputs.

    ``inputs_first``: in each group's part the inputs come before the outputs (a conv_transpose, a matmul's
    (in, out)); otherwise after them.
    """

    shape: Shape
    groups: int
    width: int
    inputs_first: bool

    @property
    def outputs(self) -> int:
        """Outputs of all groups."""
        return prod(self.shape) // self.width

    def split(self, values: Array) -> Array:
        """``values``, shaped as the weight, as (groups, outputs, inputs)."""
        if self.inputs_first:
            return values.reshape(self.groups, self.width, -1).swapaxes(1, 2)
        return values.reshape(self.groups, -1, self.width)

    def join(self, matrices: Array) -> Array:
        """The inverse of ``split``: C-contiguous, shaped as the weight."""
        if self.inputs_first:
            matrices = matrices.swapaxes(1, 2)
        return np.ascontiguousarray(matrices).reshape(self.shape)

    def spread(self, columns: Array) -> Array:
        """Values of each input, (groups, inputs), at every element of the weight."""
        shape = (self.groups, self.outputs // self.groups, self.width)
        return self.join(np.broadcast_to(columns[:, None], shape))


def layout_of(weight: Weight, moments: Moments) -> Layout:
    """The layout in which ``moments`` meet ``weight``; ``MilpassesError`` where they cannot be its own."""
    groups, width, axis, _ = moments.layout
    use = weight.product
    expected = None if use is None else use.layout(weight.shape)
    if expected is None or (groups, width, axis) != (expected.groups, expected.width, expected.axis):
        wanted = "no inputs"
        if expected is not None:
            wanted = f"along axis {expected.axis} {expected.groups} x {expected.width} inputs"
        raise MilpassesError(
            f"{weight.name}: these statistics are of {groups} x {width} inputs along axis {axis}, the weight "
            f"{'x'.join(map(str, weight.shape))} has {wanted}: they belong to another model"
        )
    return Layout(weight.shape, groups, width, expected.inputs_first)
