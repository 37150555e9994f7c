"""NumPy's functions on torch tensors: those that handlers use, one entry a function.

An entry takes what NumPy's function takes, tensors in the place of arrays, and gives a tensor or a tuple of
them. ``FUNCTIONS`` and ``UFUNCS`` list them; anything else runs through NumPy on copies, without gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional


def _without_gradient(run: Callable[..., Any]) -> Callable[..., Any]:
    """A step function: torch would give a gradient of zeros, and nobody would learn that it ends here."""
    return lambda *tensors: run(*(tensor.detach() for tensor in tensors))


UFUNCS: dict[Any, Callable[..., Any]] = {
    np.absolute: torch.abs,
    np.add: torch.add,
    np.arccos: torch.acos,
    np.arcsin: torch.asin,
    np.arctan: torch.atan,
    np.arctanh: torch.atanh,
    np.bitwise_and: torch.bitwise_and,
    np.bitwise_or: torch.bitwise_or,
    np.ceil: _without_gradient(torch.ceil),
    np.cos: torch.cos,
    np.cosh: torch.cosh,
    np.divide: torch.true_divide,
    np.equal: torch.eq,
    np.exp: torch.exp,
    np.exp2: torch.exp2,
    np.expm1: torch.expm1,
    np.floor: _without_gradient(torch.floor),
    np.floor_divide: _without_gradient(torch.floor_divide),
    np.greater: torch.gt,
    np.greater_equal: torch.ge,
    np.isfinite: torch.isfinite,
    np.less: torch.lt,
    np.less_equal: torch.le,
    np.log: torch.log,
    np.log1p: torch.log1p,
    np.logical_and: torch.logical_and,
    np.logical_not: torch.logical_not,
    np.logical_or: torch.logical_or,
    np.logical_xor: torch.logical_xor,
    np.matmul: torch.matmul,
    np.maximum: torch.maximum,
    np.minimum: torch.minimum,
    np.multiply: torch.multiply,
    np.negative: torch.negative,
    np.not_equal: torch.ne,
    np.power: torch.pow,
    np.reciprocal: torch.reciprocal,
    np.remainder: torch.remainder,
    np.rint: _without_gradient(torch.round),
    np.sign: _without_gradient(torch.sign),
    np.sin: torch.sin,
    np.sinh: torch.sinh,
    np.sqrt: torch.sqrt,
    np.square: torch.square,
    np.subtract: torch.subtract,
    np.tan: torch.tan,
    np.tanh: torch.tanh,
    np.trunc: _without_gradient(torch.trunc),
}
# Integers go through NumPy but for these, where torch's result has the same values and the same type.
_INTEGERS_TOO = {
    *(np.add, np.subtract, np.multiply, np.maximum, np.minimum, np.absolute, np.negative, np.sign),
    *(np.equal, np.not_equal, np.greater, np.greater_equal, np.less, np.less_equal),
    *(np.bitwise_and, np.bitwise_or),
    *(np.logical_and, np.logical_not, np.logical_or, np.logical_xor, np.isfinite),
}


def device_of(values: Any) -> Any:
    """The device of the first tensor in ``values``, or None."""
    for value in values:
        if hasattr(value, "tensor"):
            return value.tensor.device
        if isinstance(value, torch.Tensor):
            return value.device
        if isinstance(value, list | tuple) and (inner := device_of(value)) is not None:
            return inner
    return None


def tensor_of(value: Any, device: Any) -> Any:
    """Whatever is an operand, as a tensor on ``device``: of a scalar one of rank 0, which widens no type."""
    if hasattr(value, "tensor"):
        return value.tensor
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, np.ndarray):
        if any(step < 0 for step in value.strides) or not value.flags.writeable:
            value = value.copy()
        if value.dtype == np.float64 and getattr(device, "type", "") == "mps":
            value = value.astype(np.float32)
        return torch.from_numpy(value).to(device)
    return torch.tensor(value, device=device)


def _arrays(value: Any) -> Any:
    """``value`` with NumPy's arrays in the place of tensors, in lists as well."""
    if hasattr(value, "tensor"):
        return np.asarray(value)
    return type(value)(map(_arrays, value)) if isinstance(value, list | tuple) else value


