"""A program at any point of a conversion, kept in a folder without pickle, and built again from it.

The folder holds ``program.json`` (functions, blocks, ops), ``constants.npz`` (their values), ``program.mil``
(the text that ``dump`` gives) and ``replay.json`` (the pass, its options, the pipeline, the error).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses import _coremltools as host
from milpasses.data.npz import read_npz
from milpasses.errors import MilpassesError
from milpasses.program.files import whole_file, write_text
from milpasses_tools._view.graph import GraphView
from milpasses_tools._view.program import view_program
from milpasses_tools._view.text import text_lines


@attrs.frozen(eq=False)
class Kept:
    """A program as plain values. Arrays are those of the program: what a pass changes in place changes here.

    ``problem`` says why the program cannot be built again, where it holds what is not understood.
    """

    view: GraphView
    functions: list[dict[str, Any]]
    arrays: list[Any]
    problem: str = ""

    def save(
        self, folder: Path, name: str, options: Any, pipeline: str, passes: list[str], error: str
    ) -> None:
        """Write into ``folder``, which is there and empty."""
        lines = text_lines(self.view)
        write_text(folder / "program.mil", "\n".join(lines) + "\n")
        if not self.problem:
            write_text(folder / "program.json", json.dumps(self.functions))
            arrays: Any = {str(index): plain(one) for index, one in enumerate(self.arrays)}
            with whole_file(folder / "constants.npz") as file:
                np.savez(file, **arrays)
        kept, lost = _options(options)
        content = {
            "pass": name,
            "options": kept,
            "lost_options": lost,
            "pipeline": pipeline,
            "passes": passes,
            "error": error,
            "problem": self.problem,
        }
        write_text(folder / "replay.json", json.dumps(content, indent=2) + "\n")


def _options(options: Any) -> tuple[dict[str, Any], list[str]]:
    """The options of a pass that have a text form, and the names of the others."""
    kept: dict[str, Any] = {}
    lost: list[str] = []
    for option in options or ():
        value = option.option_val
        if isinstance(value, str | bool | int | float):
            kept[option.option_name] = value
        elif type(value).__module__ in ("milpasses.recipe.recipe", "milpasses.recipe.schemes"):
            kept[option.option_name] = str(value)
        elif type(value).__module__ != "milpasses.report":  # where a pass writes, not what it does
            lost.append(option.option_name)
    return kept, lost


def plain(array: Any) -> Any:
    """The array without coremltools' marks in its dtype, which a file cannot hold."""
    array = np.asarray(array)
    return array.view(array.dtype.str) if array.dtype.metadata else array


class _NotKeptError(Exception):
    """Something that has no plain form."""


def capture(program: Any) -> Kept:
    """The program now; its graph is copied, its constants are not."""
    view = view_program(program)
    taken = _Capture()
    try:
        functions = [taken.function(name, function) for name, function in program.functions.items()]
    except _NotKeptError as problem:
        return Kept(view, [], [], str(problem))
    return Kept(view, functions, taken.arrays)


class _Capture:
    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.numbers: dict[int, int] = {}

    def number(self, var: Any) -> int:
        return self.numbers.setdefault(id(var), len(self.numbers))

    def function(self, name: str, function: Any) -> dict[str, Any]:
        opset = function.opset_version
        inputs = [{**self.variable(var), "key": key} for key, var in function.inputs.items()]
        target = None if opset is None else opset.name
        return {"name": name, "target": target, "inputs": inputs, **self.block(function)}

    def block(self, block: Any) -> dict[str, Any]:
        ops = [self.op(op) for op in block.operations]
        return {"ops": ops, "outputs": [self.number(var) for var in block.outputs]}

    def op(self, op: Any) -> dict[str, Any]:
        content: dict[str, Any] = {"type": op.op_type, "name": op.name}
        if op.op_type == "const":
            content["value"] = self.value(op.outputs[0].val, op.outputs[0])
        else:
            content["inputs"] = {
                param: [self.operand(one) for one in bound]
                if isinstance(bound, list | tuple)
                else self.operand(bound)
                for param, bound in op.inputs.items()
                if bound is not None and not param.startswith("_")
            }
        if op.blocks:
            content["blocks"] = [
                {"inputs": [self.variable(var) for var in block.inputs], **self.block(block)}
                for block in op.blocks
            ]
        content["outputs"] = [{"number": self.number(var), "name": var.name} for var in op.outputs]
        return content

    def operand(self, var: Any) -> Any:
        number = self.numbers.get(id(var))
        return {"value": self.value(var.val, var)} if number is None else number

    def variable(self, var: Any) -> dict[str, Any]:
        kind = var.sym_type
        state = types.is_state(kind)
        kind = kind.wrapped_type() if state else kind
        tensor = types.is_tensor(kind)
        if not tensor and not types.is_scalar(kind):
            raise _NotKeptError(f"%{var.name} is neither a tensor nor a scalar")
        shape = (
            [str(size) if is_symbolic(size) else int(size) for size in kind.get_shape()] if tensor else None
        )
        dtype = types.builtin_to_string(kind.get_primitive() if tensor else kind)
        content = {"number": self.number(var), "name": var.name, "shape": shape, "dtype": dtype}
        return {**content, "state": True} if state else content

    def value(self, value: Any, var: Any) -> dict[str, Any]:
        if isinstance(value, str | bool | int | float | None):
            return {"plain": value}
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            self.arrays.append(value)
            marked = types.builtin_to_string(var.dtype) if value.dtype.metadata else None
            content = {"array": len(self.arrays) - 1, "scalar": isinstance(value, np.generic)}
            return {**content, "dtype": marked} if marked else content
        raise _NotKeptError(f"%{var.name} is a constant of type {type(value).__name__}")


