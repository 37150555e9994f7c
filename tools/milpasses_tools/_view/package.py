"""The view of a saved ML Program, from its protobuf alone."""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any

import attrs
import numpy as np

from milpasses import _coremltools as host
from milpasses.errors import MilpassesError
from milpasses.program.package import Package
from milpasses.program.proto import read_value, stored_bytes
from milpasses.program.saved import SavedFunction as Indexed
from milpasses.program.saved import SavedProgram, op_name
from milpasses.report import METADATA_KEY, read_metadata
from milpasses_tools._view.features import functions_of
from milpasses_tools._view.graph import (
    SMALLEST_WEIGHT,
    Block,
    Constant,
    Function,
    GraphView,
    Op,
    Operand,
    Variable,
    Weight,
    compressed_weight,
    ordered,
    tensor_text,
)


def view_package(package: Package, source: str) -> GraphView:
    """The view of ``package``; weights are read only as far as their form needs."""
    program = SavedProgram(package)
    description = package.spec.description
    report = read_metadata(description.metadata.userDefined.get(METADATA_KEY, ""))
    errors = {
        record["name"]: float(record["sqnr_db"])
        for record in report.get("weights", [])
        if record.get("status") == "compressed" and record.get("sqnr_db") is not None
    }
    functions = tuple(_Reader(program, indexed, errors).function() for indexed in program.functions)
    features = {
        f"{function.name}: {kind} {name}": text
        for function in functions_of(description, [one.name for one in functions])
        for kind, found in (("input", function.inputs), ("output", function.outputs))
        for name, text in found.items()
    }
    return GraphView(source, functions, features)


def view_parts(packages: dict[str, Package], source: str) -> GraphView:
    """The view of a pipeline's programs: each function is called ``part/function``."""
    views = {part: view_package(package, source) for part, package in packages.items()}
    functions = tuple(
        attrs.evolve(function, name=f"{part}/{function.name}")
        for part, found in views.items()
        for function in found.functions
    )
    features = {
        f"{part}/{name}": text for part, found in views.items() for name, text in found.features.items()
    }
    return GraphView(source, functions, features)


@attrs.frozen(eq=False)
class _Reader:
    program: SavedProgram
    indexed: Indexed
    errors: dict[str, float]
    inlined: dict[str, Constant | None] = attrs.field(factory=dict)

    def function(self) -> Function:
        spec = self.program.package.spec.mlProgram.functions[self.indexed.name]
        block = self.block(self.indexed.block)
        inputs = _variables(spec.inputs)
        return Function(self.indexed.name, self.indexed.target.name, attrs.evolve(block, inputs=inputs))

    def block(self, block: Any) -> Block:
        ops = tuple(self.op(op) for op in block.operations if self.at_its_uses(op) is None)
        return Block(_variables(block.inputs), ops, tuple(block.outputs))

    def op(self, op: Any) -> Op:
        inputs: dict[str, tuple[Operand, ...]] = {
            param: tuple(map(self.operand, argument.arguments)) for param, argument in op.inputs.items()
        }
        for param, value in op.attributes.items():  # iOS16's constexpr ops carry their constants here
            if param != "name" and not (op.type == "const" and _is_large(value)):
                inputs[param] = (self.constant(value),)
        blocks = tuple(map(self.block, op.blocks))
        return Op(op.type, op_name(op), ordered(inputs), _variables(op.outputs), blocks, self.weight(op))

    def operand(self, binding: Any) -> Operand:
        if binding.WhichOneof("binding") == "value":
            return self.constant(binding.value)
        producer = self.indexed.producers.get(binding.name)
        constant = None if producer is None else self.at_its_uses(producer)
        return str(binding.name) if constant is None else constant

    def constant(self, value: Any) -> Constant:
        return Constant(type_text(value.type), _size(value), partial(_load, self.program.package, value))

    def weight(self, op: Any) -> Weight | None:
        if op.type == "const":
            return self._dense(op) if _is_large(op.attributes["val"]) else None
        if not op.type.startswith("constexpr_") or not self.program.gives_weight(self.indexed, op):
            return None
        try:
            site = self.program.compressed(self.indexed, op)
        except (MilpassesError, KeyError):  # it gives no tensor, or takes what only a newer form does
            return None
        return compressed_weight(site, self.errors.get(site.weight.name))

    def _dense(self, op: Any) -> Weight:
        value = op.attributes["val"]
        tensor = value.type.tensorType
        dtype = _dtype(tensor.dataType)
        shape = tuple(int(dimension.constant.size) for dimension in tensor.dimensions)
        load: Callable[[], Any] = partial(_load, self.program.package, value)
        return Weight(op_name(op), shape, dtype, f"dense {dtype}", stored_bytes(value), load)

    def at_its_uses(self, op: Any) -> Constant | None:
        """The constant that ``op`` is, if it needs no line of its own: small, or in a compressed weight."""
        if op.type != "const":
            return None
        name = op.outputs[0].name
        if name not in self.inlined:
            value, users = op.attributes["val"], self.indexed.uses(name)
            inlined = (
                name not in self.indexed.results
                and bool(users)
                and (not _is_large(value) or all(user.type.startswith("constexpr_") for user, _ in users))
            )
            self.inlined[name] = self.constant(value) if inlined else None
        return self.inlined[name]


