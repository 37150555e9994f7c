"""Models, data, metrics and variants for the tests of ``milpasses sweep``; workers import this too."""

import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from milpasses_tools import digits
from milpasses_tools._sweep.variants import Made, Models

RECIPES = ("int8", "pal4", "pal2", "pal1")
TIMES = ("seconds_compress", "seconds_run")


def save_data(path: Path, count: int = 60) -> Path:
    """The first digits with their labels as .npz."""
    data = digits.load()
    arrays = {digits.INPUT: data.images[:count], "labels": data.labels[:count].astype(np.int64)}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def confidence(outputs: dict[str, Any], sample: Any) -> float:
    """A metric: the score of the true class, less the mean."""
    scores = np.asarray(outputs[digits.OUTPUT]).reshape(-1)
    return float(scores[int(sample.label)] - scores.mean())


def broken(outputs: dict[str, Any], sample: Any) -> float:
    """A metric that fails."""
    raise RuntimeError("no such luck")


@attrs.frozen
class Slow:
    """int8 after a while; says so in a file when it begins."""

    name: str
    journal: str
    seconds: float = 0.3
    calibrated: bool = False

    @property
    def text(self) -> str:
        return self.name

    def make(self, models: Models, folder: Path) -> Made:
        import milpasses

        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(f"{self.name}\n")
        time.sleep(self.seconds)
        milpasses.compress(models.program, "int8", output=folder / "model.mlpackage")
        return Made(folder / "model.mlpackage")


@attrs.frozen
class Fatal:
    """Kills its process."""

    name: str = "fatal"
    text: str = "fatal"
    calibrated: bool = False

    def make(self, models: Models, folder: Path) -> Made:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@attrs.frozen
class Tuned:
    """Keeps the names of the samples that it was given to tune on."""

    seen: str
    name: str = "tuned"
    text: str = "tuned"
    calibrated: bool = True

    def make(self, models: Models, folder: Path) -> Made:
        import milpasses

        Path(self.seen).write_text("\n".join(sample.name for sample in models.calibration), encoding="utf-8")
        milpasses.compress(models.program, "int8", output=folder / "model.mlpackage")
        return Made(folder / "model.mlpackage")


def table(folder: Path) -> list[list[str]]:
    """results.csv without the columns of timings."""
    rows = [line.split(",") for line in (folder / "results.csv").read_text(encoding="utf-8").splitlines()]
    kept = [at for at, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[at] for at in kept] for row in rows]


def finished(folder: Path) -> dict[str, int]:
    """The files of finished variants, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "variants").glob("*.json")}