def build(folder: Path) -> Any:
    """The program that was kept in ``folder``; raises ``MilpassesError`` if there is none."""
    try:
        functions = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        arrays = {int(name): array for name, array in read_npz(folder / "constants.npz").items()}
    except (OSError, ValueError, RecursionError) as error:
        raise MilpassesError(f"{folder}: no program that can be read is kept here ({error})") from None
    try:
        return rebuild(functions, arrays)
    except Exception as error:  # coremltools' builder raises what it likes for what is no program
        problem = f"{type(error).__name__}: {error}"
        raise MilpassesError(f"{folder}: the program cannot be built again: {problem}") from error


def rebuild(functions: list[dict[str, Any]], arrays: dict[int, Any]) -> Any:
    """The program of captured ``functions``, whose constants are ``arrays`` by their number."""
    from coremltools.converters.mil.mil import Program

    host.restart_names()  # names as they were, not numbered on
    program: Any = Program()
    building = _Build(arrays)
    for function in functions:
        program.add_function(function["name"], building.function(function))
    if "main" not in program.functions:
        program.default_function_name = functions[0]["name"]
    return program


def _builder() -> Any:
    """coremltools' builder, which gets its methods, one an op, at run time."""
    from coremltools.converters.mil.mil import Builder

    return Builder


class _Build:
    def __init__(self, arrays: dict[int, Any]) -> None:
        self.arrays = arrays
        self.variables: dict[int, Any] = {}
        self.symbols: dict[str, Any] = {}

    def function(self, content: dict[str, Any]) -> Any:
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb
        from coremltools.converters.mil.mil import Function

        inputs: dict[str, Any] = {}
        for one in content["inputs"]:
            make: Callable[..., Any] = mb.state_tensor_placeholder if one.get("state") else mb.placeholder
            dtype = types.string_to_builtin(one["dtype"])
            options = {} if one["shape"] or one.get("state") else {"allow_rank0_input": True}
            inputs[one["key"]] = make(self.shape(one["shape"] or ()), dtype=dtype, **options)
        target = None if content["target"] is None else ct.target[content["target"]]
        with Function(inputs, opset_version=target) as function:
            for one in content["inputs"]:
                self.variables[one["number"]] = function.inputs[one["key"]]
            self.body(function, content)
        return function

    def shape(self, shape: Any) -> tuple[Any, ...]:
        from coremltools.converters.mil.mil import get_new_symbol

        for size in shape:
            if isinstance(size, str) and size not in self.symbols:
                self.symbols[size] = get_new_symbol()
        return tuple(self.symbols.get(size, size) for size in shape)

    def body(self, block: Any, content: dict[str, Any]) -> None:
        for op in content["ops"]:
            self.op(op)
        block.set_outputs([self.variables[number] for number in content["outputs"]])

    def op(self, content: dict[str, Any]) -> None:
        blocks: list[tuple[Any, Any]] = []
        if content["type"] == "const":
            made = _builder().const(val=self.value(content["value"]), name=content["name"])
        else:
            inputs: dict[str, Any] = {
                param: [self.operand(one) for one in bound]
                if isinstance(bound, list)
                else self.operand(bound)
                for param, bound in content["inputs"].items()
            }
            blocks = [self.nested(block) for block in content.get("blocks", ())]
            host.set_nested_inputs(inputs, [block for block, _ in blocks], content["type"])
            made = getattr(_builder(), content["type"])(**inputs, name=content["name"])
        outputs = list(made) if isinstance(made, tuple | list) else [made]
        if not outputs:
            return
        op = outputs[0].op
        op.name = content["name"]
        if blocks:
            host.set_nested_owner([block for block, _ in blocks], op)
            op.enclosing_block.remove_ops([dummy.op for _, dummy in blocks])
        for var, saved in zip(outputs, content["outputs"], strict=True):
            var.name = saved["name"]
            self.variables[saved["number"]] = var

    def nested(self, content: dict[str, Any]) -> tuple[Any, Any]:
        """A block, and the constant that stands for the op around it until that exists."""
        from coremltools.converters.mil.mil import Block, Var

        inputs: list[Any] = []
        for one in content["inputs"]:
            dtype = types.string_to_builtin(one["dtype"])
            kind = dtype if one["shape"] is None else types.tensor(dtype, self.shape(one["shape"]))
            inputs.append(Var(one["name"], kind, None, op=None, op_output_idx=None))
            self.variables[one["number"]] = inputs[-1]
        dummy = _builder().const(val=0.0)
        with Block(block_inputs=inputs, outer_op=dummy.op, name=host.new_block_name()) as block:
            self.body(block, content)
        return block, dummy

    def operand(self, operand: Any) -> Any:
        return self.variables[operand] if isinstance(operand, int) else self.value(operand["value"])

    def value(self, content: dict[str, Any]) -> Any:
        if "plain" in content:
            return content["plain"]
        array = self.arrays[content["array"]]
        if "dtype" in content:
            array = array.view(host.numpy_type_of(types.string_to_builtin(content["dtype"])))
        return array[()] if content["scalar"] else array
