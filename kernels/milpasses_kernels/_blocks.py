"""Arrays as kernels want them: cut into blocks that fit a cache, as bit patterns, as float32 scratch."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._float16 import halves_to_floats
from ._threads import for_ranges

BLOCK = 32768  # elements: fixed, so that sums over blocks do not depend on the number of threads

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def for_blocks(groups: int, length: int, work: Callable[[slice, slice], None], block: int = BLOCK) -> None:
    """Call ``work(rows, columns)`` over blocks of about ``block`` elements that cover (groups, length).

    A block is several whole groups, or a part of one long group: either way contiguous. Blocks run on
    several threads.
    """
    if not groups or not length:
        return
    rows = max(1, block // length)
    parts = 1 if rows > 1 else -(-length // block)
    width = length if parts == 1 else block

    def run(start: int, stop: int) -> None:
        for index in range(start, stop):
            row, column = index // parts * rows, index % parts * width
            work(slice(row, min(row + rows, groups)), slice(column, min(column + width, length)))

    for_ranges(-(-groups // rows) * parts, run)


def frozen(values: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view: Numba compiles for writable and read-only inputs apart, once is enough."""
    view = values.view()
    view.flags.writeable = False
    return view


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view of contiguous ``values`` as unsigned integers of the same width."""
    return frozen(values.view(_BITS[values.dtype.itemsize]))


def float32_block(values: NDArray[Any], scratch: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return a contiguous float16 or float32 block as float32, read-only: converted, or the block itself.

    ``scratch``: memory for it, contiguous and at least as long.
    """
    if values.dtype == np.float32:
        return frozen(values)
    floats = np.empty(values.shape, np.float32) if scratch is None else scratch[: len(values)]
    halves_to_floats(bits(values.reshape(-1)), floats.reshape(-1))
    return frozen(floats)


def weights_array(values: NDArray[Any], name: str = "values") -> NDArray[Any]:
    """Return ``values`` C-contiguous, or raise TypeError unless they are float16 or float32."""
    if values.dtype.type not in (np.float16, np.float32):
        raise TypeError(f"{name} must be float16 or float32, but got {values.dtype}")
    return np.ascontiguousarray(values, values.dtype.type)  # in the machine's byte order
