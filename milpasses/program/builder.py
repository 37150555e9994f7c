"""Values and ops for MIL's builder."""

from collections.abc import Iterable
from typing import Any

from coremltools.converters.mil import Builder

from milpasses import _coremltools as host
from milpasses.encoding.lowering import OpSpec, Ref

# coremltools registers the builder's methods, one an op, at run time.
mb: Any = Builder


def typed_value(values: Any, dtype: str) -> Any:
    """An array in the type that MIL calls ``dtype``, as the builder takes it.

    Of a type that NumPy lacks (``uint4``) there is one element a byte; coremltools' own type takes the same
    bytes. A scalar comes back as a NumPy scalar, and ``str`` as a Python string.
    """
    if dtype == "str":
        return str(values)
    kind = host.numpy_type({"float16": "fp16", "float32": "fp32"}.get(dtype, dtype))
    return values.view(kind) if values.ndim else values.astype(kind)[()]


def built(specs: Iterable[OpSpec]) -> Any:
    """Append the ops of one encoding to the current block; return the variable that is the weight."""
    results: list[Any] = []
    for spec in specs:
        inputs = {
            param: results[source.op][source.output]
            if isinstance(source, Ref)
            else typed_value(source.values, source.dtype)
            for param, source in spec.inputs.items()
        }
        made = getattr(mb, spec.op_type)(name=spec.name, **inputs)
        results.append(made if isinstance(made, tuple | list) else (made,))
    return results[-1][0]
