"""``milpasses demo``: its figures against figures computed here, and what it may overwrite."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from milpasses_tools import demo, digits, explain
from milpasses_tools.compare import accuracy

import milpasses
from milpasses.interpreter import Interpreter

module: Any = sys.modules["milpasses_tools.demo"]
SAVED = "digits-pal4-g16.mlpackage"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return demo(folder, recipes=["int8", "sparse75"], swept=["pal4", "pal2-gptq"])


class TestFigures:
    def test_the_uncompressed_network_comes_first(self, result: Any):
        first = result.trials[0]
        assert [trial.recipe for trial in result.trials] == ["none", "int8", "sparse75"]
        assert (first.bits, first.ratio, first.sqnr_db, first.worst_sqnr_db) == (16.0, 1.0, None, None)
        assert first.accuracy > 0.98
        assert result.images == 360

    @pytest.mark.parametrize("recipe", ["int8", "sparse75"])
    def test_size_and_error_are_those_of_the_network_that_people_get(self, result: Any, recipe: str):
        (trial,) = (trial for trial in result.trials if trial.recipe == recipe)
        pipeline = milpasses.pipeline(recipe)
        found = explain(digits.convert(pipeline))
        errors = [record.sqnr_db for record in pipeline.report if record.sqnr_db is not None]
        assert trial.weight_bytes == found.weight_bytes
        assert trial.worst_sqnr_db == pytest.approx(min(errors), abs=0.01)
        assert min(errors) <= trial.sqnr_db <= max(errors)
        assert trial.ratio * trial.bits == pytest.approx(16, rel=1e-3)

    def test_accuracy_falls_where_weights_are_lost(self, result: Any):
        none, int8, sparse = (trial.accuracy for trial in result.trials)
        assert int8 >= none - 0.01
        assert sparse < none

    def test_accuracy_counts_right_answers(self, result: Any):
        data = digits.load()
        few = digits.Digits(data.images[:8], data.labels[:8])
        model = module._convert(8)
        right = module._accuracy(model, few)
        wrong = module._accuracy(model, few._replace(labels=(few.labels + 1) % 10))
        assert (right, wrong) == (1.0, 0.0)

    def test_plain_values(self, result: Any):
        content = result.to_dict()
        assert content["images"] == 360
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        exact = module.Demo((module.Trial("x", 1, 1.0, 1.0, 1.0, float("inf"), float("inf")),), 1)
        assert exact.to_dict()["trials"][0]["sqnr_db"] == "inf"


class TestSaved:
    def test_the_package_runs_and_tells_how_it_was_made(self, result: Any):
        assert result.saved.name == SAVED
        found = explain(result.saved)
        assert found.recipe == "pal4-g16"
        assert any(weight.form.startswith("lut4") for weight in found.weights)
        data = digits.load()
        scores = Interpreter(result.saved).run({digits.INPUT: data.images[:1]})[digits.OUTPUT]
        assert np.argmax(scores) == data.labels[0]

    def test_replaces_its_own_package_alone(self, result: Any):
        before = result.saved.stat().st_ino
        again = demo(result.saved.parent, recipes=[], swept=["pal4"])
        assert again.saved == result.saved
        assert again.saved.stat().st_ino != before
        left = {SAVED, "digits.mlpackage", "digits.npz", "sweep"}
        assert {path.name for path in result.saved.parent.iterdir()} == left
        assert [row["name"] for row in again.sweep.rows] == ["original", "pal4"]

    def test_leaves_images_to_go_on_with(self, result: Any):
        folder = result.saved.parent
        found = accuracy(folder / "digits.mlpackage", folder / "digits.npz", samples=40)
        assert (found.count, found.top1) == (40, pytest.approx(1.0, abs=0.05))

    def test_ends_with_a_sweep(self, result: Any):
        assert result.sweep.folder == result.saved.parent / "sweep"
        assert [(row["name"], row["status"]) for row in result.sweep.rows] == [
            ("original", "done"), ("pal4", "done"), ("pal2-gptq", "done"),
        ]  # fmt: skip
        assert (result.sweep.about["samples"], result.sweep.about["calibration"]) == (97, 23)
        assert (result.sweep.folder / "report.html").stat().st_size > 10_000
        assert result.to_dict()["sweep"]["choice"]["chosen"] == result.sweep.choice.chosen

    def test_refuses_a_sweep_folder_with_other_files(self, milpasses_command: Run, tmp_path: Path):
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep" / "mine.txt").write_text("mine")
        outcome = milpasses_command("demo", "-o", tmp_path)
        assert outcome.status == 2
        assert "sweep: holds other files" in outcome.err
        assert [path.name for path in tmp_path.iterdir()] == ["sweep"]

    @pytest.mark.parametrize("foreign", ["package", "folder", "file", "images"])
    def test_refuses_what_is_not_its_own(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path, foreign: str
    ):
        output = tmp_path / ("digits.npz" if foreign == "images" else SAVED)
        if foreign == "package":
            shutil.copytree(digits_packages["iOS18"], output)
        elif foreign == "folder":
            output.mkdir()
        else:
            output.write_text("mine")
        before = sorted(tmp_path.rglob("*"))
        outcome = milpasses_command("demo", "-o", tmp_path)
        assert (outcome.status, outcome.out) == (2, "")
        assert "no demo wrote it" in outcome.err
        assert sorted(tmp_path.rglob("*")) == before


class TestCommand:
    @pytest.fixture
    def folders(self, monkeypatch: pytest.MonkeyPatch, result: Any) -> list[Path]:
        """The folders that the command names; it gets the figures that were made already."""
        named: list[Path] = []

        def made_already(folder: Path, progress: Any) -> Any:
            progress(0, 1, "int8")
            named.append(folder)
            return result

        monkeypatch.setattr(module, "demo", made_already)
        return named

    def test_prints_a_table(self, milpasses_command: Run, folders: list[Path], result: Any, tmp_path: Path):
        outcome = milpasses_command("demo", "-o", tmp_path)
        assert (outcome.status, outcome.err) == (0, "")
        assert folders == [tmp_path]
        lines = outcome.out.splitlines()
        assert lines[0].split()[0] == "recipe"
        assert [line.split()[0] for line in lines[1:4]] == ["none", "int8", "sparse75"]
        assert lines[1].split() == ["none", "167,636", "16.00", "1.00", "99.7%"]
        assert "not Core ML" in outcome.out
        assert f"saved: {result.saved} (pal4-g16); see milpasses explain {result.saved}" in lines
        assert lines[-1].startswith(f"results: {result.sweep.folder / 'report.html'}")

    def test_json(self, milpasses_command: Run, folders: list[Path], result: Any):
        outcome = milpasses_command("demo", "--json")
        assert (outcome.status, outcome.err) == (0, "")
        assert json.loads(outcome.out) == result.to_dict()
        assert folders == [Path("milpasses-demo")]


def test_every_recipe_of_the_table_is_one():
    assert len(set(module.RECIPES)) == len(module.RECIPES)
    assert module.SAVED in module.RECIPES
    for recipe in module.RECIPES:
        assert str(milpasses.Recipe.of(recipe)) == recipe
