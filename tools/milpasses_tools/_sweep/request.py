"""What a sweep is asked for."""

from pathlib import Path
from typing import Any

import attrs

from milpasses_tools._sweep.choice import Limit
from milpasses_tools._sweep.variants import Variant
from milpasses_tools._sweep.work import Metric


@attrs.frozen
class Request:
    """What ``sweep`` was asked for."""

    model: Path
    output: Path
    recipes: tuple[Any, ...] | None
    data: Any
    classic: bool
    variants: tuple[Variant, ...]
    samples: int | None
    seed: int
    calibration: float | None
    metrics: tuple[tuple[str, Metric], ...]
    by: str | None
    limit: Limit
    function: str | None
    part: str | None
    target: Any
    runtime: str
    scores: str | None
    top_k: int
    keep_models: bool
