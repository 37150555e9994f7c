"""Random ops: NumPy's generators, so the values differ from Core ML's; equal seeds give equal values here."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, Context, op


def _sizes(shape: Array) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)


@op("random_bernoulli")
def random_bernoulli(ctx: Context, shape: Array, prob: Any = 0.5, seed: Any = -1) -> Array:
    """Ones with probability ``prob``, else zeros."""
    return (ctx.rng(int(seed)).random(_sizes(shape)) < float(prob)).astype(np.float32)


@op("random_categorical")
def random_categorical(ctx: Context, x: Array, mode: str = "logits", size: Any = 1, seed: Any = -1) -> Array:
    """``size`` draws with replacement from each distribution along the last axis (Gumbel maximum)."""
    logits = x.astype(np.float64) if mode == "logits" else np.log(x.astype(np.float64))
    noise = ctx.rng(int(seed)).gumbel(size=(*x.shape[:-1], int(size), x.shape[-1]))
    return np.argmax(logits[..., None, :] + noise, axis=-1)


@op("random_normal")
def random_normal(ctx: Context, shape: Array, mean: Any = 0.0, stddev: Any = 1.0, seed: Any = -1) -> Array:
    """Normal values."""
    return ctx.rng(int(seed)).normal(float(mean), float(stddev), _sizes(shape))


@op("random_uniform")
def random_uniform(ctx: Context, shape: Array, low: Any = 0.0, high: Any = 1.0, seed: Any = -1) -> Array:
    """Uniform values in [low, high)."""
    return ctx.rng(int(seed)).uniform(float(low), float(high), _sizes(shape))
