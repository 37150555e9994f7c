"""A saved ML Program, opened once: its package, its specification, the weights in it.

Whatever is not a weight stays as it is, byte for byte: metadata, image inputs, labels, states, functions, ops
that this coremltools does not even know. Weights stream: one at a time is in memory.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses import _coremltools as host
from milpasses.errors import PackageError, TargetError
from milpasses.program import discovery, graph
from milpasses.program.checking import check_package
from milpasses.program.functions import resolve_function
from milpasses.program.graph import Produced, StoredConstant
from milpasses.program.opset import Opset, opset_of
from milpasses.program.package import Package
from milpasses.program.proto import (
    constant_scalar,
    constant_str,
    read_value,
    stored_bytes,
    tensor_type,
)
from milpasses.program.protocol import Runner, make_runner
from milpasses.program.scopes import with_unique_names
from milpasses.program.weights import Site


@attrs.define(eq=False)
class SavedFunction:
    """One function's block, indexed: which op makes each variable, and who uses it. A ``FunctionGraph``."""

    package: Package
    name: str
    target: Opset
    block: Any
    producers: dict[str, Any] = attrs.field(factory=dict)
    users: dict[str, list[tuple[Any, str]]] = attrs.field(factory=dict)
    results: set[str] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._index(self.block)

    def _index(self, block: Any) -> None:
        self.results.update(block.outputs)
        for op in block.operations:
            for output in op.outputs:
                self.producers[output.name] = op
            for param, argument in sorted(op.inputs.items()):  # a protobuf map has no order of its own
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name":
                        self.users.setdefault(binding.name, []).append((op, param))
            for nested in op.blocks:
                self._index(nested)

    def operations(self) -> Iterator[Any]:
        """Every op in order, nested ones included."""
        return walk(self.block)

    def body(self) -> Sequence[Any]:
        """The ops of the function itself, without nested ones."""
        return self.block.operations

    def operands(self, op: Any) -> list[tuple[str, str]]:
        """What ``op`` takes: parameters, each with the name of a variable."""
        return [
            (param, str(binding.name))
            for param, argument in sorted(op.inputs.items())
            for binding in argument.arguments
            if binding.WhichOneof("binding") == "name"
        ]

    def op_type(self, op: Any) -> str:
        """The type of ``op``."""
        return str(op.type)

    def op_name(self, op: Any) -> str:
        """The name of ``op``."""
        return op_name(op)

    def outputs(self, op: Any) -> Sequence[str]:
        """The names of the variables that ``op`` makes."""
        return [output.name for output in op.outputs]

    def variable_name(self, variable: str) -> str:
        """A variable is its name here."""
        return variable

    def uses(self, variable: str) -> Sequence[tuple[Any, str]]:
        """The ops that take ``variable``, each with the parameter."""
        return self.users.get(variable, ())

    def returned(self, variable: str) -> bool:
        """The function, or a block inside it, returns ``variable``."""
        return variable in self.results

    def weight(self, op: Any) -> StoredConstant | None:
        """The constant of a const op that is in a weight file."""
        if op.type != "const":
            return None
        value = op.attributes["val"]
        return self._stored(value) if value.WhichOneof("value") == "blobFileValue" else None

    def inputs(self, op: Any) -> dict[str, StoredConstant | Produced]:
        """What a constexpr op takes; iOS16 ops carry their constants as attributes, iOS18 ops as inputs."""
        found: dict[str, StoredConstant | Produced] = {}
        for param, value in sorted(op.attributes.items()):
            constant = None if param == "name" else self._stored(value)
            if constant is not None:
                found[param] = constant
        for param, argument in sorted(op.inputs.items()):
            source = self._source(argument.arguments[0])
            if source is not None:
                found[param] = source
        return found

    def _source(self, binding: Any) -> StoredConstant | Produced | None:
        if binding.WhichOneof("binding") == "value":
            return self._stored(binding.value)
        producer = self.producers[binding.name]
        if producer.type == "const":
            return self._stored(producer.attributes["val"])
        return Produced(producer, self.outputs(producer).index(binding.name))

    def _stored(self, value: Any) -> StoredConstant | None:
        known = tensor_type(value.type)
        if known is None:
            return None
        dtype, shape = known
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            identity: Any = (blob.fileName, blob.offset)

            def stored() -> NDArray[np.uint8]:
                return self.package.reader(blob.fileName).raw(blob.offset)[1]

        else:
            identity = object()  # in the program's text nothing is shared

            def stored() -> NDArray[np.uint8]:
                return np.frombuffer(value.SerializeToString(deterministic=True), np.uint8)

        return StoredConstant(
            shape, dtype, stored_bytes(value), identity, lambda: read_value(self.package, value)[0], stored
        )

    def result(self, op: Any) -> tuple[tuple[int, ...], str]:
        """Shape and type of the first output of ``op``."""
        known = tensor_type(op.outputs[0].type)
        if known is None:
            raise PackageError(f"{self.package.path}: {op_name(op)} gives no tensor")
        dtype, shape = known
        return shape, dtype

    def scalar(self, op: Any, param: str) -> Any:
        """The value of a constant scalar input, None where it is not given or not known."""
        if param not in op.inputs or not op.inputs[param].arguments:
            return None
        binding = op.inputs[param].arguments[0]
        if binding.WhichOneof("binding") == "value":
            return constant_scalar(binding.value)
        producer = self.producers.get(binding.name)
        if producer is None or producer.type != "const":
            return None
        return constant_scalar(producer.attributes["val"])

    def takes_input(self, op: Any) -> bool:
        """``op`` takes an input of the function, as it is or cast."""
        for argument in op.inputs.values():
            for binding in argument.arguments:
                name = binding.name if binding.WhichOneof("binding") == "name" else ""
                while name in self.producers and self.producers[name].type == "cast":
                    name = self.producers[name].inputs["x"].arguments[0].name
                if name and name not in self.producers:
                    return True
        return False

    def inferred(self, op: Any) -> bool:
        """A saved program holds no inferred values."""
        return False


