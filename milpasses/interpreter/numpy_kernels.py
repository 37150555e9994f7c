"""The heavy kernels in NumPy: convolution as a matrix product over gathered windows, pooling tap by tap."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from milpasses.interpreter.backend import Array, Pads, Windows

_COLUMN_ELEMENTS = 1 << 22  # window matrix of at most 16 MB at a time


def pad_spatial(x: Array, pads: Pads, value: float) -> Array:
    """Pad the trailing dimensions of ``x`` with ``value``."""
    if not any(before or after for before, after in pads):
        return x
    width = [(0, 0)] * (x.ndim - len(pads)) + list(pads)
    return np.pad(x, width, constant_values=value)


def _output_sizes(x: Array, extents: Sequence[int], strides: Sequence[int]) -> list[int]:
    return [
        (size - extent) // stride + 1
        for size, extent, stride in zip(x.shape[2:], extents, strides, strict=True)
    ]


def _taps(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each kernel position with the slices of the padded input that it meets."""
    for tap in itertools.product(*(range(k) for k in kernel)):
        first = [t * d for t, d in zip(tap, dilations, strict=True)]
        yield (
            tap,
            tuple(
                slice(start, start + (size - 1) * stride + 1, stride)
                for start, size, stride in zip(first, sizes, strides, strict=True)
            ),
        )


