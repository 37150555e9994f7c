"""Pipelines run part after part, non-maximum suppression included."""

from typing import Any

import numpy as np
import pytest
from coremltools.models import datatypes, neural_network
from pipeline_models import SIZE, detector_pipeline, linear_part, pipeline_of, suppression, tree_part

from milpasses import Samples
from milpasses.interpreter import Interpreter, InterpreterError, PipelineInterpreter
from milpasses.interpreter.suppression import NonMaximumSuppression, overlaps, pick_top

BOXES = np.array([[10, 10, 10, 10], [11, 10, 10, 10], [30, 10, 10, 10], [10.5, 10, 10, 10]], np.float32)
SCORES = np.array([[0.6, 0], [0.9, 0], [0.3, 0], [0, 0.8]], np.float32)


def plain_pick_top(scores: Any, boxes: Any, iou: float, least: float, per_class: bool) -> list[int]:
    """The algorithm as the specification states it, box by box."""
    left = [i for i in np.argsort(-scores.max(1), kind="stable") if scores[i].max() >= least]
    kept: list[int] = []
    for index in left:
        rivals = [k for k in kept if not per_class or scores[k].argmax() == scores[index].argmax()]
        if all(overlaps(boxes[k], boxes[[index]])[0] <= iou for k in rivals):
            kept.append(int(index))
    return kept


def test_the_most_confident_box_suppresses_what_overlaps_it() -> None:
    assert pick_top(SCORES, BOXES, 0.5, 0.0, per_class=False).tolist() == [1, 2]
    assert pick_top(SCORES, BOXES, 0.5, 0.0, per_class=True).tolist() == [1, 3, 2]
    assert pick_top(SCORES, BOXES, 0.5, 0.7, per_class=True).tolist() == [1, 3]
    assert pick_top(SCORES, BOXES, 1.0, 0.0, per_class=False).tolist() == [1, 3, 0, 2]
    assert pick_top(SCORES[:0], BOXES[:0], 0.5, 0.0, per_class=False).tolist() == []


def test_overlap_is_intersection_over_union() -> None:
    np.testing.assert_allclose(overlaps(BOXES[0], BOXES), [1, 90 / 110, 0, 95 / 105])
    assert overlaps(np.zeros(4), np.zeros((1, 4)))[0] == 0


@pytest.mark.parametrize("per_class", [False, True])
def test_random_boxes_against_the_plain_algorithm(per_class: bool) -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 60, (80, 2)), rng.uniform(5, 30, (80, 2))], 1)
    scores = rng.uniform(0, 1, (80, 3)).round(1)
    for iou, least in ((0.2, 0.3), (0.5, 0.9), (0.0, 0.0)):
        expected = plain_pick_top(scores, boxes, iou, least, per_class)
        assert pick_top(scores, boxes, iou, least, per_class).tolist() == expected


@pytest.mark.parametrize(
    ("rows", "count"), [(None, 2), ((0, -1), 2), ((5, 5), 5), ((1, 1), 1), ((3, 8), 3), ((0, 1), 1)]
)
def test_outputs_are_cut_and_filled_to_the_declared_number(rows: tuple[int, int] | None, count: int) -> None:
    given = {"raw_confidence": np.pad(SCORES, ((0, 0), (0, 2))), "raw_coordinates": BOXES}
    made = NonMaximumSuppression(suppression(iou=0.5, per_class=False, rows=rows)).run(given)
    assert (made["confidence"].shape, made["coordinates"].shape) == ((count, 4), (count, 4))
    assert made["coordinates"].dtype == np.float32
    np.testing.assert_array_equal(made["coordinates"][:2], BOXES[[1, 2]][:count])
    assert not made["confidence"][2:].any()


def test_labels_and_thresholds_of_the_specification() -> None:
    text = NonMaximumSuppression(suppression())
    assert text.labels == ("cat", "dog", "bird", "fish")
    assert text.defaults == {"iouThreshold": 0.45, "confidenceThreshold": 0.25}
    assert NonMaximumSuppression(suppression(labels=(3, 1))).labels == (3, 1)
    with pytest.raises(InterpreterError, match="missing raw_confidence"):
        text.run({})
    with pytest.raises(InterpreterError, match=r"'raw_coordinates' must have shape \(boxes, 4\)"):
        text.run({"raw_confidence": SCORES, "raw_coordinates": BOXES[:, :3]})
    with pytest.raises(InterpreterError, match="4 rows of confidences for 3 boxes"):
        text.run({"raw_confidence": SCORES, "raw_coordinates": BOXES[:3]})


@pytest.fixture(scope="module")
def detecting() -> Interpreter:
    return Interpreter(detector_pipeline())


