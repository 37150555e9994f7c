"""Activations."""

import math

import numpy as np

from milpasses.interpreter.registry import Array, Context, InterpreterError, op


def sigmoid_of(x: Array) -> Array:
    """Logistic function; exp may overflow to infinity, which gives the right limit 0."""
    if not isinstance(x, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]  # a tensor has its own: its gradient must not overflow
        return x.sigmoid()
    out = np.negative(x)
    np.exp(out, out=out)
    out += 1.0
    return np.reciprocal(out, out=out)


def _per_channel(parameter: Array, rank: int) -> Array:
    """[C] as [1, C, 1, ...]."""
    return parameter.reshape(1, -1, *(1,) * (rank - 2))


@op("clamped_relu")
def clamped_relu(x: Array, alpha: Array, beta: Array) -> Array:
    """min(beta, x) where x >= 0, else min(beta, alpha * x)."""
    return np.minimum(np.where(x >= 0, x, alpha * x), beta)


@op("elu")
def elu(x: Array, alpha: Array) -> Array:
    """x where positive, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@op("gelu")
def gelu(ctx: Context, x: Array, mode: str = "EXACT") -> Array:
    """x * Phi(x), exact or in one of two approximations."""
    if mode == "EXACT":
        return ctx.backend.gelu(x)
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.float32(0.5) * x * (1 + np.tanh(inner))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid_of(np.float32(1.702) * x)
    raise InterpreterError(f"gelu has no mode {mode!r}")


@op("leaky_relu")
def leaky_relu(x: Array, alpha: Array) -> Array:
    """x where >= 0, else alpha * x."""
    return np.where(x >= 0, x, alpha * x)


@op("linear_activation")
def linear_activation(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha * x + beta."""
    return alpha * x + beta


@op("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """x where positive, else alpha of its channel * x."""
    return np.where(x > 0, x, _per_channel(alpha, x.ndim) * x)


@op("relu", moves=True)
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, np.float32(0))


@op("relu6", moves=True)
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return np.clip(x, np.float32(0), np.float32(6))


@op("scaled_tanh")
def scaled_tanh(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha * tanh(beta * x)."""
    return alpha * np.tanh(beta * x)


@op("sigmoid")
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return sigmoid_of(x)


@op("sigmoid_hard")
def sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha * x + beta, clipped to 0..1."""
    return np.clip(alpha * x + beta, 0, 1)


@op("silu")
def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid_of(x)


def softplus_of(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@op("softplus")
def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return softplus_of(x)


@op("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha * log(1 + exp(beta * x)), alpha and beta by channel."""
    return _per_channel(alpha, x.ndim) * softplus_of(_per_channel(beta, x.ndim) * x)


@op("softmax")
def softmax(ctx: Context, x: Array, axis: int = -1) -> Array:
    """exp(x) over its sum along ``axis``."""
    return ctx.backend.softmax(x, int(axis))


@op("softsign")
def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return x / (1 + np.abs(x))


@op("thresholded_relu", moves=True)
def thresholded_relu(x: Array, alpha: Array) -> Array:
    """x where >= alpha, else 0."""
    return np.where(x >= alpha, x, np.float32(0))
