"""MIL's builder, whose methods, one an op, coremltools registers at run time."""

from typing import Any

from coremltools.converters.mil import Builder

mb: Any = Builder
