"""What a backend offers: the heavy kernels. ``backend_choice`` takes one, NumPy's or torch's.

Both take and return float32 NumPy arrays. ``spatial`` below is one to three dimensions; ``pads`` is a pair
(before, after) for each of them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]
Pads = Sequence[tuple[int, int]]
BackendName = Literal["auto", "numpy", "torch"]


class Windows(NamedTuple):
    """Where a convolution's kernel stands: a stride, a pair of pads and a dilation for each dimension."""

    strides: Sequence[int]
    pads: Pads
    dilations: Sequence[int]


class Backend(Protocol):
    """Convolution, pooling, matrix products and the functions that dominate transformers."""

    name: str

    def conv(self, x: Array, weight: Array, windows: Windows, groups: int) -> Array:
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
