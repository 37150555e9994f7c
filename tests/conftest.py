"""Fixtures that many tests share."""

from collections.abc import Callable
from typing import Any

import pytest
from models import TARGETS, conv_linear_program, convert


@pytest.fixture(scope="session")
def conv_linear() -> Callable[[str], Any]:
    """The conv-linear model for a target by name, converted once."""
    models: dict[str, Any] = {}

    def get(target: str = "iOS18") -> Any:
        if target not in models:
            models[target] = convert(conv_linear_program(TARGETS[target]), TARGETS[target])
        return models[target]

    return get
