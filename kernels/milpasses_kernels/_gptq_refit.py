"""Tables and scales anew, by least squares on the full second moment, with the codes as they are."""

import numpy as np
from numpy.typing import NDArray

from ._gptq_grids import AffineGrid, Codes, Floats, Mask, TableGrid, VectorGrid
from ._gptq_product import energy, product
from ._jit import njit

_ROWS = 1024  # of those that share parameters: more tell the same
_ROUNDS = 2
Index = NDArray[np.int32]
Fitted = AffineGrid | TableGrid | VectorGrid


def refit(
    weights: Floats, errors: Floats, hessian: Floats, grid: Fitted, codes: Codes, mask: Mask
) -> tuple[Fitted, Floats] | None:
    """Return ``grid`` with better parameters for its codes and the errors then; None if none are better.

    Minimises tr(E H E') over E = weights - decoded, quadratic in the parameters, by conjugate gradients with
    a diagonal preconditioner; rows that share no parameter are solved apart, in step.
    """
    owners, island = np.unique(grid.rows, return_inverse=True)
    index, basis = grid.parameters(codes)
    values = grid.values()
    step = max(1, island.size // owners.size // _ROWS)
    chosen = slice(None, None, step)
    part = index[chosen], (basis[chosen] if len(basis) > 1 else basis), mask[chosen] if mask.size else mask
    start = np.ascontiguousarray(errors[chosen])
    change, before = _solve(part, island[chosen], owners.size, values.size, start, hessian)
    better = grid.with_values(values + change)
    after = weights[chosen] - _decoded(better, *part)
    if not energy(after, hessian) < before:
        return None
    return better, weights - _decoded(better, index, basis, mask)


def _decoded(grid: Fitted, index: Index, basis: Floats, mask: Mask) -> Floats:
    decoded = grid.decode(index, basis)
    return np.where(mask != 0, decoded, np.float32(0)) if mask.size else decoded


def _solve(
    part: tuple[Index, Floats, Mask],
    island: NDArray[np.int64],
    islands: int,
    size: int,
    errors: Floats,
    hessian: Floats,
) -> tuple[NDArray[np.float64], float]:
    """The step to the least-squares parameters, and the error at its start."""
    index, basis, mask = part
    owner = np.zeros(size, np.int64)
    owner[index] = island[:, None]
    diagonal = np.zeros(size)
    _gather(index, basis, mask, np.broadcast_to(np.diagonal(hessian), index.shape), True, diagonal)
    inverse = np.where(diagonal > 0, 1 / np.where(diagonal > 0, diagonal, 1), 0)

    def gathered(values: Floats) -> NDArray[np.float64]:
        sums = np.zeros(size)
        _gather(index, basis, mask, values, False, sums)
        return sums

    def dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owner, a * b, islands).astype(np.float64)

    image = product(errors, hessian)
    before = float(np.einsum("ij,ij->i", image, errors).sum(dtype=np.float64))
    change, residual = np.zeros(size), gathered(image)
    direction = inverse * residual
    length = first = dot(residual, direction)
    spread = np.empty(index.shape, np.float32)
    for _ in range(_ROUNDS):
        _scatter(index, basis, mask, direction, spread)
        image = gathered(product(spread, hessian))
        curved = dot(direction, image)
        alpha = np.where(curved > 0, length / np.where(curved > 0, curved, 1), 0)
        change += alpha[owner] * direction
        residual -= alpha[owner] * image
        conditioned = inverse * residual
        longer = dot(residual, conditioned)
        beta = np.where(length > 0, longer / np.where(length > 0, length, 1), 0)
        direction, length = conditioned + beta[owner] * direction, longer
        if (length <= 1e-6 * first).all():
            break
    return change, before


@njit
def _gather(
    index: Index, basis: Floats, mask: Mask, values: Floats, squared: bool, sums: NDArray[np.float64]
) -> None:
    """Add values * basis (or basis^2) of each weight to its parameter."""
    for r in range(index.shape[0]):
        for j in range(index.shape[1]):
            if mask.size and mask[r, j] == 0:
                continue
            factor = np.float64(basis[r, j]) if basis.size > 1 else 1.0
            sums[index[r, j]] += np.float64(values[r, j]) * (factor * factor if squared else factor)


@njit
def _scatter(
    index: Index, basis: Floats, mask: Mask, parameters: NDArray[np.float64], spread: Floats
) -> None:
    """Each weight's parameter * basis."""
    for r in range(index.shape[0]):
        for j in range(index.shape[1]):
            factor = np.float64(basis[r, j]) if basis.size > 1 else 1.0
            if mask.size and mask[r, j] == 0:
                factor = 0.0
            spread[r, j] = np.float32(parameters[index[r, j]] * factor)
