"""A torch tensor that handlers can take for a NumPy array.

Handlers are written with NumPy's functions. NumPy itself asks the type of an argument how to do them (its
protocols ``__array_ufunc__``, NEP 13, and ``__array_function__``, NEP 18), so one definition of an op runs on
both kinds of array, and arrays of NumPy take no detour. What ``tensor_functions`` does not list runs through
NumPy on a copy, without gradient.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin

from milpasses.interpreter import tensor_functions

_NUMPY_TYPES: dict[Any, Any] = {
    torch.bool: np.bool_,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.uint8: np.uint8,
}
TORCH_TYPES: dict[Any, Any] = {np.dtype(theirs): ours for ours, theirs in _NUMPY_TYPES.items()}


class TensorArray(NDArrayOperatorsMixin):
    """``tensor``, with what handlers use of ``numpy.ndarray``.

    What would change an array in place puts another tensor here instead: a gradient passes, and no view of
    the old one sees it. Handlers therefore write to whole arrays or to ``array[index]``, never to a view that
    they keep.
    """

    __slots__ = ("tensor",)
    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as an array

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return tensor_functions.run_ufunc(type(self), ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return tensor_functions.run_function(type(self), function, arguments, options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.tensor.detach().cpu().numpy()
        return np.array(array, dtype) if copy else np.asarray(array, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.tensor.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.tensor.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def dtype(self) -> Any:
        """The NumPy type."""
        return np.dtype(_NUMPY_TYPES[self.tensor.dtype])

    @property
    def T(self) -> "TensorArray":  # noqa: N802 (NumPy's name)
        """Dimensions in reverse order."""
        return self.transpose()

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """The same values in another type; through NumPy where torch has no such type."""
        wanted = TORCH_TYPES.get(np.dtype(dtype))
        if wanted is None:
            return np.asarray(self).astype(dtype)
        if wanted is torch.float64 and self.tensor.device.type == "mps":
            wanted = torch.float32  # there is nothing wider on Apple's GPUs
        return type(self)(self.tensor.to(wanted))

    def copy(self) -> "TensorArray":
        """The same: what would change it puts another tensor in its place."""
        return type(self)(self.tensor)

    def item(self) -> Any:
        """The one element."""
        return self.tensor.item()

    def tolist(self) -> Any:
        """Nested lists."""
        return self.tensor.tolist()

    def reshape(self, *shape: Any) -> "TensorArray":
        """The elements in a new shape."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape
        return type(self)(self.tensor.reshape([int(size) for size in sizes]))

    def transpose(self, *axes: Any) -> "TensorArray":
        """Dimensions permuted, reversed without ``axes``."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int | np.integer) else axes
        order = range(self.ndim - 1, -1, -1) if order is None or len(order) == 0 else order
        return type(self)(self.tensor.permute([int(axis) for axis in order]))

    def swapaxes(self, first: int, second: int) -> "TensorArray":
        """Two dimensions exchanged."""
        return type(self)(self.tensor.swapaxes(first, second))

    def sum(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
        """Sum over ``axis``."""
        return np.sum(self, axis=axis, keepdims=keepdims)  # pyright: ignore

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Mean over ``axis``."""
        return np.mean(self, axis=axis, keepdims=keepdims)  # pyright: ignore

    def prod(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Product over ``axis``."""
        return np.prod(self, axis=axis, keepdims=keepdims)  # pyright: ignore

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Maximum over ``axis``."""
        return np.max(self, axis=axis, keepdims=keepdims)  # pyright: ignore

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Minimum over ``axis``."""
        return np.min(self, axis=axis, keepdims=keepdims)  # pyright: ignore

    def argmax(self, axis: int | None = None) -> Any:
        """Index of the maximum, the first on ties."""
        return np.asarray(self).argmax(axis)

    def sigmoid(self) -> "TensorArray":
        """1 / (1 + exp(-x)), whose gradient no overflow of exp makes NaN."""
        return type(self)(torch.sigmoid(self.tensor))

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Any]:
        return map(type(self), self.tensor)

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __int__(self) -> int:
        return int(self.tensor)

    def __index__(self) -> int:
        return self.tensor.__index__()

    def __float__(self) -> float:
        return float(self.tensor)

    def __getitem__(self, index: Any) -> "TensorArray":
        return type(self)(tensor_functions.indexed(self.tensor, index))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tensor = tensor_functions.with_values(self.tensor, index, value)


class _RoundHalf(torch.autograd.Function):
    """Rounding to float16 and back; the gradient passes as if nothing had been rounded."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.half().float()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def round_half(x: Any) -> Any:
    """float32 values that float16 holds, nearest first, with a straight-through gradient."""
    return _RoundHalf.apply(x)
