"""Matrix products."""

import numpy as np

from milpasses.interpreter.registry import Array, Context, op


def _both_float(x: Array, y: Array) -> bool:
    return x.dtype == np.float32 and y.dtype == np.float32


@op("linear")
def linear(ctx: Context, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x @ weight.T + bias; integers exactly, without BLAS."""
    if _both_float(x, weight):
        return ctx.backend.linear(x, weight, bias)
    out = np.matmul(x, weight.T)
    return out if bias is None else out + bias


@op("matmul")
def matmul(
    ctx: Context, x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False
) -> Array:
    """Batched product of the last two dimensions; integers exactly, without BLAS."""
    a = np.swapaxes(x, -1, -2) if bool(transpose_x) and x.ndim > 1 else x
    b = np.swapaxes(y, -1, -2) if bool(transpose_y) and y.ndim > 1 else y
    return ctx.backend.matmul(a, b) if _both_float(a, b) else np.matmul(a, b)


@op("einsum")
def einsum(ctx: Context, values: list[Array], equation: str) -> Array:
    """[B, C, H, W1] and [B, W1, H, W2] (or without B) to [B, C, H, W2]; B and H broadcast.

    MIL allows no other equation, whatever its letters.
    """
    x, y = values
    product = ctx.backend.matmul(np.swapaxes(x, -2, -3), np.swapaxes(y, -2, -3))
    return np.swapaxes(product, -2, -3)
