"""The heavy kernels, and the one place that chooses between NumPy and torch for them.

Both take and return float32 NumPy arrays. ``spatial`` below is one to three dimensions; ``pads`` is a pair
(before, after) for each of them.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pads = Sequence[tuple[int, int]]
BackendName = Literal["auto", "numpy", "torch"]


class Backend(Protocol):
    """Convolution, pooling, matrix products and the functions that dominate transformers."""

    name: str

    def conv(
        self,
        x: Array,
        weight: Array,
        strides: Sequence[int],
        pads: Pads,
        dilations: Sequence[int],
        groups: int,
    ) -> Array:
        """Cross-correlate x [N, C, *spatial] with weight [O, C / groups, *kernel], padding with zeros."""
        ...

    def conv_transpose(
        self, x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int
    ) -> Array:
        """Adjoint of ``conv`` without padding: weight is [C, O / groups, *kernel]; the full output."""
        ...

    def max_pool(self, x: Array, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
        """Maximum over windows; padding never wins."""
        ...

    def sum_pool(self, x: Array, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
        """Sum over windows; padding adds nothing."""
        ...

    def matmul(self, a: Array, b: Array) -> Array:
        """Batched matrix product with NumPy's broadcasting."""
        ...

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """x @ weight.T + bias; weight is [out, in]."""
        ...

    def softmax(self, x: Array, axis: int) -> Array:
        """Softmax along ``axis``, shifted by the maximum."""
        ...

    def erf(self, x: Array) -> Array:
        """Gauss error function."""
        ...

    def gelu(self, x: Array) -> Array:
        """x * Phi(x), with the exact error function."""
        ...

    def layer_norm(
        self, x: Array, gamma: Array | None, beta: Array | None, epsilon: float, rank: int
    ) -> Array:
        """Normalise the last ``rank`` dimensions; gamma and beta have their shape."""
        ...


def choose(name: BackendName) -> Backend:
    """The backend called ``name``; ``auto`` takes torch where it is installed, else NumPy."""
    if name not in ("auto", "numpy", "torch"):
        raise ValueError(f"backend must be 'auto', 'numpy' or 'torch', got {name!r}")
    if name == "numpy" or (name == "auto" and find_spec("torch") is None):
        from milpasses.interpreter.numpy_kernels import NumpyBackend

        return NumpyBackend()
    from milpasses.interpreter.torch_kernels import TorchBackend

    return TorchBackend()


_ROUND = np.uint32(0xFFF)
_MASK = np.uint32(0xFFFFE000)
_HALF_MIN_NORMAL = np.float32(2.0**-14)
_HALF_OVERFLOW = np.float32(65520.0)
_HALF_SUBNORMAL = np.float32(0.75)  # float32 spacing above 0.5 is 2^-24, the float16 subnormal step
_CHUNK = 32768


def round_to_half(x: Array) -> Array:
    """Round float32 values to the nearest float16 value, ties to even, and keep them as float32.

    The bits equal those of ``x.astype(float16).astype(float32)``, 2.5 times as fast: blocks that stay in
    cache; normal numbers rounded as integers, subnormal ones by adding and subtracting a power of two.
    Overflow gives infinity; NaN stays NaN.
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    out = np.empty_like(flat)
    size = min(_CHUNK, flat.size)
    bits, magnitude, small = np.empty(size, np.uint32), np.empty(size, np.float32), np.empty(size, np.bool_)
    for start in range(0, flat.size, _CHUNK):
        source, target = flat[start : start + _CHUNK], out[start : start + _CHUNK]
        n = source.size
        absolute, code = magnitude[:n], bits[:n]
        np.abs(source, out=absolute)
        if not absolute.max() < _HALF_OVERFLOW:  # NaN compares false, too
            with np.errstate(over="ignore"):  # infinity is the answer
                target[:] = source.astype(np.float16)
            continue
        pattern = source.view(np.uint32)
        np.right_shift(pattern, np.uint32(13), out=code)
        np.bitwise_and(code, np.uint32(1), out=code)
        np.add(code, _ROUND, out=code)
        np.add(code, pattern, out=code)
        np.bitwise_and(code, _MASK, out=target.view(np.uint32))
        if np.less(absolute, _HALF_MIN_NORMAL, out=small[:n]).any():
            absolute += _HALF_SUBNORMAL
            absolute -= _HALF_SUBNORMAL
            np.copysign(absolute, source, out=absolute)
            np.copyto(target, absolute, where=small[:n])
    return out.reshape(x.shape)
