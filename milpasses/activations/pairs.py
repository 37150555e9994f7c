"""``quantize`` and ``dequantize`` ops put into a program, in memory or saved; nothing else of it changes."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import attrs
import numpy as np

from milpasses import _coremltools as host
from milpasses.activations.grid import ActivationRange, Grid, grid_of
from milpasses.activations.points import Point, Use
from milpasses.program.builder import mb
from milpasses.program.package import new_message
from milpasses.program.proto import make_type
from milpasses.program.saved import op_name, walk
from milpasses.recipe.activations import Activations

_NUMPY = {"float16": np.float16, "float32": np.float32}


@attrs.frozen
class Placed:
    """A point and its grid."""

    point: Point
    grid: Grid

    @classmethod
    def of(cls, point: Point, span: ActivationRange, asked: Activations) -> "Placed":
        """The grid of a range, as ``asked``, with a scale in the point's type."""
        half = point.dtype == "float16"
        return cls(point, grid_of(span.low, span.high, asked.mode, asked.dtype, half=half))

    @property
    def scale(self) -> Any:
        """The scale in the tensor's type."""
        return _NUMPY[self.point.dtype](self.grid.scale)

    @property
    def zero_point(self) -> Any:
        """The zero point in the codes' type, None for 0, which is what none means."""
        return np.dtype(self.grid.dtype).type(self.grid.zero_point) if self.grid.zero_point else None


def _by_use(placed: Sequence[Placed]) -> dict[str, list[tuple[Use, Placed]]]:
    """The inputs of each op that get a pair, in the order of their parameters."""
    found: dict[str, list[tuple[Use, Placed]]] = {}
    for each in placed:
        for use in each.point.uses:
            found.setdefault(use.op_name, []).append((use, each))
    return {name: sorted(uses, key=lambda pair: pair[0].param) for name, uses in found.items()}


def insert_saved(block: Any, placed: Sequence[Placed], inputs: Iterable[Any]) -> int:
    """Put the pairs into a block of a saved program (a message); returns how many ``quantize`` ops it got.

    ``inputs``: those of its function, each with ``name`` and ``type``.
    """
    made = (output for op in block.operations for output in op.outputs)
    types = {variable.name: variable.type for variable in (*inputs, *made)}
    after = {each.point.after: each for each in placed if each.point.after}
    return _SavedPairs(block, _by_use(placed), after, types=types).write()


@attrs.define(eq=False)
class _SavedPairs:
    block: Any
    uses: Mapping[str, list[tuple[Use, Placed]]]
    after: Mapping[str, Placed]
    count: int = 0
    taken: set[str] = attrs.field(factory=set)
    codes: dict[str, str] = attrs.field(factory=dict)  # of tensors quantized where they are made
    copies: dict[str, str] = attrs.field(factory=dict)  # what other uses of those take instead
    types: Mapping[str, Any] = attrs.field(factory=dict)  # of variables, by name

    def write(self) -> int:
        """See ``insert_saved``."""
        ops: list[Any] = []
        self.taken = {output.name for op in walk(self.block) for output in op.outputs}
        used = self._other_uses()
        for op in self.block.operations:
            self._rebind_copies(op)
            for use, placed in self.uses.get(op_name(op), ()):
                ops += self._before(op, use, placed)
            ops.append(op)
            placed = self.after.get(op_name(op)) if op.outputs else None
            if placed is not None:
                ops += self._behind(op, placed, placed.point.name in used)
        if self.count:
            del self.block.operations[:]
            self.block.operations.extend(ops)
        return self.count

    def _other_uses(self) -> set[str]:
        """Tensors that some input takes which gets no pair of its own."""
        own = {(name, use.param, each.point.name) for name, uses in self.uses.items() for use, each in uses}
        return {
            binding.name
            for op in walk(self.block)
            for param, argument in op.inputs.items()
            for binding in argument.arguments
            if (op_name(op), param, binding.name) not in own
        }

    def _rebind_copies(self, op: Any) -> None:
        own = {(use.param, each.point.name) for use, each in self.uses.get(op_name(op), ())}
        for param, argument in op.inputs.items():
            for binding in argument.arguments:
                if (param, binding.name) not in own and binding.name in self.copies:
                    binding.name = self.copies[binding.name]
        for nested in op.blocks:
            for inner in nested.operations:
                self._rebind_copies(inner)
            nested.outputs[:] = [self.copies.get(name, name) for name in nested.outputs]

    def _before(self, op: Any, use: Use, placed: Placed) -> list[Any]:
        name, made = placed.point.name, []
        (binding,) = op.inputs[use.param].arguments
        tensor = self.types.get(name, op.outputs[0].type)
        if name not in self.codes:
            made, codes = self._quantize(name, tensor, placed)
        else:
            codes = self.codes[name]
        more, binding.name = self._dequantize(name, codes, tensor, placed)
        return [*made, *more]

    def _behind(self, op: Any, placed: Placed, copied: bool) -> list[Any]:
        name = placed.point.name
        tensor = next(output.type for output in op.outputs if output.name == name)
        made, self.codes[name] = self._quantize(name, tensor, placed)
        if copied:
            more, self.copies[name] = self._dequantize(name, self.codes[name], tensor, placed)
            made += more
        return made

    def _quantize(self, name: str, tensor: Any, placed: Placed) -> tuple[list[Any], str]:
        self.count += 1
        made, values = self._constants(name, placed)
        output = self._constant(f"{name}_output_dtype", placed.grid.dtype)
        values["output_dtype"] = output.outputs[0].name
        op, codes = self._op("quantize", f"{name}_quantized", name, values, tensor)
        op.outputs[0].type.tensorType.dataType = make_type(placed.grid.dtype, ()).tensorType.dataType
        return [*made, output, op], codes

    def _dequantize(self, name: str, codes: str, tensor: Any, placed: Placed) -> tuple[list[Any], str]:
        made, values = self._constants(name, placed)
        op, copy = self._op("dequantize", f"{name}_dequantized", codes, values, tensor)
        return [*made, op], copy

    def _constants(self, name: str, placed: Placed) -> tuple[list[Any], dict[str, str]]:
        parts = {"scale": placed.scale}
        if placed.zero_point is not None:
            parts["zero_point"] = placed.zero_point
        ops = {param: self._constant(f"{name}_{param}", value) for param, value in parts.items()}
        return list(ops.values()), {param: op.outputs[0].name for param, op in ops.items()}

    def _constant(self, name: str, value: Any) -> Any:
        op = new_message("MIL_pb2", "Operation", type="const")
        name = self._free(name)
        op.attributes["name"].CopyFrom(host.scalar_value(name))
        op.attributes["val"].CopyFrom(host.scalar_value(value))
        op.outputs.add(name=name).type.CopyFrom(op.attributes["val"].type)
        return op

    def _op(self, kind: str, name: str, source: str, values: Mapping[str, str], tensor: Any) -> Any:
        op = new_message("MIL_pb2", "Operation", type=kind)
        name = self._free(name)
        op.attributes["name"].CopyFrom(host.scalar_value(name))
        for param, variable in {"input": source, **values}.items():
            op.inputs[param].arguments.add().name = variable
        op.outputs.add(name=name).type.CopyFrom(tensor)
        return op, name

    def _free(self, name: str) -> str:
        candidate, number = name, 0
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate


