"""The tools name the part of a pipeline in what they show."""

import json
from pathlib import Path

import pytest
from conftest import Run
from milpasses_tools.compare import compare
from milpasses_tools.dump import dump
from milpasses_tools.explain import explain
from pipeline_models import detector_pipeline, linear_part, pipeline_of, tree_part

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
    assert "not compared: nms (its boxes differ in number)" in found.note
    assert all(output.snr_db is not None and output.snr_db > 30 for output in found.outputs)
    with pytest.raises(mp.MilpassesError, match="per_op is for one program"):
        compare(*packages, samples=1, per_op=True)


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


def test_what_takes_no_pipelines_yet_says_so(packages: tuple[Path, Path], milpasses_command: Run) -> None:
    for arguments in (("sensitivity", packages[0]), ("bisect", *packages)):
        failed = milpasses_command(*arguments, "--data", "random")
        assert failed.status == 2
        assert "pipeline" in failed.err
