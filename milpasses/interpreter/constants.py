"""Values of constants and compressed weights: read or decoded on first use, or given in their place."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from milpasses.interpreter.ops.compression import decode_weight
from milpasses.interpreter.registry import Array, InterpreterError


class Constants:
    """The constants of a program as handlers see them: floats as float32 arrays, lists as lists.

    Args:
        convert: what makes of a value what handlers see.
        wide: decode in float32 and round nothing; else as Core ML does, to the type of the weight.
        keep: keep each value after its first use: 4 bytes a float beside the program's own copy.
    """

    def __init__(self, convert: Callable[[Any], Any], wide: bool, keep: bool) -> None:
        self.keep = keep
        self._convert = convert
        self._wide = wide
        self._kept: dict[Any, Any] = {}
        self._overrides: Mapping[Any, Any] = {}

    @property
    def overrides(self) -> Mapping[Any, Any]:
        """Values in place of the program's own, by variable."""
        return self._overrides

    def override(self, values: Mapping[Any, Any]) -> None:
        """Take ``values``, by variable, in place of the program's, and of those given before."""
        self._overrides = values

    def __len__(self) -> int:
        """Values that are kept."""
        return len(self._kept)

    def value(self, var: Any) -> Any:
        """The value of a const, or of an output of a constexpr op."""
        if var in self._overrides:
            return self._convert(self._overrides[var])
        if var in self._kept:
            return self._kept[var]
        if var.op.op_type == "const":
            value = self._convert(var.val)
        else:
            value = self._convert(self._decoded(var.op, {})[var.op_output_idx])
        if self.keep:
            self._kept[var] = value
        return value

    def _decoded(self, op: Any, done: dict[Any, tuple[Array, ...]]) -> tuple[Array, ...]:
        """The outputs of a constexpr op; ``done``: those of the ops that feed the same weight."""
        if op not in done:
            inputs = {name: self._stored(var, done) for name, var in op.inputs.items() if var is not None}
            try:
                outputs = decode_weight(op.op_type, **inputs)
            except (TypeError, ValueError) as error:
                raise InterpreterError(f"op {op.op_type} '{op.name}': {error}") from error
            done[op] = outputs if isinstance(outputs, tuple) else (outputs,)
        return done[op]

    def _stored(self, var: Any, done: dict[Any, tuple[Array, ...]]) -> Any:
        """An input of a constexpr op as it is stored."""
        if var.op.op_type != "const":
            return self._decoded(var.op, done)[var.op_output_idx]
        if isinstance(var.val, str):
            return var.val
        array = np.asarray(var.val)
        if self._wide and array.dtype.kind == "f":
            return array.astype(np.float32)
        # Drop the sub-byte marks that coremltools keeps in dtype metadata: NumPy warns when they meet.
        return array.view(array.dtype.str)