def _variables(named: Iterable[Any]) -> tuple[Variable, ...]:
    return tuple(Variable(one.name, type_text(one.type)) for one in named)


def type_text(kind: Any) -> str:
    """A ``ValueType`` as text: ``float16[1,3,?]``, ``state<float16[4]>``."""
    which = kind.WhichOneof("type")
    if which == "tensorType":
        tensor = kind.tensorType
        if tensor.rank < 0:
            return f"{_dtype(tensor.dataType)}[*]"
        return tensor_text(_dtype(tensor.dataType), tuple(map(_dimension, tensor.dimensions)))
    if which == "stateType":
        return f"state<{type_text(kind.stateType.wrappedType)}>"
    if which == "listType":
        return f"list<{type_text(kind.listType.type)}, {_dimension(kind.listType.length)}>"
    if which == "tupleType":
        return f"tuple<{', '.join(map(type_text, kind.tupleType.types))}>"
    if which == "dictionaryType":
        pair = kind.dictionaryType
        return f"dict<{type_text(pair.keyType)}, {type_text(pair.valueType)}>"
    return "unknown"


def _dimension(dimension: Any) -> int | str:
    if dimension.WhichOneof("dimension") == "constant":
        return int(dimension.constant.size)
    return "..." if dimension.unknown.variadic else "?"


_DTYPES: dict[int, str] = {}


def _dtype(number: int) -> str:
    if not _DTYPES:
        names = host.message_class("MIL_pb2", "DataType")
        _DTYPES.update({n: name.lower() for name, n in names.items()})
        _DTYPES[names.Value("STRING")] = "str"
    return _DTYPES.get(number, f"type{number}")


def _size(value: Any) -> int:
    if value.type.WhichOneof("type") != "tensorType":
        return 0
    return prod([dimension.constant.size for dimension in value.type.tensorType.dimensions])


def _is_large(value: Any) -> bool:
    """A constant of ten numbers or more: a weight, or a table that is worth a line."""
    if _size(value) < SMALLEST_WEIGHT:
        return False
    return _dtype(value.type.tensorType.dataType) not in ("bool", "str")


def _load(package: Package, value: Any) -> Any:
    kind = value.immediateValue.WhichOneof("value") if value.WhichOneof("value") == "immediateValue" else ""
    if kind == "list":
        return [_load(package, one) for one in value.immediateValue.list.values]
    if kind == "tuple":
        return [_load(package, one) for one in value.immediateValue.tuple.values]
    if kind == "dictionary":
        pairs = value.immediateValue.dictionary.values
        return {np.asarray(_load(package, pair.key))[()]: _load(package, pair.value) for pair in pairs}
    return read_value(package, value)[0]
