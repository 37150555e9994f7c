"""Weights as functions of what their forms store, for torch to differentiate.

What is learned is relative to the size of what was there, table by table and scale by scale: channels of very
unequal ranges then learn at one rate.
"""

from typing import Any

import numpy as np
import torch
from milpasses_kernels.sparsity import gather

from milpasses.encoding.blocks import from_rows, to_rows
from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Sparse
from milpasses.interpreter.tensors import round_half

_RATE, _SCALE_RATE = 0.01, 0.003  # of values and of scales, a step, in their own size
_INSIDE = 0.05  # how far from the edges of its cell a latent code starts
_FLOOR = 0.1  # of the mean size: a bias that is nearly zero is to move, too


def _stored(values: Any, half: bool) -> Any:
    return round_half(values) if half else values


def _sizes(array: Any, axes: tuple[int, ...] = (), floor: float = 0.0) -> Any:
    """The size of each element, the mean magnitude over ``axes``; ``floor``: that share of all is added."""
    magnitudes = np.abs(np.asarray(array, np.float32))
    everywhere = float(magnitudes.mean()) or 1e-3
    own = np.broadcast_to(magnitudes.mean(axes, keepdims=True), magnitudes.shape) + floor * everywhere
    return np.where(own > 0, own, _FLOOR * everywhere)


class Learned:
    """What learns for one weight.

    ``parameters``: tensors with gradients, each with its learning rate. ``latent``: where codes are, in steps
    between them, a tensor with gradients, once they are free.
    """

    latent: Any = None

    def __init__(self) -> None:
        self.parameters: list[tuple[Any, float]] = []

    def free(self, original: Any) -> None:
        """Let codes move, from where ``original`` lies between them, where there are codes."""

    def value(self) -> Any:
        """The weight, as it will be decoded, with gradients."""
        raise NotImplementedError

    def encoding(self) -> Any:
        """The form that decodes to ``value``."""
        raise NotImplementedError


class _Values:
    """Numbers that learn in units of their sizes."""

    def __init__(self, owner: Learned, array: Any, sizes: Any, device: Any, rate: float) -> None:
        values, units = (torch.tensor(np.asarray(one, np.float32), device=device) for one in (array, sizes))
        self._start, self._units = values, units
        self._moved = torch.zeros_like(values).requires_grad_(True)
        owner.parameters.append((self._moved, rate))

    def __call__(self) -> Any:
        return self._start + self._moved * self._units


class LearnedVector(Learned):
    """A bias, or a gain of a normalization: stored as it is."""

    def __init__(self, values: Any, device: Any) -> None:
        super().__init__()
        self._dtype = values.dtype
        self._values = _Values(self, values, _sizes(values, floor=_FLOOR), device, _RATE)

    def value(self) -> Any:
        """The values in their type."""
        return _stored(self._values(), self._dtype == np.float16)

    def encoding(self) -> Any:
        """The values, an array."""
        return self.value().detach().cpu().numpy().astype(self._dtype)


class LearnedSparse(Learned):
    """Values under a mask, which stays."""

    def __init__(self, form: Sparse, device: Any) -> None:
        super().__init__()
        self._mask = form.mask
        decoded = form.decode()
        self._dtype = decoded.dtype
        self._kept = torch.from_numpy(form.mask.astype(np.float32)).to(device)
        sizes = _sizes(decoded, tuple(range(1, decoded.ndim)))
        self._values = _Values(self, decoded, sizes, device, _RATE)

    def value(self) -> Any:
        """The weight."""
        return _stored(self._values() * self._kept, self._dtype == np.float16)

    def encoding(self) -> Encoding:
        """The same mask, other values."""
        return Sparse(self._mask, gather(self.value().detach().cpu().numpy().astype(self._dtype), self._mask))


