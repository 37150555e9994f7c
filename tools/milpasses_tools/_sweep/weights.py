"""What a variant's weights are: their bits, and how far they are from those it was made from."""

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from milpasses_tools._compare.metrics import ErrorSums
from milpasses_tools._sweep.variants import Made, Models

_FLOATS = ("float16", "float32", "float64")
_NUMBERED = re.compile(r"_\d+$")


def weight_figures(made: Made, models: Models, key: str) -> dict[str, Any]:
    """Stored bits of each weight's element, and the error of the changed weights against those before.

    ``key`` changes with the contents of ``models``.
    """
    mine = _by_name(made.path)
    before = models.program if made.path.suffix == models.program.suffix else models.given
    theirs = {} if made.path == models.given else _read_once(before, key)
    sums, worst = ErrorSums(), math.inf
    for name, weight in mine.items():
        other = theirs.get(name)
        if other is None or other.shape != weight.shape:
            continue
        alone, a, b = ErrorSums(), np.asarray(other.load()), np.asarray(weight.load())
        alone.add(a, b)
        if weight.compressed or alone.noise:
            sums.add(a, b)
            worst = min(worst, alone.snr_db)
    nbytes = sum(weight.nbytes for weight in mine.values())
    bits = 8 * nbytes / max(sum(weight.size for weight in mine.values()), 1)
    return {
        "weight_bytes": nbytes,
        "bits_per_weight": bits if made.bits_per_weight is None else made.bits_per_weight,
        "weight_sqnr_db": sums.snr_db if sums.finite else None,
        "worst_weight_sqnr_db": worst if sums.finite else None,
    }


@lru_cache(maxsize=1)
def _read_once(path: Path, key: str) -> dict[str, Any]:
    """The original's weights, which every variant is compared with; not their values, which stay on disk."""
    return _by_name(path)


def _by_name(path: Path) -> dict[str, Any]:
    """The weights of a model. Numbers that a reader adds to the names of a legacy network's do not count."""
    from milpasses_tools._models import is_network
    from milpasses_tools._view.view import view

    legacy = is_network(path)
    if legacy:
        from milpasses.neuralnetwork import read

        found = view(read(path).program)
    else:
        found = view(path)
    named: dict[str, Any] = {}
    for weight in found.weights():
        if weight.compressed or weight.dtype in _FLOATS:
            name = _NUMBERED.sub("", weight.name) if legacy else weight.name
            named[name if name not in named else weight.name] = weight
    return named
