"""Branches, loops and lists. A MIL list is a Python list of arrays; writing makes a new one."""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import types

from milpasses import _coremltools as host
from milpasses.interpreter.registry import Array, Context, op


@op("cond")
def cond(ctx: Context, pred: Array) -> tuple[Any, ...]:
    """Outputs of the first block if ``pred``, else of the second."""
    return tuple(ctx.run_block(0 if bool(pred) else 1, []))


@op("while_loop")
def while_loop(ctx: Context, loop_vars: list[Any]) -> tuple[Any, ...]:
    """Run the second block on its own outputs while the first is true."""
    current = list(loop_vars)
    while bool(ctx.run_block(0, current)[0]):
        current = ctx.run_block(1, current)
    return tuple(current)


@op("select", moves=True)
def select(cond: Array, a: Array, b: Array) -> Array:
    """a where ``cond``, else b."""
    return np.where(cond, a, b)


@op("make_list")
def make_list(
    elem_shape: list[Any], init_length: Any = 1, dynamic_length: Any = True, dtype: str = "fp32"
) -> list[Array | None]:
    """A list of ``init_length`` elements, None until written: their shape may be known only then."""
    shape = [None if isinstance(size, str) else int(size) for size in elem_shape]
    element = None
    if None not in shape:
        declared: Any = np.dtype(host.numpy_type_of(types.string_to_builtin(dtype)))
        element = np.zeros(
            tuple(size or 0 for size in shape), np.float32 if declared.kind == "f" else declared
        )
    return [element] * int(init_length)


@op("list_length")
def list_length(ls: list[Any]) -> Array:
    """Number of elements."""
    return np.asarray(len(ls), np.int32)


def _filled(ls: list[Array | None], like: Array, length: int) -> list[Array | None]:
    """A copy of the list, grown with zero elements to ``length``."""
    return [*ls, *[np.zeros_like(like)] * max(0, length - len(ls))]


@op("list_write")
def list_write(ls: list[Array | None], index: Array, value: Array) -> list[Array | None]:
    """The list with one element replaced; it grows if it has to."""
    at = int(index)
    out = _filled(ls, value, at + 1)
    out[at] = value
    return out


@op("list_read", moves=True)
def list_read(ls: list[Array | None], index: Array) -> Array:
    """One element."""
    element = ls[int(index)]
    if element is None:
        raise ValueError(f"element {int(index)} was never written")
    return element


@op("list_gather", moves=True)
def list_gather(ls: list[Array | None], indices: Array) -> Array:
    """Some elements, stacked along a new first axis; elements never written are zeros."""
    chosen = [ls[int(i)] for i in indices]
    like = next((element for element in ls if element is not None), None)
    if like is None:
        raise ValueError("no element was ever written")
    return np.stack([np.zeros_like(like) if element is None else element for element in chosen])


@op("list_scatter")
def list_scatter(ls: list[Array | None], indices: Array, value: Array) -> list[Array | None]:
    """The list with the rows of ``value`` written at ``indices``; it grows if it has to."""
    out = _filled(ls, value[0], int(indices.max()) + 1) if indices.size else list(ls)
    for at, element in zip(indices, value, strict=True):
        out[int(at)] = element
    return out