def image(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def test_a_detector_gives_what_its_parts_give(detecting: Interpreter) -> None:
    assert isinstance(detecting, PipelineInterpreter)
    assert list(detecting.inputs) == ["image", "iouThreshold", "confidenceThreshold"]
    assert detecting.inputs["image"].kind == "image"
    assert detecting.output_names == ["confidence", "coordinates"]
    raw = detecting.interpreters["detector"].run({"image": image()})
    made = detecting.run({"image": image()})
    kept = plain_pick_top(raw["raw_confidence"], raw["raw_coordinates"], 0.45, 0.25, per_class=True)
    assert 0 < len(kept) < 64
    np.testing.assert_array_equal(made["coordinates"], raw["raw_coordinates"][kept])
    np.testing.assert_array_equal(made["confidence"], raw["raw_confidence"][kept])


def test_thresholds_come_from_the_inputs_where_given(detecting: Interpreter) -> None:
    loose = detecting.run({"image": image(), "iouThreshold": 1.0, "confidenceThreshold": 0.0})
    assert len(loose["confidence"]) == 64
    strict = detecting.run({"image": image(), "confidenceThreshold": np.float64(2)})
    assert strict["coordinates"].shape == (0, 4)


def test_wrong_inputs_are_named(detecting: Interpreter) -> None:
    with pytest.raises(InterpreterError, match="missing image; unknown x: the inputs are image, iouT"):
        detecting.run({"x": 0})
    with pytest.raises(InterpreterError, match="part detector: input 'image'"):
        detecting.run({"image": np.zeros((3, 3))})


def test_random_samples_leave_the_thresholds_to_the_model(detecting: Interpreter) -> None:
    samples = list(Samples.of("random", detecting, limit=2))
    assert [list(sample.inputs) for sample in samples] == [["image"], ["image"]]
    assert Samples.of("random", detector_pipeline()).features == detecting.inputs


def test_what_looks_into_a_program_points_to_the_parts(detecting: Interpreter) -> None:
    assert not detecting.resumable
    for ask in (
        lambda: detecting.operations,
        lambda: detecting.output_ops,
        lambda: detecting.override({}),
        lambda: detecting.first_reader(["x"]),
    ):
        with pytest.raises(InterpreterError, match=r"ask one of its parts, interpreters\[name\] of detector"):
            ask()
    with pytest.raises(InterpreterError, match="no function 'other'"):
        Interpreter(detector_pipeline(), "other")


def test_observers_see_the_ops_of_every_part() -> None:
    first, second = linear_part("x", "y"), linear_part("y", "z")
    pipeline = pipeline_of([first.get_spec(), second.get_spec()], first.weights_dir)
    seen: list[str] = []
    x = {"x": np.ones((1, 64), np.float32)}
    Interpreter(pipeline).run(x, observers=[lambda op, *_: seen.append(op.op_type)])
    assert seen.count("linear") == 2


def test_a_neural_network_and_a_program_in_one_pipeline() -> None:
    builder = neural_network.NeuralNetworkBuilder(
        [("w", datatypes.Array(64))], [("x", datatypes.Array(64))], disable_rank5_shape_mapping=True
    )
    builder.add_elementwise("double", ["w", "w"], "sum", "ADD")
    builder.add_expand_dims("rank", "sum", "x", [0])
    builder.spec.description.output[0].type.multiArrayType.shape[:] = [1, 64]
    linear = linear_part("x", "y")
    pipeline = pipeline_of([builder.spec, linear.get_spec()], linear.weights_dir, ("double", "linear"))
    made = Interpreter(pipeline).run({"w": np.full(64, 0.5, np.float32)})
    expected = Interpreter(linear).run({"x": np.ones((1, 64), np.float32)})
    np.testing.assert_array_equal(made["y"], expected["y"])


def test_a_part_that_only_core_ml_runs_is_named_and_what_comes_before_runs() -> None:
    linear = linear_part("x", "y")
    pipeline = pipeline_of([linear.get_spec(), tree_part()], linear.weights_dir, ("linear", "trees"))
    interpreter = Interpreter(pipeline)
    x = {"x": np.ones((1, 64), np.float32)}
    assert isinstance(interpreter, PipelineInterpreter)
    with pytest.raises(InterpreterError, match="part trees of the pipeline is of type treeEnsembleRegressor"):
        interpreter.run(x)
    before = interpreter.before_blocked()
    assert before.output_names == ["y"]
    np.testing.assert_array_equal(before.run(x)["y"], Interpreter(linear).run(x)["y"])


def test_a_nested_pipeline_runs() -> None:
    inner = detector_pipeline()
    outer = pipeline_of([inner.get_spec()], inner.weights_dir)
    made, expected = (Interpreter(model).run({"image": image()}) for model in (outer, inner))
    np.testing.assert_array_equal(made["coordinates"], expected["coordinates"])