def op_name(op: Any) -> str:
    """The name attribute of an operation, or its first output's."""
    if "name" in op.attributes:
        return constant_str(op.attributes["name"])
    return str(op.outputs[0].name) if op.outputs else ""


@attrs.define(eq=False, slots=False)
class SavedProgram:
    """The functions of a package's program and the weights in them. A ``WeightProgram``.

    ``load_options``: how an ``MLModel`` of the result is loaded, as the model that was given was. ``model``:
    the ``MLModel`` that was given, if it was one. ``notes``: what was done to it unasked.
    """

    package: Package
    load_options: dict[str, Any] = attrs.field(factory=dict)
    model: Any = None
    notes: tuple[str, ...] = ()
    _given: Package = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._given = self.package
        spec = with_unique_names(self.package.spec)
        if spec is not self.package.spec:
            self.package = attrs.evolve(self.package, spec=spec)

    def check(self) -> None:
        """Raise ``PackageError`` unless the program is whole."""
        check_package(self._given)

    @cached_property
    def functions(self) -> list[SavedFunction]:
        """The functions, by name; ``PackageError`` where one is damaged."""
        self.check()
        found: list[SavedFunction] = []
        for name, function in sorted(self.package.spec.mlProgram.functions.items()):
            block = function.block_specializations[function.opset]
            found.append(SavedFunction(self.package, name, _target(function.opset), block))
        return found

    @property
    def spec(self) -> Any:
        """The specification, ``Model_pb2.Model``: that of the model which was given, if it was one."""
        return self.package.spec

    @property
    def target(self) -> Opset:
        """The oldest target among the functions: every form emitted must exist there."""
        return min((function.target for function in self.functions), key=lambda target: target.version)

    def sites(self) -> list[Site]:
        """Every constant of ten elements or more, and every compressed weight, in program order."""
        return list(self._sites)

    @cached_property
    def _sites(self) -> list[Site]:
        return list(discovery.discover(self.functions))

    def release(self) -> None:
        """Give back the memory of the weights that were read."""
        self.package.release()

    def function_name(self, wanted: str | None = None) -> str:
        """The function ``wanted``, if there is one of that name; without a name the package's default."""
        default = str(self.spec.description.defaultFunctionName)
        return resolve_function(self.spec.mlProgram.functions, wanted, default)

    def runner(self, function: str | None = None) -> Runner:
        """What runs a function of the program as it is."""
        return make_runner(self, function)

    def gives_weight(self, function: SavedFunction, op: Any) -> bool:
        """No other constexpr op takes an output of ``op``: it gives the weight itself."""
        return graph.gives_weight(function, op)

    def compressed(self, function: SavedFunction, op: Any) -> Site:
        """The site of a compressed weight: ``op`` is the last of its constexpr ops."""
        return discovery.compressed_site(function, op)

    def chain(self, function: SavedFunction, op: Any) -> list[Any]:
        """``op`` and the constexpr ops that feed it, first to last."""
        return graph.chain(function, op)


def walk(block: Any) -> Iterator[Any]:
    """Every op of a block in order, those of nested blocks after the op that has them."""
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from walk(nested)


def _target(opset: str) -> Opset:
    versions = host.opset_names()
    for version, name in versions.items():
        if name == opset:
            return opset_of(version)
    newest = max(versions)
    return opset_of(newest + 1, f"{opset}, newer than {opset_of(newest).name}")


def check_functions(program: SavedProgram) -> None:
    """Raise ``TargetError`` where functions of ``program`` take compressed weights in different forms."""
    if len({function.target.constexpr for function in program.functions}) > 1:
        raise TargetError(
            f"{program.package.path}: its functions target both sides of iOS18; "
            "pass minimum_deployment_target=ct.target.iOS18"
        )