def run_ufunc(make: Any, ufunc: Any, method: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """What ``make.__array_ufunc__`` gives. With ``out`` the result is put there, or is a new array."""
    run = UFUNCS.get(ufunc) if method == "__call__" else None
    out: Any = (options.pop("out", None) or (None,))[0]
    if method == "at" and ufunc in (np.add, np.subtract) and isinstance(inputs[0], make):
        target, index, added = inputs
        signed = added if ufunc is np.add else -added
        target.tensor = scattered(target.tensor, index, signed)
        return None
    if method == "at":  # another way to combine: without gradient
        target = np.array(inputs[0])
        ufunc.at(target, *map(_arrays, inputs[1:]))
        inputs[0].tensor = torch.from_numpy(target).to(inputs[0].tensor.device)
        return None
    if run is None or options:
        result: Any = getattr(ufunc, method)(*map(_arrays, inputs), **options)
    else:
        device = device_of(inputs)
        tensors = [tensor_of(value, device) for value in inputs]
        floats = any(t.dtype.is_floating_point for t in tensors)
        by_torch = floats or ufunc in _INTEGERS_TOO
        result = make(run(*tensors)) if by_torch else ufunc(*map(_arrays, inputs))
    if isinstance(out, make):
        out.tensor = result.tensor if isinstance(result, make) else tensor_of(result, out.tensor.device)
        return out
    return result


def run_function(make: Any, function: Any, arguments: Any, options: Any) -> Any:
    """What ``make.__array_function__`` gives."""
    run = FUNCTIONS.get(function)
    if run is None:
        return function(*map(_arrays, arguments), **{key: _arrays(value) for key, value in options.items()})
    result = run(*arguments, **options)
    return tuple(map(make, result)) if isinstance(result, tuple | list) else make(result)


def _index_parts(index: Any, device: Any) -> list[Any]:
    """The parts of an index, arrays as tensors that torch takes for indices."""
    parts = list(index) if isinstance(index, tuple) else [index]
    for place, part in enumerate(parts):
        if isinstance(part, np.ndarray) or hasattr(part, "tensor"):
            tensor = tensor_of(part, device)
            parts[place] = tensor if tensor.dtype is torch.bool else tensor.long()
    return parts


def _runs_back(part: Any) -> bool:
    return isinstance(part, slice) and (part.step or 1) < 0


def indexed(x: Any, index: Any) -> Any:
    """x[index]; torch knows no negative strides, so those are gathered."""
    parts = _index_parts(index, x.device)
    if any(map(_runs_back, parts)):
        taken = sum(part is not None and part is not Ellipsis for part in parts)
        axis = 0
        for place, part in enumerate(parts):
            if part is Ellipsis:
                axis += x.ndim - taken
                continue
            if _runs_back(part):
                order = list(range(*part.indices(x.shape[axis])))
                x = x.index_select(axis, torch.tensor(order, dtype=torch.int64, device=x.device))
                parts[place] = slice(None)
            axis += part is not None
    return x[tuple(parts)]


def with_values(x: Any, index: Any, value: Any) -> Any:
    """A copy of x with x[index] replaced."""
    parts = _index_parts(index, x.device)
    if any(map(_runs_back, parts)):
        places = np.arange(x.numel()).reshape(x.shape)[index]
        flat = with_values(x.reshape(-1), places.reshape(-1), tensor_of(value, x.device).reshape(-1))
        return flat.reshape(x.shape)
    out = x.clone()
    out[tuple(parts)] = tensor_of(value, x.device).to(x.dtype)
    return out


def scattered(x: Any, index: Any, value: Any) -> Any:
    """A copy of x with ``value`` added at ``index``: repeated indices count each time."""
    parts = index if isinstance(index, tuple) else (index,)
    places = np.arange(x.numel()).reshape(x.shape)[tuple(_arrays(part) for part in parts)]
    flat = torch.from_numpy(places.reshape(-1)).to(x.device)
    added = tensor_of(value, x.device).to(x.dtype).broadcast_to(places.shape).reshape(-1)
    return x.reshape(-1).index_add(0, flat, added).reshape(x.shape)


def _axes(axis: Any, rank: int) -> list[int]:
    if axis is None:
        return list(range(rank))
    return [int(a) for a in axis] if isinstance(axis, tuple | list) else [int(axis)]


def _reduction(run: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        axes = _axes(axis, x.ndim)
        return run(x.tensor, axes, bool(keepdims)) if axes else x.tensor

    return reduce


def _extreme(run: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        axes = _axes(axis, x.ndim)
        return run(x.tensor, axes, bool(keepdims)) if axes else x.tensor

    return reduce


def _product(x: Any, axes: list[int], keepdims: bool) -> Any:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keepdims)
    return x


def _total(x: Any, axes: list[int], keepdims: bool) -> Any:
    return torch.sum(x, axes, keepdim=keepdims, dtype=x.dtype if x.dtype.is_floating_point else None)


def _mean(x: Any, axes: list[int], keepdims: bool) -> Any:
    wide = x if x.dtype.is_floating_point else x.double()
    return torch.mean(wide, axes, keepdim=keepdims)


def _where(condition: Any, a: Any, b: Any) -> Any:
    device = device_of((condition, a, b))
    chosen, *values = (tensor_of(value, device) for value in (condition, a, b))
    return torch.where(chosen.bool(), *values)


def _clip(x: Any, low: Any, high: Any) -> Any:
    device = device_of((x, low, high))
    return torch.clamp(tensor_of(x, device), *(_bound(limit, device) for limit in (low, high)))


def _bound(limit: Any, device: Any) -> Any:
    return float(limit) if np.ndim(limit) == 0 else tensor_of(limit, device)


def _wrapped(indices: Any, size: int) -> Any:
    """Indices of type int64 that count from the start."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _take(x: Any, indices: Any, axis: Any = None) -> Any:
    device = device_of((x, indices))
    source = tensor_of(x, device)
    along = int(axis) % source.ndim
    chosen = _wrapped(tensor_of(indices, device), source.shape[along])
    taken = torch.index_select(source, along, chosen.reshape(-1))
    return taken.reshape(*source.shape[:along], *chosen.shape, *source.shape[along + 1 :])


def _take_along_axis(x: Any, indices: Any, axis: Any) -> Any:
    device = device_of((x, indices))
    source = tensor_of(x, device)
    chosen = _wrapped(tensor_of(indices, device), source.shape[int(axis)])
    return torch.take_along_dim(source, chosen, int(axis))


def _joined(run: Callable[..., Any]) -> Callable[..., Any]:
    def join(values: Any, axis: Any = 0) -> Any:
        device = device_of(values)
        return run([tensor_of(value, device) for value in values], int(axis))

    return join


def _split(x: Any, where: Any, axis: Any = 0) -> Any:
    if np.ndim(where):
        return torch.tensor_split(x.tensor, [int(place) for place in where], int(axis))
    if x.shape[int(axis)] % int(where):
        raise ValueError(f"{x.shape[int(axis)]} elements are no {int(where)} equal parts")
    return torch.tensor_split(x.tensor, int(where), int(axis))


def _pad(x: Any, width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    tensor = x.tensor
    pairs = [(int(before), int(after)) for before, after in width]
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return functional.pad(tensor, flat, value=float(constant_values))
    for axis, pair in enumerate(pairs):
        if any(pair):
            order = torch.from_numpy(np.pad(np.arange(tensor.shape[axis]), pair, mode=mode))  # pyright: ignore
            tensor = tensor.index_select(axis, order.to(tensor.device))
    return tensor


def _squeeze(x: Any, axis: Any = None) -> Any:
    return x.tensor.squeeze() if axis is None else x.tensor.squeeze(tuple(_axes(axis, x.ndim)))


def _expand_dims(x: Any, axis: Any) -> Any:
    tensor = x.tensor
    places = _axes(axis, x.ndim)
    for place in sorted(place % (x.ndim + len(places)) for place in places):
        tensor = tensor.unsqueeze(place)
    return tensor


def _cumsum(x: Any, axis: Any = None, dtype: Any = None) -> Any:
    return torch.cumsum(x.tensor, int(axis), dtype=x.tensor.dtype)


def _argsort(x: Any, axis: Any = -1, kind: Any = None) -> Any:
    return torch.argsort(x.tensor, dim=int(axis), stable=True)


def _windows(x: Any, size: Any, axis: Any) -> Any:
    return x.tensor.unfold(int(axis), int(size), 1)


def _like(value: float) -> Callable[..., Any]:
    return lambda x, dtype=None: torch.full_like(x.tensor, value)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.amax: _extreme(torch.amax),
    np.amin: _extreme(torch.amin),
    np.any: lambda x: torch.any(x.tensor),
    np.argsort: _argsort,
    np.broadcast_to: lambda x, shape: x.tensor.broadcast_to(tuple(shape)),
    np.clip: _clip,
    np.concatenate: _joined(torch.cat),
    np.copy: lambda x: x.tensor,
    np.cumsum: _cumsum,
    np.expand_dims: _expand_dims,
    np.flip: lambda x, axis=None: torch.flip(x.tensor, _axes(axis, x.ndim)),
    np.lib.stride_tricks.sliding_window_view: _windows,
    np.max: _extreme(torch.amax),
    np.mean: _reduction(_mean),
    np.min: _extreme(torch.amin),
    np.moveaxis: lambda x, source, target: torch.movedim(x.tensor, source, target),
    np.nan_to_num: lambda x: torch.nan_to_num(x.tensor),
    np.pad: _pad,
    np.prod: _reduction(_product),
    np.split: _split,
    np.squeeze: _squeeze,
    np.stack: _joined(torch.stack),
    np.sum: _reduction(_total),
    np.swapaxes: lambda x, first, second: x.tensor.swapaxes(int(first), int(second)),
    np.take: _take,
    np.take_along_axis: _take_along_axis,
    np.tile: lambda x, reps: torch.tile(x.tensor, tuple(int(n) for n in reps)),
    np.where: _where,
    np.zeros_like: _like(0.0),
}
