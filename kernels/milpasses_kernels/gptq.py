"""Error feedback: codes chosen so that the outputs of a layer change least, not its weights.

With H = X'X of a layer's inputs, rounding W to What costs tr(E H E'), E = W - What. Factor the damped H as
R R' with R upper triangular, D its squared diagonal and F = R / diag(R): the cost is the sum over columns j
of D_j (E_j + sum_{i<j} E_i F_ij)^2. So column j is best rounded after adding what the columns before it
lost: the recursion of GPTQ (Frantar et al., 2023), in the form without an inverse of Chee et al. (QuIP,
2023), who show the two equal. Cyclic descent on single columns follows (Behdin et al., QuantEase, 2023),
which never raises the cost, and the least-squares refit of scales and tables.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._gptq_factor import damped_factor
from ._gptq_grids import NO_MASK, AffineGrid, Block, FloatGrid, Floats, Grid, Mask, TableGrid, VectorGrid
from ._gptq_product import energy, product
from ._gptq_refit import refit
from ._threads import for_ranges, one_blas_thread

__all__ = [
    "AffineGrid",
    "Feedback",
    "FloatGrid",
    "Grid",
    "NotPositive",
    "Rerounded",
    "TableGrid",
    "VectorGrid",
    "output_error",
    "prepare",
    "reround",
]
_COLUMNS = 128  # a block: errors reach the columns beyond it by one matrix product
_ROWS = 256  # a task of a thread: fixed, so that the bits do not depend on the number of threads


class NotPositive(ValueError):  # noqa: N818 (what the matrix is)
    """The second moment is no covariance that can be factored.

    ``cause`` says why; of an indefinite one, ``damping`` is the largest with which it was tried.
    """

    def __init__(
        self, message: str, cause: Literal["nonfinite", "zero", "indefinite"], damping: float | None = None
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.damping = damping


class Feedback(NamedTuple):
    """A factored second moment, of columns in falling order of their diagonal.

    ``order`` (K,): the columns. ``upper`` (K, K): F, zero on and below the diagonal. ``hessian`` (K, K): the
    damped second moment. float32, in that order. ``damping``: the share of the mean diagonal that was added.
    """

    order: NDArray[np.int64]
    upper: Floats
    hessian: Floats
    damping: float


class Rerounded(NamedTuple):
    """Codes (R, K) int16 of ``grid`` (k = code - zero point, or a table's entry), and W - What (R, K)."""

    codes: NDArray[np.int16]
    grid: Grid
    errors: Floats


@one_blas_thread()
def prepare(gram: NDArray[Any], damping: float = 0.01) -> Feedback:
    """Factor the second moment ``gram`` (K, K) of a layer's inputs.

    ``damping`` times the mean diagonal is added to the diagonal; ten times as much, up to 1, as long as
    the factorization fails. Columns that are always zero then get no feedback and give none.

    Raises NotPositive where that does not help, and for a zero or non-finite ``gram``; ValueError for another
    shape.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"gram must be (K, K), but got {gram.shape}")
    diagonal = np.diagonal(gram)
    if not np.isfinite(gram).all():
        raise NotPositive("the second moment holds NaN or infinity", "nonfinite")
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    if not mean > 0:
        raise NotPositive("the second moment is zero: no input was ever anything else", "zero")
    order = np.argsort(-diagonal, kind="stable")
    while (factored := damped_factor(gram, order, mean, damping)) is None:
        if damping >= 1:
            raise NotPositive(
                f"the second moment is not positive, even with a damping of {damping:g}",
                "indefinite",
                damping,
            )
        damping = min(10 * damping, 1.0) if damping > 0 else 0.01
    upper, ordered = factored
    upper = upper / np.diagonal(upper)
    np.fill_diagonal(upper, 0)
    return Feedback(order, upper.astype(np.float32), ordered.astype(np.float32, copy=False), damping)


@one_blas_thread()
def reround(
    weights: NDArray[np.float32],
    feedback: Feedback,
    grid: Grid,
    mask: NDArray[np.uint8] | None = None,
    descents: int = 2,
    refitted: bool = True,
) -> Rerounded:
    """Choose the codes of ``weights`` (R, K) float32 with error feedback.

    ``grid`` says what they are rounded to; its ``columns`` in the weights' own order. Where ``mask``
    (R, K) is 0 the result is zero. After the first pass, ``descents`` passes improve single columns; before
    the last of them the grid's scales or entries are refitted, unless ``refitted`` is False.

    Raises ValueError for shapes that do not fit, and for a mask over vectors.
    """
    rows, width = weights.shape
    if feedback.order.shape != (width,) or rows % grid.step:
        raise ValueError(
            f"weights {weights.shape} do not fit {feedback.order.size} inputs, {grid.step} rows a code"
        )
    order = feedback.order
    ordered = np.ascontiguousarray(weights[:, order], np.float32)
    masked = NO_MASK if mask is None else np.ascontiguousarray(mask[:, order], np.uint8)
    if not isinstance(grid, FloatGrid):
        grid = grid._replace(columns=np.ascontiguousarray(grid.columns[order]))
    errors, codes = np.zeros_like(ordered), np.zeros(ordered.shape, np.int16)
    _sweep(ordered, errors, feedback.upper, grid, masked, codes, None)
    diagonal = np.diagonal(feedback.hessian).copy()
    for left in range(descents, 0, -1):
        if left == 1 and refitted and not isinstance(grid, FloatGrid):
            found = refit(ordered, errors, feedback.hessian, grid, codes, masked)
            if found is not None:
                grid, errors = found
                grid = grid.ordered() if isinstance(grid, TableGrid) else grid
        _sweep(ordered, errors, feedback.hessian, grid, masked, codes, diagonal)
    back = np.argsort(order)
    if not isinstance(grid, FloatGrid):
        grid = grid._replace(columns=np.ascontiguousarray(grid.columns[back]))
    return Rerounded(codes[:, back], grid, errors[:, back])


def _sweep(
    weights: Floats,
    errors: Floats,
    matrix: Floats,
    grid: Grid,
    mask: Mask,
    codes: NDArray[np.int16],
    diagonal: Floats | None,
) -> None:
    """One pass over the columns, in place: of feedback (``matrix`` is F) or descent (H and its diagonal)."""
    for left in range(0, weights.shape[1], _COLUMNS):
        columns = slice(left, left + _COLUMNS)
        feedback = matrix[columns, columns].copy()
        if diagonal is None:
            lost = product(errors[:, :left], matrix[:left, columns])
        else:
            lost = product(errors, matrix[:, columns])
            lost /= diagonal[columns]
            lost -= errors[:, columns]
            feedback /= diagonal[columns]
        lost += weights[:, columns]
        _round(columns, weights, lost, errors, feedback, grid, mask, codes)


def _round(
    columns: slice,
    weights: Floats,
    targets: Floats,
    errors: Floats,
    feedback: Floats,
    grid: Grid,
    mask: Mask,
    codes: NDArray[np.int16],
) -> None:
    """Round a block of columns to the grid, rows shared among threads: new errors and codes, in place."""
    rows = len(weights)
    step = max(grid.step, _ROWS // grid.step * grid.step)

    def run(start: int, stop: int) -> None:
        for first in range(start * step, min(stop * step, rows), step):
            part = slice(first, first + step)
            own = np.ascontiguousarray(errors[part, columns])
            wanted = np.ascontiguousarray(weights[part, columns])
            pruned = np.ascontiguousarray(mask[part, columns]) if mask.size else mask
            chosen = np.zeros(own.shape, np.int16)
            grid.sweep(Block(wanted, targets[part], own, feedback, pruned), part, columns, chosen)
            errors[part, columns], codes[part, columns] = own, chosen

    for_ranges(-(-rows // step), run)


def output_error(
    errors: NDArray[np.float32],
    gram: NDArray[Any],
    sums: NDArray[np.float64] | None = None,
    mean: NDArray[np.float64] | None = None,
) -> float:
    """Return tr(E H E'): the summed squared error of the outputs, for ``errors`` (R, K) and ``gram`` (K, K).

    H is ``gram``, less the outer product of ``sums`` and ``mean`` (K,) if given: the second moment around
    the inputs' mean. Products in float32, sums in float64.
    """
    return energy(np.ascontiguousarray(errors, np.float32), gram, sums, mean)
