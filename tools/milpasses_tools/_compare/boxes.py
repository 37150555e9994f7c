"""Boxes that two detectors keep: which is which, and how far they are from one another."""

import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.interpreter.suppression import NonMaximumSuppression, overlaps
from milpasses_tools._compare.comparison import BoxError

Array = NDArray[Any]
LEAST_OVERLAP = 0.5  # of two boxes that are the same object: what detection benchmarks begin at
_RELATIVE = 2.0  # boxes whose numbers all stay below this are shares of the image, not pixels


@attrs.define(eq=False)
class BoxSums:
    """What is summed up of the boxes of one non-maximum suppression, a sample at a time.

    ``image``: height and width of the image that the pipeline takes, None where it takes none.
    """

    name: str
    suppression: NonMaximumSuppression
    image: tuple[int, int] | None = None
    counts: list[int] = attrs.field(factory=lambda: [0, 0])
    pixels: list[Array] = attrs.field(factory=list)  # the largest difference of each pair of boxes
    ious: list[Array] = attrs.field(factory=list)
    confidences: list[Array] = attrs.field(factory=list)

    def add(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
        """Add what both models keep of one sample."""
        parameters = self.suppression.parameters
        confidence, coordinates = (
            parameters.confidenceOutputFeatureName,
            parameters.coordinatesOutputFeatureName,
        )
        first, second = (_kept(one[confidence], one[coordinates]) for one in (a, b))
        pairs = match_boxes(first[1], second[1])
        self.counts[0] += len(first[1])
        self.counts[1] += len(second[1])
        rows, others = pairs[:, 0], pairs[:, 1]
        boxes, moved = first[1][rows], second[1][others]
        scale = np.ones(4)
        if self.image is not None and len(first[1]) and np.abs(first[1]).max() < _RELATIVE:
            height, width = self.image
            scale = np.array([width, height, width, height], np.float64)
        self.pixels.append(np.abs((boxes - moved) * scale).max(1, initial=0.0))
        self.ious.append(np.array([overlaps(x, y[None])[0] for x, y in zip(boxes, moved, strict=True)]))
        difference = np.abs(first[0][rows] - second[0][others])
        self.confidences.append(difference.max(1, initial=0.0))

    def result(self) -> BoxError:
        """The figures over all samples; without a pair of boxes there are none."""
        pixels, ious, confidences = (
            np.concatenate([np.zeros(0), *one]) for one in (self.pixels, self.ious, self.confidences)
        )
        matched = len(pixels)
        none = math.nan
        return BoxError(
            self.name,
            "pixels" if self.image is not None else "units of the coordinates",
            self.counts[0],
            self.counts[1],
            matched,
            float(pixels.max()) if matched else none,
            float(pixels.mean()) if matched else none,
            float(ious.min()) if matched else none,
            float(ious.mean()) if matched else none,
            float(confidences.max()) if matched else none,
            float(confidences.mean()) if matched else none,
        )


def _kept(confidence: Any, coordinates: Any) -> tuple[Array, Array]:
    """Without the rows of zeros that fill the outputs up to a declared number."""
    scores, boxes = np.asarray(confidence, np.float64), np.asarray(coordinates, np.float64)
    real = scores.any(1) | boxes.any(1)
    return scores[real], boxes[real]


def match_boxes(a: Array, b: Array, least: float = LEAST_OVERLAP) -> NDArray[np.intp]:
    """Pairs (row of a, row of b), (n, 2): those that overlap most first, each box once, by ``least`` or more.

    Args:
        a, b: (boxes, 4), centre and size. Of two that nearly tie, suppression may keep the other: whether
            the classes are the same does not count, the confidences of a pair tell.
    """
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.intp)
    found = np.stack([overlaps(box, b) for box in a])
    rows, columns = np.zeros(len(a), bool), np.zeros(len(b), bool)
    pairs: list[tuple[int, int]] = []
    for at in np.argsort(-found, axis=None, kind="stable"):
        row, column = divmod(int(at), len(b))
        if not found[row, column] >= least:
            break
        if not (rows[row] or columns[column]):
            pairs.append((row, column))
            rows[row] = columns[column] = True
    return np.array(sorted(pairs), np.intp).reshape(-1, 2)
