"""Linear quantization: the scale, zero point and codes of groups of weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _affine, _affine_rows, _affine_search
from ._blocks import BLOCK, float32_block, frozen, weights_array
from ._threads import for_ranges

_LONG = 16  # with fewer groups than this, each longer than BLOCK, threads share a group


class Rounded(NamedTuple):
    """Groups of weights on affine grids: weight = float32(code - zero point) * float32(scale), rounded once.

    ``codes`` (G, n) int8 or uint8; ``scale`` (G,) in the weights' dtype, positive; ``zero_point`` (G,) in
    the codes' dtype, or None where it is 0 by construction (symmetric, signed).
    """

    codes: NDArray[Any]
    scale: NDArray[Any]
    zero_point: NDArray[Any] | None


def quantize(
    groups: NDArray[Any],
    nbits: int,
    signed: bool,
    symmetric: bool,
    search: bool = True,
    importance: NDArray[np.float32] | None = None,
) -> Rounded:
    """Round each group to 2^nbits evenly spaced values, of which 0 is one.

    ``groups`` (G, n) float16 or float32, finite. With ``search`` the (importance-weighted) squared error
    of what Core ML will decode is minimised over the scale and the zero point: a sweep of the inverse
    scale, each candidate refitted by least squares, codes over the full range; never worse than without.
    Without, the grid spans the group's range as in coremltools (``get_quant_range``), symmetric codes then
    being -(2^(nbits-1) - 1) .. 2^(nbits-1) - 1. Either way codes are rounded, half to even, with the scale
    as stored; the scale is never 0 and no weight decodes to infinity. A group of zeros has scale 1.

    ``importance`` (P, n) float32, non-negative, P dividing G: group g is weighted by row g mod P.

    Raises TypeError for another dtype; ValueError for non-finite weights, nbits outside 1..8, symmetric
    with 1 bit (nothing is left on one side of 0) and importance that does not fit.
    """
    groups = weights_array(groups, "groups")
    if groups.ndim != 2:
        raise ValueError(f"groups must have shape (G, n), but got {groups.shape}")
    if not (1 + symmetric) <= nbits <= 8:
        raise ValueError(f"nbits must be within {1 + symmetric}..8, but got {nbits}")
    # Two rounds reach the optimum along the scale; the zero point takes one more.
    form = _affine.Form(
        codes=1 << nbits,
        first=-(1 << nbits - 1) if signed else 0,
        symmetric=bool(symmetric),
        half=groups.dtype == np.float16,
        rounds=(2 if symmetric else 3) if search else 0,
        # The best uniform quantizer of a Gaussian (Max 1960) reaches 1.32 + 0.33 nbits or so; less a margin.
        clip=(1.32 + 0.33 * nbits) / 1.3,
    )
    weights = _checked_importance(importance, groups.shape)
    count, length = groups.shape
    codes = np.empty(groups.shape, np.uint8)
    scales = np.empty(count, np.float32)
    zeros = np.empty(count, np.int16)
    if length > BLOCK and count < _LONG:
        for g in range(count):
            row_weights = weights[g % max(len(weights), 1)] if weights.size else weights.reshape(-1)
            scales[g], zeros[g] = _fit_long(form, g, groups[g], row_weights, codes[g])
    else:
        _fit_short(form, groups, weights, scales, zeros, codes)
    int_dtype = np.int8 if signed else np.uint8
    offset = None if symmetric and signed else zeros.astype(int_dtype)
    return Rounded(codes.view(int_dtype), scales.astype(groups.dtype), offset)


def _checked_importance(importance: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if importance is None:
        return frozen(np.empty((0, shape[1]), np.float32))
    weights = np.ascontiguousarray(importance, np.float32)
    if weights.ndim != 2 or weights.shape[1] != shape[1] or not len(weights) or shape[0] % len(weights):
        raise ValueError(
            f"importance must have shape (P, {shape[1]}) with P dividing {shape[0]}, but got {weights.shape}"
        )
    if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):
        raise ValueError("importance must be finite and non-negative")
    return frozen(weights)


def _not_finite(group: int) -> ValueError:
    return ValueError(f"group {group} holds NaN or infinity: such weights have no affine grid")


def _fit_short(
    form: _affine.Form,
    groups: NDArray[Any],
    importance: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
    codes: NDArray[np.uint8],
) -> None:
    """Fit whole groups, several threads over blocks of groups."""
    step = max(1, BLOCK // max(groups.shape[1], 1))

    def fit(start: int, stop: int) -> None:
        scratch = np.empty((step, groups.shape[1]), np.float32)  # one for all blocks: new memory costs more
        for first in range(start * step, min(stop * step, len(groups)), step):
            rows = slice(first, first + step)
            floats = float32_block(groups[rows], scratch)
            bad = _affine_rows.fit_rows(
                form, floats, importance, first, scales[rows], zeros[rows], codes[rows]
            )
            if bad >= 0:
                raise _not_finite(first + bad)

    for_ranges(-(-len(groups) // step), fit)


def _fit_long(
    form: _affine.Form,
    group: int,
    row: NDArray[Any],
    importance: NDArray[np.float32],
    codes: NDArray[np.uint8],
) -> tuple[float, int]:
    """Fit one long group as ``fit_rows`` does, several threads over its blocks; sums in the blocks' order."""
    blocks = -(-row.size // BLOCK)
    stats = np.empty((blocks, 4))
    search = _affine_search.new_search(1)
    sums = np.empty((blocks, *search.sums.shape))
    grids = np.empty((_affine.GRIDS, 3))
    errors = np.zeros((blocks, _affine.GRIDS))

    def each(work: Callable[[int, slice, NDArray[np.float32], NDArray[np.float32]], None]) -> None:
        def run(start: int, stop: int) -> None:
            for block in range(start, stop):
                part = slice(block * BLOCK, (block + 1) * BLOCK)
                work(block, part, float32_block(row[part]), importance[part])

        for_ranges(blocks, run)

    def survey(block: int, _: slice, floats: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        stats[block, :2] = _affine.extremes(floats)
        stats[block, 2:] = _affine.squares(floats, weights) if form.rounds else 0

    def score(block: int, _: slice, floats: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        sums[block] = 0
        _affine_search.add_products(floats, weights, search.candidates, sums[block])

    def measure(block: int, _: slice, floats: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        scratch = np.empty(_affine.SUM_BLOCK, np.float32)
        _affine.add_errors(form, floats, weights, grids, count, scratch, errors[block])

    def encode(_: int, part: slice, floats: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        _affine.encode(floats, grid, zero, codes[part])

    each(survey)
    if not np.isfinite(stats[:, :2]).all():
        raise _not_finite(group)
    lowest, highest = float(stats[:, 0].min()), float(stats[:, 1].max())
    if lowest == highest:
        zero = _affine.zero_point(form, float(form.first))
        codes[:] = zero & 0xFF
        return 1.0, zero
    count = _affine.add_grids(*_affine.range_grid(form, lowest, highest), form.half, grids)
    total, mass = float(stats[:, 2].sum()), float(stats[:, 3].sum())
    if total > 0:
        ends = np.array([[lowest], [highest], [total / mass]])
        _affine_search.coarse_candidates(form, ends, search)
        for i in range(form.rounds):
            if i:
                _affine_search.fine_candidates(form, search)
            each(score)
            search.sums[:] = sums.sum(axis=0)
            _affine_search.take_best(search)
            if search.best[0, 0] <= 0:
                break
        else:
            _, _, low, high, scale = search.best[:, 0]
            count += _affine.add_grids(scale, low, high, form.half, grids[count:])
    if count > 1:
        each(measure)
    grid = grids[errors.sum(axis=0)[:count].argmin()]
    zero = _affine.zero_point(form, grid[1])
    each(encode)
    return float(grid[0]), zero