class LearnedTable(Learned):
    """Scalar look-up tables and the codes into them.

    A latent code counts entries in the order that they had when codes were freed: tables move under the codes
    and take none of them along.
    """

    def __init__(self, form: Palettized, mask: Any, device: Any) -> None:
        super().__init__()
        assert isinstance(form.lut, np.ndarray)
        self._form, self._device = form, device
        self._mask = None if mask is None else torch.from_numpy(mask.astype(np.float32)).to(device)
        self._stored_mask = mask
        self._counts = form.lut.shape[:-2]
        self._blocks = tuple(size // count for size, count in zip(form.shape, self._counts, strict=True))
        self._codes = torch.from_numpy(to_rows(form.codes, self._blocks).astype(np.int64)).to(device)
        self._order: Any = None
        self._half = form.lut.dtype == np.float16
        tables = form.lut.reshape(self._codes.shape[0], -1)
        self._table = _Values(self, tables, _sizes(tables, (1,)), device, _RATE)

    def free(self, original: Any) -> None:
        """Latent codes where ``original`` lies between the entries, moved into the cells of their codes."""
        rows = torch.from_numpy(to_rows(np.asarray(original, np.float32), self._blocks)).to(self._device)
        with torch.no_grad():
            table, self._order = torch.sort(self._entries(), 1)
            places = torch.argsort(self._order, 1).gather(1, self._codes)
            above = torch.searchsorted(table.contiguous(), rows.contiguous()).clamp(1, table.shape[1] - 1)
            low, high = table.gather(1, above - 1), table.gather(1, above)
            lies = above - 1 + torch.nan_to_num((rows - low) / (high - low))
            edge = 0.5 - _INSIDE
            start = torch.minimum(torch.maximum(lies, places - edge), places + edge)
        self.latent = start.requires_grad_(True)

    def _entries(self) -> Any:
        return _stored(self._table(), self._half)

    def _chosen(self) -> Any:
        """The codes: of the nearest entries, where codes move."""
        if self.latent is None:
            return self._codes
        last = self._order.shape[1] - 1
        return self._order.gather(1, self.latent.detach().round().clamp(0, last).long())

    def value(self) -> Any:
        """The weight; its gradient reaches the table, and latent codes by the step between their entries."""
        table = self._entries()
        rows = table.gather(1, self._chosen())
        if self.latent is not None:
            ordered = table.detach().gather(1, self._order)
            below = self.latent.detach().floor().clamp(0, table.shape[1] - 2).long()
            rows = rows + (ordered.gather(1, below + 1) - ordered.gather(1, below)) * _zero(self.latent)
        rank = len(self._counts)
        order = [axis for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for axis in pair]
        dense = rows.reshape(*self._counts, *self._blocks).permute(order).reshape(self._form.shape)
        return dense if self._mask is None else dense * self._mask

    def encoding(self) -> Encoding:
        """The same form, other tables and codes."""
        codes = self._chosen().cpu().numpy().astype(np.uint8)
        assert isinstance(self._form.lut, np.ndarray)
        lut = self._entries().detach().cpu().numpy().astype(self._form.lut.dtype)
        lut = lut.reshape(self._form.lut.shape)
        new = Palettized(from_rows(codes, self._form.shape, self._blocks), lut, self._form.vector_axis)
        return new if self._stored_mask is None else Sparse(self._stored_mask, new)


class LearnedGrid(Learned):
    """Integer codes and their scales; zero points stay."""

    def __init__(self, form: Quantized, mask: Any, device: Any) -> None:
        super().__init__()
        self._form, self._device, self._stored_mask = form, device, mask
        self._half = form.scale.dtype == np.float16
        self._repeats = [size // count for size, count in zip(form.shape, form.scale.shape, strict=True)]
        zero = np.zeros(form.scale.shape) if form.zero_point is None else form.zero_point
        self._zero = self._spread(torch.from_numpy(zero.astype(np.float32)).to(device))
        self._codes = torch.from_numpy(form.codes.astype(np.float32)).to(device)
        self._mask = None if mask is None else torch.from_numpy(mask.astype(np.float32)).to(device)
        bits = int("".join(filter(str.isdigit, form.dtype)))
        low = 0 if form.dtype.startswith("u") else -(1 << (bits - 1))
        self._range = (low, low + (1 << bits) - 1)
        self._scale = _Values(self, form.scale, _sizes(form.scale), device, _SCALE_RATE)

    def _spread(self, blocks: Any) -> Any:
        for axis, count in enumerate(self._repeats):
            blocks = blocks.repeat_interleave(count, axis)
        return blocks

    def free(self, original: Any) -> None:
        """Latent codes where ``original`` lies on the grid, moved into the cells of their codes."""
        with torch.no_grad():
            scale = self._spread(_stored(self._scale(), self._half))
            given = torch.from_numpy(np.asarray(original, np.float32)).to(self._device)
            lies = torch.nan_to_num(given / scale) + self._zero
            edge = 0.5 - _INSIDE
            start = torch.minimum(torch.maximum(lies, self._codes - edge), self._codes + edge)
        self.latent = start.requires_grad_(True)

    def _moved(self) -> Any:
        if self.latent is None:
            return self._codes
        return self.latent.detach().round().clamp(*self._range) + _zero(self.latent)

    def value(self) -> Any:
        """The weight."""
        scale = self._spread(_stored(self._scale(), self._half))
        dense = _stored(scale * (self._moved() - self._zero), self._half)
        return dense if self._mask is None else dense * self._mask

    def encoding(self) -> Encoding:
        """The same form, other scales and codes."""
        form = self._form
        codes = self._moved().detach().cpu().numpy().astype(form.codes.dtype)
        scale = _stored(self._scale(), self._half).detach().cpu().numpy().astype(form.scale.dtype)
        new = Quantized(codes, scale, form.zero_point, form.dtype)
        return new if self._stored_mask is None else Sparse(self._stored_mask, new)


def _zero(latent: Any) -> Any:
    """Nothing, with the gradient of ``latent``."""
    return latent - latent.detach()


def learned(form: Any, device: Any) -> Learned | None:
    """What learns for a weight in ``form``; None where nothing of that form is learned."""
    mask, values = (form.mask, form.values) if isinstance(form, Sparse) else (None, form)
    if isinstance(form, Sparse) and isinstance(values, np.ndarray):
        return LearnedSparse(form, device)
    if isinstance(values, Palettized) and values.cluster_dim == 1 and isinstance(values.lut, np.ndarray):
        return LearnedTable(values, mask, device) if values.lut.dtype.kind == "f" else None
    if isinstance(values, Quantized):
        floats = [one.dtype.kind for one in (values.codes, values.zero_point) if one is not None]
        return None if "f" in floats else LearnedGrid(values, mask, device)
    return None
