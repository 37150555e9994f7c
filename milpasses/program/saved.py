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
from milpasses.errors import PackageError, Refusal
from milpasses.program.opset import Opset, opset_of
from milpasses.program.package import Package
from milpasses.program.proto import (
    constant_bool,
    constant_int,
    constant_str,
    read_value,
    stored_bytes,
    tensor_type,
)
from milpasses.program.weights import Consumer, Place, Site, Weight


@attrs.define(eq=False)
class Function:
    """One function's block, indexed: which op makes each variable, and who uses it."""

    name: str
    target: Opset
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
class SavedProgram:
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
    def target(self) -> Opset:
        """The oldest target among the functions: every form emitted must exist there."""
        return min((function.target for function in self.functions), key=lambda target: target.version)

    def sites(self) -> list[Site]:
        """Every constant of ten elements or more, and every compressed weight, in program order."""
        found: list[Site] = []
        by_blob: dict[tuple[str, int], int] = {}
        for function in self.functions:
            for op in walk(function.block):
                if op.type == "const":
                    self._add_const(function, op, found, by_blob)
                elif op.type.startswith("constexpr_") and self.gives_weight(function, op):
                    found.append(self.compressed(function, op))
        return _merge_equal(found)

    def _add_const(
        self, function: Function, op: Any, found: list[Site], by_blob: dict[tuple[str, int], int]
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
        place = (function.name, variable)
        if blob in by_blob:
            at = by_blob[blob]
            found[at] = _shared(found[at], function.name, consumers, blocked, (place,))
            return
        weight = Weight(
            op_name(op), shape, dtype, consumers, (function.name,), lambda: read_value(self.package, value)[0]
        )
        by_blob[blob] = len(found)
        found.append(Site(weight, stored_bytes(value), (place,), blocked))

    def _blocked(self, function: Function, variable: str) -> Refusal | None:
        if variable in function.returned:
            return Refusal("returned-by-block")
        if not function.uses.get(variable):
            return Refusal("unused")
        if any(op.type.startswith("constexpr_") for op, _ in function.uses[variable]):
            return Refusal("part-of-compressed")
        return None

    def gives_weight(self, function: Function, op: Any) -> bool:
        """No other constexpr op takes an output of ``op``: it gives the weight itself."""
        users = [user for output in op.outputs for user, _ in function.uses.get(output.name, [])]
        return not any(user.type.startswith("constexpr_") for user in users)

    def compressed(self, function: Function, op: Any) -> Site:
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
        blocked = Refusal("returned-by-block") if variable in function.returned else None
        return Site(weight, nbytes, ((function.name, variable),), blocked, existing)

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
        return lift(op.type, inputs, output)


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


def _target(opset: str) -> Opset:
    from coremltools import _OPSET

    for version, name in _OPSET.items():
        if name == opset:
            return opset_of(version)
    return opset_of(max(_OPSET) + 1, f"{opset}, newer than {opset_of(max(_OPSET)).name}")


def _shared(
    site: Site,
    function: str,
    consumers: tuple[Consumer, ...],
    blocked: Refusal | None,
    places: tuple[Place, ...],
) -> Site:
    """``site`` with more uses; blocked if any use is."""
    weight = site.weight
    functions = weight.functions if function in weight.functions else (*weight.functions, function)
    merged = tuple(dict.fromkeys((*weight.consumers, *consumers)))
    weight = attrs.evolve(weight, consumers=merged, functions=functions)
    return attrs.evolve(site, weight=weight, blocked=site.blocked or blocked, places=(*site.places, *places))


def _merge_equal(found: list[Site]) -> list[Site]:
    """Weights stored twice with the same bytes become one site: same bytes, same encoding."""
    kept: list[Site] = []
    candidates: dict[Any, list[int]] = {}
    for site in found:
        weight = site.weight
        if site.existing is not None or weight.rank < 2:
            kept.append(site)
            continue
        values = weight.value.reshape(-1)
        ends = np.concatenate([values[:64], values[-64:]]).tobytes()
        alike = candidates.setdefault((weight.dtype, weight.shape, ends), [])
        for at in alike:
            if np.array_equal(values.view(np.uint8), kept[at].weight.value.reshape(-1).view(np.uint8)):
                for function in weight.functions:
                    kept[at] = _shared(kept[at], function, weight.consumers, site.blocked, ())
                kept[at] = attrs.evolve(kept[at], places=(*kept[at].places, *site.places))
                break
        else:
            alike.append(len(kept))
            kept.append(site)
    return kept
