"""``milpasses tune``: what it writes and says, and what it refuses, in its own options."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from milpasses_tools import digits

pytest.importorskip("torch")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "digits.npz", **{digits.INPUT: digits.load().images[:16, None]})
    return tmp_path / "digits.npz"


def test_a_tuned_package_and_what_was_gained(
    milpasses_command: Run, digits_packages: dict[str, Path], data: Path, tmp_path: Path
):
    model, out, report = digits_packages["iOS18"], tmp_path / "tuned.mlpackage", tmp_path / "report.json"
    asked = ["tune", model, "-r", "pal2-g16", "--data", data, "--samples", 12, "--steps", 3, "-o", out]
    done = milpasses_command(*asked, "--report", report)
    assert done.status == 0, done.err
    assert "weights compressed by pal2-g16-tune" in done.out
    assert "note: tuned tables: scores" in done.out
    assert "on 3 held-out samples" in done.out
    assert f"written: {report}\n" in done.out
    as_json = milpasses_command(*asked, "--force", "--json")
    content = json.loads(as_json.out)
    assert content["recipe"] == json.loads(report.read_text())["recipe"] == "pal2-g16-tune"
    assert content["output"]["bytes"] < content["input"]["bytes"]
    again = tmp_path / "again.mlpackage"
    more = milpasses_command("tune", model, "--compressed", out, "--data", data, "--steps", 2, "-o", again)
    assert more.status == 0, more.err
    assert again.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-r", "pal2"], "--data is missing: tuning learns from what the model makes of samples"),
        (["--data", "DATA"], "give a --recipe such as pal3-g16, or with --compressed the model compressed"),
        (["-r", "pal2", "--compressed", "MODEL", "--data", "DATA"], "not both"),
        (["-r", "pal2", "--data", "random"], "--data DATA: nothing is learned from random samples"),
        (["-r", "pal2", "--data", "DATA", "--samples", "4"], "4 samples are too few to tune with"),
        (["-r", "pal2", "--data", "DATA", "--device", "tpu"], "no device 'tpu': torch has cpu"),
        (["-r", "pal2", "--data", "DATA", "--part", "x"], "part x: the model is no pipeline"),
        (["-r", "pal2", "--data", "DATA", "--minute", "2"], "did you mean --minutes?"),
    ],
)
def test_what_is_refused_writes_nothing(
    milpasses_command: Run, digits_packages: dict[str, Path], data: Path, tmp_path: Path,
    arguments: list[str], expected: str,
):  # fmt: skip
    places = {"DATA": data, "MODEL": digits_packages["iOS18"]}
    out = tmp_path / "out.mlpackage"
    asked = [places.get(one, one) for one in arguments]
    done = milpasses_command("tune", digits_packages["iOS18"], *asked, "-o", out)
    assert (done.status, done.out) == (2, "")
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert not out.exists()


def test_compress_takes_the_recipe_and_says_what_it_needs(
    milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
):
    model = digits_packages["iOS18"]
    done = milpasses_command("compress", model, "-r", "pal2-g16-tune", "-o", tmp_path / "out.mlpackage")
    assert done.status == 2
    assert "pal2-g16-tune: tuning runs the model on samples: pass --data DATA" in done.err
