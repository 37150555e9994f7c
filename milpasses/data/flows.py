"""What flows into a weight: for each op with weights, its input as the rows that meet the weight.

A flow gives blocks X [groups, rows, width] such that the output of the op is made of ``X[g] @ W[g].T``, where
W[g] is the part of the weight of group g, its input channels (and kernel taps) flattened in their own order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from milpasses.interpreter.ops.conv import explicit_pads, ints

Array = NDArray[Any]
Arguments = Mapping[str, Any]
BLOCK = 1 << 21  # elements of a block, so that blocks stay small beside the model


@attrs.frozen(eq=False)
class Flow:
    """One use of a weight by one op.

    ``axis``: the weight's axis of input channels (of one group). ``taps``: kernel elements, which vary
    fastest along the width. ``blocks``: float64 [groups, rows, width], of what the op was called with.
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


def is_constant(var: Any) -> bool:
    """The variable is a const, or the output of a constexpr op: a compressed weight."""
    return var.op is not None and (var.op.op_type == "const" or var.op.op_type.startswith("constexpr_"))


def flow(op_type: str, param: str, arguments: Arguments) -> Flow | str:
    """How ``arguments[param]``, a weight, meets the op's input; where that is not known, why."""
    if (op_type, param) in _FLOWS:
        return _FLOWS[op_type, param](param, arguments)
    if op_type in ("lstm", "gru", "rnn") and param.startswith("weight_hh"):
        return "the hidden states that it meets stay inside the op"
    return f"{op_type} has no rule for its {param}"


def _rows(rows: Array, axis: int = 1) -> Flow:
    """The flow of a plain matrix product; ``rows`` is [groups, rows, width]."""
    step = max(1, BLOCK // max(1, rows.shape[0] * rows.shape[2]))
    blocks = (rows[:, at : at + step].astype(np.float64) for at in range(0, rows.shape[1], step))
    return Flow(rows.shape[0], rows.shape[2], axis, 1, blocks)


def _linear(param: str, arguments: Arguments) -> Flow:
    x = arguments["x"]
    return _rows(x.reshape(1, -1, x.shape[-1]))


def _matmul(param: str, arguments: Arguments) -> Flow | str:
    """Either side may be the weight. Batches of a weight are groups; of a weight in one copy, more rows."""
    weight, other = arguments[param], "x" if param == "y" else "y"
    x, turned = arguments[other], bool(arguments.get(f"transpose_{other}", False))
    if x.ndim < 2 or weight.ndim < 2:
        return "one side of the matmul is a vector"
    if turned != (other == "y"):
        x = np.swapaxes(x, -1, -2)
    last = bool(arguments.get(f"transpose_{param}", False)) != (param == "x")  # input channels come last
    batch = np.broadcast_shapes(x.shape[:-2], weight.shape[:-2])
    x = np.broadcast_to(x, (*batch, *x.shape[-2:]))
    stacked = (1,) * (len(batch) + 2 - weight.ndim) + weight.shape[:-2]
    own = [axis for axis, size in enumerate(stacked) if size > 1]
    groups = prod(stacked)
    x = np.moveaxis(x, own, range(len(own))).reshape(groups, -1, x.shape[-1])
    return _rows(x, weight.ndim - (1 if last else 2))


def _conv(param: str, arguments: Arguments) -> Flow:
    """Rows are output positions, padding included as zeros; the width is (channels of a group, *kernel)."""
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
    groups = int(arguments.get("groups", 1))
    width = prod(weight.shape[1:])
    return Flow(groups, width, 1, prod(weight.shape[2:]), _patches(windows, groups, rank))


def _patches(windows: Array, groups: int, rank: int) -> Iterator[Array]:
    """Blocks of windows [N, C, *out, *kernel]: a few rows of the first output axis at a time."""
    channels = windows.shape[1] // groups
    step = max(1, BLOCK // max(1, prod(windows.shape[1:]) // windows.shape[2]))
    for one in windows:
        grouped = one.reshape(groups, channels, *one.shape[1:])
        for at in range(0, one.shape[1], step):
            part = np.moveaxis(grouped[:, :, at : at + step], 1, 1 + rank)
            block = np.array(part, np.float64, order="C")
            yield block.reshape(groups, -1, channels * prod(one.shape[1 + rank :]))


def _conv_transpose(param: str, arguments: Arguments) -> Flow:
    """Rows are input positions: each meets every tap, so the taps are not told apart."""
    x, groups = arguments["x"], int(arguments.get("groups", 1))
    split = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    return _rows(split.transpose(1, 0, 3, 2).reshape(groups, -1, x.shape[1] // groups), axis=0)


_FLOWS: dict[tuple[str, str], Callable[[str, Arguments], Flow | str]] = {
    ("linear", "weight"): _linear,
    ("matmul", "x"): _matmul,
    ("matmul", "y"): _matmul,
    ("conv", "weight"): _conv,
    ("conv_transpose", "weight"): _conv_transpose,
    ("lstm", "weight_ih"): _linear,
    ("lstm", "weight_ih_back"): _linear,
    ("gru", "weight_ih"): _linear,
    ("rnn", "weight_ih"): _linear,
}


def lookups(arguments: Arguments) -> Array | str:
    """How often a gather reads each slice of its table along its axis: int64; where not known, why."""
    table, axis = arguments["x"], int(arguments.get("axis", 0))
    if int(arguments.get("batch_dims", 0)):
        return "gather with batch_dims reads a table of each batch"
    size = table.shape[axis]
    indices = np.asarray(arguments["indices"], np.int64).reshape(-1)
    return np.bincount(np.where(indices < 0, indices + size, indices), minlength=size)
