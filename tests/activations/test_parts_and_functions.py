"""8-bit activations of pipelines and of models with several functions."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from pipeline_models import SIZE, detector, detector_pipeline, linear_part

import milpasses as mp
from milpasses.interpreter import PipelineInterpreter
from milpasses.program.pipelines import open_pipeline


def photos(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)} for _ in range(count)]


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def two() -> Any:
    return ct.models.utils.make_pipeline(
        linear_part("x", "y", target=ct.target.iOS17), linear_part("y", "z", seed=1, target=ct.target.iOS17)
    )


def pairs_in(model: Any) -> dict[str, int]:
    """How many ``quantize`` ops each part has."""
    return {
        name: sum(view.op_type(op) == "quantize" for view in program.functions for op in view.body())
        for name, program in open_pipeline(model).programs().items()
    }


def sqnr(reference: Any, other: Any, data: list[dict[str, Any]], name: str) -> float:
    signal = noise = 0.0
    for sample in data:
        exact, given = (PipelineInterpreter(each).run(sample)[name] for each in (reference, other))
        signal += (exact.astype(np.float64) ** 2).sum()
        noise += ((exact.astype(np.float64) - given) ** 2).sum()
    return 10 * np.log10(signal / noise)


def test_every_part_on_what_reaches_it(two: Any, tmp_path: Path) -> None:
    small = mp.compress(two, "int8+a8", calibration=rows(12), output=tmp_path / "a.mlpackage")
    found = pairs_in(tmp_path / "a.mlpackage")
    assert len(found) == 2
    assert min(found.values()) > 0
    assert {record.name.split("/")[0] for record in small.report.activations} == set(found)
    assert any(note.startswith(f"{next(iter(found))}: 8-bit") for note in small.report.notes)
    assert sqnr(two, small, rows(4, 9), "z") > 25
    with pytest.raises(mp.MilpassesError, match="say of which part"):
        mp.compress(two, "a8", statistics=mp.statistics(linear_part("x", "y"), rows(2)))


def test_one_part_alone(two: Any) -> None:
    first, second = open_pipeline(two).programs()
    small = mp.compress(two, "a8", calibration=rows(12), part=second)
    assert pairs_in(small)[first] == 0
    assert pairs_in(small)[second] > 0


def test_a_detector_with_suppression() -> None:
    pipeline = detector_pipeline(detector(target=ct.target.iOS17))
    small = mp.compress(pipeline, "int8+a8", calibration=photos(8))
    assert pairs_in(small)["detector"] > 3
    assert len(small.report.activations) > 3
    again = mp.compress(small, "a8", calibration=photos(8))
    assert pairs_in(again) == pairs_in(small)  # what has its pairs keeps them


def test_rules_are_for_some_part(two: Any, tmp_path: Path) -> None:
    with pytest.warns(mp.UnmatchedRuleWarning, match="activation rule 1"):
        found = mp.compress(two, "a8; op_type=conv -> a8=keep", calibration=rows(8))
    assert len(found.report.unmatched) == 1
    options: dict[str, Any] = {"calibration": rows(8), "strict": True, "output": tmp_path / "a.mlpackage"}
    with pytest.raises(mp.RecipeError, match="activation rule 1"):
        mp.compress(two, "a8; op_type=conv -> a8=keep", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_part_for_an_older_target_is_refused(tmp_path: Path) -> None:
    old = ct.models.utils.make_pipeline(linear_part("x", "y"), linear_part("y", "z", seed=1))
    with pytest.raises(mp.MilpassesError, match="iOS17") as error:
        mp.compress(old, "a8", calibration=rows(8), output=tmp_path / "a.mlpackage")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    raised = mp.compress(old, "a8", calibration=rows(8), minimum_deployment_target=ct.target.iOS17)
    assert min(pairs_in(raised).values()) > 0


def functions(tmp_path: Path) -> Path:
    """Two functions that take the same input, and one that takes another."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, seed in (("main", 0), ("other", 1), ("apart", 2)):
        path = tmp_path / f"{name}.mlpackage"
        given = "z" if name == "apart" else "x"
        linear_part(given, "y", seed=seed, target=ct.target.iOS18).save(str(path))
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "main"
    made = tmp_path / "functions.mlpackage"
    ct.utils.save_multifunction(descriptor, str(made))
    return made


def test_functions_that_take_the_data_are_measured_each_by_itself(tmp_path: Path) -> None:
    path = functions(tmp_path)
    found = mp.compress(path, "a8", calibration=rows(8))
    records = found.report.activations
    main, other, apart = ([r for r in records if r.function == name] for name in ("main", "other", "apart"))
    assert all(record.status == "quantized" for record in (*main, *other))
    spans = [{(record.low, record.high) for record in each} for each in (main, other)]
    assert spans[0] != spans[1]
    assert [record.status for record in apart] == ["float"] * len(apart)
    assert apart
    assert "no sample reached it" in apart[0].reason
    alone = mp.compress(path, "a8", calibration=rows(8), function="other")
    statuses = {record.function: record.status for record in alone.report.activations}
    assert statuses == {"main": "float", "other": "quantized", "apart": "float"}
