"""Parameters of convolutions and pooling as MIL states them, brought into one form."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def ints(values: Any, default: int, count: int) -> list[int]:
    """A parameter vector as Python integers; ``count`` times ``default`` where it is missing."""
    return [default] * count if values is None else [int(v) for v in np.atleast_1d(values)]


def explicit_pads(
    pad_type: str, pad: Any, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial dimension.

    ``same`` splits ceil(size / stride) windows' worth of padding with the odd element after, ``same_lower``
    before; ``pad`` counts only for ``custom``.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        flat = ints(pad, 0, 2 * len(sizes))
        return list(zip(flat[::2], flat[1::2], strict=True))
    pads: list[tuple[int, int]] = []
    for size, extent, stride in zip(sizes, extents, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if pad_type == "same" else (large, small))
    return pads
