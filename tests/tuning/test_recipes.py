"""``-tune`` in recipes: what it means, who takes it, and who says where it belongs."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from milpasses_tools import digits
from pipeline_models import SIZE, detector, detector_pipeline

import milpasses as mp
from milpasses.budget import fit
from milpasses.interpreter import PipelineInterpreter

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def model() -> Any:
    return digits.convert()


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    return [{digits.INPUT: image[None]} for image in digits.load().images[:32]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pal2-g16", "pal2-g16-tune"),
        ("int4-b32; op_name=stem* -> pal8", "int4-b32-tune; op_name=stem* -> pal8-tune"),
        ("sparse50+pal4", "sparse50+pal4-tune"),
        ("pal4+int8", "pal4-tune+int8"),
        ("pal2-gptq", "pal2-gptq"),
        ("unique", "unique"),
        ("int8-minmax", "int8-minmax"),
    ],
)
def test_a_recipe_to_tune_with_has_the_method_where_a_scheme_names_none(given: str, expected: str) -> None:
    recipe = mp.Recipe.of(given).tuned()
    assert recipe.to_text() == expected
    assert mp.Recipe.of(expected) == recipe
    assert recipe.wants_tuning == ("tune" in expected)


def test_the_method_goes_with_kmeans_alone() -> None:
    with pytest.raises(mp.RecipeError, match="method: tune goes only with mode=kmeans, not uniform"):
        mp.Recipe.of("pal4-uniform-tune")


def test_compress_tunes_as_tune_does(
    model: Any, samples: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp.tune, "__kwdefaults__", {**mp.tune.__kwdefaults__, "steps": 4})  # pyright: ignore
    outputs = [tmp_path / "one.mlpackage", tmp_path / "two.mlpackage"]
    one = mp.compress(model, "pal2-g16-tune", calibration=samples, output=outputs[0])
    two = mp.tune(model, "pal2-g16", samples, output=outputs[1])
    first, second = (next(path.rglob("weight.bin")).read_bytes() for path in outputs)
    assert first == second
    assert one.report.recipe == two.report.recipe == "pal2-g16-tune"
    assert any(note.startswith("tuned tables") for note in one.report.notes)


def test_who_cannot_tune_says_where_it_is_done(model: Any, samples: list[dict[str, Any]]) -> None:
    statistics = mp.statistics(model, samples, full=True, held_out=4)
    with pytest.raises(mp.MilpassesError, match=r"pal2-g16-tune: tuning runs the model on samples: pass cal"):
        mp.compress(model, "pal2-g16-tune", statistics=statistics)
    with pytest.raises(mp.MilpassesError, match="give them with -gptq, and tune with the recipe"):
        fit(model, "3 bits", data=samples, candidates=["pal2-tune", "pal4"])
    with pytest.raises(mp.MilpassesError, match="a converted model is tuned, on the samples themselves"):
        digits.convert(pass_pipeline=mp.pipeline("pal2-g16-tune", statistics=statistics))


def test_parts_of_a_pipeline_are_tuned_on_what_reaches_them(
    samples: list[dict[str, Any]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    inputs = [{"image": Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))} for _ in range(12)]
    pipeline = detector_pipeline(detector(target=ct.target.iOS18))
    output = tmp_path / "tuned.mlpackage"
    tuned = mp.tune(pipeline, "pal2-g16", inputs, steps=30, output=output)
    assert [note.split(":")[:2] for note in tuned.report.notes if "tuned" in note] == [
        ["detector", " tuned 2 blocks"], ["detector", " tuned tables"], ["detector", " tuned codes"]
    ]  # fmt: skip
    start = mp.compress(pipeline, "pal2-g16-gptq", calibration=inputs)
    assert {r.name: r.form for r in tuned.report} == {r.name: r.form for r in start.report}
    errors = [float(np.square(output_of(one, inputs[1]) - output_of(pipeline, inputs[1])).sum())
              for one in (start, mp.compress(output, "keep"))]  # fmt: skip
    assert errors[1] < errors[0]
    with pytest.raises(mp.MilpassesError, match="part nms is no ML Program"):
        mp.tune(pipeline, "pal2", inputs, part="nms")
    with pytest.raises(mp.MilpassesError, match="of a pipeline give the recipe"):
        mp.tune(pipeline, output, inputs)


def output_of(pipeline: Any, inputs: dict[str, Any]) -> np.ndarray:
    """The confidences that reach suppression."""
    step = next(step for step in PipelineInterpreter(pipeline).steps(inputs) if step.name == "nms")
    return np.concatenate([np.float64(value).ravel() for value in step.inputs.values()])
