"""Masks: which elements of a weight a ``Prune`` keeps."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.weights import EncodableWeight, allows_structured_pruning
from milpasses.errors import Refusal
from milpasses.recipe.schemes import Prune

Array = NDArray[Any]


def prune_mask(
    weight: EncodableWeight, value: Array, scheme: Prune, importance: Array | None = None
) -> Array:
    """uint8, shaped as ``value``, 1 where it is kept; raises ``Refusal`` where the scheme does not apply.

    ``importance``: what the squared error of each element counts, which ``method="obs"`` goes by.
    """
    structured = scheme.n_m_ratio is not None or scheme.block_size is not None
    if structured and not allows_structured_pruning(weight):
        raise Refusal("unstructured-op")
    if scheme.threshold is not None:
        return _above_threshold(value, scheme.threshold, scheme.minimum_sparsity_percentile)
    if scheme.method == "obs" and importance is not None:
        value = _share_of_output(value, importance)
    return _largest(value, scheme)


def _above_threshold(value: Array, threshold: float, minimum: float) -> Array:
    from milpasses_kernels.sparsity import threshold_mask

    mask = threshold_mask(value, threshold)
    sparsity = 1 - np.count_nonzero(mask) / mask.size
    if sparsity < minimum:
        raise Refusal("low-sparsity", sparsity=sparsity, minimum=minimum)
    return mask


def _share_of_output(value: Array, importance: Array) -> Array:
    """What an element adds to the output, by its own input alone: |w| sqrt(E[x^2]), up to a factor."""
    largest = np.maximum(np.abs(value).max(), np.finfo(np.float32).tiny)
    return value.astype(np.float32) / largest * np.sqrt(importance)


def _largest(value: Array, scheme: Prune) -> Array:
    """The largest magnitudes: of the weight, by blocks, or of every m."""
    from milpasses_kernels.sparsity import block_mask, magnitude_mask, n_m_mask

    if scheme.n_m_ratio is not None:
        n, m = scheme.n_m_ratio
        dim = 1 if scheme.dim is None else scheme.dim
        if m > value.shape[dim] / 2:
            raise Refusal("ratio-too-wide", n=n, m=m, size=value.shape[dim])
        return n_m_mask(value, n, m, dim)
    assert scheme.target_sparsity is not None
    if scheme.block_size is not None:
        dim = 0 if scheme.dim is None else scheme.dim
        if scheme.block_size > value.shape[dim] / 2:
            raise Refusal("block-too-wide", block=scheme.block_size, size=value.shape[dim])
        return block_mask(value, scheme.target_sparsity, scheme.block_size, dim)
    return magnitude_mask(value, scheme.target_sparsity)
