"""The weights of a saved ML Program, found and replaced in its protobuf: no conversion runs again.

Whatever is not a weight stays as it is, byte for byte: metadata, image inputs, labels, states, functions, ops
that this coremltools does not even know. Weights stream: one at a time is in memory.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import NOT_DATA, base_name, lift
from milpasses.errors import PackageError
from milpasses.program.package import Package
from milpasses.program.proto import (
    constant_bool,
    constant_int,
    constant_str,
    read_value,
    stored_bytes,
    tensor_type,
)
from milpasses.program.weights import Consumer, Weight
from milpasses.rewrite import Site, Target

Key = tuple[str, str]  # function, variable


@attrs.define(eq=False)
class Function:
    """One function's block, indexed: which op makes each variable, and who uses it."""

    name: str
    target: Target
    block: Any
    producers: dict[str, Any] = attrs.field(factory=dict)
    uses: dict[str, list[tuple[Any, str]]] = attrs.field(factory=dict)
    returned: set[str] = attrs.field(factory=set)

    def index(self, block: Any) -> None:
        """Fill the index from ``block`` and the blocks inside it."""
        self.returned.update(block.outputs)
        for op in block.operations:
            for output in op.outputs:
                self.producers[output.name] = op
            for param, argument in op.inputs.items():
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name":
                        self.uses.setdefault(binding.name, []).append((op, param))
            for nested in op.blocks:
                self.index(nested)

    def constant(self, op: Any, param: str) -> Any:
        """The constant ``Value`` bound to ``param`` of ``op``, or None."""
        if param not in op.inputs or not op.inputs[param].arguments:
            return None
        binding = op.inputs[param].arguments[0]
        if binding.WhichOneof("binding") == "value":
            return binding.value
        producer = self.producers.get(binding.name)
        return producer.attributes["val"] if producer is not None and producer.type == "const" else None

    def consumers(self, variable: str) -> tuple[Consumer, ...]:
        """The uses of ``variable`` as rules see them."""
        found: list[Consumer] = []
        for op, param in self.uses.get(variable, []):
            flag = self.constant(op, f"transpose_{param}") if op.type == "matmul" else None
            groups = self.constant(op, "groups") if op.type.startswith("conv") else None
            found.append(
                Consumer(
                    op.type,
                    op_name(op),
                    param,
                    transposed=flag is not None and constant_bool(flag),
                    groups=1 if groups is None else constant_int(groups),
                )
            )
        return tuple(found)


def op_name(op: Any) -> str:
    """The name attribute of an operation, or its first output's."""
    if "name" in op.attributes:
        return constant_str(op.attributes["name"])
    return str(op.outputs[0].name) if op.outputs else ""


@attrs.define(eq=False)
class Placed:
    """A site and where it stands: the same stored weight may be used in several functions."""

    site: Site
    places: list[Key]


@attrs.define(eq=False)
class MLProgram:
    """The functions of a package's program and the weights in them."""

    package: Package
    functions: list[Function] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.functions = []
        for name, function in sorted(self.package.spec.mlProgram.functions.items()):
            if function.opset not in function.block_specializations:
                raise PackageError(f"{self.package.path}: function {name} has no block for {function.opset}")
            block = function.block_specializations[function.opset]
            indexed = Function(name, _target(function.opset), block)
            indexed.index(block)
            self.functions.append(indexed)

    @property
    def target(self) -> Target:
        """The oldest target among the functions: every form emitted must exist there."""
        return min((function.target for function in self.functions), key=lambda target: target.version)

    def sites(self) -> list[Placed]:
        """Every constant of ten elements or more, and every compressed weight, in program order."""
        found: list[Placed] = []
        by_blob: dict[tuple[str, int], Placed] = {}
        for function in self.functions:
            for op in walk(function.block):
                if op.type == "const":
                    self._add_const(function, op, found, by_blob)
                elif op.type.startswith("constexpr_") and self.gives_weight(function, op):
                    found.append(self.compressed(function, op))
        return _merge_equal(found)

    def _add_const(
        self, function: Function, op: Any, found: list[Placed], by_blob: dict[tuple[str, int], Placed]
    ) -> None:
        value, variable = op.attributes["val"], op.outputs[0].name
        known = tensor_type(value.type)
        if value.WhichOneof("value") != "blobFileValue" or known is None:
            return
        users = [user for user, _ in function.uses.get(variable, [])]
        if users and all(user.type.startswith("constexpr_") for user in users):
            return  # a part of a compressed weight, which has a site of its own
        dtype, shape = known
        blob = (value.blobFileValue.fileName, value.blobFileValue.offset)
        blocked = self._blocked(function, variable)
        consumers = function.consumers(variable)
        if blob in by_blob:
            placed = by_blob[blob]
            placed.site = _shared(placed.site, function.name, consumers, blocked)
            placed.places.append((function.name, variable))
            return
        weight = Weight(
            op_name(op), shape, dtype, consumers, (function.name,), lambda: read_value(self.package, value)[0]
        )
        placed = Placed(Site(weight, stored_bytes(value), blocked), [(function.name, variable)])
        by_blob[blob] = placed
        found.append(placed)

    def _blocked(self, function: Function, variable: str) -> str:
        if variable in function.returned:
            return "a block returns it: Core ML takes no constexpr as an output"
        if not function.uses.get(variable):
            return "no op uses it"
        if any(op.type.startswith("constexpr_") for op, _ in function.uses[variable]):
            return "part of a compressed weight"
        return ""

    def gives_weight(self, function: Function, op: Any) -> bool:
        """No other constexpr op takes an output of ``op``: it gives the weight itself."""
        users = [user for output in op.outputs for user, _ in function.uses.get(output.name, [])]
        return not any(user.type.startswith("constexpr_") for user in users)

    def compressed(self, function: Function, op: Any) -> Placed:
        """The site of a compressed weight: ``op`` is the last of its constexpr ops."""
        variable = op.outputs[0].name
        known = tensor_type(op.outputs[0].type)
        if known is None:
            raise PackageError(f"{self.package.path}: {op_name(op)} gives no tensor")

        def existing() -> Encoding:
            return self._lift(function, op, 0)

        weight = Weight(
            base_name(op_name(op)),
            known[1],
            known[0],
            function.consumers(variable),
            (function.name,),
            lambda: existing().decode(),
        )
        nbytes = sum(_stored_once(self.chain(function, op)))
        blocked = "a block returns it" if variable in function.returned else ""
        return Placed(Site(weight, nbytes, blocked, existing), [(function.name, variable)])

    def chain(self, function: Function, op: Any) -> list[Any]:
        """``op`` and the constexpr ops that feed it, first to last."""
        parts: dict[str, Any] = {}
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    producer = function.producers[binding.name]
                    if producer.type.startswith("constexpr_"):
                        for part in self.chain(function, producer):
                            parts[part.outputs[0].name] = part
        return [*parts.values(), op]

    def _lift(self, function: Function, op: Any, output: int) -> Any:
        inputs: dict[str, Any] = {}
        for param, value in op.attributes.items():
            if param != "name":
                inputs[param], inputs[f"dtype:{param}"] = read_value(self.package, value)
        for param, argument in op.inputs.items():
            binding = argument.arguments[0]
            if binding.WhichOneof("binding") == "value":
                inputs[param], inputs[f"dtype:{param}"] = read_value(self.package, binding.value)
                continue
            producer = function.producers[binding.name]
            if producer.type == "const":
                inputs[param], inputs[f"dtype:{param}"] = read_value(self.package, producer.attributes["val"])
            else:
                at = [made.name for made in producer.outputs].index(binding.name)
                inputs[param] = self._lift(function, producer, at)
        return lift(op.type, inputs, ios18=not _in_attributes(op), output=output)


