"""Codes of 1 to 8 bits for the weights of a neural network, with the floats that turn them into weights.

Unlike MIL's integers with a zero point, the format's linear form has a bias that may be any float. Each row
of weights gets the best of three grids, by squared error: from its smallest to its largest weight, as in
coremltools; ``rounding.quantize``'s searched grid, taken about the row's mean; and that grid after a few
turns of least squares for scale and bias, and rounding to the nearest code.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TURNS = 3  # of least squares and rounding: the error falls with each, by little after the second
_BLOCK = 1 << 20  # weights that are fitted at a time, in float64


class Linear(NamedTuple):
    """Rows of weights on grids: ``code * scale + bias``; codes (G, n) uint8, scale and bias (G,) float32."""

    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


class Table(NamedTuple):
    """Weights by look-up table: codes (n,) uint8, table (2^nbits,) float32."""

    codes: NDArray[np.uint8]
    table: NDArray[np.float32]


def linear(rows: NDArray[np.float32], nbits: int) -> Linear:
    """Fit scale and bias to each row (G, n) of finite weights, for 1 to 8 bits.

    The squared error is never above that of the grid over the row's range, which is coremltools' choice; for
    1 bit it is the least possible (``kmeans`` of two clusters).
    """
    return _in_blocks(rows, lambda part: _linear(part, nbits))


def symmetric(rows: NDArray[np.float32], nbits: int) -> Linear:
    """Fit a scale to each row (G, n) of finite weights; code 2^(nbits - 1) is zero.

    With 1 bit, where nothing is left beside zero, the two values are plus and minus the mean of ``|w|``.
    """
    from milpasses_kernels.rounding import quantize

    if nbits == 1:
        half = np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32)
        return Linear((rows >= 0).astype(np.uint8), np.float32(2) * half, -half)
    middle = 1 << nbits - 1
    rounded = quantize(rows, nbits, signed=True, symmetric=True)
    codes = (rounded.codes.astype(np.int16) + middle).astype(np.uint8)
    return Linear(codes, rounded.scale, np.float32(-middle) * rounded.scale)


def kmeans(flat: NDArray[np.float32], nbits: int) -> Table:
    """The look-up table of least squared error for finite weights (n,)."""
    from milpasses_kernels.kmeans import kmeans as cluster

    clusters = cluster(flat.reshape(1, -1), 1 << nbits)
    return Table(clusters.codes[0], clusters.lut[0])


def linear_table(flat: NDArray[np.float32], nbits: int) -> Table:
    """``linear`` of all weights (n,) as one row, its grid written out as a table."""
    fitted = linear(flat.reshape(1, -1), nbits)
    steps = np.arange(1 << nbits) * np.float64(fitted.scale[0])
    return Table(fitted.codes[0], (steps + fitted.bias[0]).astype(np.float32))


def _in_blocks(rows: Array, fit: Any) -> Linear:
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    parts = [fit(rows[first : first + step]) for first in range(0, len(rows), step)]
    return parts[0] if len(parts) == 1 else Linear(*map(np.concatenate, zip(*parts, strict=True)))


def _linear(rows: NDArray[np.float32], nbits: int) -> Linear:
    exact = rows.astype(np.float64)
    low, high = exact.min(axis=1), exact.max(axis=1)
    scale = (high - low) / ((1 << nbits) - 1)
    best = _rounded(exact, np.where(scale > 0, scale, 1.0), low, nbits)
    least = _errors(exact, best)
    for grid in _grids(rows, exact, nbits):
        errors = _errors(exact, grid)
        better = errors < least
        least = np.where(better, errors, least)
        best = Linear(
            np.where(better[:, None], grid.codes, best.codes),
            np.where(better, grid.scale, best.scale),
            np.where(better, grid.bias, best.bias),
        )
    return best


def _grids(rows: NDArray[np.float32], exact: Array, nbits: int) -> Any:
    """The other grids to try, one after the other."""
    from milpasses_kernels.kmeans import kmeans as cluster
    from milpasses_kernels.rounding import quantize

    if nbits == 1:
        ends = cluster(rows, 2).lut.astype(np.float64)
        yield _rounded(exact, np.where(ends[:, 1] > ends[:, 0], ends[:, 1] - ends[:, 0], 1.0), ends[:, 0], 1)
        return
    middle = exact.mean(axis=1)
    rounded = quantize((exact - middle[:, None]).astype(np.float32), nbits, signed=False, symmetric=False)
    assert rounded.zero_point is not None
    scale = rounded.scale.astype(np.float64)
    grid = Linear(
        rounded.codes,
        rounded.scale,
        (middle - scale * rounded.zero_point.astype(np.float64)).astype(np.float32),
    )
    yield grid
    for _ in range(_TURNS):
        grid = _rounded(exact, *_least_squares(exact, middle, grid), nbits)
        yield grid


def _least_squares(exact: Array, middle: Array, grid: Linear) -> tuple[Array, Array]:
    """Scale and bias of least squared error for the codes that are there."""
    codes = grid.codes.astype(np.float64)
    center = codes.mean(axis=1)
    codes -= center[:, None]
    spread = np.einsum("ij,ij->i", codes, codes)
    # The codes are centred, so the mean of the weights drops out of the product.
    scale = np.einsum("ij,ij->i", codes, exact) / np.where(spread > 0, spread, 1.0)
    scale = np.where(scale > 0, scale, grid.scale)
    return scale, middle - scale * center


def _rounded(exact: Array, scale: Array, bias: Array, nbits: int) -> Linear:
    """The nearest codes on a grid, with scale and bias as they will be stored."""
    scale = np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)
    bias = bias.astype(np.float32)
    codes = (exact - bias.astype(np.float64)[:, None]) / scale.astype(np.float64)[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, (1 << nbits) - 1, out=codes)
    return Linear(codes.astype(np.uint8), scale, bias)


def _errors(exact: Array, grid: Linear) -> Array:
    """Squared error of each row."""
    decoded = grid.codes * grid.scale.astype(np.float64)[:, None] + grid.bias.astype(np.float64)[:, None]
    decoded -= exact
    return np.einsum("ij,ij->i", decoded, decoded)
