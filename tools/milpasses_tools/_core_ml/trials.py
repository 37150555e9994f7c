"""Cases on Core ML, each in a process that may crash or hang: what became of each on each compute unit."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import attrs

from milpasses_tools._core_ml.cases import Case, case_names, make_case
from milpasses_tools._core_ml.runtime import CORE_ML, UNITS

AGREES_DB = 40  # float16 arithmetic alone stays above; a wrong weight does not
SECONDS = 300  # of one case
UNTRIED = (
    "This check has not been tried on macOS yet: it was written after coremltools' documentation. Where it "
    "is wrong itself, please report that too."
)
Verdict = Literal["agrees", "differs", "fails"]


@attrs.frozen
class Trial:
    """A case on one compute unit. ``stage``: how far it came, ``compared`` where all was done.

    ``sqnr_db``: of the outputs against milpasses' interpreter, the worst; infinite where they are equal, None
    where there is none. ``error``: what was said where it ended.
    """

    form: str
    target: str
    unit: str
    function: str
    stage: str
    sqnr_db: float | None = None
    max_error: float | None = None
    error: str = ""

    @property
    def verdict(self) -> Verdict:
        """``agrees`` from ``AGREES_DB`` on; ``fails`` where there was nothing to compare."""
        if self.stage != "compared":
            return "fails"
        return "agrees" if self.sqnr_db is not None and self.sqnr_db >= AGREES_DB else "differs"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity."""
        infinite = self.sqnr_db == float("inf")
        return attrs.asdict(self) | {"verdict": self.verdict, "sqnr_db": "inf" if infinite else self.sqnr_db}


@attrs.frozen
class CoreMLReport:
    """All trials, and the machine that they were made on."""

    machine: dict[str, str]
    trials: tuple[Trial, ...]

    @property
    def agrees(self) -> bool:
        """Every trial does."""
        return all(trial.verdict == "agrees" for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "note": UNTRIED,
            "machine": self.machine,
            "agrees": self.agrees,
            "trials": [trial.to_dict() for trial in self.trials],
        }


def try_core_ml(
    progress: Callable[[int, int, str], None],
    names: Sequence[tuple[str, str]] | None = None,
    units: Sequence[str] = UNITS,
    runtime: str = CORE_ML,
) -> CoreMLReport:
    """Try each of ``names`` (form, target; all there are, unless given) on each of ``units``.

    ``runtime``: ``module:class`` of what runs models. ``progress(done, total, name)`` before each case.
    """
    every = case_names() if names is None else list(names)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="milpasses-core-ml-") as name:
        for number, (form, target) in enumerate(every):
            progress(number, len(every), f"{form} {target}")
            case = make_case(form, target, Path(name) / f"{number:03}")
            trials += try_case(case, units, runtime)
        progress(len(every), len(every), "")
    return CoreMLReport(machine(), tuple(trials))


def try_case(case: Case, units: Sequence[str], runtime: str = CORE_ML) -> list[Trial]:
    """A case on each of ``units``; after one that ends the process the others are tried in a new one."""
    trials: list[Trial] = []
    left = list(units)
    while left:
        answers, ending = _run(case, left, runtime)
        trials += [_trial(case, answer) for answer in answers if answer["stage"] != "started"]
        done = {(trial.unit, trial.function) for trial in trials}
        missing = [(unit, name) for unit in left for name in case.functions if (unit, name) not in done]
        if not missing:
            break
        unit = missing[0][0]
        stage = "run" if any(answer["unit"] == unit for answer in answers) else "compile"
        lost = [pair for pair in missing if pair[0] == unit]
        trials += [Trial(case.form, case.target, *pair, stage, error=ending) for pair in lost]
        left = left[left.index(unit) + 1 :]
    return trials


def _run(case: Case, units: Sequence[str], runtime: str) -> tuple[list[dict[str, Any]], str]:
    """What a process says of the case, and how it ended."""
    worker = "milpasses_tools._core_ml.worker"
    functions = ",".join(case.functions)
    command = [sys.executable, "-m", worker, str(case.folder), functions, ",".join(units), runtime]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TQDM_DISABLE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, env=environment)
        out, ending = done.stdout, f"the process ended with status {done.returncode}"
        if done.returncode > 0:
            ending += f": {' '.join(done.stderr.decode(errors='replace').split())[-300:]}"
    except subprocess.TimeoutExpired as late:
        out, ending = late.stdout or b"", f"no answer in {SECONDS} seconds"
    return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")], ending


def _trial(case: Case, answer: dict[str, Any]) -> Trial:
    ratio = answer.get("sqnr_db")
    known: dict[str, Any] = {**answer, "sqnr_db": None if ratio is None else float(ratio)}
    return Trial(case.form, case.target, **known)


def machine() -> dict[str, str]:
    """What the answer depends on: versions, the system, the processor."""
    return {
        "milpasses": version("milpasses"),
        "coremltools": version("coremltools"),
        "python": platform.python_version(),
        "system": f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.platform(),
        "processor": _processor(),
    }


def _processor() -> str:
    """The name of the chip where the system tells it."""
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or platform.machine()
    except (OSError, subprocess.SubprocessError):
        return platform.machine()
