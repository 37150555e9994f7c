"""The view of a program in memory: the same text as that of the package it is saved to."""

from functools import partial
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.scope import ScopeSource
from coremltools.converters.mil.mil.types.symbolic import is_symbolic, is_variadic

from milpasses.encoding.storage import STORED_BITS, packed_bytes
from milpasses.program.memory import gives_weight, program_site
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


def view_program(program: Any, source: str = "program") -> GraphView:
    """The view of a coremltools ``Program``, at any point of a conversion; it is not changed."""
    functions = [
        Function(name, _target(function), _block(function, name))
        for name, function in sorted(program.functions.items())
    ]
    return GraphView(source, tuple(functions))


def _target(function: Any) -> str:
    version = getattr(function, "opset_version", None)
    return "unknown" if version is None else str(version.name)


def _block(block: Any, function: str) -> Block:
    inputs = block.inputs.values() if isinstance(block.inputs, dict) else block.inputs
    ops = tuple(view_op(op, function) for op in block.operations if not _at_its_uses(op))
    return Block(tuple(map(_variable, inputs)), ops, tuple(var.name for var in block.outputs))


def view_op(op: Any, function: str) -> Op:
    """The view of one op of a program in memory."""
    inputs: dict[str, tuple[Operand, ...]] = {}
    for param, bound in op.inputs.items():
        if bound is None or param.startswith("_") or (op.op_type == "const" and is_large(op.outputs[0])):
            continue
        inputs[param] = tuple(
            _operand(var) for var in (bound if isinstance(bound, list | tuple) else [bound])
        )
    if op.op_type == "const" and not is_large(op.outputs[0]):
        inputs["val"] = (constant(op.outputs[0]),)
    return Op(
        op.op_type,
        op.name,
        ordered(inputs),
        tuple(map(_variable, op.outputs)),
        tuple(_block(block, function) for block in op.blocks),
        _weight(op, function),
        tuple(map(str, op.scopes.get(ScopeSource.COREMLTOOLS_GRAPH_PASS, ()))),
    )


def _operand(var: Any) -> Operand:
    if var.op is not None and var.op.op_type == "const" and _at_its_uses(var.op):
        return constant(var)
    return str(var.name)


def constant(var: Any) -> Constant:
    """The constant that ``var`` is."""
    value = var.val
    size = value.size if isinstance(value, np.ndarray | np.generic) else 1
    return Constant(type_text(var.sym_type), size, partial(_plain, value))


def _plain(value: Any) -> Any:
    """A value without the marks that coremltools keeps in the dtype of types below a byte."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.metadata:
        return np.asarray(value).view(value.dtype.str)
    if isinstance(value, list):
        return [_plain(getattr(one, "val", one)) for one in value]
    return value


def _weight(op: Any, function: str) -> Weight | None:
    if op.op_type == "const":
        var = op.outputs[0]
        if not is_large(var):
            return None
        dtype = _dtype(var.dtype)
        nbytes = packed_bytes(var.val.size, dtype) if dtype in STORED_BITS else var.val.nbytes
        return Weight(op.name, var.val.shape, dtype, f"dense {dtype}", nbytes, partial(_plain, var.val))
    if not op.op_type.startswith("constexpr_") or not gives_weight(op):
        return None
    return compressed_weight(program_site(op, function))


def is_large(var: Any) -> bool:
    """A constant of ten numbers or more."""
    value = var.val
    return isinstance(value, np.ndarray) and value.size >= SMALLEST_WEIGHT and value.dtype.kind in "iuf"


def _at_its_uses(op: Any) -> bool:
    """A constant that needs no line of its own: small, or a part of a compressed weight."""
    if op.op_type != "const":
        return False
    var = op.outputs[0]
    if var.consuming_blocks or not var.child_ops:
        return False
    return not is_large(var) or all(user.op_type.startswith("constexpr_") for user in var.child_ops)


def _variable(var: Any) -> Variable:
    return Variable(var.name, type_text(var.sym_type))


def _dtype(dtype: Any) -> str:
    name = types.builtin_to_string(dtype)
    names = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "double": "float64", "string": "str"}
    return names.get(name, name)


def type_text(kind: Any) -> str:
    """A MIL type of a program in memory as text: ``float16[1,3,?]``, ``state<float16[4]>``."""
    if types.is_tensor(kind):
        shape = kind.get_shape()
        if any(is_variadic(size) for size in shape):
            return f"{_dtype(kind.get_primitive())}[*]"
        return tensor_text(_dtype(kind.get_primitive()), tuple(map(_dimension, shape)))
    if types.is_state(kind):
        return f"state<{type_text(kind.wrapped_type())}>"
    if types.is_list(kind):
        return f"list<{type_text(kind.T[0])}, {_dimension(kind.T[1]) if kind.T[1] else '?'}>"
    if types.is_tuple(kind):
        return f"tuple<{', '.join(map(type_text, kind.T))}>"
    if types.is_dict(kind):
        return f"dict<{type_text(kind.T[0])}, {type_text(kind.T[1])}>"
    try:
        return _dtype(kind)
    except (KeyError, AttributeError, TypeError):
        return "unknown"


def _dimension(size: Any) -> int | str:
    return "?" if is_symbolic(size) else int(size)
