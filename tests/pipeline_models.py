"""Pipelines that tests share: a small detector with non-maximum suppression, and other parts."""

from itertools import pairwise
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.models.pipeline import Pipeline
from coremltools.proto import FeatureTypes_pb2, Model_pb2
from models import convert

SIZE, CELLS, CLASSES, STRIDE = 64, 8, 4, 8
BOXES = CELLS * CELLS


def _weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    deviation = np.sqrt(2 / np.prod(shape[1:]))
    return (rng.standard_normal(shape) * deviation).astype(np.float32)


def detector(seed: int = 0, target: Any = ct.target.iOS16) -> Any:
    """A convolutional network with a grid of boxes, as Ultralytics exports: confidence and coordinates.

    An image of 64 x 64 pixels to 64 boxes in pixels (x, y, width, height) and the confidence of 4 classes.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.divmod(np.arange(BOXES, dtype=np.float32), CELLS)
    grid = np.stack([columns, rows], 1).astype(np.float32)
    widths = (3, 32, 64, 64)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, SIZE, SIZE))], opset_version=target)
    def program(image: Any) -> Any:
        y = image
        for index, (before, after) in enumerate(pairwise(widths)):
            weight = _weight(rng, after, before, 3, 3)
            y = mb.conv(
                x=y, weight=weight, strides=[2, 2], pad_type="custom", pad=[1] * 4, name=f"conv{index}"
            )
            y = mb.silu(x=y) if index < 2 else mb.relu(x=y)
        y = mb.conv(x=y, weight=3 * _weight(rng, 4 + CLASSES, widths[-1], 1, 1), name="head")
        y = mb.transpose(x=mb.reshape(x=y, shape=[4 + CLASSES, BOXES]), perm=[1, 0])
        y = mb.sigmoid(x=y)
        centre, size, scores = mb.split(x=y, split_sizes=[2, 2, CLASSES], axis=1)
        centre = mb.mul(x=mb.add(x=mb.sub(x=mb.mul(x=centre, y=2.0), y=0.5), y=grid), y=float(STRIDE))
        size = mb.mul(x=mb.square(x=mb.mul(x=size, y=2.0)), y=3.0 * STRIDE)
        boxes = mb.concat(values=[centre, size], axis=1, name="raw_coordinates")
        return mb.identity(x=scores, name="raw_confidence"), boxes

    image = ct.ImageType("image", shape=(1, 3, SIZE, SIZE), scale=1 / 255)
    return convert(program, target, inputs=[image])


def suppression(
    iou: float = 0.45,
    confidence: float = 0.25,
    per_class: bool = True,
    labels: Any = ("cat", "dog", "bird", "fish"),
    rows: tuple[int, int] | None = (0, -1),
) -> Any:
    """The specification of non-maximum suppression, as Ultralytics' exporter writes it."""
    spec = Model_pb2.Model(specificationVersion=7)
    nms = spec.nonMaximumSuppression
    for prefix, side in (("raw_", spec.description.input), ("", spec.description.output)):
        for name, columns in (("confidence", CLASSES), ("coordinates", 4)):
            array = side.add(name=prefix + name).type.multiArrayType
            array.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
            if prefix == "" and rows is not None:
                array.shapeRange.sizeRanges.add(lowerBound=rows[0], upperBound=rows[1])
                array.shapeRange.sizeRanges.add(lowerBound=columns, upperBound=columns)
    for name in ("iouThreshold", "confidenceThreshold"):
        spec.description.input.add(name=name).type.doubleType.SetInParent()
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = "raw_confidence", "raw_coordinates"
    nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = "confidence", "coordinates"
    nms.iouThresholdInputFeatureName = "iouThreshold"
    nms.confidenceThresholdInputFeatureName = "confidenceThreshold"
    nms.iouThreshold, nms.confidenceThreshold = iou, confidence
    nms.pickTop.perClass = per_class
    if labels and isinstance(labels[0], int):
        nms.int64ClassLabels.vector.extend(labels)
    else:
        nms.stringClassLabels.vector.extend(labels)
    return spec


def detector_pipeline(model: Any = None, names: tuple[str, ...] = ("detector", "nms"), **nms: Any) -> Any:
    """The detector with suppression behind it, in memory: one weight file, as Ultralytics makes it."""
    model = detector() if model is None else model
    last = suppression(**nms)
    pipeline = Pipeline(
        [("image", ct.models.datatypes.Array(3, SIZE, SIZE)), *_thresholds()], ["confidence", "coordinates"]
    )
    pipeline.add_model(model.get_spec())
    pipeline.add_model(last)
    spec = pipeline.spec
    spec.pipeline.names.extend(names)
    spec.specificationVersion = model.get_spec().specificationVersion
    spec.description.input[0].ParseFromString(model.get_spec().description.input[0].SerializeToString())
    for index in range(2):
        spec.description.output[index].ParseFromString(last.description.output[index].SerializeToString())
    spec.description.metadata.author = "somebody"
    spec.description.metadata.userDefined["stride"] = "8"
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def _thresholds() -> list[tuple[str, Any]]:
    return [(name, ct.models.datatypes.Double()) for name in ("iouThreshold", "confidenceThreshold")]


def linear_part(given: str, made: str, width: int = 64, seed: int = 0, target: Any = ct.target.iOS16) -> Any:
    """A linear ML Program from ``given`` to ``made``, (1, width) each."""
    weight = _weight(np.random.default_rng(seed), width, width)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, width))], opset_version=target)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, name="made")

    model = convert(program, target)
    spec = model.get_spec()
    ct.utils.rename_feature(spec, "x", given)
    ct.utils.rename_feature(spec, spec.description.output[0].name, made)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def tree_part(given: str = "y", made: str = "z") -> Any:
    """The specification of a tree, which only Core ML runs."""
    spec = Model_pb2.Model(specificationVersion=1)
    spec.description.input.add(name=given).type.doubleType.SetInParent()
    spec.description.output.add(name=made).type.doubleType.SetInParent()
    spec.description.predictedFeatureName = made
    spec.treeEnsembleRegressor.treeEnsemble.numPredictionDimensions = 1
    return spec


def pipeline_of(models: list[Any], weights_dir: str, names: tuple[str, ...] = ()) -> Any:
    """A pipeline of specifications whose inputs and outputs are those of its first and last model."""
    spec = Model_pb2.Model(specificationVersion=max(model.specificationVersion for model in models))
    spec.description.input.extend(models[0].description.input)
    spec.description.output.extend(models[-1].description.output)
    spec.pipeline.models.extend(models)
    spec.pipeline.names.extend(names)
    return ct.models.MLModel(spec, weights_dir=weights_dir, skip_model_load=True)
