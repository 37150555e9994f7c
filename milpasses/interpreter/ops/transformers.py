"""Attention."""

import math

import numpy as np

from milpasses.interpreter.registry import Array, Context, op


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(
    ctx: Context, query: Array, key: Array, value: Array, attn_mask: Array | None = None
) -> Array:
    """softmax(query @ key.T / sqrt(E) + mask) @ value; a boolean mask keeps where it is true."""
    scores = ctx.backend.matmul(query * np.float32(1 / math.sqrt(query.shape[-1])), np.swapaxes(key, -1, -2))
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == np.bool_ else scores + attn_mask
    weights = ctx.backend.softmax(scores.astype(np.float32, copy=False), -1)
    return ctx.backend.matmul(weights, value)
