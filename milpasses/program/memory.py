"""The weights of a program in memory: found, and replaced by the ops of their encodings."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import attrs
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types.type_mapping import string_to_nptype

from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import NOT_DATA, OpSpec, Ref, base_name, lift
from milpasses.encoding.storage import SMALLEST_IN_FILE, packed_bytes
from milpasses.errors import Refusal
from milpasses.program.opset import Opset, opset_of
from milpasses.program.weights import Consumer, Site, Weight


@attrs.define(eq=False)
class Found:
    """A site and the ops that stand for it: several where functions of a program share a weight."""

    site: Site
    ops: list[Any]


def program_target(program: Any) -> Opset:
    """The oldest opset among the program's functions."""
    oldest = min((function.opset_version for function in program.functions.values()), default=None)
    return opset_of(0) if oldest is None else opset_of(int(oldest), oldest.name)


def find_sites(program: Any) -> list[Found]:
    """Every constant that goes to the weight file, and every compressed weight, in program order."""
    found: list[Found] = []
    by_id: dict[Any, Found] = {}
    for name, function in program.functions.items():
        for op in _walk(function):
            if op.op_type == "const" and _is_weight(op.outputs[0].val) and not _is_part(op.outputs[0]):
                key = op.weight_id
                if key is not None and key in by_id:
                    _share(by_id[key], op, name)
                    continue
                found.append(Found(_const_site(op, name), [op]))
                if key is not None:
                    by_id[key] = found[-1]
            elif op.op_type.startswith("constexpr_") and gives_weight(op):
                found.append(Found(compressed_site(op, name), [op]))
    return found


