"""Every form on Core ML itself, as ``milpasses doctor --core-ml`` tries it: on macOS alone.

Not tried yet: written after coremltools' documentation; ``tests/tools/test_core_ml.py`` runs the same with a
stand-in. One case: ``pytest tests/macos -k "int8-iOS18"``.
"""

import sys
from pathlib import Path

import pytest
from milpasses_tools._core_ml.cases import case_names, make_case
from milpasses_tools._core_ml.runtime import UNITS
from milpasses_tools._core_ml.trials import try_case

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML is on macOS alone")


@pytest.mark.parametrize(("form", "target"), case_names())
def test_core_ml_gives_what_the_interpreter_gives(form: str, target: str, tmp_path: Path) -> None:
    found = try_case(make_case(form, target, tmp_path / "case"), UNITS)
    wrong = [f"{trial.unit}: {trial.stage} {trial.sqnr_db} dB {trial.error}" for trial in found]
    assert all(trial.verdict == "agrees" for trial in found), "\n".join(wrong)
