"""What flows into a weight: the input of its op as the rows that meet the weight.

A flow gives blocks X [groups, rows, width] such that the output of the op is made of ``X[g] @ W[g].T``, where
W[g] is the part of the weight of group g, its input channels (and kernel taps) flattened in their own order.
The functions here take a call of an op and raise ``Refusal`` where the rows are not known; ``weight_uses``
says which op takes which of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from milpasses.errors import Refusal
from milpasses.program.padding import explicit_pads, ints

Array = NDArray[Any]
Arguments = Mapping[str, Any]
BLOCK = 1 << 21  # elements of a block, so that blocks stay small beside the model


@attrs.frozen(eq=False)
class OpCall:
    """A call of an op: its type and name, and what its parameters were given."""

    op_type: str
    op_name: str
    arguments: Arguments


@attrs.frozen
class MatrixLayout:
    """A weight as ``groups`` matrices, each of which meets rows of ``width`` inputs.

    ``axis``: the weight's axis of input channels (of one group). ``taps``: kernel elements that are told
    apart, which vary fastest along the width. ``inputs_first``: in each group's part of the weight the inputs
    come before the outputs (a conv_transpose, a matmul's (in, out)); otherwise after them.
    """

    groups: int
    width: int
    axis: int = 1
    taps: int = 1
    inputs_first: bool = False

    def spread(self, channels: Array) -> Array:
        """Values of each input channel of the op, at each column of the rows: [groups, width]."""
        columns = np.repeat(channels.reshape(-1), self.taps)
        if columns.size == self.width:  # each group meets all channels
            return np.tile(columns, (self.groups, 1))
        return columns.reshape(self.groups, self.width)


@attrs.frozen(eq=False)
class Flow:
    """One use of a weight by one op: ``MatrixLayout``'s numbers, and the rows.

    ``blocks``: float64 [groups, rows, width], of what the op was called with.
    """

    groups: int
    width: int
    axis: int
    taps: int
    blocks: Iterable[Array]

    @property
    def layout(self) -> tuple[int, int, int, int]:
        """What flows into the same sums must share: groups, width, axis, taps."""
        return self.groups, self.width, self.axis, self.taps


def matrix_rows(rows: Array) -> Iterator[Array]:
    """The blocks of a plain matrix product; ``rows`` is [groups, rows, width]."""
    step = max(1, BLOCK // max(1, rows.shape[0] * rows.shape[2]))
    return (rows[:, at : at + step].astype(np.float64) for at in range(0, rows.shape[1], step))


def linear_rows(call: OpCall, layout: MatrixLayout) -> Iterator[Array]:
    """Rows along the last axis of ``x``."""
    x = call.arguments["x"]
    return matrix_rows(x.reshape(1, -1, x.shape[-1]))


def matmul_rows(call: OpCall, weight: Array, x: Array, last: bool, layout: MatrixLayout) -> Iterator[Array]:
    """Rows of ``x``, whose channels are along its last axis, or the one before if not ``last``.

    Batches of the weight are groups; where the weight is in one copy, batches of ``x`` are more rows.
    """
    if x.ndim < 2 or weight.ndim < 2:
        raise Refusal("vector-operand", op_type=call.op_type, op=call.op_name)
    if not last:
        x = np.swapaxes(x, -1, -2)
    batch = np.broadcast_shapes(x.shape[:-2], weight.shape[:-2])
    x = np.broadcast_to(x, (*batch, *x.shape[-2:]))
    stacked = (1,) * (len(batch) + 2 - weight.ndim) + weight.shape[:-2]
    own = [axis for axis, size in enumerate(stacked) if size > 1]
    x = np.moveaxis(x, own, range(len(own))).reshape(layout.groups, -1, x.shape[-1])
    return matrix_rows(x)


def conv_rows(call: OpCall, layout: MatrixLayout) -> Iterator[Array]:
    """Rows are output positions, padding included as zeros; the width is (channels of a group, *kernel)."""
    arguments = call.arguments
    x, weight = arguments["x"], arguments["weight"]
    rank = x.ndim - 2
    strides, dilations = ints(arguments.get("strides"), 1, rank), ints(arguments.get("dilations"), 1, rank)
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    kind = arguments.get("pad_type", "valid")
    pads = explicit_pads(kind, arguments.get("pad"), x.shape[2:], extents, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    axes: Any = tuple(range(2, 2 + rank))
    windows: Any = sliding_window_view(padded, extents, axes)
    steps = [slice(None, None, stride) for stride in strides]
    windows = windows[(slice(None), slice(None), *steps, *(slice(None, None, d) for d in dilations))]
    return _patches(windows, layout.groups, rank)


def _patches(windows: Array, groups: int, rank: int) -> Iterator[Array]:
    """Blocks of windows [N, C, *out, *kernel]: a few rows of the first output axis at a time."""
    channels = windows.shape[1] // groups
    step = max(1, BLOCK // max(1, prod(windows.shape[1:]) // windows.shape[2]))
    for image in windows:
        grouped = image.reshape(groups, channels, *image.shape[1:])
        for at in range(0, image.shape[1], step):
            part = np.moveaxis(grouped[:, :, at : at + step], 1, 1 + rank)
            block = np.array(part, np.float64, order="C")
            yield block.reshape(groups, -1, channels * prod(image.shape[1 + rank :]))


def conv_transpose_rows(call: OpCall, layout: MatrixLayout) -> Iterator[Array]:
    """Rows are input positions: each meets every tap, so the taps are not told apart."""
    x = call.arguments["x"]
    split = x.reshape(len(x), layout.groups, layout.width, -1)
    return matrix_rows(split.transpose(1, 0, 3, 2).reshape(layout.groups, -1, layout.width))


def gather_reads(call: OpCall) -> tuple[int, Array]:
    """The axis along which a gather reads its table, and how often each slice is read (int64)."""
    arguments = call.arguments
    table, axis = arguments["x"], int(arguments.get("axis", 0))
    if int(arguments.get("batch_dims", 0)):
        raise Refusal("batched-lookup", op_type=call.op_type, op=call.op_name)
    size = table.shape[axis]
    indices = np.asarray(arguments["indices"], np.int64).reshape(-1)
    return axis, np.bincount(np.where(indices < 0, indices + size, indices), minlength=size)