class NumpyBackend:
    """``Backend`` in plain NumPy."""

    name = "numpy"

    def conv(self, x: Array, weight: Array, windows: Windows, groups: int) -> Array:
        """Cross-correlate; see ``Backend``."""
        strides, pads, dilations = windows
        kernel = weight.shape[2:]
        x = pad_spatial(x, pads, 0.0)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = _output_sizes(x, extents, strides)
        batch, channels, out_channels = x.shape[0], x.shape[1], weight.shape[0]
        if groups == channels and weight.shape[1] == 1:
            return self._depthwise(x, weight, strides, dilations, sizes)
        if math.prod(kernel) == 1:
            every = (
                slice(None),
                slice(None),
                *(slice(0, (n - 1) * s + 1, s) for n, s in zip(sizes, strides, strict=True)),
            )
            columns = np.ascontiguousarray(x[every]).reshape(batch, groups, channels // groups, -1)
            product = weight.reshape(groups, out_channels // groups, -1) @ columns
            return product.reshape(batch, out_channels, *sizes)
        return self._window_product(x, weight, strides, dilations, groups, sizes)

    @staticmethod
    def _window_product(
        x: Array,
        weight: Array,
        strides: Sequence[int],
        dilations: Sequence[int],
        groups: int,
        sizes: list[int],
    ) -> Array:
        """Gather windows as columns, some output rows at a time, and multiply."""
        batch, channels, out_channels = x.shape[0], x.shape[1], weight.shape[0]
        kernel = weight.shape[2:]
        steps = x.strides
        windows = as_strided(
            x,
            (batch, channels, *kernel, *sizes),
            (
                *steps[:2],
                *(step * d for step, d in zip(steps[2:], dilations, strict=True)),
                *(step * s for step, s in zip(steps[2:], strides, strict=True)),
            ),
            writeable=False,
        )
        matrix = weight.reshape(groups, out_channels // groups, -1)
        out = np.empty((batch, groups, out_channels // groups, *sizes), np.float32)
        rows = max(1, _COLUMN_ELEMENTS // (channels * math.prod(kernel) * math.prod(sizes[1:])))
        every = (slice(None),) * (1 + len(kernel))
        for image in range(batch):
            for start in range(0, sizes[0], rows):
                part = windows[(image, *every, slice(start, start + rows))]
                columns = np.ascontiguousarray(part).reshape(groups, matrix.shape[2], -1)
                out[image, :, :, start : start + rows] = (matrix @ columns).reshape(
                    groups, out_channels // groups, -1, *sizes[1:]
                )
        return out.reshape(batch, out_channels, *sizes)

    @staticmethod
    def _depthwise(
        x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], sizes: list[int]
    ) -> Array:
        batch, channels = x.shape[:2]
        multiplier = weight.shape[0] // channels
        taps = weight.reshape(channels, multiplier, *weight.shape[2:])
        out = np.zeros((batch, channels, multiplier, *sizes), np.float32)
        ones = (1,) * len(sizes)
        for tap, window in _taps(weight.shape[2:], strides, dilations, sizes):
            factor = taps[(slice(None), slice(None), *tap)].reshape(1, channels, multiplier, *ones)
            out += x[(slice(None), slice(None), *window)][:, :, None] * factor
        return out.reshape(batch, channels * multiplier, *sizes)

    def conv_transpose(
        self, x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int
    ) -> Array:
        """Scatter each input value through the kernel; see ``Backend``."""
        batch, channels, *spatial = x.shape
        kernel = weight.shape[2:]
        out_group = weight.shape[1]
        matrix = weight.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
        columns = matrix @ np.ascontiguousarray(x).reshape(batch, groups, channels // groups, -1)
        columns = columns.reshape(batch, groups * out_group, *kernel, *spatial)
        full = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(spatial, strides, kernel, dilations, strict=True)
        ]
        out = np.zeros((batch, groups * out_group, *full), np.float32)
        for tap, window in _taps(kernel, strides, dilations, spatial):
            out[(slice(None), slice(None), *window)] += columns[(slice(None), slice(None), *tap)]
        return out

    def max_pool(self, x: Array, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
        """Maximum over windows, one dimension after the other; see ``Backend``."""
        x = pad_spatial(x, pads, -np.inf)
        sizes = _output_sizes(x, kernel, strides)
        for axis, (size, k, stride) in enumerate(zip(sizes, kernel, strides, strict=True), 2):
            before = (slice(None),) * axis
            taps = [x[(*before, slice(t, t + (size - 1) * stride + 1, stride))] for t in range(k)]
            x = taps[0].copy() if k == 1 else np.maximum(taps[0], taps[1])
            for tap in taps[2:]:
                np.maximum(x, tap, out=x)
        return x

    def sum_pool(self, x: Array, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
        """Sum over windows; see ``Backend``."""
        if tuple(kernel) == x.shape[2:] and not any(before or after for before, after in pads):
            return x.sum(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float32)
        x = pad_spatial(x, pads, 0.0)
        sizes = _output_sizes(x, kernel, strides)
        out = np.zeros((*x.shape[:2], *sizes), np.float32)
        for _, window in _taps(kernel, strides, [1] * len(sizes), sizes):
            out += x[(slice(None), slice(None), *window)]
        return out

    def matmul(self, a: Array, b: Array) -> Array:
        """Batched matrix product."""
        return np.matmul(a, b)

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """x @ weight.T + bias."""
        out = np.matmul(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], weight.shape[0])
        if bias is not None:
            out += bias
        return out

    def softmax(self, x: Array, axis: int) -> Array:
        """Softmax along ``axis``."""
        out = np.exp(x - x.max(axis=axis, keepdims=True))
        out /= out.sum(axis=axis, keepdims=True)
        return out

    def erf(self, x: Array) -> Array:
        """Gauss error function: a rational fit below 4, exactly one in float32 above."""
        numerator, denominator = _erf_rational()
        x = np.asarray(x, np.float32)
        out = np.empty(x.size, np.float32)
        flat = x.reshape(-1)
        for start in range(0, flat.size, _ERF_CHUNK):
            part = np.clip(flat[start : start + _ERF_CHUNK], -4.0, 4.0)
            square = part * part
            top, bottom = np.full_like(part, numerator[0]), np.full_like(part, denominator[0])
            for a in numerator[1:]:
                top *= square
                top += a
            for b in denominator[1:]:
                bottom *= square
                bottom += b
            top *= part
            np.divide(top, bottom, out=out[start : start + _ERF_CHUNK])
        return np.clip(out, -1.0, 1.0).reshape(x.shape)

    def gelu(self, x: Array) -> Array:
        """x * Phi(x)."""
        out = self.erf(x * np.float32(math.sqrt(0.5)))
        out += 1.0
        out *= x
        out *= 0.5
        return out

    def layer_norm(
        self, x: Array, gamma: Array | None, beta: Array | None, epsilon: float, rank: int
    ) -> Array:
        """Normalise the last ``rank`` dimensions."""
        axes = tuple(range(x.ndim - rank, x.ndim))
        out = x - x.mean(axis=axes, keepdims=True)
        variance = np.square(out).mean(axis=axes, keepdims=True)
        out *= 1.0 / np.sqrt(variance + np.float32(epsilon))
        if gamma is not None:
            out *= gamma
        if beta is not None:
            out += beta
        return out


_ERF_CHUNK = 16384
_ERF_DEGREE = 6


@lru_cache(maxsize=1)
def _erf_rational() -> tuple[list[np.float32], list[np.float32]]:
    """Coefficients, highest power first, of P and Q with erf(x) / x = P(x^2) / Q(x^2) on [-4, 4].

    Linearised rational least squares with the residual reweighted by the last denominator (Sanathanan and
    Koerner 1963) on Chebyshev nodes, in float64; the error is below float32 rounding.
    """
    nodes = 4.0 * np.cos(np.pi * (np.arange(400) + 0.5) / 800)
    square = nodes * nodes
    target = np.array([math.erf(node) / node for node in nodes])
    powers = square[:, None] ** np.arange(_ERF_DEGREE + 1)
    scale = 16.0 ** -np.arange(_ERF_DEGREE + 1)
    powers = powers * scale
    weight = 1.0 / target
    bottom = np.ones_like(target)
    solution = np.zeros(0)
    for _ in range(8):
        system = np.hstack([powers, -target[:, None] * powers[:, 1:]]) * (weight / bottom)[:, None]
        solution = np.linalg.lstsq(system, target * weight / bottom, rcond=None)[0]
        bottom = 1.0 + powers[:, 1:] @ solution[_ERF_DEGREE + 1 :]
    top = solution[: _ERF_DEGREE + 1] * scale
    low = np.concatenate([[1.0], solution[_ERF_DEGREE + 1 :] * scale[1:]])
    return [np.float32(a) for a in top[::-1]], [np.float32(b) for b in low[::-1]]
