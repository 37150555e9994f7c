"""Core ML as coremltools documents it: compile a package, load what was compiled, predict.

Not tried on macOS yet: written after the documentation of coremltools 9, and tested with a stand-in.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")


class Predictor(Protocol):
    """A model that was loaded."""

    def predict(self, data: dict[str, Any]) -> Mapping[str, Any]:
        """The outputs, by name."""
        ...


class Runtime(Protocol):
    """What compiles and loads models."""

    def compile(self, package: Path, compiled: Path) -> Path:
        """Compile ``package`` to ``compiled``; the folder that was made."""
        ...

    def load(self, compiled: Path, unit: str, function: str) -> Predictor:
        """The function of a compiled model (``""``: it has no others), on a member of ``UNITS``."""
        ...


class CoreMLRuntime:
    """Core ML itself, on macOS."""

    def compile(self, package: Path, compiled: Path) -> Path:
        """See ``Runtime``."""
        import coremltools as ct

        return Path(ct.models.utils.compile_model(str(package), str(compiled)))

    def load(self, compiled: Path, unit: str, function: str) -> Predictor:
        """See ``Runtime``."""
        import coremltools as ct

        options: dict[str, Any] = {"function_name": function} if function else {}
        return ct.models.CompiledMLModel(str(compiled), ct.ComputeUnit[unit], **options)


def runtime_named(name: str) -> Runtime:
    """What ``module:class`` makes."""
    module, _, kind = name.partition(":")
    return getattr(import_module(module), kind)()


CORE_ML = f"{__name__}:{CoreMLRuntime.__name__}"
