"""Weights as functions of what their forms store, for torch to differentiate."""

from typing import Any

import numpy as np
import torch
from milpasses_kernels.sparsity import gather

from milpasses.encoding.blocks import from_rows, to_rows
from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Sparse
from milpasses.interpreter.tensors import round_half

_LATENT, _SLOWER = 0.006, 0.3  # rates: of latent weights in widths of a cell; of the rest beside them
_INSIDE = 0.02  # of a cell's width: how far from its edges a latent weight starts


def _stored(values: Any, half: bool) -> Any:
    return round_half(values) if half else values


class Learned:
    """What learns for one weight. ``parameters``: tensors with gradients, each with its learning rate."""

    latent: Any = None

    def __init__(self) -> None:
        self.parameters: list[tuple[Any, float]] = []

    def free(self, original: Any) -> None:
        """Let codes move, from latent weights at ``original``, where there are codes."""

    def value(self) -> Any:
        """The weight, as it will be decoded, with gradients."""
        raise NotImplementedError

    def encoding(self) -> Any:
        """The form that decodes to ``value``."""
        raise NotImplementedError

    def _beside(self, rate: float) -> None:
        """Latent weights learn at ``rate``, and all else more slowly, so that codes can follow."""
        self.parameters = [(tensor, _SLOWER * own) for tensor, own in self.parameters]
        self.parameters.append((self.latent, rate))

    def _learn(self, array: Any, device: Any, rate: float) -> Any:
        tensor = torch.tensor(np.asarray(array, np.float32), device=device, requires_grad=True)
        size = float(tensor.detach().abs().mean()) or 1e-3
        self.parameters.append((tensor, rate * size))
        return tensor


class LearnedVector(Learned):
    """A bias, or a gain of a normalization, or the kept values of a pruned weight: stored as they are."""

    def __init__(self, values: Any, device: Any) -> None:
        super().__init__()
        self._dtype = values.dtype
        self.values = self._learn(values, device, 0.01)

    def value(self) -> Any:
        """The values in their type."""
        return _stored(self.values, self._dtype == np.float16)

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
        self.values = self._learn(decoded, device, 0.01)

    def value(self) -> Any:
        """The weight."""
        return _stored(self.values * self._kept, self._dtype == np.float16)

    def encoding(self) -> Encoding:
        """The same mask, other values."""
        return Sparse(self._mask, gather(self.value().detach().cpu().numpy().astype(self._dtype), self._mask))


class LearnedTable(Learned):
    """Scalar look-up tables and the codes into them."""

    def __init__(self, form: Palettized, mask: Any, device: Any) -> None:
        super().__init__()
        assert isinstance(form.lut, np.ndarray)
        self._form, self._device = form, device
        self._mask = None if mask is None else torch.from_numpy(mask.astype(np.float32)).to(device)
        self._stored_mask = mask
        counts = form.lut.shape[:-2]
        self._blocks = tuple(size // count for size, count in zip(form.shape, counts, strict=True))
        self._counts = counts
        self._codes = torch.from_numpy(to_rows(form.codes, self._blocks).astype(np.int64)).to(device)
        self._half = form.lut.dtype == np.float16
        self.table = self._learn(form.lut.reshape(self._codes.shape[0], -1), device, 0.01)

    def free(self, original: Any) -> None:
        """Latent weights at ``original``, moved into the cells of their codes."""
        rows = torch.from_numpy(to_rows(np.asarray(original, np.float32), self._blocks)).to(self._device)
        with torch.no_grad():
            table, order = torch.sort(self._entries(), 1)
            rank = torch.argsort(order, 1).gather(1, self._codes)
            middles = (table[:, 1:] + table[:, :-1]) / 2
            ends = torch.full_like(table[:, :1], torch.inf)
            low, high = torch.cat([-ends, middles], 1), torch.cat([middles, ends], 1)
            inside = _INSIDE * (table[:, 1:] - table[:, :-1]).mean(1, keepdim=True)
            below, above = low.gather(1, rank), high.gather(1, rank)
            start = torch.minimum(torch.maximum(rows, below + inside), above - inside)
            centres = table.gather(1, rank)
            start = torch.where((start > below) & (start < above), start, centres)  # of the narrowest cells
        self.latent = start.requires_grad_(True)
        gap = float((table[:, 1:] - table[:, :-1]).mean()) or 1e-3
        self._beside(_LATENT * gap)

    def _entries(self) -> Any:
        return _stored(self.table, self._half)

    def _chosen(self, table: Any) -> Any:
        """The codes: of the nearest entries, where codes move."""
        if self.latent is None:
            return self._codes
        with torch.no_grad():
            entries, order = torch.sort(table, 1)
            middles = ((entries[:, 1:] + entries[:, :-1]) / 2).contiguous()
            return order.gather(1, torch.searchsorted(middles, self.latent.contiguous()))

    def value(self) -> Any:
        """The weight; its gradient reaches the table, and latent weights as if nothing had been rounded."""
        table = self._entries()
        rows = table.gather(1, self._chosen(table))
        if self.latent is not None:
            rows = rows + (self.latent - self.latent.detach())
        rank = len(self._counts)
        order = [axis for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for axis in pair]
        dense = rows.reshape(*self._counts, *self._blocks).permute(order).reshape(self._form.shape)
        return dense if self._mask is None else dense * self._mask

    def encoding(self) -> Encoding:
        """The same form, other tables and codes."""
        table = self._entries().detach()
        codes = self._chosen(table).cpu().numpy().astype(np.uint8)
        assert isinstance(self._form.lut, np.ndarray)
        lut = table.cpu().numpy().astype(self._form.lut.dtype).reshape(self._form.lut.shape)
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
        self.scale = self._learn(form.scale, device, 0.003)

    def _spread(self, blocks: Any) -> Any:
        for axis, count in enumerate(self._repeats):
            blocks = blocks.repeat_interleave(count, axis)
        return blocks

    def free(self, original: Any) -> None:
        """Latent weights at ``original``, moved into the cells of their codes, in units of the scale."""
        with torch.no_grad():
            scale = self._spread(_stored(self.scale, self._half))
            given = torch.from_numpy(np.asarray(original, np.float32)).to(self._device)
            units = torch.nan_to_num(given / scale) + self._zero
            edge = 0.5 - _INSIDE
            start = torch.minimum(torch.maximum(units, self._codes - edge), self._codes + edge)
        self.latent = start.requires_grad_(True)
        self._beside(_LATENT)

    def _moved(self) -> Any:
        if self.latent is None:
            return self._codes
        clipped = torch.clamp(self.latent, *self._range)
        return clipped + (torch.round(clipped) - clipped).detach()

    def value(self) -> Any:
        """The weight."""
        scale = self._spread(_stored(self.scale, self._half))
        dense = _stored(scale * (self._moved() - self._zero), self._half)
        return dense if self._mask is None else dense * self._mask

    def encoding(self) -> Encoding:
        """The same form, other scales and codes."""
        form = self._form
        codes = self._moved().detach().round().cpu().numpy().astype(form.codes.dtype)
        scale = _stored(self.scale, self._half).detach().cpu().numpy().astype(form.scale.dtype)
        new = Quantized(codes, scale, form.zero_point, form.dtype)
        return new if self._stored_mask is None else Sparse(self._stored_mask, new)


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
