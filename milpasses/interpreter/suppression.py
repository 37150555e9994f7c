"""Non-maximum suppression of boxes: the last part of a detector's pipeline.

After the comments of NonMaximumSuppression.proto in coremltools, by which Core ML does the same; that one
suppresses what overlaps *more* than the threshold is said there by its limit, 1.0, at which nothing is.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from milpasses.interpreter.registry import Array, InterpreterError


@attrs.frozen(eq=False)
class NonMaximumSuppression:
    """A ``nonMaximumSuppression`` model.

    ``spec``: its specification, ``Model_pb2.Model``.
    """

    spec: Any

    @property
    def parameters(self) -> Any:
        """The ``NonMaximumSuppression`` message."""
        return self.spec.nonMaximumSuppression

    @property
    def labels(self) -> tuple[str, ...] | tuple[int, ...]:
        """The class of each column of the confidences; empty where the model names none."""
        kind = self.parameters.WhichOneof("ClassLabels")
        return () if kind is None else tuple(getattr(self.parameters, kind).vector)

    @property
    def defaults(self) -> dict[str, float]:
        """The thresholds by the inputs that override them."""
        given = self.parameters
        named = {
            given.iouThresholdInputFeatureName: given.iouThreshold,
            given.confidenceThresholdInputFeatureName: given.confidenceThreshold,
        }
        return {name: float(value) for name, value in named.items() if name}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The boxes that are left, the most confident first.

        Args:
            inputs: confidences (boxes, classes), coordinates (boxes, 4: x and y of the centre, width,
                height), and thresholds where they are not the model's own.

        Returns:
            Confidences and coordinates of what is left, in the types that were given; cut, or filled with
            zeros, to the number of boxes that the outputs declare, if they do.

        Raises:
            InterpreterError: a missing input, or one of another shape.
        """
        given = self.parameters
        confidence = _matrix(inputs, given.confidenceInputFeatureName)
        boxes = _matrix(inputs, given.coordinatesInputFeatureName, 4)
        if len(confidence) != len(boxes):
            raise InterpreterError(f"{len(confidence)} rows of confidences for {len(boxes)} boxes")
        iou = _threshold(inputs, given.iouThresholdInputFeatureName, given.iouThreshold)
        least = _threshold(inputs, given.confidenceThresholdInputFeatureName, given.confidenceThreshold)
        kept = pick_top(confidence, boxes, iou, least, given.pickTop.perClass)
        fewest, most = self._limits()
        kept = kept[:most]
        padding = ((0, max(fewest - len(kept), 0)), (0, 0))
        return {
            given.confidenceOutputFeatureName: np.pad(confidence[kept], padding),
            given.coordinatesOutputFeatureName: np.pad(boxes[kept], padding),
        }

    def _limits(self) -> tuple[int, int | None]:
        """The least and the largest number of boxes that an output declares, None where it is free."""
        fewest, most = 0, None
        for output in self.spec.description.output:
            array = output.type.multiArrayType
            if array.shapeRange.sizeRanges:
                first = array.shapeRange.sizeRanges[0]
                fewest = int(first.lowerBound)
                most = None if first.upperBound < 0 else int(first.upperBound)
            elif len(array.shape) == 2 and array.shape[0] > 0:
                fewest = most = int(array.shape[0])
            else:
                continue
            break
        return fewest, most


def pick_top(confidence: Array, boxes: Array, iou: float, least: float, per_class: bool) -> Array:
    """The rows to keep, by descending confidence.

    1. A box whose largest confidence is below ``least`` is discarded.
    2. The most confident box is kept; those that overlap it by more than ``iou`` are discarded (with
       ``per_class``, only those of the same most confident class).
    3. The same with the rest, until nothing is left. Of equal confidences the first counts as the larger.

    Args:
        confidence: (boxes, classes).
        boxes: (boxes, 4), centre and size.
    """
    if confidence.size == 0:
        return np.zeros(0, np.intp)
    best, label = confidence.max(1), confidence.argmax(1)
    order = np.argsort(-best, kind="stable")
    left = order[best[order] >= least]
    kept: list[Any] = []
    while left.size:
        top, left = left[0], left[1:]
        kept.append(top)
        suppressed = overlaps(boxes[top], boxes[left]) > iou
        if per_class:
            suppressed &= label[left] == label[top]
        left = left[~suppressed]
    return np.array(kept, np.intp)


def overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of a box (4,) with ``boxes`` (n, 4), centres and sizes; 0 for points."""
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    low = np.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    shared = np.maximum(high - low, 0).prod(1)
    union = box[2:].prod() + boxes[:, 2:].prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _matrix(inputs: Mapping[str, Any], name: str, columns: int | None = None) -> Array:
    if name not in inputs:
        raise InterpreterError(f"missing {name}")
    array = np.asarray(inputs[name])
    if array.ndim != 2 or columns not in (None, array.shape[1]):
        raise InterpreterError(f"'{name}' must have shape (boxes, {columns or 'classes'}), got {array.shape}")
    return array


def _threshold(inputs: Mapping[str, Any], name: str, default: float) -> float:
    return float(np.asarray(inputs.get(name, default)).item())
