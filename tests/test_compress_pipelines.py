"""Compressing a pipeline changes the weights of its programs, and nothing else."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from pipeline_models import detector, detector_pipeline, linear_part, pipeline_of

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.program.pipelines import open_pipeline

PART_NAMES = ["detector/conv1_weight_0_to_fp16", "detector/conv2_weight_0_to_fp16"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "detector.mlpackage"
    detector_pipeline().save(str(path))
    return path


@pytest.fixture(scope="module")
def two() -> Any:
    """Two linear parts, a weight file each."""
    return ct.models.utils.make_pipeline(linear_part("x", "y"), linear_part("y", "z", seed=1))


def spec_at(path: Path) -> Any:
    return ct.models.MLModel(str(path), skip_model_load=True).get_spec()


def weight_files(model: Any) -> list[str]:
    return sorted(file.name for file in Path(model.weights_dir).iterdir())


def test_everything_but_the_weights_stays(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.mlpackage"
    small = mp.compress(package, "int8", output=out)
    before, after = spec_at(package), spec_at(out)
    assert [r.name for r in small.report if r.status == "compressed"] == PART_NAMES
    assert after.description.metadata.userDefined.pop("milpasses.report")
    assert after.description == before.description
    assert list(after.pipeline.names) == ["detector", "nms"]
    parts = [(old, new) for old, new in zip(before.pipeline.models, after.pipeline.models, strict=True)]
    assert parts[1][0].SerializeToString() == parts[1][1].SerializeToString()
    assert parts[0][0].description == parts[0][1].description
    assert weight_files(small) == ["weight.bin"]


def test_a_second_run_rewrites_nothing(package: Path, tmp_path: Path) -> None:
    once = mp.compress(package, "pal6", output=tmp_path / "once.mlpackage")
    twice = mp.compress(once, "pal6", output=tmp_path / "twice.mlpackage")
    assert (once.report.count("compressed"), twice.report.count("compressed")) == (2, 0)
    blobs = [Path(model.weights_dir, "weight.bin").read_bytes() for model in (once, twice)]
    assert blobs[0] == blobs[1]


def test_a_model_in_memory_with_what_the_caller_changed(package: Path) -> None:
    model = ct.models.MLModel(str(package), skip_model_load=True)
    model.author = "somebody else"
    small = mp.compress(model, "int8")
    assert small.author == "somebody else"
    assert small.report.count("compressed") == 2
    assert small._mil_program is None


def test_decompressing_gives_the_values_back(two: Any) -> None:
    small = mp.compress(two, "pal8")
    assert small.report.count("compressed") == 2
    dense = mp.decompress(small)
    assert "milpasses.report" not in dense.user_defined_metadata
    assert [r.name for r in dense.report] == ["part0/made_weight_0_to_fp16", "part1/made_weight_0_to_fp16"]
    x = {"x": np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)}
    np.testing.assert_array_equal(Interpreter(dense).run(x)["z"], Interpreter(small).run(x)["z"])


def test_one_part_alone(two: Any) -> None:
    small = mp.compress(two, "pal4", part="part1")
    assert {r.name.partition("/")[0] for r in small.report} == {"part1"}
    assert weight_files(small) == ["weight.bin"]
    x = {"x": np.ones((1, 64), np.float32)}
    first = [next(iter(Interpreter(model).steps(x))).outputs["y"] for model in (two, small)]
    np.testing.assert_array_equal(*first)
    assert mp.compress(small, "pal4").report["part0/made_weight_0_to_fp16"].status == "compressed"
    assert mp.decompress(small, part="part1").report.count("compressed") == 1


def test_rules_match_the_weights_own_names(two: Any) -> None:
    report = mp.compress(two, "pal4; name=made_weight* -> keep").report
    assert report.count("compressed") == 0


def test_a_nested_pipeline(tmp_path: Path) -> None:
    inner = detector_pipeline()
    outer = pipeline_of([inner.get_spec()], inner.weights_dir, ("outer",))
    small = mp.compress(outer, "int8", part="outer/detector")
    assert [r.name for r in small.report if r.status == "compressed"] == [f"outer/{n}" for n in PART_NAMES]
    assert small.get_spec().pipeline.models[0].pipeline.models[1] == inner.get_spec().pipeline.models[1]


def test_a_part_is_raised_to_a_newer_target(two: Any) -> None:
    with pytest.raises(mp.TargetError):
        mp.compress(two, "int4-b32")
    small = mp.compress(two, "int4-b32", minimum_deployment_target=ct.target.iOS18, part="part1")
    spec = small.get_spec()
    assert spec.specificationVersion == 9
    assert [part.specificationVersion for part in spec.pipeline.models] == [7, 9]
    assert small.report.count("compressed") == 1


def test_data_is_what_reaches_the_part(two: Any) -> None:
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(8)]
    tuned = mp.compress(two, "pal4", calibration=samples)
    records = [record for record in tuned.report if record.status == "compressed"]
    assert [record.name.partition("/")[0] for record in records] == ["part0", "part1"]
    assert all(record.output_sqnr_db is not None for record in records)


def test_what_cannot_be_meant_is_refused(package: Path, two: Any) -> None:
    with pytest.raises(mp.MilpassesError, match="say of which part"):
        mp.compress(two, "pal4", statistics={})
    with pytest.raises(mp.PackageError, match="part nms is no ML Program"):
        mp.compress(package, "int8", part="nms")
    with pytest.raises(mp.MilpassesError, match="part x: the model is no pipeline"):
        mp.compress(detector(), "int8", part="x")
    with pytest.raises(mp.MilpassesError, match="part x: the model is no pipeline"):
        mp.decompress(detector(), part="x")


def test_a_rule_is_unmatched_where_no_part_has_its_weight(two: Any) -> None:
    sites = open_pipeline(two).programs()["part1"].sites()
    content = next(site.weight.content for site in sites if site.weight.rank == 2)
    of_one_part = mp.Recipe("int8", [mp.Rule("keep", content=content)])
    report = mp.compress(two, of_one_part, strict=True).report
    assert report.unmatched == []
    assert (report.count("compressed"), report.count("kept")) == (1, 1)
    with pytest.raises(mp.RecipeError, match="rule 1"):
        mp.compress(two, "int8; name=nowhere* -> keep", strict=True)
    with pytest.warns(mp.UnmatchedRuleWarning):
        report = mp.compress(two, "int8; name=nowhere* -> keep").report
    assert len(report.unmatched) == 1
