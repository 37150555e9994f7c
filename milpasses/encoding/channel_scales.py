"""Per-channel scales of palettized weights: folded into tables, or kept behind one table."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Palettized, Scaled
from milpasses.encoding.generation import OpGeneration
from milpasses.encoding.grouping import Grouping
from milpasses.encoding.tables import palettize_blocks
from milpasses.recipe.schemes import Palettize

Array = NDArray[Any]


def palettize_scaled(
    value: Array,
    scheme: Palettize,
    grouping: Grouping,
    generation: OpGeneration,
    importance: Array | None = None,
    separate: bool = False,
) -> Palettized | Scaled:
    """The smallest form with no more error than a table that a scale a channel follows, where there is one.

    A table times the scale of a channel is a table again. So groups of fewer and fewer channels, from those
    of ``grouping`` on, get a table each, until the error is no more than with scales, while the weight is
    smaller than dense; else the last of them. ``separate``: the scales themselves, where no tables of as few
    bytes do as well.
    """
    scheme = attrs.evolve(scheme, enable_per_channel_scale=False)
    scaled = _scaled(value, scheme, grouping, generation, importance)
    wanted = _error(value, scaled.decode(), importance)
    axis, largest = grouping.axis, grouping.blocks[grouping.axis]
    best: Palettized | None = None
    for size in range(largest, 0, -1):
        if largest % size or size % scheme.cluster_dim:
            continue
        blocks = (*grouping.blocks[:axis], size, *grouping.blocks[axis + 1 :])
        folded = palettize_blocks(
            value, scheme, attrs.evolve(grouping, blocks=blocks), generation, importance
        )
        if best is not None and folded.nbytes >= value.nbytes:
            break
        best = folded
        if separate and folded.nbytes > scaled.nbytes:
            return scaled
        if _error(value, folded.decode(), importance) <= wanted:
            break
    assert best is not None
    return best


def _scaled(
    value: Array,
    scheme: Palettize,
    grouping: Grouping,
    generation: OpGeneration,
    importance: Array | None,
) -> Scaled:
    """Tables of the weight, each channel divided by its largest magnitude, and these as scales."""
    others = tuple(axis for axis in range(value.ndim) if axis != grouping.axis)
    scale = np.abs(value).max(axis=others, keepdims=True)
    scale[scale == 0] = 1
    counted = None if importance is None else importance * np.square(scale.astype(np.float32))
    normalized = (value.astype(np.float32) / scale.astype(np.float32)).astype(value.dtype)
    return Scaled(palettize_blocks(normalized, scheme, grouping, generation, counted), scale)


def _error(value: Array, decoded: Array, importance: Array | None) -> float:
    squares = np.square(value.astype(np.float64) - decoded.astype(np.float64))
    return float((squares if importance is None else importance * squares).sum())
