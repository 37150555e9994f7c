"""The heavy kernels through torch on the CPU, sharing memory with the NumPy arrays on both sides."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from milpasses.interpreter.backend import Array, Pads, Windows
from milpasses.interpreter.numpy_kernels import NumpyBackend

_CONV: list[Any] = [functional.conv1d, functional.conv2d, functional.conv3d]
_CONV_TRANSPOSE: list[Any] = [
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
]


def _tensor(x: Array) -> Any:
    """A tensor on the memory of ``x``; torch knows no negative strides, so those are copied."""
    if any(step < 0 for step in x.strides):
        x = np.ascontiguousarray(x)
    return torch.from_numpy(x)


class TorchBackend(NumpyBackend):
    """``Backend`` through torch; what is not heavy stays with NumPy."""

    name = "torch"

    def __init__(self) -> None:
        # Weights are read-only arrays. torch warns of the first one that it meets; let it be this one.
        sample = np.zeros(1, np.float32)
        sample.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(sample)

    def conv(self, x: Array, weight: Array, windows: Windows, groups: int) -> Array:
        """Cross-correlate; see ``Backend``."""
        data, symmetric = self._pad(x, windows.pads)
        strides, dilations = tuple(windows.strides), tuple(windows.dilations)
        with torch.inference_mode():
            run = _CONV[len(strides) - 1]
            return run(data, _tensor(weight), None, strides, symmetric, dilations, groups).numpy()

    def conv_transpose(
        self, x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int
    ) -> Array:
        """Adjoint of convolution; see ``Backend``."""
        run = _CONV_TRANSPOSE[len(strides) - 1]
        with torch.inference_mode():
            return run(
                _tensor(x), _tensor(weight), None, tuple(strides), groups=groups, dilation=tuple(dilations)
            ).numpy()

    def matmul(self, a: Array, b: Array) -> Array:
        """Batched matrix product."""
        with torch.inference_mode():
            return torch.matmul(_tensor(a), _tensor(b)).numpy()

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """x @ weight.T + bias."""
        with torch.inference_mode():
            return functional.linear(
                _tensor(x), _tensor(weight), None if bias is None else _tensor(bias)
            ).numpy()

    def softmax(self, x: Array, axis: int) -> Array:
        """Softmax along ``axis``."""
        with torch.inference_mode():
            return torch.softmax(_tensor(x), axis).numpy()

    def erf(self, x: Array) -> Array:
        """Gauss error function."""
        with torch.inference_mode():
            return torch.erf(_tensor(x)).numpy()

    def gelu(self, x: Array) -> Array:
        """x * Phi(x)."""
        with torch.inference_mode():
            return functional.gelu(_tensor(x)).numpy()

    def layer_norm(
        self, x: Array, gamma: Array | None, beta: Array | None, epsilon: float, rank: int
    ) -> Array:
        """Normalise the last ``rank`` dimensions."""
        with torch.inference_mode():
            return functional.layer_norm(
                _tensor(x),
                x.shape[x.ndim - rank :],
                None if gamma is None else _tensor(gamma),
                None if beta is None else _tensor(beta),
                epsilon,
            ).numpy()

    @staticmethod
    def _pad(x: Array, pads: Pads) -> tuple[Any, Any]:
        """The tensor, padded with zeros or as it is, and the symmetric padding left to the kernel."""
        data = _tensor(x)
        if all(before == after for before, after in pads):
            return data, tuple(before for before, _ in pads)
        flat = [amount for pair in reversed(pads) for amount in pair]
        with torch.inference_mode():
            return functional.pad(data, flat), (0,) * len(pads)
