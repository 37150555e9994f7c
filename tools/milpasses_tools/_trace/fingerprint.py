"""What a program in memory is at one moment, cheap enough to take after every pass."""

import operator
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from milpasses import _coremltools as host
from milpasses_tools._view.graph import SMALLEST_WEIGHT, literal
from milpasses_tools._view.program import type_text

_SMALL_BYTES = 1024
_SAMPLES = 64
_Print = tuple[Any, ...]


@attrs.frozen
class Change:
    """What a pass did to one op: ``kind`` is added, removed, changed or moved (to another block)."""

    kind: str
    type: str
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.type}){': ' if self.details else ''}{'; '.join(self.details)}"


@attrs.frozen(eq=False)
class _Known:
    array: Any  # kept, so that its id stands for nothing else
    checksum: int
    sample: bytes


@attrs.define(eq=False)
class Values:
    """What is kept from one snapshot to the next: above all, checksums of large constants.

    The same array object is not read again, but for a sample of it; ``thorough`` reads all of it every time,
    which finds a change in place of any single element.
    """

    thorough: bool = False
    known: dict[int, _Known] = attrs.field(factory=dict)
    used: set[int] = attrs.field(factory=set)
    types: dict[int, tuple[Any, str]] = attrs.field(factory=dict)  # the texts of types, which are many

    def token(self, array: Any) -> tuple[int, bytes]:
        """What stands for the values of ``array``: their checksum, and some of them."""
        key = id(array)
        self.used.add(key)
        known, sample = self.known.get(key), _sample(array)
        if known is None or known.sample != sample or self.thorough:
            known = self.known[key] = _Known(array, _checksum(array), sample)
        return known.checksum, known.sample

    def forget(self) -> None:
        """Let go of the arrays that were not asked for since the last call."""
        self.known = {key: known for key, known in self.known.items() if key in self.used}
        self.used.clear()

    def overlooked(self) -> list[Any]:
        """The arrays whose values are no longer those of their checksum: the samples did not show it."""
        return [known.array for known in self.known.values() if _checksum(known.array) != known.checksum]


def _checksum(array: Any) -> int:
    """The sum of all bytes, eight at a time: as fast as memory, and no single change leaves it as it was."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = data.size // 8 * 8
    return int(data[:whole].view(np.uint64).sum()) + (int(data[whole:].sum()) << 64)


def _sample(array: Any) -> bytes:
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    flat = array.reshape(-1, order="A") if array.flags.forc else array.flat
    return flat[:: max(1, array.size // _SAMPLES)].tobytes()


@attrs.frozen(eq=False)
class Snapshot:
    """A print of every op, in order. It holds the ops, so that their identities stay their own.

    A constant of fewer than ten elements is a part of the ops that use it.
    """

    ops: dict[int, tuple[Any, _Print]]
    interface: tuple[Any, ...]

    @classmethod
    def take(cls, program: Any, values: Values) -> "Snapshot":
        """The snapshot of ``program`` now."""
        printer = _Printer(values)
        ops: dict[int, tuple[Any, _Print]] = {}
        interface: list[Any] = []
        for name, function in program.functions.items():
            inputs = tuple((var.name, printer.type(var)) for var in function.inputs.values())
            interface.append((name, inputs, tuple(var.name for var in function.outputs)))
            for op in printer.walk(function):
                ops[id(op)] = (op, printer.print(op))
        values.forget()
        return cls(ops, tuple(interface))

    def constant_of(self, array: Any) -> str:
        """The name of the constant that ``array`` is the value of."""
        return next(
            (op.name for op, _ in self.ops.values() if op.op_type == "const" and op.val.val is array), ""
        )


class _Printer:
    """Prints ops. Runs over every op after every pass: it reads the fields behind coremltools' properties."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.is_const: dict[type, bool] = {}

    def const(self, op: Any) -> bool:
        kind = type(op)
        known = self.is_const.get(kind)
        if known is None:
            known = self.is_const[kind] = op is not None and op.op_type == "const"
        return known

    def walk(self, block: Any) -> Iterator[Any]:
        for op in block.operations:
            if self.const(op):
                var = op.outputs[0]
                if host.users_of(var) and not _is_large(_value(var)):
                    continue
            yield op
            for nested in op.blocks:
                yield from self.walk(nested)

    def print(self, op: Any) -> _Print:
        outputs = tuple([(var.name, self.type(var)) for var in host.outputs_of(op)])
        if self.const(op):
            value = _value(op.outputs[0])
            token = self.values.token(value) if _is_large(value) else _token(value)
            return op.name, (("val", token),), outputs, (), id(op.enclosing_block)
        inputs = tuple(
            [
                (param, self.operand(bound))
                for param, bound in host.inputs_of(op).items()
                if bound is not None and param[0] != "_"
            ]
        )
        blocks = tuple([tuple([var.name for var in block.outputs]) for block in op.blocks])
        return op.name, inputs, outputs, blocks, id(op.enclosing_block)

    def type(self, var: Any) -> str:
        kind = host.variable_type(var)
        known = self.values.types.get(id(kind))
        if known is None:
            known = self.values.types[id(kind)] = (kind, type_text(kind))
        return known[1]

    def operand(self, bound: Any) -> Any:
        if isinstance(bound, list | tuple):
            return tuple([self.operand(one) for one in bound])
        producer = host.producer_of(bound)
        if producer is not None and self.const(producer):
            value = _value(bound)
            if not _is_large(value):
                return _token(value)
        return bound.name