def _in_attributes(op: Any) -> bool:
    """iOS16 ops carry their constants as attributes, iOS18 ops as inputs."""
    return any(param != "name" for param in op.attributes)


def _data(op: Any) -> Iterator[Any]:
    """The constants of a constexpr op that hold data (not shapes or axes)."""
    for param, value in op.attributes.items():
        if param != "name" and param not in NOT_DATA:
            yield value
    for param, argument in op.inputs.items():
        if param not in NOT_DATA:
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    yield binding.value


def _stored_once(ops: list[Any]) -> Iterator[int]:
    """Bytes of each constant of ``ops``; what two of them share in the weight file counts once."""
    seen: set[tuple[str, int]] = set()
    for op in ops:
        for value in _data(op):
            if value.WhichOneof("value") == "blobFileValue":
                blob = (value.blobFileValue.fileName, value.blobFileValue.offset)
                if blob in seen:
                    continue
                seen.add(blob)
            yield stored_bytes(value)


def walk(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from walk(nested)


def _target(opset: str) -> Target:
    import coremltools as ct
    from coremltools import _OPSET

    for version, name in _OPSET.items():
        if name == opset:
            return Target(ct.target(version).name, int(version))
    # Newer than the installed coremltools: it has at least the newest forms that are known.
    newest = max(_OPSET)
    return Target(f"{opset}, newer than iOS{ct.target(newest).name[3:]}", int(newest))


def _shared(site: Site, function: str, consumers: tuple[Consumer, ...], blocked: str) -> Site:
    """``site`` with more uses; blocked if any use is."""
    weight = site.weight
    functions = weight.functions if function in weight.functions else (*weight.functions, function)
    merged = tuple(dict.fromkeys((*weight.consumers, *consumers)))
    weight = attrs.evolve(weight, consumers=merged, functions=functions)
    return attrs.evolve(site, weight=weight, blocked=site.blocked or blocked)


def _merge_equal(found: list[Placed]) -> list[Placed]:
    """Weights stored twice with the same bytes become one site: same bytes, same encoding."""
    kept: list[Placed] = []
    candidates: dict[Any, list[Placed]] = {}
    for placed in found:
        weight = placed.site.weight
        if placed.site.existing is not None or weight.rank < 2:
            kept.append(placed)
            continue
        values = weight.value.reshape(-1)
        ends = np.concatenate([values[:64], values[-64:]]).tobytes()
        alike = candidates.setdefault((weight.dtype, weight.shape, ends), [])
        for twin in alike:
            if np.array_equal(values.view(np.uint8), twin.site.weight.value.reshape(-1).view(np.uint8)):
                for function in weight.functions:
                    twin.site = _shared(twin.site, function, weight.consumers, placed.site.blocked)
                twin.places.extend(placed.places)
                break
        else:
            alike.append(placed)
            kept.append(placed)
    return kept
