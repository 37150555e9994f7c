"""The tools name the part of a pipeline in what they show."""

import json
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from milpasses_tools.bisect import bisect
from milpasses_tools.compare import compare
from milpasses_tools.diff import diff
from milpasses_tools.dump import dump
from milpasses_tools.explain import explain
from milpasses_tools.sweep import sweep
from pipeline_models import SIZE, detector, detector_pipeline, linear_part, pipeline_of, tree_part

import milpasses as mp

WEIGHT = "detector/conv1_weight_0_to_fp16"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A detector before and after int8."""
    folder = tmp_path_factory.mktemp("pipeline")
    before, after = folder / "before.mlpackage", folder / "after.mlpackage"
    detector_pipeline().save(str(before))
    mp.compress(before, "int8", output=after)
    return before, after


@pytest.fixture(scope="module")
def two() -> Any:
    """Two linear parts, a weight file each."""
    return ct.models.utils.make_pipeline(linear_part("x", "y"), linear_part("y", "z", seed=1))


def test_explain(packages: tuple[Path, Path]) -> None:
    found = explain(packages[1])
    assert {weight.name: weight.form for weight in found.weights}[WEIGHT] == "int8 per_channel"
    known = next(weight for weight in found.weights if weight.name == WEIGHT)
    assert known.sqnr_db is not None
    assert [function.name for function in found.functions] == ["detector/main"]
    planned = explain(packages[0], recipe="pal4").plan
    assert planned is not None
    assert WEIGHT in [one.record.name for one in planned.weights]
    assert planned.totals["compressed"] == 2
    with pytest.raises(mp.MilpassesError, match="part nms is no ML Program"):
        explain(packages[0], part="nms")


def test_dump(packages: tuple[Path, Path]) -> None:
    text = dump(packages[1])
    assert "func detector/main<" in text
    assert "int8 per_channel" in text


def test_compare(packages: tuple[Path, Path]) -> None:
    found = compare(*packages, samples=2)
    names = [output.name for output in found.outputs]
    assert names == ["detector/raw_confidence", "detector/raw_coordinates"]
    assert "not compared" not in found.note
    assert all(output.snr_db is not None and output.snr_db > 30 for output in found.outputs)
    with pytest.raises(
        mp.MilpassesError, match="per_op=True is for one program: name a part of detector with part="
    ):
        compare(*packages, samples=1, per_op=True)


def test_compare_of_one_part_is_on_what_reaches_it(packages: tuple[Path, Path]) -> None:
    alone = compare(*packages, samples=2, part="detector", per_op=True)
    whole = compare(*packages, samples=2)
    for output in alone.outputs:
        assert output.snr_db == whole[f"detector/{output.name}"].snr_db
    assert alone.ops
    with pytest.raises(mp.MilpassesError, match="part nms is none of the pipeline's that run here: detector"):
        compare(*packages, part="nms")
    with pytest.raises(mp.MilpassesError, match="part x: the model is no pipeline"):
        compare(linear_part("x", "y"), linear_part("x", "y"), part="x")


def test_what_comes_before_a_part_that_only_core_ml_runs_is_compared() -> None:
    linear = linear_part("x", "y")
    pipeline = pipeline_of([linear.get_spec(), tree_part()], linear.weights_dir, ("linear", "trees"))
    found = compare(pipeline, mp.compress(pipeline, "int8"), samples=2)
    assert [output.name for output in found.outputs] == ["linear/y"]
    assert "not compared: trees (only Core ML runs it)" in found.note


def test_the_command(packages: tuple[Path, Path], milpasses_command: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.mlpackage"
    options = ("-r", "pal6", "-o", out, "--part", "detector", "--compare", "random", "--json")
    done = milpasses_command("compress", packages[0], *options)
    assert done.status == 0, done.err
    content = json.loads(done.out)
    assert WEIGHT in [weight["name"] for weight in content["weights"]]
    assert milpasses_command("explain", out, "--part", "detector").status == 0


def test_sensitivity_and_a_budget(
    packages: tuple[Path, Path], milpasses_command: Run, tmp_path: Path
) -> None:
    options = ("--candidates", "pal4,int8", "--part", "detector", "--data", "random", "--samples", "1")
    table = milpasses_command("sensitivity", packages[0], *options, "--json")
    assert table.status == 0, table.err
    assert WEIGHT in [weight["name"] for weight in json.loads(table.out)["weights"]]
    (tmp_path / "table.json").write_text(table.out)
    out = tmp_path / "out.mlpackage"
    budget = ("--budget", "6 bits", "--sensitivity", tmp_path / "table.json", "-o", out, "--json")
    done = milpasses_command("compress", packages[0], "--part", "detector", *budget)
    assert done.status == 0, done.err
    content = json.loads(done.out)
    assert content["fit"]["used_bytes"] <= content["fit"]["asked_bytes"]
    assert WEIGHT in [weight["name"] for weight in content["weights"] if weight["status"] == "compressed"]


def test_a_budget_with_data_takes_error_feedback(
    packages: tuple[Path, Path], milpasses_command: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, SIZE, SIZE, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", image=pixels)
    out = tmp_path / "out.mlpackage"
    options = ("--budget", "5 bits", "--data", tmp_path / "data.npz", "-o", out, "--json")
    done = milpasses_command("compress", packages[0], *options)
    assert done.status == 0, done.err
    content = json.loads(done.out)
    assert content["fit"]["measured_output_error"] > 0
    assert any(weight["method"] for weight in content["weights"])


def test_bisect_searches_every_part(two: Any, tmp_path: Path) -> None:
    worse = mp.compress(two, "int8; name=made_weight* -> pal1", part="part1")
    worse = mp.compress(worse, "pal8", part="part0")
    found = bisect(two, worse, tolerance=25.0, samples=2)
    assert not found.within
    assert found.differ == 2
    assert found.keep == ("part1/made_weight_0_to_fp16",)
    assert found.first == found.keep[0]
    (tmp_path / "recipe.yaml").write_text(found.recipe)
    again = mp.compress(two, tmp_path / "recipe.yaml")
    assert {one.name: one.status for one in again.report}[found.keep[0]] == "kept"
    assert again.report.count("compressed") == 1


def test_bisect_of_one_part(two: Any, milpasses_command: Run, tmp_path: Path) -> None:
    worse = mp.compress(two, "pal1")
    found = bisect(two, worse, tolerance=25.0, samples=2, part="part1")
    assert found.keep == ("part1/made_weight_0_to_fp16",)
    assert found.differ == 1
    for name, model in (("a", two), ("b", worse)):
        model.save(str(tmp_path / f"{name}.mlpackage"))
    paths = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    done = milpasses_command("bisect", *paths, "--part", "part0")
    assert done.status == 1, done.err
    assert "part0/made_weight_0_to_fp16" in done.out
    assert milpasses_command("bisect", *paths, "--part", "x").status == 2


def test_bisect_says_where_a_part_overflows(two: Any) -> None:
    spec = two.get_spec()
    original = ct.models.MLModel(spec, weights_dir=two.weights_dir, skip_model_load=True)
    same = bisect(original, mp.compress(original, "pal8"), {"x": np.full((1, 64), 6e4, np.float32)})
    assert same.nonfinite is None  # both overflow in the same op


def test_diff(packages: tuple[Path, Path], two: Any) -> None:
    found = diff(*packages)
    assert WEIGHT in [f"{one.function.removesuffix('/main')}/{one.name}" for one in found.weights]
    assert not found.ops
    assert diff(packages[0], packages[0], part="detector").same
    other = detector_pipeline(iou=0.9)
    changed = diff(detector_pipeline(), other)
    assert changed.interface == ("part nms (nonMaximumSuppression) differs",)
    assert not changed.same
    renamed = diff(two, linear_part("x", "y"))
    assert "part part0 (mlProgram) is removed" in renamed.interface
    with pytest.raises(mp.MilpassesError, match="part x is not in the pipeline"):
        diff(two, two, part="x")


def test_sweep(packages: tuple[Path, Path], tmp_path: Path) -> None:
    found = sweep(packages[0], tmp_path / "out", ["int8", "pal2", "fit(6 bits)"], samples=5, calibration=0.4)
    rows = {row["name"]: row for row in found.rows}
    assert [row["status"] for row in rows.values()] == ["done"] * 4
    assert rows["int8"]["output_snr_db"] > rows["pal2"]["output_snr_db"]
    assert rows["int8"]["weight_sqnr_db"] > 30
    assert rows["int8"]["bytes"] < rows["original"]["bytes"]
    assert rows["fit(6 bits)"]["bytes"] < rows["int8"]["bytes"]


def test_sweep_of_one_part_and_of_an_old_target(tmp_path: Path) -> None:
    old = detector_pipeline(detector(target=ct.target.iOS15))
    old.save(str(tmp_path / "old.mlpackage"))
    path = tmp_path / "old.mlpackage"
    found = sweep(path, tmp_path / "out", ["int8"], samples=1, part="detector")
    assert [row["status"] for row in found.rows] == ["done"] * 2
    assert any(note.startswith("part detector: ") and "iOS16" in note for note in found.notes)
    with pytest.raises(mp.MilpassesError, match="part nms is no ML Program"):
        sweep(path, tmp_path / "two", ["int8"], part="nms")
    with pytest.raises(mp.TargetError):
        sweep(path, tmp_path / "three", ["int4-b32"])


def test_part_picks_one_in_what_is_shown(
    mixed: Path, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("dump", "explain"):
        whole = json.loads(milpasses_command(command, mixed, "--json").out)
        alone = json.loads(milpasses_command(command, mixed, "--part", "b", "--json").out)
        assert [one["name"] for one in whole["functions"]] == ["a/main", "b/main"]
        assert [one["name"] for one in alone["functions"]] == ["b/main"]
    for command in (("dump", mixed), ("explain", mixed), ("diff", mixed, mixed), ("sensitivity", mixed)):
        failed = milpasses_command(*command, "--part", "nowhere")
        assert failed.status == 2
        assert "part nowhere is not in the pipeline; its parts are a (mlProgram), b (mlProgram)" in failed.err
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(mp.MilpassesError, match="runtime coreml takes one program"):
        compare(mixed, mixed, runtime="coreml")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two programs under names of their own, in one weight file."""
    first, second = linear_part("x", "y"), linear_part("y", "z")
    path = tmp_path_factory.mktemp("named") / "named.mlpackage"
    pipeline_of([first.get_spec(), second.get_spec()], first.weights_dir, ("a", "b")).save(str(path))
    return path
