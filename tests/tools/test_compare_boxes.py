"""A detector with non-maximum suppression, end to end: exported, compressed, its boxes compared."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from milpasses_tools._compare.boxes import BoxSums, match_boxes
from milpasses_tools.compare import compare
from pipeline_models import SIZE, detector_pipeline, pipeline_of, suppression

import milpasses as mp
from milpasses.interpreter.suppression import NonMaximumSuppression


def images(count: int = 4) -> list[dict[str, Any]]:
    """Blocks of colour, not noise: what a detector sees has large parts."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    ones = np.ones((SIZE // 8, SIZE // 8, 1), np.uint8)
    return [{"image": np.kron(block, ones), "confidenceThreshold": 0.5} for block in blocks]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("boxes") / "detector.mlpackage"
    detector_pipeline().save(str(path))
    return path


@pytest.mark.parametrize(
    ("recipe", "pixels", "points", "overlap"), [("int8", 1.0, 0.02, 0.95), ("pal6", 4.0, 0.05, 0.85)]
)
def test_a_compressed_detectors_boxes(
    package: Path, recipe: str, pixels: float, points: float, overlap: float
) -> None:
    found = compare(package, mp.compress(package, recipe), images())
    (boxes,) = found.boxes
    assert (boxes.name, boxes.unit) == ("nms", "pixels")
    assert boxes.boxes_a > 200
    assert boxes.matched > 0.95 * boxes.boxes_a
    assert 0 < boxes.mean_error < boxes.worst_error < pixels
    assert 0 < boxes.worst_confidence_error < points
    assert 0.5 < boxes.worst_iou < boxes.mean_iou < 1
    assert boxes.mean_iou > overlap
    content = found.to_dict()["boxes"][0]
    assert content["unmatched_a"] == boxes.boxes_a - boxes.matched


def test_a_model_against_itself_loses_nothing(package: Path) -> None:
    (boxes,) = compare(package, package, images(1)).boxes
    assert boxes.boxes_a == boxes.boxes_b == boxes.matched > 50
    assert (boxes.worst_error, boxes.worst_iou, boxes.worst_confidence_error) == (0, 1, 0)


def test_boxes_of_a_nested_pipeline_are_named_by_their_path() -> None:
    inner = detector_pipeline()
    outer = pipeline_of([inner.get_spec()], inner.weights_dir, ("outer",))
    found = compare(outer, outer, [{"image": images(1)[0]["image"]}])
    assert [boxes.name for boxes in found.boxes] == ["outer/nms"]
    assert found.outputs[0].name == "outer/detector/raw_confidence"


def test_the_command_prints_the_boxes(package: Path, tmp_path: Path, milpasses_command: Run) -> None:
    small = tmp_path / "small.mlpackage"
    mp.compress(ct.models.MLModel(str(package), skip_model_load=True), "int8", output=small)
    done = milpasses_command("compare", package, small, "--samples", "1", "--csv", tmp_path / "all.csv")
    assert done.status == 0, done.err
    assert "boxes of" in done.out
    assert "pixels" in done.out
    assert "boxes,nms,pixels" in (tmp_path / "all.csv").read_text()


BOXES = np.array([[10, 10, 10, 10], [30, 10, 10, 10], [50, 50, 4, 4]], np.float64)


def test_boxes_are_pairs_by_overlap_each_once() -> None:
    moved = BOXES[[1, 0]] + [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert match_boxes(BOXES, moved).tolist() == [[0, 1], [1, 0]]
    twice = np.concatenate([BOXES[:1], BOXES[:1] + 1])
    assert match_boxes(BOXES[:1], twice).tolist() == [[0, 0]]
    assert match_boxes(BOXES, BOXES[:0]).shape == (0, 2)
    assert match_boxes(BOXES[:1], BOXES[:1] + np.array([6, 0, 0, 0])).tolist() == []
    assert match_boxes(BOXES[:1] * np.nan, BOXES).tolist() == []


def sums(image: tuple[int, int] | None = None) -> BoxSums:
    return BoxSums("nms", NonMaximumSuppression(suppression()), image)


def kept(boxes: Any, confidence: float = 0.9) -> dict[str, Any]:
    return {"coordinates": boxes, "confidence": np.full((len(boxes), 4), confidence)}


def test_figures_of_known_boxes() -> None:
    found = sums((100, 200))
    padded = np.concatenate([BOXES, np.zeros((2, 4))])
    found.add({**kept(padded), "confidence": np.repeat([[0.9] * 4, [0] * 4], [3, 2], 0)}, kept(BOXES[:2] + 1))
    result = found.result()
    assert (result.boxes_a, result.boxes_b, result.matched) == (3, 2, 2)
    assert (result.unmatched_a, result.unmatched_b) == (1, 0)
    assert result.worst_error == pytest.approx(1)
    assert result.worst_confidence_error == 0


def test_shares_of_the_image_count_as_pixels_of_it() -> None:
    found = sums((100, 200))
    found.add(kept(BOXES / 100), kept(BOXES / 100 + [[0.01, 0, 0, 0]] * 3, 0.8))
    assert found.result().worst_error == pytest.approx(2)  # of a width of 200
    assert found.result().worst_confidence_error == pytest.approx(0.1)


def test_no_boxes_have_no_figures() -> None:
    found = sums()
    found.add(kept(BOXES[:0]), kept(BOXES[:0]))
    result = found.result()
    assert (result.matched, result.unit) == (0, "units of the coordinates")
    assert np.isnan(result.worst_error)
