"""The heavy kernels through torch.

NumPy arrays share their memory with the tensors on both sides, and no gradient is kept; of tensors the
results are tensors, with gradients where asked.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from milpasses.interpreter.backend import Pads, Windows
from milpasses.interpreter.numpy_kernels import NumpyBackend
from milpasses.interpreter.tensor_functions import tensor_of
from milpasses.interpreter.tensors import TensorArray

_CONV: list[Any] = [functional.conv1d, functional.conv2d, functional.conv3d]
_CONV_TRANSPOSE: list[Any] = [
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
]
_MAX_POOL: list[Any] = [functional.max_pool1d, functional.max_pool2d, functional.max_pool3d]


def _tensor(x: Any) -> Any:
    """A tensor on the memory of ``x``; torch knows no negative strides, so those are copied."""
    if x is None:
        return None
    if any(step < 0 for step in x.strides):
        x = np.ascontiguousarray(x)
    return torch.from_numpy(x)


def _kernel(count: int) -> Callable[[Any], Any]:
    """A method whose first ``count`` arguments are arrays, or None, written for tensors."""

    def decorate(run: Any) -> Any:
        @wraps(run)
        def method(self: Any, *arguments: Any) -> Any:
            arrays, others = arguments[:count], arguments[count:]
            for array in arrays:
                if isinstance(array, TensorArray):
                    device = array.tensor.device
                    tensors = [None if one is None else tensor_of(one, device) for one in arrays]
                    return type(array)(run(self, *tensors, *others))
            with torch.inference_mode():
                return run(self, *map(_tensor, arrays), *others).numpy()

        return method

    return decorate


class TorchBackend(NumpyBackend):
    """``Backend`` through torch; of NumPy's arrays, what is not heavy stays with NumPy."""

    name = "torch"

    def __init__(self) -> None:
        # Weights are read-only arrays. torch warns of the first one that it meets; let it be this one.
        sample = np.zeros(1, np.float32)
        sample.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(sample)

    @_kernel(2)
    def conv(self, x: Any, weight: Any, windows: Windows, groups: int) -> Any:
        """Cross-correlate; see ``Backend``."""
        data, symmetric = _padded(x, windows.pads)
        strides, dilations = tuple(windows.strides), tuple(windows.dilations)
        return _CONV[len(strides) - 1](data, weight, None, strides, symmetric, dilations, groups)

    @_kernel(2)
    def conv_transpose(
        self, x: Any, weight: Any, strides: Sequence[int], dilations: Sequence[int], groups: int
    ) -> Any:
        """Adjoint of convolution; see ``Backend``."""
        run = _CONV_TRANSPOSE[len(strides) - 1]
        return run(x, weight, None, tuple(strides), groups=groups, dilation=tuple(dilations))

    def max_pool(self, x: Any, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Any:
        """Maximum over windows; see ``Backend``."""
        if isinstance(x, np.ndarray):
            return super().max_pool(x, kernel, strides, pads)
        data = functional.pad(x.tensor, _flat(pads), value=-torch.inf) if _any(pads) else x.tensor
        return type(x)(_MAX_POOL[len(kernel) - 1](data, tuple(kernel), tuple(strides)))

    def sum_pool(self, x: Any, kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Any:
        """Sum over windows; see ``Backend``."""
        if isinstance(x, np.ndarray):
            return super().sum_pool(x, kernel, strides, pads)
        data = functional.pad(x.tensor, _flat(pads)) if _any(pads) else x.tensor
        if len(kernel) == 1:
            pooled = functional.avg_pool2d(data[:, :, None], (1, *kernel), (1, *strides), divisor_override=1)[
                :, :, 0
            ]
        else:
            pool: Any = functional.avg_pool2d if len(kernel) == 2 else functional.avg_pool3d
            pooled = pool(data, tuple(kernel), tuple(strides), divisor_override=1)
        return type(x)(pooled)

    @_kernel(2)
    def matmul(self, a: Any, b: Any) -> Any:
        """Batched matrix product."""
        return torch.matmul(a, b)

    @_kernel(3)
    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        """x @ weight.T + bias."""
        return functional.linear(x, weight, bias)

    @_kernel(1)
    def softmax(self, x: Any, axis: int) -> Any:
        """Softmax along ``axis``."""
        return torch.softmax(x, axis)

    @_kernel(1)
    def erf(self, x: Any) -> Any:
        """Gauss error function."""
        return torch.erf(x)

    @_kernel(1)
    def gelu(self, x: Any) -> Any:
        """x * Phi(x)."""
        return functional.gelu(x)

    @_kernel(3)
    def layer_norm(self, x: Any, gamma: Any, beta: Any, epsilon: float, rank: int) -> Any:
        """Normalise the last ``rank`` dimensions."""
        return functional.layer_norm(x, x.shape[x.ndim - rank :], gamma, beta, epsilon)


def _any(pads: Pads) -> bool:
    return any(before or after for before, after in pads)


def _flat(pads: Pads) -> list[int]:
    """As ``torch.nn.functional.pad`` takes it: the last dimension first."""
    return [amount for pair in reversed(pads) for amount in pair]


def _padded(data: Any, pads: Pads) -> tuple[Any, Any]:
    """``data``, padded with zeros or as it is, and the symmetric padding left to the kernel."""
    if all(before == after for before, after in pads):
        return data, tuple(before for before, _ in pads)
    return functional.pad(data, _flat(pads)), (0,) * len(pads)
