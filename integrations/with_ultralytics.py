"""Ultralytics: its own 8-bit export (``quantize=8``, once ``int8=True``) with milpasses' drop-in.

YOLO11n is built from the configuration that the package ships, with random weights: nothing is downloaded.
A detector is exported with non-maximum suppression, so its package is a pipeline; the boxes before and after
are matched by their overlap. With random weights many boxes overlap and have like scores, so a match need not
be the same box: pairs more than a pixel apart are counted, not explained.
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
from milpasses.interpreter import Interpreter

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


def boxes(package: Path, samples: Samples) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each sample the boxes in pixels, corner to corner (N x 4), and their class confidences (N x C)."""
    runner = Interpreter(package)
    found = []
    for sample in samples:
        outputs = runner.run(sample.inputs)
        x, y, width, height = np.asarray(outputs["coordinates"], np.float64).reshape(-1, 4).T * SIZE
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        found.append((corners, np.asarray(outputs["confidence"], np.float64)))
    if not any(len(corners) for corners, _ in found):
        raise SystemExit(f"{package.name}: no box in any sample, so nothing could be compared")
    return found


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The intersection over union of each box of ``a`` with each of ``b``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def box_errors(dense: Path, small: Path) -> str:
    """Boxes that found one another (overlap over one half), how far corners and confidences are apart."""
    samples = Samples.of("random", str(dense), limit=4)
    matched = lost = 0
    pixels, confidence, union = [0.0], [0.0], [1.0]
    for (a, scores_a), (b, scores_b) in zip(boxes(dense, samples), boxes(small, samples), strict=True):
        if not len(a) or not len(b):
            lost += len(a)
            continue
        overlap = overlaps(a, b)
        best = overlap.argmax(axis=1)
        good = overlap.max(axis=1) > 0.5
        matched, lost = matched + int(good.sum()), lost + int((~good).sum())
        pixels.extend(np.abs(a - b[best]).max(axis=1)[good])
        confidence.extend(np.abs(scores_a - scores_b[best]).max(axis=1)[good])
        union.extend(overlap.max(axis=1)[good])
    far = sum(error > 1 for error in pixels)
    return (
        f"{matched} boxes matched, {far} of them over a pixel away, {lost} not; "
        f"worst overlap {min(union):.3f}, "
        f"corner {max(pixels):.2f} pixels, confidence {max(confidence):.4f}"
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
