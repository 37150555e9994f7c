"""A process of its own for one case, which Core ML may end: ``python -m milpasses_tools._core_ml.worker``.

Says on stdout, a line of JSON each, what became of the model on each compute unit, as soon as it is known.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milpasses_tools._core_ml.cases import INPUTS, MODEL, expected_path
from milpasses_tools._core_ml.runtime import Runtime, runtime_named


def run_case(
    folder: Path, functions: Sequence[str], units: Sequence[str], runtime: Runtime, say: Any
) -> None:
    """Compile the model in ``folder`` once; load each function on each of ``units``, predict and compare.

    ``say(unit=, function=, stage=, ...)``: ``stage`` is how far it came, ``compared`` where all was done,
    with ``sqnr_db`` and ``max_error``; else with ``error``.
    """
    try:
        made = Path(tempfile.mkdtemp(dir=folder))  # a process before this one may have left something
        compiled = runtime.compile(folder / MODEL, made / "compiled.mlmodelc")
    except Exception as error:
        for unit in units:
            for function in functions:
                say(unit=unit, function=function, stage="compile", error=_words(error))
        return
    for unit in units:
        for function in functions:
            say(unit=unit, function=function, stage="started")
            say(unit=unit, function=function, **_trial(folder, compiled, unit, function, runtime))


def _trial(folder: Path, compiled: Path, unit: str, function: str, runtime: Runtime) -> dict[str, Any]:
    import numpy as np

    stage = "load"
    try:
        model = runtime.load(compiled, unit, function)
        stage = "predict"
        samples = np.load(folder / INPUTS)["x"]
        made = [model.predict({"x": sample}) for sample in samples]
        stage = "compare"
        expected = np.load(expected_path(folder, function))
        return {"stage": "compared", **compare({name: expected[name] for name in expected}, made)}
    except Exception as error:
        return {"stage": stage, "error": _words(error)}


def compare(expected: dict[str, Any], made: Sequence[Any]) -> dict[str, Any]:
    """The worst output's signal-to-noise ratio in dB (None: not a number), and the largest error.

    ``expected`` has the samples along axis 0, ``made`` an element for each. Raises KeyError for an output
    that is missing, ValueError for another shape.
    """
    import numpy as np

    from milpasses.report import decibels

    ratios: list[float] = []
    largest = 0.0
    for name, wanted in expected.items():
        for reference, one in zip(wanted, made, strict=True):
            given = np.asarray(one[name], np.float64)
            if given.shape != reference.shape:
                raise ValueError(f"{name} has shape {given.shape}, not {reference.shape}")
            difference = given - reference
            if not np.isfinite(difference).all():
                return {"sqnr_db": None, "max_error": None}
            signal, noise = (
                float((values.astype(np.float64) ** 2).sum()) for values in (reference, difference)
            )
            ratios.append(decibels(signal, noise))
            largest = max(largest, float(np.abs(difference).max(initial=0)))
    worst = min(ratios)
    return {"sqnr_db": str(worst) if worst == float("inf") else round(worst, 2), "max_error": largest}


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main(arguments: Sequence[str]) -> None:
    """``FOLDER FUNCTIONS UNITS RUNTIME``, lists divided by commas."""
    folder, functions, units, runtime = arguments
    out = os.dup(1)
    os.dup2(2, 1)  # what Core ML prints is no answer

    def say(**content: Any) -> None:
        os.write(out, json.dumps(content).encode() + b"\n")

    run_case(Path(folder), functions.split(","), units.split(","), runtime_named(runtime), say)


if __name__ == "__main__":
    main(sys.argv[1:])