def insert_memory(block: Any, placed: Sequence[Placed]) -> int:
    """Put the pairs into a function in memory; returns how many ``quantize`` ops it got."""
    order = list(block.operations)
    ops, following = {op.name: op for op in order}, dict(pairwise(order))
    with nullcontext() if host.current_block() is block else block:
        for each in placed:
            _insert(ops, following, each)
    return sum(1 if each.point.after else len(each.point.uses) for each in placed)


def _insert(ops: Mapping[str, Any], following: Mapping[Any, Any], placed: Placed) -> None:
    """``following``: the op behind each op, before which the pair of its output is built."""
    point, codes = placed.point, None
    own = {(use.op_name, use.param) for use in point.uses}
    if point.after:
        maker = ops[point.after]
        variable = next(output for output in maker.outputs if output.name == point.name)
        others = [
            (user, param)
            for user in dict.fromkeys(variable.child_ops)
            for param, bound in user.inputs.items()
            if (user.name, param) not in own
            and any(var is variable for var in (bound if isinstance(bound, list | tuple) else [bound]))
        ]
        anchor = following[maker]
        codes = _quantized(variable, placed, anchor, maker)
        if others:
            copy = _dequantized(codes, placed, anchor, maker)
            for user, param in others:
                _rebind(user, param, variable, copy)
    for use in point.uses:
        op = ops[use.op_name]
        own_codes = codes if codes is not None else _quantized(op.inputs[use.param], placed, op, op)
        op.set_inputs(**{use.param: _dequantized(own_codes, placed, op, op)})


def _rebind(user: Any, param: str, old: Any, new: Any) -> None:
    bound = user.inputs[param]
    many = isinstance(bound, list | tuple)
    user.set_inputs(**{param: [new if var is old else var for var in bound] if many else new})


def _parameters(placed: Placed) -> dict[str, Any]:
    zero = placed.zero_point
    return {"scale": placed.scale} | ({} if zero is None else {"zero_point": zero})


def _quantized(variable: Any, placed: Placed, before: Any, of: Any) -> Any:
    made = mb.quantize(
        input=variable, output_dtype=placed.grid.dtype, before_op=before,
        name=f"{placed.point.name}_quantized", **_parameters(placed),
    )  # fmt: skip
    return _in_scope(made, of)


def _dequantized(codes: Any, placed: Placed, before: Any, of: Any) -> Any:
    made = mb.dequantize(
        input=codes, before_op=before, name=f"{placed.point.name}_dequantized", **_parameters(placed)
    )
    return _in_scope(made, of)


def _in_scope(variable: Any, of: Any) -> Any:
    """Give an op and its constants the place in the source network that the op ``of`` has."""
    constants = [
        bound.op for bound in variable.op.inputs.values() if bound is not None and bound.op is not None
    ]
    for op in (variable.op, *(each for each in constants if each.op_type == "const")):
        op.scopes.update({source: place for source, place in of.scopes.items() if source not in op.scopes})
    return variable
