"""Ultralytics: its own 8-bit export (``quantize=8``, once ``int8=True``) with milpasses' drop-in.

YOLO11n is built from the configuration that the package ships, with random weights: nothing is downloaded.
A detector is exported with non-maximum suppression, so its package is a pipeline. Its boxes are compared as
they go into suppression, anchor by anchor: with random weights many overlap and have like scores, and which
of them is left says nothing of how far any has moved.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import coremltools.optimize.coreml as cto
import numpy as np
import torch
from common import Table, timed
from ultralytics import YOLO

import milpasses as mp
from milpasses.data.samples import Samples
from milpasses.interpreter import PipelineInterpreter

SIZE = 320
DETECTOR = {"nms": True, "conf": 0.3}


@contextlib.contextmanager
def in_place_of_coremltools() -> Generator[None]:
    """The moving over: Ultralytics calls ``cto.palettize_weights``, which is milpasses' in this block."""
    before = cto.palettize_weights
    cto.palettize_weights = mp.coreml.palettize_weights
    try:
        yield
    finally:
        cto.palettize_weights = before


def network(name: str, folder: Path) -> Callable[[], YOLO]:
    """Makes the network of a configuration, each time with the same weights.

    Batch normalization takes its statistics from noise, and the detector's scores are raised: as initialized,
    no box would be sure enough to be kept, and nothing could be compared.
    """
    torch.manual_seed(0)
    model = YOLO(name).model
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(4, 3, SIZE, SIZE))
        for branch in getattr(model.model[-1], "cv3", []):
            branch[-1].weight.mul_(8)
            branch[-1].bias.fill_(-1.0)
    path = folder / f"{Path(name).stem}.pt"
    torch.save({"model": model.eval(), "train_args": {}}, path)
    return lambda: YOLO(path)


def export(make: Callable[[], YOLO], path: Path, **options: Any) -> Path:
    """Ultralytics' own export, moved to ``path``."""
    made = make().export(format="coreml", imgsz=SIZE, verbose=False, **options)
    shutil.move(made, path)
    return path


def raw_boxes(package: Path, samples: Samples) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each sample what goes into non-maximum suppression, a row an anchor.

    Boxes in pixels, corner to corner (anchors x 4), and the confidences of classes (anchors x classes).
    """
    runner = PipelineInterpreter(package)
    [(name, suppression)] = [
        (name, part.suppression) for name, part in runner.leaf_runners.items() if part.suppression is not None
    ]
    names = suppression.parameters
    found = []
    for sample in samples:
        [given] = [made.inputs for made in runner.leaf_steps(sample.inputs) if made.name == name]
        x, y, width, height = (
            np.asarray(given[names.coordinatesInputFeatureName], np.float64).reshape(-1, 4).T * SIZE
        )
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        scores = np.asarray(given[names.confidenceInputFeatureName], np.float64)
        found.append((corners, scores.reshape(len(corners), -1)))
    return found


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The intersection over union of each box of ``a`` with that of ``b`` in the same row."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def box_errors(dense: Path, small: Path) -> str:
    """How far boxes and confidences of the anchors are apart that either model is confident of."""
    samples = Samples.of("random", str(dense), limit=4)
    pixels, confidence, union = [], [], []
    for (a, scores_a), (b, scores_b) in zip(
        raw_boxes(dense, samples), raw_boxes(small, samples), strict=True
    ):
        kept = np.maximum(scores_a, scores_b).max(axis=1) >= DETECTOR["conf"]
        pixels.extend(np.abs(a - b).max(axis=1)[kept])
        confidence.extend(np.abs(scores_a - scores_b).max(axis=1)[kept])
        union.extend(overlaps(a, b)[kept])
    if not pixels:
        raise SystemExit(f"{dense.name}: no confident box in any sample, so nothing could be compared")
    return (
        f"{len(pixels)} anchors, {sum(error > 1 for error in pixels)} of them over a pixel away; "
        f"worst overlap {min(union):.3f}, corner {max(pixels):.2f} pixels, confidence {max(confidence):.4f}"
    )


def main() -> None:
    """Export a classifier and a detector, plain and compressed, and print the table."""
    table = Table(("ultralytics", "torch"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for exported, options in (("yolo11n-cls", {}), ("yolo11n", DETECTOR)):
            make = network(f"{exported}.yaml", folder)
            dense = export(make, folder / f"{exported}-dense.mlpackage", quantize=16, **options)
            with in_place_of_coremltools(), timed() as seconds:
                small = export(make, folder / f"{exported}-own.mlpackage", quantize=8, **options)
            notes = box_errors if options else (lambda *_: "")
            took = f"export {seconds[0]:.1f} s of CPU"
            table.add(exported, "quantize=8 (pal8)", dense, small, f"{took}. {notes(dense, small)}")
            for recipe in ("int8", "pal6"):
                small = folder / f"{exported}-{recipe}.mlpackage"
                mp.compress(dense, recipe, output=small)
                table.add(exported, recipe, dense, small, notes(dense, small))
    table.show()


if __name__ == "__main__":
    main()
