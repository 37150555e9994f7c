"""Fixtures that many tests share."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from models import TARGETS, conv_linear_program, convert

# No test may depend on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def conv_linear() -> Callable[[str], Any]:
    """The conv-linear model for a target by name, converted once."""
    models: dict[str, Any] = {}

    def get(target: str = "iOS18") -> Any:
        if target not in models:
            models[target] = convert(conv_linear_program(TARGETS[target]), TARGETS[target])
        return models[target]

    return get
