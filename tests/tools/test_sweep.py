"""``milpasses sweep``: figures, choice, files, and what can be wrong with models and data."""

import csv
import errno
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from milpasses_tools import compare, digits, sweep
from milpasses_tools._sweep.choice import exact_bound
from milpasses_tools._sweep.unknown import samples_needed
from milpasses_tools.sweep import Sweep
from sweep_cases import RECIPES, Tuned, broken, confidence, finished, save_data, table

import milpasses
from milpasses import MilpassesError
from milpasses.calibration import sources
from milpasses.program import files
from milpasses.program.opening import open_program


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture(scope="module")
def model(digits_packages: dict[str, Path]) -> Path:
    return digits_packages["iOS18"]


@pytest.fixture(scope="module")
def swept(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("swept") / "out"
    return sweep(model, folder, RECIPES, data, metrics={"confidence": confidence}, max_loss=2)


def test_figures_are_those_of_compare(swept: Sweep, model: Path, data: Path, tmp_path: Path):
    small = milpasses.compress(model, "pal2", output=tmp_path / "small.mlpackage")
    found = compare(model, small, data)
    row = swept["pal2"]
    (output,) = [one for one in row["outputs"] if one["name"] == digits.OUTPUT]
    assert output["snr_db"] == found[digits.OUTPUT].snr_db == row["output_snr_db"]
    assert row["agreement"] == found[digits.OUTPUT].agreement
    assert found.accuracy_b is not None
    assert row["accuracy"]["top1"] == found.accuracy_b.top1
    assert row["accuracy"]["classes"] == [
        {"label": one.label, "count": one.count, "top1": one.top1, "top_k": one.top_k}
        for one in found.accuracy_b.classes
    ]
    assert row["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert row["bits_per_weight"] == pytest.approx(small.report.bits_per_weight)
    errors = [one.sqnr_db for one in small.report if one.sqnr_db is not None]
    assert row["worst_weight_sqnr_db"] == pytest.approx(min(errors), abs=1e-6)
    assert min(errors) <= row["weight_sqnr_db"] <= max(errors)


def test_the_original_loses_nothing(swept: Sweep):
    row = swept.rows[0]
    assert (row["name"], row["agreement"], row["output_snr_db"]) == ("original", 1.0, "inf")
    assert (row["loss"], row["bits_per_weight"]) == (
        {"loss": 0.0, "low": 0.0, "high": 0.0, "exact": False},
        16.0,
    )


def test_the_chosen_model_is_saved(swept: Sweep, model: Path, tmp_path: Path):
    assert swept.choice is not None
    chosen = swept.choice.chosen
    assert chosen is not None
    assert swept.saved == swept.folder / "chosen.mlpackage"
    milpasses.compress(model, chosen, output=tmp_path / "again.mlpackage")
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (swept.saved / weights).read_bytes() == (tmp_path / "again.mlpackage" / weights).read_bytes()
    sizes = {row["name"]: row["bytes"] for row in swept.rows}
    kept = [
        name for name, one in swept.choice.losses.items() if one.loss <= 2 and sizes[name] < sizes["original"]
    ]
    assert chosen == min(kept, key=lambda name: sizes[name])


def test_the_files_say_the_same(swept: Sweep):
    rows = list(csv.DictReader(io.StringIO((swept.folder / "results.csv").read_text(encoding="utf-8"))))
    assert [row["variant"] for row in rows] == ["original", *RECIPES]
    lines = (swept.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    for line, flat, row in zip(map(json.loads, lines), rows, swept.rows, strict=True):
        assert line == row
        assert float(flat["accuracy"]) == row["accuracy"]["top1"]
        assert float(flat["metric confidence"]) == row["metrics"]["confidence"]
        assert float(flat["class 3"]) == row["accuracy"]["classes"][3]["top1"]
        assert len(row["each"]["accuracy"]) == 60
    split = json.loads((swept.folder / "split.json").read_text(encoding="utf-8"))
    assert (len(split["measured"]), split["calibration"], split["seed"]) == (60, [], 0)
    assert json.loads((swept.folder / "sweep.json").read_text(encoding="utf-8"))["status"] == "finished"
    page = (swept.folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_picture_where_there_is_matplotlib(swept: Sweep):
    pytest.importorskip("matplotlib")
    with pytest.importorskip("PIL.Image").open(swept.folder / "front.png") as picture:
        assert picture.size == (1500, 900)
        colors = picture.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    assert len(colors) > 20


def test_without_matplotlib_the_rest_is_there(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    monkeypatch.delitem(__import__("sys").modules, "milpasses_tools._sweep.plot", raising=False)
    found = sweep(model, tmp_path / "out", ["int8"], data, samples=5)
    assert not (tmp_path / "out" / "front.png").exists()
    assert (tmp_path / "out" / "report.html").exists()
    assert found.notes == ("no front.png: a picture needs matplotlib: pip install 'milpasses[plots]'",)


def test_nothing_is_measured_twice(swept: Sweep, model: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "out"
    shutil.copytree(swept.folder, folder)
    before, rows = finished(folder), table(folder)
    metrics = {"confidence": confidence}
    again = sweep(model, folder, RECIPES, data, metrics=metrics, max_loss=2, resume=True)
    assert again.computed == 0
    assert (finished(folder), table(folder)) == (before, rows)
    more = sweep(model, folder, [*RECIPES, "pal3"], data, metrics=metrics, max_size=60_000, resume=True)
    assert more.computed == 1
    assert before.items() <= finished(folder).items()
    other = sweep(model, folder, ["int8"], data, samples=30, resume=True)
    assert other.computed == 2  # other samples: nothing of before is of use


def test_a_folder_with_a_sweep_is_not_overwritten(swept: Sweep, model: Path, data: Path, tmp_path: Path):
    with pytest.raises(MilpassesError, match=r"holds a sweep already; resume=True .* force=True"):
        sweep(model, swept.folder, ["int8"], data)
    (tmp_path / "mine.txt").write_text("x")
    for options in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(MilpassesError, match="holds other files; give a new or empty folder"):
            sweep(model, tmp_path, ["int8"], data, **options)


def test_a_variant_that_fails_is_a_row(digits_packages: dict[str, Path], data: Path, tmp_path: Path):
    found = sweep(digits_packages["iOS16"], tmp_path / "out", ["int8", "int4"], data, samples=5)
    row = found["int4"]
    assert row["status"] == "failed"
    assert row["error"].startswith("TargetError:")
    assert "iOS18" in row["error"]
    assert found["int8"]["status"] == "done"
    assert any("failed, and tried again with resume=True: int4" in note for note in found.notes)
    assert sorted(name.partition("-")[0] for name in finished(tmp_path / "out")) == ["int8", "original"]


def test_a_metric_that_fails_leaves_all_else(model: Path, data: Path, tmp_path: Path):
    found = sweep(model, tmp_path / "out", ["int8"], data, samples=5, metrics={"mine": broken})
    assert found["int8"]["metrics"] == {"mine": None}
    assert found["int8"]["accuracy"]["count"] == 5
    assert any("metric mine failed" in note and "no such luck" in note for note in found.notes)


def test_tuning_data_is_never_measured_on(model: Path, data: Path, tmp_path: Path):
    found = sweep(model, tmp_path / "out", ["int8"], data, variants=[Tuned(str(tmp_path / "seen"))])
    split = json.loads((tmp_path / "out" / "split.json").read_text(encoding="utf-8"))
    tuned = (tmp_path / "seen").read_text(encoding="utf-8").splitlines()
    assert tuned == split["calibration"]
    assert 10 <= len(tuned) <= 14
    assert not set(tuned) & set(split["measured"])
    assert found["tuned"]["accuracy"]["count"] == found["int8"]["accuracy"]["count"] == 60 - len(tuned)


def test_calibrated_recipes_and_budgets(model: Path, data: Path, tmp_path: Path):
    """What they make is what ``compress`` and ``fit`` make of the samples set aside, and of no others."""
    recipes = ["pal2", "pal2-gptq", "sparse50-obs", "fit(3 bits)", "fit( 30 dB )"]
    found = sweep(model, tmp_path / "out", recipes, data, keep_models=True)
    assert [row["status"] for row in found.rows] == ["done"] * 6
    arrays = digits.load()
    split = json.loads((tmp_path / "out" / "split.json").read_text(encoding="utf-8"))
    rows = [int(name.partition("[")[2].rstrip("]")) for name in split["calibration"]]
    aside = [{digits.INPUT: arrays.images[row : row + 1]} for row in rows]
    mine = milpasses.compress(model, "pal2-gptq", calibration=aside, output=tmp_path / "gptq.mlpackage")
    (kept,) = (tmp_path / "out" / "models").glob("pal2-gptq-*.mlpackage")
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (kept / weights).read_bytes() == (tmp_path / "gptq.mlpackage" / weights).read_bytes()
    assert all(record.status != "failed" for record in mine.report)
    assert found["pal2-gptq"]["output_snr_db"] > found["pal2"]["output_snr_db"] + 1
    (fitted,) = (tmp_path / "out" / "models").glob("fit_3_bits-*.mlpackage")
    elements = sum(weight.size for weight in _weights(model))
    assert 0.97 * 3 * elements / 8 < (fitted / weights).stat().st_size <= 3 * elements / 8 + 63
    assert found["fit(30 dB)"]["output_snr_db"] > 27
    names = sorted(path.name.partition("-")[0] for path in (tmp_path / "out" / "cache").iterdir())
    assert names == ["inputs", "inputs", "outputs", "sensitivity", "statistics"]
    again = sweep(model, tmp_path / "out", recipes, data, keep_models=True, resume=True)
    assert again.computed == 0


def _weights(model: Path) -> list[Any]:
    program = open_program(model)
    return [site.weight for site in program.sites()]


@pytest.mark.parametrize("recipe", ["fit(many bits)", "fit(-3 dB)", "fit()"])
def test_budgets_that_cannot_be_read(model: Path, data: Path, tmp_path: Path, recipe: str):
    with pytest.raises(MilpassesError):
        sweep(model, tmp_path / "out", [recipe], data)
    assert not (tmp_path / "out").exists()


def test_a_budget_that_cannot_be_kept_is_a_row(model: Path, data: Path, tmp_path: Path):
    found = sweep(model, tmp_path / "out", ["fit(1 kB)", "int8"], data, samples=20)
    assert found["fit(1 kB)"]["status"] == "failed"
    assert found["int8"]["status"] == "done"


def test_statistics_too_large_to_share(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shared = sweep(model, tmp_path / "shared", ["pal2-gptq"], data, samples=20)
    monkeypatch.setattr(sources, "MEMORY", 1 << 16)
    alone = sweep(model, tmp_path / "alone", ["pal2-gptq"], data, samples=20)
    assert list((tmp_path / "shared" / "cache").glob("statistics-*"))
    assert not list((tmp_path / "alone" / "cache").glob("statistics-*"))
    assert alone["pal2-gptq"]["status"] == shared["pal2-gptq"]["status"] == "done"


def test_the_model_is_not_touched(model: Path, tmp_path: Path):
    """coremltools' MLModel rewrites the manifest of each package that it opens."""
    shutil.copytree(model, tmp_path / "mine.mlpackage")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine.mlpackage").rglob("*")}
    sweep(tmp_path / "mine.mlpackage", tmp_path / "out", ["int8"], samples=2)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "mine.mlpackage").rglob("*")}


def test_random_data_ranks_by_the_snr_and_chooses_no_loss(model: Path, tmp_path: Path):
    found = sweep(model, tmp_path / "out", ["pal1", "int8"], samples=6)
    assert found.choice is not None
    assert (found.choice.measure, found.choice.chosen, found.choice.losses) == ("output SNR", None, {})
    assert found.choice.words[0].startswith("accuracy is unknown: the data is random. By the SNR of their ou")
    snr = {name: found[name]["output_snr_db"] for name in ("int8", "pal1")}
    assert f"int8 {snr['int8']:.1f} dB, pal1 {snr['pal1']:.1f} dB" in found.choice.words[0]
    assert found.choice.front == ("pal1", "int8")
    assert found.saved is None
    assert any("the data is random" in note for note in found.notes)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '"means":{"original":null,' in page
    sized = sweep(model, tmp_path / "out", ["pal1", "int8"], samples=6, max_size=10**9, resume=True)
    assert sized.choice is not None
    assert (sized.choice.chosen, sized.computed) == ("int8", 0)
    assert sized.saved == tmp_path / "out" / "chosen.mlpackage"


def test_no_loss_is_asked_of_random_data(model: Path, tmp_path: Path, milpasses_command: Run):
    for limit in (["--max-loss", "1"], ["--by", "agreement"]):
        done = milpasses_command("sweep", model, "-o", tmp_path / "out", "-r", "int8", *limit)
        assert (done.status, done.out) == (2, "")
        assert "--data DATA" in done.err
        assert " ".join(limit) in done.err
    assert not (tmp_path / "out").exists()


def test_too_few_samples_for_the_loss_are_said_before_the_work(
    model: Path, data: Path, tmp_path: Path, milpasses_command: Run
):
    asked = ["sweep", model, "-o", tmp_path / "out", "-r", "int8", "--data", data, "--samples", "12"]
    done = milpasses_command(*asked, "--max-loss", "2")
    assert done.status == 0
    assert "milpasses: warning: 12 samples cannot show that a variant keeps --max-loss 2: " in done.err
    assert "the 95 % bound of its loss is 22.1 points; 149 samples would be enough" in done.err
    assert samples_needed(2) == 149
    assert 100 * exact_bound(149) <= 2 < 100 * exact_bound(148)
    again = milpasses_command(*asked, "--max-loss", "23", "--resume")
    assert "warning" not in again.err
    silent = milpasses_command(*asked, "--resume")  # nobody asked for a loss
    assert "warning" not in silent.err


def photos(folder: Path, names: tuple[str, ...] = ("1", "2")) -> Path:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(3):
            pixels = rng.integers(0, 256, (10, 12)).astype(np.uint8)
            image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def test_a_photo_that_cannot_be_read_is_skipped_and_counted(model: Path, tmp_path: Path):
    (photos(tmp_path / "photos") / "1" / "1.png").write_bytes(b"\x89PNG broken")
    found = sweep(model, tmp_path / "out", ["int8"], tmp_path / "photos")
    assert (found.about["samples"], found.about["skipped"]) == (5, 1)
    assert any("1 file could not be read" in note and "1.png" in note for note in found.notes)
    (skipped,) = json.loads((tmp_path / "out" / "split.json").read_text(encoding="utf-8"))["skipped"]
    assert skipped["name"].endswith("1.png")


def test_what_data_cannot_be(model: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MilpassesError, match="holds no image"):
        sweep(model, tmp_path / "a", ["int8"], tmp_path / "empty")
    (photos(tmp_path / "photos") / "none").mkdir()
    with pytest.raises(MilpassesError, match="none: a class folder without an image"):
        sweep(model, tmp_path / "b", ["int8"], tmp_path / "photos")
    with pytest.raises(MilpassesError, match="'eleven' is no index of a class, 0 to 9"):
        sweep(model, tmp_path / "c", ["int8"], photos(tmp_path / "labels", ("1", "eleven")))
    for path in photos(tmp_path / "bad").rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(MilpassesError, match="none of 6 images can be read"):
        sweep(model, tmp_path / "d", ["int8"], tmp_path / "bad")
    with pytest.raises(MilpassesError, match="--classic is for legacy networks"):
        sweep(model, tmp_path / "e", ["int8"], classic=True)
    with pytest.raises(MilpassesError, match="no such model"):
        sweep(tmp_path / "no.mlpackage", tmp_path / "f", ["int8"])


def test_a_full_disk_keeps_what_is_done(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    left = [5]
    fsync = files.os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(MilpassesError, match=r"disk is full.*resume=True"):
            sweep(model, folder, RECIPES, data, samples=5)
    kept = finished(folder)
    assert not list(folder.rglob("*.partial"))
    found = sweep(model, folder, RECIPES, data, samples=5, resume=True)
    assert kept.items() <= finished(folder).items()
    assert found.computed == 5 - len(kept)


class TestCommand:
    def test_prints_the_table_and_the_choice(
        self, milpasses_command: Run, model: Path, data: Path, tmp_path: Path
    ):
        outcome = milpasses_command(
            "sweep", model, "--data", data, "--samples", 20, "-r", "int8", "--grid", "pal{1,4}",
            "--metric", "sweep_cases:confidence", "--max-size", "70KB", "-j", 1, "-o", tmp_path / "out",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        assert "sweep_cases:confidence" in outcome.out
        assert "chosen: pal4, 6" in outcome.out
        assert f"saved: {tmp_path / 'out' / 'chosen.mlpackage'}" in outcome.out
        again = milpasses_command(
            "sweep", model, "--data", data, "--samples", 20, "-r", "int8", "--grid", "pal{1,4}",
            "--metric", "sweep_cases:confidence", "--max-loss", 5, "-j", 1, "-o", tmp_path / "out",
            "--resume", "--json",
        )  # fmt: skip
        content = json.loads(again.out)
        assert [one["name"] for one in content["variants"]] == ["original", "int8", "pal1", "pal4"]

    def test_errors_are_one_line(self, milpasses_command: Run, model: Path, tmp_path: Path):
        outcome = milpasses_command("sweep", model, "-o", tmp_path / "out", "--max-size", "tiny")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("milpasses: error: --max-size takes bytes")
        outcome = milpasses_command("sweep", model, "-r", "int9", "-o", tmp_path / "out")
        assert outcome.status == 2
        assert not (tmp_path / "out").exists()
