"""``milpasses compare``: what it prints and writes, and how it ends."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_programs import program, scaled
from coremltools.converters.mil import Builder as mb
from milpasses_tools import compare
from milpasses_tools._compare.text import print_comparison

import milpasses

Run = Callable[..., Any]  # the fixture milpasses_command


@pytest.fixture(scope="module")
def small(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network with 4-bit tables."""
    output = tmp_path_factory.mktemp("compare") / "small.mlpackage"
    milpasses.compress(digits_packages["iOS18"], "pal4", output=output)
    return output


class TestCommand:
    def test_prints_figures_and_what_they_are_worth(
        self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path, tmp_path: Path
    ):
        from milpasses_tools import digits

        data = digits.load()
        np.savez(tmp_path / "d.npz", image=data.images[:6], labels=data.labels[:6])
        outcome = milpasses_command(
            "compare", digits_packages["iOS18"], small, "--data", tmp_path / "d.npz", "--per-op", "--top", 2,
            "--min-snr", 5, "--csv", tmp_path / "d.csv",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0].split()[:3] == ["output", "SNR", "dB"]
        assert lines[1].startswith("scores")
        assert any(line.startswith("all") and line.split()[1] == "6" for line in lines)
        assert any("more results of ops" in line for line in lines)
        assert any("more classes" in line for line in lines)
        assert lines[-3] == f"on 6 samples of {tmp_path / 'd.npz'}"
        assert "not an emulation of Core ML" in lines[-2]
        assert lines[-1] == f"written: {tmp_path / 'd.csv'}"
        rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
        kinds = [row["kind"] for row in rows]
        assert kinds == sorted(kinds, key=["output", "accuracy", "class", "op"].index)
        assert kinds.count("op") == 17

    def test_json(self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path):
        outcome = milpasses_command(
            "compare", digits_packages["iOS18"], small, "--samples", 2, "--per-op", "--json"
        )
        content = json.loads(outcome.out)
        assert outcome.status == 0
        assert (content["samples"], content["random"], content["misses"]) == (2, True, [])
        assert {op["own_snr_db"] for op in content["ops"]} > {"inf"}
        assert content["a"] == str(digits_packages["iOS18"])

    def test_ends_with_status_1_where_a_limit_is_not_kept(
        self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path
    ):
        models = digits_packages["iOS18"], small
        outcome = milpasses_command(
            "compare", *models, "--samples", 2, "--min-snr", "scores=80", "--max-error", 9
        )
        assert outcome.status == 1
        assert outcome.err == ""
        missed = [line for line in outcome.out.splitlines() if line.startswith("missed:")]
        assert len(missed) == 1
        assert missed[0].startswith("missed: scores: snr_db ")
        outcome = milpasses_command("compare", *models, "--samples", 2, "--min-snr", 80, "--json")
        assert outcome.status == 1
        assert len(json.loads(outcome.out)["misses"]) == 1

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--min-snr", "high"], "--min-snr takes a number, or OUTPUT=number; got 'high'"),
            (["--min-snr", "bogus=3"], "no output bogus that has a snr_db; there are scores"),
            (["--data", "nowhere"], "nowhere: no such file or folder; data is"),
            (["--runtime", "bogus"], "'reference', 'coreml'"),
            (["--samples", "0"], "--samples: "),
            (["--csv", "nowhere/x.csv"], "nowhere/x.csv: the folder nowhere does not exist"),
            (["--function", "bogus"], "no function 'bogus'; the program has main"),
        ],
    )
    def test_ends_with_status_2_and_one_line_where_it_cannot_be_done(
        self, milpasses_command: Run, digits_packages: dict[str, Path], options: list[str], expected: str
    ):
        path = digits_packages["iOS18"]
        outcome = milpasses_command("compare", path, path, "--samples", 1, *options)
        assert outcome.status == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert expected in outcome.err

    def test_lists_what_has_no_partner(self, capsys: pytest.CaptureFixture[str]):
        a, b = scaled(1), program(lambda x: mb.relu(x=mb.mul(x=x, y=2.0, name="product"), name="out"), (1, 4))
        found = compare(a, b, [{"x": [[1.0, np.nan, 0.0, 0.0]]}], per_op=True)
        print_comparison(found, 5)
        lines = capsys.readouterr().out.splitlines()
        assert "1 ops of a alone: out" in lines
        assert "1 ops of b alone: out" in lines
        assert "model a: first nan in product of mul product, sample item[0]" in lines
        assert "on 1 sample of an iterable" in lines

    def test_missing_models(self, milpasses_command: Run):
        outcome = milpasses_command("compare", "nowhere.mlpackage", "nowhere.mlpackage")
        assert (outcome.status, outcome.out) == (2, "")
        assert "nowhere.mlpackage: no such file or folder" in outcome.err
