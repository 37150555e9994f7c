"""Values and ops for MIL's builder."""

from collections.abc import Callable, Iterable
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


def built(
    specs: Iterable[OpSpec],
    name_of: Callable[[str], str] = str,
    each: Callable[[Any], None] | None = None,
    **where: Any,
) -> Any:
    """Add the ops of one encoding to the current block; return the variable that is the weight.

    ``name_of`` gives an op's name from that of its spec; ``each`` is called with every op that was added;
    ``where`` is the builder's (``before_op``). Constants that specs share are shared.
    """
    results: list[Any] = []
    constants: dict[int, Any] = {}
    for spec in specs:
        inputs: dict[str, Any] = {}
        for param, source in spec.inputs.items():
            if isinstance(source, Ref):
                inputs[param] = results[source.op][source.output]
            else:
                known = constants.get(id(source.values))
                inputs[param] = typed_value(source.values, source.dtype) if known is None else known
        result = getattr(mb, spec.op_type)(name=name_of(spec.name), **inputs, **where)
        results.append(result if isinstance(result, tuple | list) else (result,))
        op = results[-1][0].op
        for param, source in spec.inputs.items():
            if not isinstance(source, Ref):
                constants[id(source.values)] = op.inputs.get(param)
        if each is not None:
            each(op)
    return results[-1][0]
