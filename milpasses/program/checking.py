"""A package's program, checked once when it is opened: what holds then is taken for granted everywhere else.

Every variable is made before it is taken (so nothing runs in a circle), every constant has the elements that
its type declares, every weight is a whole blob of that type inside its file. What a damaged or hostile file
breaks is a ``PackageError`` that names the function, the op and the fault.
"""

from collections.abc import Iterable
from math import prod
from typing import Any

import attrs

from milpasses.encoding.storage import STORED_BITS, packed_bytes
from milpasses.errors import PackageError
from milpasses.program.blobfile import BLOB_TYPES
from milpasses.program.package import Package
from milpasses.program.proto import tensor_type

_LARGEST = 1 << 62  # elements: NumPy counts in 64 bits
_KINDS = {"str": "strings", "bool": "bools"}  # what a tensor of other types holds is numbers, or bytes
_WIDE = {"int64": 64, "uint64": 64, "float64": 64, "bool": 8}


def check_package(package: Package) -> None:
    """Raise ``PackageError`` unless the program of ``package`` is whole; of one package it looks once."""
    if package.checked:
        return
    spec = package.spec
    functions = spec.mlProgram.functions
    if not functions:
        raise PackageError(f"{package.path}: damaged: the program has no function")
    default = str(spec.description.defaultFunctionName)
    if default and default not in functions:
        raise PackageError(f"{package.path}: damaged: its default function {default} is missing")
    for name, function in sorted(functions.items()):
        if function.opset not in function.block_specializations:
            raise PackageError(f"{package.path}: function {name} has no block for {function.opset}")
        checker = _Checker(package, name)
        known = checker.named(function.inputs, "an input")
        checker.block(function.block_specializations[function.opset], known)
    package.checked = True


