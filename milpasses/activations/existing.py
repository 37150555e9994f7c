"""The pairs that a saved program has already, whoever put them there."""

from typing import Any

import attrs
from numpy.typing import NDArray

from milpasses.activations.grid import LEVELS
from milpasses.program.proto import read_value
from milpasses.program.saved import SavedFunction


@attrs.frozen
class StoredPair:
    """A quantized tensor: its integer type, and the values from ``low`` to ``high`` that its grid covers.

    ``low``, ``high`` and ``scale`` are None for grids per channel. ``used_by``: what takes it dequantized.
    """

    name: str
    dtype: str
    scale: float | None
    zero_point: int | None
    low: float | None
    high: float | None
    used_by: tuple[str, ...]


def stored_pairs(function: SavedFunction) -> list[StoredPair]:
    """Every ``quantize`` op of a function, in order."""
    return [_pair(function, op) for op in function.operations() if op.type == "quantize"]


def _constant(function: SavedFunction, op: Any, param: str) -> NDArray[Any] | None:
    """A constant input, written out or the output of a const op."""
    if param not in op.inputs:
        return None
    (binding,) = op.inputs[param].arguments
    if binding.WhichOneof("binding") == "value":
        return read_value(function.package, binding.value)[0]
    maker = function.producers.get(binding.name)
    if maker is None or maker.type != "const":
        return None
    return read_value(function.package, maker.attributes["val"])[0]


def _pair(function: SavedFunction, op: Any) -> StoredPair:
    codes = function.outputs(op)[0]
    dtype = function.result(op)[1]
    name = dict(function.operands(op)).get("input", codes)
    copies = [function.outputs(user)[0] for user, _ in function.uses(codes) if user.type == "dequantize"]
    used_by = tuple(
        f"{function.op_name(user)}:{user.type}.{param}"
        for copy in copies
        for user, param in function.uses(copy)
    )
    scales, zeros = (_constant(function, op, param) for param in ("scale", "zero_point"))
    if scales is None or scales.size != 1:
        return StoredPair(name, dtype, None, None, None, None, used_by)
    least, most = LEVELS[dtype]
    scale, point = float(scales.item()), 0 if zeros is None else int(zeros.item())
    return StoredPair(name, dtype, scale, point, scale * (least - point), scale * (most - point), used_by)
