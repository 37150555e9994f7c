"""What a change of weights does to the outputs of its op, from means and variances of the inputs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import BLOCK, float32_block, frozen, weights_array
from ._jit import njit_sums
from ._threads import for_ranges

Floats = NDArray[np.float64]


def output_loss(
    weights: NDArray[Any], variance: Floats, mean: Floats, decoded: NDArray[Any] | None = None
) -> tuple[float, Floats]:
    """Return the sum of E|V (x - E[x])|^2 over the outputs, and V E[x] of each: a float and (G, O).

    V is ``weights`` (G, O, K), less ``decoded`` if given, float16 or float32 each; ``variance`` and ``mean``,
    float64 (G, K), are of the inputs, which count as uncorrelated. Sums in float64, each row by one thread.
    Raises TypeError for other weights and ValueError for shapes that do not match.
    """
    groups, outputs, width = weights.shape
    if variance.shape != (groups, width) or mean.shape != (groups, width):
        raise ValueError(
            f"variance and mean must be {(groups, width)}, but got {variance.shape} and {mean.shape}"
        )
    if decoded is not None and decoded.shape != weights.shape:
        raise ValueError(f"weights {weights.shape} and decoded {decoded.shape} must have one shape")
    first = weights_array(weights, "weights").reshape(-1, width)
    second = None if decoded is None else weights_array(decoded, "decoded").reshape(-1, width)
    inputs = frozen(np.ascontiguousarray(variance)), frozen(np.ascontiguousarray(mean))
    spread, lost = np.zeros(len(first)), np.zeros(len(first))
    step = max(1, BLOCK // max(width, 1))

    def run(start: int, stop: int) -> None:
        for at in range(start * step, min(stop * step, len(first)), step):
            part = slice(at, at + step)
            change = float32_block(first[part])
            if second is not None:
                change = frozen(change - float32_block(second[part]))
            _output_loss(change, *inputs, at, outputs, spread[part], lost[part])

    for_ranges(-(-len(first) // step), run)
    return float(spread.sum()), lost.reshape(groups, outputs)


@njit_sums
def _output_loss(
    rows: NDArray[np.float32],
    variance: Floats,
    mean: Floats,
    first: int,
    outputs: int,
    spread: Floats,
    lost: Floats,
) -> None:
    for row in range(rows.shape[0]):
        group = (first + row) // outputs
        around, along = 0.0, 0.0
        for j in range(rows.shape[1]):
            value = np.float64(rows[row, j])
            around += value * value * variance[group, j]
            along += value * mean[group, j]
        spread[row], lost[row] = around, along
