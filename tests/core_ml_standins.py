"""Stand-ins for Core ML on machines without it: the interpreter, and ways in which Core ML may fail."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from milpasses.interpreter import Interpreter


class StandIn:
    """Compiling is a copy, running the interpreter."""

    def compile(self, package: Path, compiled: Path) -> Path:
        return Path(shutil.copytree(package, compiled.with_suffix(".mlpackage")))

    def load(self, compiled: Path, unit: str, function: str) -> Any:
        return _Model(Interpreter(compiled, function or None), 1.0)


class _Model:
    def __init__(self, interpreter: Interpreter, factor: float) -> None:
        self.interpreter, self.factor = interpreter, factor

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        return {name: self.factor * value for name, value in self.interpreter.run(data).items()}


class WrongOnGPU(StandIn):
    """Outputs of another size on one unit, not a number on another."""

    def load(self, compiled: Path, unit: str, function: str) -> Any:
        factor = {"CPU_AND_GPU": 1.5, "CPU_AND_NE": float("nan")}.get(unit, 1.0)
        return _Model(Interpreter(compiled, function or None), factor)


class Refuses(StandIn):
    """One unit does not load, another does not predict."""

    def load(self, compiled: Path, unit: str, function: str) -> Any:
        if unit == "CPU_AND_NE":
            raise RuntimeError("Failed to build the model\nexecution plan")
        model = super().load(compiled, unit, function)
        if unit == "CPU_AND_GPU":
            model.interpreter = None
        return model


class CompilesNothing(StandIn):
    def compile(self, package: Path, compiled: Path) -> Path:
        raise RuntimeError("unsupported op")


class Crashes(StandIn):
    """The process ends on one unit."""

    def load(self, compiled: Path, unit: str, function: str) -> Any:
        if unit == "CPU_AND_NE":
            os.abort()
        return super().load(compiled, unit, function)


class Hangs(StandIn):
    def load(self, compiled: Path, unit: str, function: str) -> Any:
        if unit == "CPU_AND_GPU":
            time.sleep(600)
        return super().load(compiled, unit, function)
