"""Textbook error feedback, a column at a time in float64: the oracle of milpasses_kernels.gptq."""

from typing import Any

import numpy as np

Rounding = Any  # (row, column, value) -> (decoded, distance to where the answer changes)


def damped(gram, damping):
    """Columns in falling order of the diagonal, the damped matrix in that order, scaled to a mean of 1."""
    order = np.argsort(-np.diagonal(gram), kind="stable")
    ordered = gram[np.ix_(order, order)] / np.diagonal(gram).mean()
    return order, ordered + damping * np.eye(len(gram))


def gptq(weights, gram, damping, rounding, mask=None):
    """Frantar et al. (2023), algorithm 1: with the upper Cholesky factor of the inverse.

    Returns W - What, and for each row the smallest distance of a target from where its rounding changes.
    """
    order, hessian = damped(gram, damping)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left = weights[:, order].astype(np.float64)
    errors, margins = np.empty_like(left), np.full(len(left), np.inf)
    for r in range(len(left)):
        for j in range(left.shape[1]):
            decoded, margin = rounding(r, order[j], left[r, j])
            if mask is not None and not mask[r, order[j]]:
                decoded, margin = 0.0, np.inf
            margins[r] = min(margins[r], margin)
            lost = (left[r, j] - decoded) / upper[j, j]
            left[r, j + 1 :] -= lost * upper[j, j + 1 :]
            errors[r, order[j]] = weights[r, order[j]] - decoded
    return errors, margins


def descend(weights, errors, gram, damping, rounding, mask=None):
    """One cyclic pass: each weight rounded to where the output error is least, given all others."""
    order, hessian = damped(gram, damping)
    errors, margins = errors.astype(np.float64), np.full(len(weights), np.inf)
    for r in range(len(weights)):
        for j, column in enumerate(order):
            others = errors[r, order] @ hessian[:, j] - errors[r, column] * hessian[j, j]
            decoded, margin = rounding(r, column, weights[r, column] + others / hessian[j, j])
            if mask is not None and not mask[r, column]:
                decoded, margin = 0.0, np.inf
            margins[r] = min(margins[r], margin)
            errors[r, column] = weights[r, column] - decoded
    return errors, margins


def output_error(errors, gram):
    """tr(E H E'), in float64."""
    errors = errors.astype(np.float64)
    return float(np.trace(errors @ gram @ errors.T))


def fitted(weights, design, gram):
    """The least tr(E H E') over parameters x, decoded = design @ x: ``design`` (R * K, parameters)."""
    root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram))).T
    rows, width = weights.shape
    columns = [(part.reshape(rows, width) @ root.T).reshape(-1) for part in design.T]
    target = (weights.astype(np.float64) @ root.T).reshape(-1)
    found = np.linalg.lstsq(np.stack(columns, 1), target, rcond=None)[0]
    return output_error(weights - (design @ found).reshape(rows, width), gram)
