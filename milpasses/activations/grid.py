"""The 8-bit grid of an activation: scale and zero point from a range, as coremltools 9.0 computes them."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import MilpassesError

LEVELS = {"int8": (-128, 127), "uint8": (0, 255)}
_CLEARLY = 0.9  # of a step: a zero point must be worth it


@attrs.frozen
class ActivationRange:
    """The values of a tensor that its grid covers: from ``low`` to ``high``.

    ``method``: how they were chosen. ``sqnr_db``: what the rounding loses on data, where it was measured.
    """

    low: float
    high: float
    method: str = "minmax"
    sqnr_db: float | None = None

    def __or__(self, other: "ActivationRange") -> "ActivationRange":
        """The range of both, which tensors that share a grid need."""
        both = (self, other)
        method = self.method if self.method == other.method else f"{self.method}, {other.method}"
        known = [each.sqnr_db for each in both if each.sqnr_db is not None]
        return ActivationRange(
            min(self.low, other.low), max(self.high, other.high), method, min(known, default=None)
        )


@attrs.frozen
class Grid:
    """``scale * (code - zero_point)`` with codes of ``dtype``, ``"int8"`` or ``"uint8"``."""

    scale: float
    zero_point: int
    dtype: str = "int8"

    def round_trip(self, array: NDArray[Any]) -> NDArray[Any]:
        """What ``quantize`` and then ``dequantize`` make of ``array``: ties to even, saturated. float32."""
        scale = np.float32(self.scale)
        codes = np.rint(np.asarray(array, np.float32) / scale) + np.float32(self.zero_point)
        return scale * (np.clip(codes, *LEVELS[self.dtype]) - np.float32(self.zero_point))


def grid_of(
    low: float, high: float, mode: str = "linear_symmetric", dtype: Any = "int8", *, half: bool = True
) -> Grid:
    """The grid of a range.

    ``mode``: ``"linear_symmetric"`` covers -R..R with R = max(|low|, |high|), ``"linear"`` the range and 0,
    ``"auto"`` is what ``finer_mode`` says.
    The arithmetic is coremltools': in float16, where that overflows in float64. ``half``: the scale is stored
    as float16, so it cannot be smaller than that type's smallest normal number. A range of 0 alone gets the
    scale 1. Raises ``MilpassesError`` for a range that is not finite or empty, a mode or type that is none.
    """
    dtype = np.dtype(dtype).name
    if dtype not in LEVELS:
        raise MilpassesError(f"activations are int8 or uint8, not {dtype}")
    if mode not in ("auto", "linear_symmetric", "linear"):
        raise MilpassesError(f"mode must be auto, linear_symmetric or linear, not {mode!r}")
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise MilpassesError(f"a range must be finite and not empty, not {low:g} to {high:g}")
    if mode == "auto":
        mode = finer_mode(low, high)
    with np.errstate(all="ignore"):
        scale, zero_point = _computed(np.array([low, high], np.float16), mode, dtype)
        if not (np.isfinite(scale) and np.isfinite(zero_point)):
            scale, zero_point = _computed(np.array([low, high], np.float64), mode, dtype)
    if low == high == 0:
        scale, zero_point = 1.0, zero_point if mode == "linear_symmetric" else 0
    largest = float(np.finfo(np.float16).max) if half else float(np.finfo(np.float32).max)
    smallest = float(np.finfo(np.float16).tiny) if half else float(np.finfo(np.float32).tiny)
    scale = min(max(float(scale), smallest), largest)
    stored = np.float16(scale) if half else np.float32(scale)
    return Grid(float(stored), int(zero_point) if np.isfinite(zero_point) else 0, dtype)


def finer_mode(low: float, high: float) -> str:
    """``"linear"`` where its step is clearly the smaller one, else ``"linear_symmetric"``: no zero point."""
    symmetric, linear = 2 * max(abs(low), abs(high)), max(high, 0.0) - min(low, 0.0)
    return "linear" if linear < _CLEARLY * symmetric else "linear_symmetric"


def _computed(span: NDArray[Any], mode: str, dtype: str) -> tuple[Any, Any]:
    """Scale and zero point in the arithmetic of ``span``; ``quantize_weight_by_dtype`` of coremltools."""
    low, high = span[:1], span[1:]
    least, most = LEVELS[dtype]
    unsigned = dtype == "uint8"
    if mode == "linear_symmetric":
        least, most = (least, most - 1) if unsigned else (least + 1, most)
        high = np.maximum(np.abs(low), np.abs(high))
        return ((high + high) / (most - least))[0], most // 2 if unsigned else 0
    low, high = np.minimum(span.dtype.type(0), low), np.maximum(span.dtype.type(0), high)
    raw = (least * high - most * low) / (high - low)
    if not np.isfinite(raw).all():  # an overflow there would move the zero point: -20..600 lost all below 0
        return np.array(np.nan), np.array(np.nan)
    return ((high - low) / (most - least))[0], np.clip(np.round(raw), least, most)[0]
