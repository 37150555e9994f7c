"""Every example runs as a user would run it, and says something; a notebook's cells run in order."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.site_pages import examples

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = examples.scripts()


def test_there_are_eight_scripts_and_a_notebook() -> None:
    assert len(SCRIPTS) >= 8
    assert len(examples.notebooks()) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_run(script: Path, tmp_path: Path) -> None:
    paths = [str(ROOT / name) for name in ("", "kernels", "tools")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", examples.notebooks(), ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    names: dict[str, Any] = {"__name__": "__notebook__"}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for cell in code:
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
            assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
    assert out.getvalue().strip()


def test_the_page_shows_each(tmp_path: Path) -> None:
    page = examples.page()
    for path in [*SCRIPTS, *examples.notebooks()]:
        assert f"`examples/{path.name}`" in page
    assert "assert decibels" in page
