"""A pipeline's parts: their names, their programs, and what is written of them."""

from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
from coremltools.proto import Model_pb2
from pipeline_models import detector_pipeline, linear_part, pipeline_of, suppression, tree_part

from milpasses import PackageError
from milpasses.program.opening import open_program
from milpasses.program.package import type_field
from milpasses.program.pipelines import is_pipeline, open_pipeline, part_names


@pytest.fixture(scope="module")
def made() -> Any:
    """Two linear parts, as coremltools' make_pipeline writes them: a weight file each."""
    return ct.models.utils.make_pipeline(linear_part("x", "y"), linear_part("y", "z", seed=1))


def test_names_are_the_pipelines_own_or_numbers() -> None:
    spec = Model_pb2.Model()
    spec.pipeline.models.add()
    spec.pipeline.models.add()
    assert part_names(spec) == ["part0", "part1"]
    spec.pipeline.names.extend(["a", "a"])
    assert part_names(spec) == ["part0", "part1"]  # of two with one name neither is meant
    spec.pipeline.names[1] = "b"
    assert part_names(spec) == ["a", "b"]


@pytest.mark.parametrize("kind", ["pipeline", "pipelineClassifier", "pipelineRegressor"])
def test_each_kind_of_pipeline_is_known_by_its_type(tmp_path: Path, kind: str) -> None:
    spec = Model_pb2.Model(specificationVersion=7, isUpdatable=True)
    spec.description.metadata.author = "x" * 500
    part = getattr(spec, kind) if kind == "pipeline" else getattr(spec, kind).pipeline
    part.models.add().nonMaximumSuppression.iouThreshold = 0.5
    path = tmp_path / "model.mlmodel"
    path.write_bytes(spec.SerializeToString())
    assert is_pipeline(path)
    assert is_pipeline(spec)
    assert [leaf.kind for leaf in open_pipeline(path).leaves()] == ["nonMaximumSuppression"]


def test_what_is_no_pipeline_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x.mlmodel"
    assert not is_pipeline(path)
    for content in (b"", b"\x08", b"\xff" * 40, suppression().SerializeToString()):
        path.write_bytes(content)
        assert not is_pipeline(path)
    assert type_field(path) == 610
    assert not is_pipeline(3)


def test_the_programs_share_the_weight_files(made: Any) -> None:
    programs = open_pipeline(made).programs()
    assert list(programs) == ["part0", "part1"]
    for program in programs.values():
        weight = next(site.weight for site in program.sites() if site.weight.rank == 2)
        assert weight.value.shape == (64, 64)
    assert list(open_pipeline(made).programs("part1")) == ["part1"]


def test_a_nested_pipelines_parts_have_its_name_before_theirs(tmp_path: Path) -> None:
    inner = detector_pipeline()
    outer = pipeline_of([inner.get_spec()], inner.weights_dir, ("outer",))
    outer.save(str(tmp_path / "outer.mlpackage"))
    opened = open_pipeline(tmp_path / "outer.mlpackage")
    assert [leaf.name for leaf in opened.leaves()] == ["outer/detector", "outer/nms"]
    assert [part.name for part in opened.parts] == ["outer"]


def test_errors_name_the_parts(made: Any) -> None:
    pipeline = open_pipeline(detector_pipeline())
    with pytest.raises(PackageError, match=r"part x is not in the pipeline; its parts are detector \(mlP"):
        pipeline.programs("x")
    with pytest.raises(PackageError, match=r"part nms is no ML Program; its parts are .* nms \(nonMax"):
        pipeline.programs("nms")
    trees = pipeline_of([tree_part("x", "y"), tree_part("y", "z")], "")
    with pytest.raises(PackageError, match=r"no part of the pipeline is an ML Program: part0 \(treeEns"):
        open_pipeline(trees).programs()
    with pytest.raises(PackageError, match="of type pipeline; name one of its parts"):
        open_program(made)
