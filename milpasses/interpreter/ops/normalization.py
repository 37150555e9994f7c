"""Normalizations."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, Context, contiguous, op


def _per_channel(parameter: Array, rank: int) -> Array:
    return parameter.reshape(1, -1, *(1,) * (rank - 2))


@op("batch_norm")
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, by channel."""
    scale = 1 / np.sqrt(variance + np.float32(epsilon))
    if gamma is not None:
        scale = scale * gamma
    out = (x - _per_channel(mean, x.ndim)) * _per_channel(scale, x.ndim)
    return out if beta is None else out + _per_channel(beta, x.ndim)


@op("instance_norm")
def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Any = 1e-5
) -> Array:
    """Normalise each channel of each image over its spatial dimensions."""
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    out = centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + np.float32(epsilon))
    if gamma is not None:
        out = out * _per_channel(gamma, x.ndim)
    return out if beta is None else out + _per_channel(beta, x.ndim)


@op("l2_norm")
def l2_norm(x: Array, epsilon: Any = 1e-6) -> Array:
    """x / sqrt(sum of squares over the last three dimensions + epsilon)."""
    return x / np.sqrt(np.square(x).sum(axis=(-3, -2, -1), keepdims=True) + np.float32(epsilon))


@op("layer_norm")
def layer_norm(
    ctx: Context,
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    """Normalise over ``axes``; gamma and beta have the shape of those axes."""
    reduced = sorted(int(a) % x.ndim for a in axes) if axes is not None else list(range(x.ndim))
    rank = len(reduced)
    if reduced == list(range(x.ndim - rank, x.ndim)):
        return ctx.backend.layer_norm(x, gamma, beta, float(epsilon), rank)
    kept = [axis for axis in range(x.ndim) if axis not in reduced]
    order = kept + reduced
    moved = contiguous(x.transpose(order))
    return ctx.backend.layer_norm(moved, gamma, beta, float(epsilon), rank).transpose(np.argsort(order))


@op("local_response_norm")
def local_response_norm(x: Array, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Array:
    """x / (k + alpha / size * sum of squares over ``size`` neighbouring channels) ** beta."""
    window = int(size)
    before = (window - 1) // 2 if window % 2 else window // 2
    square = np.square(x)
    total = np.zeros_like(x)
    channels = x.shape[1]
    for offset in range(-before, window - before):
        low, high = max(0, -offset), min(channels, channels - offset)
        if low < high:
            total[:, low:high] += square[:, low + offset : high + offset]
    return x / np.power(np.float32(k) + np.float32(alpha) / window * total, np.float32(beta))