def _value(var: Any) -> Any:
    known = host.known_value(var)
    return None if known is None else known.val


def _is_large(value: Any) -> bool:
    """As ``is_large`` of a variable."""
    return type(value) is np.ndarray and value.size >= SMALLEST_WEIGHT and value.dtype.kind in "iuf"


def _token(value: Any) -> tuple[Any, ...]:
    """A small constant in a form that compares by value, and keeps it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.str, value.shape, value.tobytes()
    return type(value).__name__, value if isinstance(value, str | bool | int | float) else id(value)


def compare(before: Snapshot, after: Snapshot) -> tuple[list[Change], bool]:
    """What is different after, op by op, and whether there is any difference (an order counts as one)."""
    added: dict[int, tuple[Any, _Print]] = {}
    pairs: list[tuple[Any, _Print, _Print]] = []
    for key, one in after.ops.items():
        old = before.ops.get(key)
        if old is None:
            added[key] = one
        elif old[1] != one[1]:
            pairs.append((one[0], old[1], one[1]))
    changes: list[Change] = []
    rebuilt = {(op.op_type, print_[0]): key for key, (op, print_) in added.items()}
    for key, (op, print_) in before.ops.items():
        if key in after.ops:
            continue
        twin = rebuilt.pop((op.op_type, print_[0]), None)
        if twin is None:
            changes.append(Change("removed", op.op_type, print_[0]))
            continue
        other, new = added.pop(twin)  # built anew under its old name
        if print_ != new:
            pairs.append((other, print_, new))
    changes += [Change("added", op.op_type, print_[0]) for op, print_ in added.values()]
    for op, old, new in pairs:
        details = tuple(_details(old, new))
        changes.append(Change("changed" if details else "moved", op.op_type, old[0], details))
    reordered = len(before.ops) != len(after.ops) or any(map(operator.ne, before.ops, after.ops))
    return changes, bool(changes) or reordered or before.interface != after.interface


def _details(old: _Print, new: _Print) -> Iterator[str]:
    if old[0] != new[0]:
        yield f"name {old[0]} -> {new[0]}"
    mine, theirs = dict(old[1]), dict(new[1])
    for param in dict.fromkeys((*mine, *theirs)):
        if mine.get(param) != theirs.get(param):
            texts = [_text(one.get(param)) for one in (mine, theirs)]
            yield f"{param} {' -> '.join(texts)}" if texts[0] != texts[1] else f"{param} has other values"
    for (name, kind), (new_name, new_kind) in zip(old[2], new[2], strict=False):
        if kind != new_kind:
            yield f"%{new_name} {kind} -> {new_kind}"
        if name != new_name and name != old[0]:
            yield f"%{name} -> %{new_name}"
    if len(old[2]) != len(new[2]):
        yield f"{len(old[2])} outputs -> {len(new[2])}"
    if old[3] != new[3]:
        yield "its blocks return other values"


def _text(operand: Any) -> str:
    if operand is None:
        return "none"
    if isinstance(operand, str):
        return f"%{operand}"
    if operand and isinstance(operand[0], int):  # the checksum of a large constant
        return "a constant"
    if len(operand) == 3 and isinstance(operand[2], bytes):
        dtype, shape, data = operand
        return literal(np.frombuffer(data, dtype).reshape(shape))
    if len(operand) == 2 and isinstance(operand[0], str) and operand[0] in ("str", "bool", "int", "float"):
        return literal(operand[1])
    return f"({', '.join(map(_text, operand))})" if all(map(_is_operand, operand)) else "a constant"


def _is_operand(one: Any) -> bool:
    return isinstance(one, str | tuple)


def stale(program: Any) -> list[str]:
    """Ops whose value was inferred from a constant that is compressed by now.

    They keep the old values, and ``const_elimination`` puts them back as a constant.
    """
    found: list[str] = []
    walk = _Printer(Values()).walk
    for op in (op for function in program.functions.values() for op in walk(function)):
        if op.op_type.startswith("constexpr_"):
            found.extend(
                f"{user.name} ({user.op_type}) keeps a value inferred before {op.name} was compressed"
                for var in op.outputs
                for user in var.child_ops
                if not user.op_type.startswith("constexpr_") and any(o.val is not None for o in user.outputs)
            )
    return found
