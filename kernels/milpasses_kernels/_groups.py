"""What all clustering fronts do with (G, n) weights: check them, and share them out to threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, weights_array
from ._threads import for_ranges
from .finite import nonfinite

_LONG = 1 << 20  # from this many weights on, threads share a group


def checked_groups(groups: NDArray[Any], rank: int = 2) -> NDArray[Any]:
    """Return contiguous weights of ``rank`` axes.

    Raises TypeError unless they are float16 or float32, ValueError for another rank, for no weights at all,
    and for NaN or infinities.
    """
    groups = weights_array(groups, "groups")
    if groups.ndim != rank or not groups.size:
        raise ValueError(f"groups must have {rank} axes and hold weights, but got shape {groups.shape}")
    check_finite(groups)
    return groups


def check_finite(values: NDArray[Any]) -> None:
    """Raise ValueError where float16 or float32 values hold NaN or infinities."""
    nans, infinities = nonfinite(values)
    if nans or infinities:
        raise ValueError(f"weights must be finite, but {nans} are NaN and {infinities} infinite")


def check_k(k: int) -> None:
    """Raise ValueError unless codes of k entries fit uint8."""
    if not 1 <= k <= 256:
        raise ValueError(f"k must be in 1..256, but got {k}")


def checked_importance(importance: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return contiguous 1-D importance, empty for none.

    Raises TypeError for another dtype than float32, ValueError for another shape than the weights', and for
    negative, NaN or infinite importance.
    """
    if importance is None:
        return np.empty(0, np.float32)
    if importance.dtype != np.float32:
        raise TypeError(f"importance must be float32, but got {importance.dtype}")
    if importance.shape != shape:
        raise ValueError(f"importance must have the weights' shape {shape}, but got {importance.shape}")
    if importance.size and not (importance.min() >= 0 and importance.max() < np.inf):
        raise ValueError("importance must be finite and non-negative")
    return np.ascontiguousarray(importance).reshape(-1)


def extremes(groups: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest and the largest weight of each group, (G,) each.

    As integers, bit patterns order like the magnitudes, and every negative one is above (unsigned) or below
    (signed) the others. NumPy compares integers fast, and float16 one by one.
    """
    unsigned = bits(groups)
    signed = unsigned.view(unsigned.dtype.str.replace("u", "i"))
    top, positive = unsigned.max(axis=1), signed.max(axis=1)
    some_negative = top.view(signed.dtype) < 0
    lowest = np.where(some_negative, top, unsigned.min(axis=1)).view(groups.dtype)
    highest = np.where(positive >= 0, positive, signed.min(axis=1)).view(groups.dtype)
    return lowest.astype(np.float64), highest.astype(np.float64)


def is_long(groups: NDArray[Any]) -> bool:
    """Return whether threads share each group, rather than take whole groups: the shape alone decides."""
    return groups[0].size >= _LONG


def for_groups(groups: NDArray[Any], work: Callable[[int, int], None]) -> None:
    """Call ``work(start, stop)`` over ranges of groups, on several threads unless groups are long."""
    if is_long(groups):
        work(0, len(groups))
    else:
        for_ranges(len(groups), work)