@attrs.define
class _Checker:
    package: Package
    function: str
    op: str = ""

    def block(self, block: Any, known: frozenset[str]) -> None:
        """Check a block where the variables ``known`` are there already."""
        visible = set(known | self.named(block.inputs, "an input of a block"))
        made: set[str] = set()
        for op in block.operations:
            self.op = _label(op)
            self.operation(op, frozenset(visible) if op.blocks else visible)
            outputs = self.named(op.outputs, "an output")
            if made & outputs or len(outputs) != len(op.outputs):
                raise self.fault(f"makes {min(made & outputs, default='a variable')!r} a second time")
            made |= outputs
            visible |= outputs
        self.op = ""
        for name in block.outputs:
            if name not in visible:
                raise self.fault(f"returns {name!r}, which nothing makes")

    def operation(self, op: Any, visible: Iterable[str]) -> None:
        """Check one op; what it gives is not known yet."""
        known: Any = visible
        if not op.type:
            raise self.fault("has no type")
        for param, value in op.attributes.items():
            self.value(value, param)
        if "name" in op.attributes and not _is_text(op.attributes["name"]):
            raise self.fault("has a name that is no text")
        if op.type == "const" and not ("val" in op.attributes and len(op.outputs) == 1):
            raise self.fault("is a constant without a value")
        if op.type.startswith("constexpr_") and not op.outputs:
            raise self.fault("gives no weight")
        for param, argument in op.inputs.items():
            if not argument.arguments and param != "values":
                raise self.fault(f"is given nothing as {param}")
            for binding in argument.arguments:
                kind = binding.WhichOneof("binding")
                if kind == "value":
                    self.value(binding.value, param)
                elif kind is None or binding.name not in known:
                    raise self.fault(f"takes {binding.name!r} as {param}, which nothing before it makes")
        for nested in op.blocks:
            name = self.op
            self.block(nested, known)
            self.op = name

    def named(self, variables: Iterable[Any], what: str) -> frozenset[str]:
        """The names of variables, each of which has one, and a type."""
        names: list[str] = []
        for variable in variables:
            if not variable.name or variable.type.WhichOneof("type") is None:
                raise self.fault(f"has {what} without a name or a type")
            self.size(variable.type, variable.name)
            names.append(variable.name)
        return frozenset(names)

    def size(self, value_type: Any, what: str) -> int | None:
        """The elements that a type declares; None where it is no tensor of a known shape."""
        if value_type.WhichOneof("type") != "tensorType":
            return None
        dimensions = value_type.tensorType.dimensions
        if value_type.tensorType.rank not in (-1, len(dimensions)):
            raise self.fault(f"{what} is of rank {value_type.tensorType.rank}, with {len(dimensions)} sizes")
        sizes = [one.constant.size for one in dimensions if one.WhichOneof("dimension") == "constant"]
        if prod(map(int, sizes)) > _LARGEST:
            raise self.fault(f"{what} has more elements than any memory")
        return prod(map(int, sizes)) if len(sizes) == len(dimensions) else None

    def value(self, value: Any, what: str) -> None:
        """Check a constant: as many elements as its type declares."""
        count, kind = self.size(value.type, what), value.WhichOneof("value")
        if kind is None or value.type.WhichOneof("type") is None:
            raise self.fault(f"{what} has no value or no type")
        if kind == "blobFileValue":
            self.blob(value, count, what)
            return
        inside = value.immediateValue.WhichOneof("value")
        if inside in ("list", "tuple"):
            for one in getattr(value.immediateValue, inside).values:
                self.value(one, what)
        elif inside == "dictionary":
            for pair in value.immediateValue.dictionary.values:
                self.value(pair.key, what)
                self.value(pair.value, what)
        elif inside != "tensor" or count is None:
            raise self.fault(f"{what} is no tensor of a known shape")
        else:
            self.immediate(value, count, what)

    def immediate(self, value: Any, count: int, what: str) -> None:
        """A constant in the program's text."""
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        known = tensor_type(value.type)
        assert known is not None
        dtype = known[0]
        if kind is None:
            raise self.fault(f"{what} has no elements")
        if kind == "bytes":
            bits = STORED_BITS.get(dtype) or _WIDE.get(dtype)
            expected = None if bits is None else -(-count * bits // 8)
            if expected is not None and len(tensor.bytes.values) != expected:
                raise self.fault(f"{what}: {len(tensor.bytes.values):,} bytes, {expected:,} were declared")
            return
        given = len(getattr(tensor, kind).values)
        if (
            given != count
            or kind != _KINDS.get(dtype, kind)
            or (dtype not in _KINDS) != (kind not in _KINDS.values())
        ):
            raise self.fault(f"{what}: {given:,} {kind}, {count:,} elements of {dtype} were declared")

    def blob(self, value: Any, count: int | None, what: str) -> None:
        """A constant in a weight file."""
        known = tensor_type(value.type)
        if known is None or count is None:
            raise self.fault(f"{what} is in a weight file, and no tensor of a known shape")
        dtype, blob = known[0], value.blobFileValue
        stored, raw, padding = self.package.reader(blob.fileName).raw(blob.offset)
        if dtype in BLOB_TYPES and dtype != stored:
            raise self.fault(f"{what} is stored as {stored}, and {dtype} was declared")
        if raw.size != packed_bytes(count, stored) or padding != raw.size * 8 - count * STORED_BITS[stored]:
            shape = "x".join(map(str, known[1])) or "scalar"
            raise self.fault(
                f"{what} takes {packed_bytes(count, stored):,} bytes as {stored} {shape}, and "
                f"{raw.size:,} are stored"
            )

    def fault(self, text: str) -> PackageError:
        """The error that says where ``text`` is."""
        where = f"function {self.function}" + (f", {self.op}" if self.op else "")
        return PackageError(f"{self.package.path}: damaged: {where}: {text}")


def _label(op: Any) -> str:
    """An op as messages call it, whatever it lacks."""
    name = ""
    if "name" in op.attributes and _is_text(op.attributes["name"]):
        name = str(op.attributes["name"].immediateValue.tensor.strings.values[0])
    elif op.outputs:
        name = str(op.outputs[0].name)
    return f"{op.type or 'an op'} {name[:80]}".strip()


def _is_text(value: Any) -> bool:
    return len(value.immediateValue.tensor.strings.values) == 1