def replace(program: Any, found: list[Found], rewrites: Callable[[Found], list[OpSpec] | None]) -> int:
    """Put the ops that ``rewrites`` gives in each site's place; returns how many sites were rewritten.

    Replaced constants are removed in a few batches: coremltools checks a whole block at each removal, and
    the old weights must not all stay in memory until the end.
    """
    total = sum(one.site.nbytes for one in found)
    batch = _Batch(limit=max(total // 8, 1))
    count = 0
    for one in found:
        specs = rewrites(one)
        if specs is None:
            continue
        count += 1
        for op in one.ops:
            batch.add(op, one.site.nbytes)
            _emit(op, specs, one)
        one.site = attrs.evolve(one.site, weight=attrs.evolve(one.site.weight, load=_gone), existing=None)
        one.ops = []
        batch.flush_if_full()
    batch.flush()
    return count


def _gone() -> Any:
    raise RuntimeError("the weight was rewritten; its old values are gone")


def _walk(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _walk(nested)


def _is_weight(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.size >= SMALLEST_IN_FILE
        and value.dtype in ("float16", "float32", "uint8", "int8")
    )


def _is_part(variable: Any) -> bool:
    """The constant only feeds constexpr ops: a part of a compressed weight, which has its own site."""
    users = variable.child_ops
    return bool(users) and all(user.op_type.startswith("constexpr_") for user in users)


def _consumers(variables: list[Any]) -> tuple[Consumer, ...]:
    found: dict[Consumer, None] = {}
    for variable in variables:
        for op in variable.child_ops:
            for param, bound in op.inputs.items():
                if bound is variable or (isinstance(bound, list | tuple) and variable in bound):
                    found[_consumer(op, param)] = None
    return tuple(found)


def _consumer(op: Any, param: str) -> Consumer:
    transposed, groups = None, None
    if op.op_type == "matmul":
        transposed = op.inputs.get(f"transpose_{param}")
    if op.op_type in ("conv", "conv_transpose"):
        groups = op.inputs.get("groups")
    return Consumer(
        op.op_type,
        op.name,
        param,
        transposed=transposed is not None and bool(transposed.val),
        groups=1 if groups is None or groups.val is None else int(groups.val),
    )


def _blocked(variable: Any) -> Refusal | None:
    if variable.consuming_blocks:
        return Refusal("returned-by-block")
    if not variable.child_ops:
        return Refusal("unused")
    for op in variable.child_ops:
        if op.op_type.startswith("constexpr_"):
            return Refusal("part-of-compressed")
        if any(output.val is not None for output in op.outputs):
            return Refusal("inferred-value", op=op.name, op_type=op.op_type)
    return None


def _const_site(op: Any, function: str) -> Site:
    variable = op.outputs[0]
    value = variable.val
    weight = Weight(
        op.name, value.shape, value.dtype.name, _consumers([variable]), (function,), lambda: op.outputs[0].val
    )
    return Site(weight, value.nbytes, ((function, op.name),), _blocked(variable))


def _share(one: Found, op: Any, function: str) -> None:
    """One more function uses the same weight."""
    weight = one.site.weight
    functions = weight.functions if function in weight.functions else (*weight.functions, function)
    consumers = tuple(dict.fromkeys((*weight.consumers, *_consumers([op.outputs[0]]))))
    weight = attrs.evolve(weight, functions=functions, consumers=consumers)
    one.site = attrs.evolve(one.site, weight=weight, blocked=one.site.blocked or _blocked(op.outputs[0]))
    one.ops.append(op)


def gives_weight(op: Any) -> bool:
    """No other constexpr op takes an output of ``op``: it gives the weight itself."""
    return not any(
        user.op_type.startswith("constexpr_") for output in op.outputs for user in output.child_ops
    )


def compressed_site(op: Any, function: str) -> Site:
    """The site of a compressed weight: ``op`` is the last of its constexpr ops."""
    variable = op.outputs[0]
    dtype = types.nptype_from_builtin(variable.dtype)
    nbytes = sum(packed_bytes(bound.val.size, _mil_name(bound)) for bound in _data(op))
    weight = Weight(
        base_name(op.name),
        tuple(variable.shape),
        np.dtype(dtype).name,
        _consumers([variable]),
        (function,),
        lambda: _lift(op, 0).decode(),
    )
    blocked = Refusal("returned-by-block") if variable.consuming_blocks else None
    return Site(weight, nbytes, ((function, op.name),), blocked, lambda: _encoding(op))


def _encoding(op: Any) -> Encoding:
    return _lift(op, 0)


def _inputs(op: Any) -> dict[str, Any]:
    return {param: bound for param, bound in op.inputs.items() if bound is not None}


def _data(op: Any) -> Iterator[Any]:
    """The constants with data of a constexpr op and of those that feed it."""
    seen: set[int] = set()
    for param, bound in _inputs(op).items():
        if param in NOT_DATA or id(bound) in seen:
            continue
        seen.add(id(bound))
        if bound.op is not None and bound.op.op_type.startswith("constexpr_"):
            if id(bound.op) not in seen:
                seen.add(id(bound.op))
                yield from _data(bound.op)
        elif isinstance(bound.val, np.ndarray | np.generic):
            yield bound


def _mil_name(variable: Any) -> str:
    name = types.builtin_to_string(variable.dtype)
    return {"fp16": "float16", "fp32": "float32"}.get(name, name)


def _lift(op: Any, output: int) -> Any:
    inputs: dict[str, Any] = {}
    for param, bound in _inputs(op).items():
        if bound.op is not None and bound.op.op_type.startswith("constexpr_"):
            inputs[param] = _lift(bound.op, bound.op.outputs.index(bound))
        else:
            value = bound.val
            # Drop the sub-byte marks that coremltools keeps in dtype metadata: NumPy warns when they meet.
            inputs[param] = (
                np.asarray(value).view(np.asarray(value).dtype.str) if not isinstance(value, str) else value
            )
            inputs[f"dtype:{param}"] = _mil_name(bound)
    return lift(op.op_type, inputs, output)


def _emit(op: Any, specs: list[OpSpec], one: Found) -> None:
    """Build ``specs`` before ``op`` and let its users take the last one's output."""
    block = op.enclosing_block
    base = base_name(specs[-1].name)
    here = base_name(op.name)
    made: list[Any] = []
    constants: dict[int, Any] = {}
    with _entered(block):
        for spec in specs:
            inputs: dict[str, Any] = {}
            for param, source in spec.inputs.items():
                if isinstance(source, Ref):
                    answer = made[source.op]
                    inputs[param] = answer[source.output] if isinstance(answer, tuple | list) else answer
                else:
                    inputs[param] = constants.get(id(source.values), _typed(source.values, source.dtype))
            build = getattr(mb, spec.op_type)
            made.append(build(**inputs, before_op=op, name=here + spec.name[len(base) :]))
            new = (made[-1][0] if isinstance(made[-1], tuple | list) else made[-1]).op
            for param, source in spec.inputs.items():
                if not isinstance(source, Ref):
                    constants[id(source.values)] = new.inputs.get(param)
            _mark_shared(new, one)
    block.replace_uses_of_var_after_op(
        anchor_op=op, old_var=op.outputs[0], new_var=made[-1], no_check_var_types=True, force_replace=True
    )


def _entered(block: Any) -> Any:
    """Leaving a block walks all of it, so it is entered once, by ``_Batch``, and here only if it is not."""
    from coremltools.converters.mil.mil.block import curr_block

    try:
        return nullcontext() if curr_block() is block else block
    except ValueError:
        return block


def _typed(values: Any, dtype: str) -> Any:
    if dtype == "str":
        return str(values)
    name = {"float16": "fp16", "float32": "fp32"}.get(dtype, dtype)
    typed = values.view(string_to_nptype(name)) if values.ndim else values.astype(string_to_nptype(name))
    return typed[()] if values.ndim == 0 else typed


def _mark_shared(op: Any, one: Found) -> None:
    """Functions that shared a weight share its codes: coremltools writes a ``weight_id`` once."""
    shared = one.ops[0].weight_id if one.ops[0].op_type == "const" else None
    if shared is None:
        return
    if op.op_type == "const":  # the same values for all of them
        op.weight_id = shared
        return
    for param, bound in op.inputs.items():
        if bound is not None and bound.op is not None and bound.op.op_type == "const":
            bound.op.weight_id = f"{shared}_{op.op_type}_{param}"


@attrs.define(eq=False)
class _Batch:
    """Replaced ops that wait to be removed, block by block."""

    limit: int
    waiting: dict[int, tuple[Any, list[Any]]] = attrs.field(factory=dict)
    nbytes: int = 0

    def add(self, op: Any, nbytes: int) -> None:
        """Remove ``op``, and the constexpr ops that only feed it, at the next flush."""
        _, ops = self.waiting.setdefault(id(op.enclosing_block), (op.enclosing_block, []))
        ops.append(op)
        ops.extend(_feeders(op))
        self.nbytes += nbytes

    def flush_if_full(self) -> None:
        """Flush once enough bytes wait."""
        if self.nbytes >= self.limit:
            self.flush()

    def flush(self) -> None:
        """Remove what waits."""
        for block, ops in self.waiting.values():
            block.remove_ops(ops)
        self.waiting.clear()
        self.nbytes = 0


def _feeders(op: Any) -> list[Any]:
    """Constants and constexpr ops that nothing but the compressed weight ``op`` uses."""
    if op.op_type == "const":
        return []
    feeders: list[Any] = []
    for bound in _inputs(op).values():
        producer = bound.op
        if producer is None or producer in feeders:
            continue
        if all(user is op for output in producer.outputs for user in output.child_ops):
            feeders.append(producer)
            feeders.extend(_feeders(producer))
    return feeders
