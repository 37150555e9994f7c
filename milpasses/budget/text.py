"""Budgets and losses as people write them: ``4 bits``, ``12 MB``, ``30 dB``."""

import math
import re
from typing import Any

import numpy as np

from milpasses.errors import MilpassesError, shortened

_UNITS = {
    "b": 1,
    "byte": 1,
    "bytes": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
_MOST = 2.0**62  # bytes: more than any disk
_LEAST_BARE = 1024  # a smaller number without a unit is no size in bytes, but a unit that was forgotten
BUDGET = 'such as "4 bits" (a weight), "12 MB", "25 %" (of the weights\' bytes now), or "50000 bytes"'
LOSS = 'such as "30 dB" (of the outputs\' signal-to-noise ratio at least), "1 %" or 0.01 (of their energy)'


def read_budget(budget: Any, elements: int, now: int) -> int | None:
    """A budget in bytes, of a model of so many elements and bytes; raises ``MilpassesError``."""
    if budget is None:
        return None
    if isinstance(budget, int | np.integer) and not isinstance(budget, bool) and budget > 0:
        return int(budget)
    text = budget.lower() if isinstance(budget, str) else ""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", text)
    if match and 0 < float(match[1]) < math.inf:
        number, unit = float(match[1]), match[2]
        if not unit and number < _LEAST_BARE:
            size = match[1]
            raise MilpassesError(
                f'budget={size}: {size} of what? "{size} bits" (a weight), "{size} MB", "{size} %"'
            )
        if unit in ("bit", "bits"):
            return math.floor(min(number * elements / 8, _MOST))
        if unit == "%":
            return math.floor(min(number * now / 100, _MOST))
        if unit in _UNITS or (not unit and number.is_integer()):
            return math.floor(min(number * _UNITS.get(unit, 1), _MOST))
    raise MilpassesError(f"budget={shortened(budget)}: expected one {BUDGET}")


def read_loss(loss: Any) -> float:
    """A loss as a share of energy; raises ``MilpassesError``."""
    share = math.nan
    if isinstance(loss, int | float) and not isinstance(loss, bool):
        share = float(loss)
    elif isinstance(loss, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*(db|%|)\s*", loss.lower())
        if match:
            number = float(match[1])
            decibels = min(max(number, -1e3), 1e4)  # further out floats end
            share = {"db": 10 ** (-decibels / 10), "%": number / 100, "": number}[match[2]]
    if 0 <= share < 1:
        return share
    raise MilpassesError(f"max_loss={shortened(loss)}: expected one {LOSS}")
