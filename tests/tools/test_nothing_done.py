"""Nothing done is said, larger is called larger, and a target that cannot be is refused."""

from pathlib import Path

import coremltools as ct
import pytest
from conftest import Run
from milpasses_tools import digits
from milpasses_tools._output import size_change

import milpasses as mp
from milpasses.recipe.nothing import nothing_compressed
from milpasses.report import Record, Report

SMALL = "a rule takes them all the same: --recipe"


def report(*records: tuple[str, str, int], recipe: str = "int8") -> Report:
    from milpasses.errors import Refusal

    found = Report(recipe=recipe)
    for index, (status, code, nbytes) in enumerate(records):
        refusal = Refusal(code, size=1, which="weight_threshold", limit=2048) if code else None
        found.records.append(
            Record(
                name=f"w{index}",
                shape=(nbytes // 2,),
                dtype="float16",
                status=status,
                form="dense",  # pyright: ignore[reportArgumentType]
                bytes_before=nbytes,
                bytes_after=nbytes,
                refusal=refusal,
            )
        )
    return found


def test_the_reason_of_most_bytes_is_named_with_what_to_try():
    said = nothing_compressed(report(("skipped", "small", 100), ("kept", "compressed-already", 900)))
    assert said is not None
    assert said.startswith("nothing was compressed: 1 of 2 weights (90% of the bytes): they are compressed")
    assert "requantize=True" in said
    said = nothing_compressed(report(("skipped", "small", 1000), ("kept", "", 10)))
    assert said is not None
    assert 'recipe="int8; min_elements=0 -> int8"' in said


def test_nothing_is_said_where_a_weight_was_compressed():
    assert nothing_compressed(report(("compressed", "", 100), ("skipped", "small", 1000))) is None
    assert nothing_compressed(Report()) == "nothing was compressed: the model has no weights"


def test_what_is_larger_is_called_so():
    assert size_change(1000, 500) == "2.00 times smaller"
    assert size_change(500, 1000) == "2.00 times larger"
    assert size_change(500, 500) == "the same size"
    assert size_change(50_000, 50_001) == "about the same size"


def test_a_second_compression_points_to_requantize(
    milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
):
    small, again = tmp_path / "small.mlpackage", tmp_path / "again.mlpackage"
    mp.compress(digits_packages["iOS18"], "pal4", output=small)
    done = milpasses_command("compress", small, "-r", "int8", "-o", again)
    assert done.status == 0
    assert "nothing was compressed: " in done.out
    assert "they are compressed already; --requantize compresses them anew" in done.out
    assert "about the same size" in done.out
    assert "times smaller" not in done.out


def test_the_remedy_for_small_weights_works(
    milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
):
    model = digits_packages["iOS18"]
    text = "quantize(dtype=int8, weight_threshold=10000000)"
    done = milpasses_command("compress", model, "-r", text, "-o", tmp_path / "none.mlpackage")
    assert SMALL in done.out
    recipe = done.out.split('--recipe "')[1].split('"')[0]
    done = milpasses_command("compress", model, "-r", recipe, "-o", tmp_path / "some.mlpackage")
    assert done.status == 0
    assert "nothing was compressed" not in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("compress", "MODEL", "-r", "int8", "-o", "OUT"),
        ("explain", "MODEL", "-r", "int8"),
        ("sensitivity", "MODEL"),
        ("sweep", "MODEL", "-r", "int8", "-o", "DIR"),
        ("bisect", "MODEL", "MODEL"),
    ],
)
def test_a_target_older_than_the_model_is_refused(
    milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...]
):
    places = {"MODEL": digits_packages["iOS18"], "OUT": tmp_path / "o.mlpackage", "DIR": tmp_path / "out"}
    done = milpasses_command(*(places.get(one, one) for one in arguments), "--target", "iOS16")
    assert (done.status, done.out) == (2, "")
    assert "--target iOS16: the model is for iOS18 already, and a model cannot be lowered" in done.err
    assert not (tmp_path / "o.mlpackage").exists()


def test_the_same_target_is_none_to_refuse(digits_packages: dict[str, Path], tmp_path: Path):
    output = tmp_path / "small.mlpackage"
    small = mp.compress(
        digits_packages["iOS18"], "int8", output=output, minimum_deployment_target=ct.target.iOS18
    )
    assert small.report.count("compressed") > 0
    refused = r"minimum_deployment_target=ct\.target\.iOS17: the model is for iOS18 already"
    with pytest.raises(mp.TargetError, match=refused):
        mp.compress(digits_packages["iOS18"], "int8", minimum_deployment_target=ct.target.iOS17)


@pytest.mark.parametrize("command", ["compress", "upgrade"])
def test_strict_makes_it_an_error(milpasses_command: Run, tmp_path: Path, command: str):
    if command == "compress":
        model = tmp_path / "model.mlpackage"
        digits.convert().save(str(model))
    else:
        model = tmp_path / "model.mlmodel"
        ct.convert(digits.program(ct.target.iOS13), convert_to="neuralnetwork").save(str(model))
    recipe = "quantize(dtype=int8, weight_threshold=10000000)"
    asked = command, model, "-r", recipe, "-o", tmp_path / "out.mlpackage"
    done = milpasses_command(*asked, "--strict")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("milpasses: error: nothing was compressed: ")
    assert "elements); a rule takes them all the same: --recipe" in done.err
    assert not (tmp_path / "out.mlpackage").exists()
    assert milpasses_command(*asked).status == 0


def test_strict_of_pipelines_and_of_what_asks_for_nothing(digits_packages: dict[str, Path], tmp_path: Path):
    model = digits_packages["iOS18"]
    assert mp.compress(model, "keep", strict=True).report.count("compressed") == 0
    small = mp.compress(model, "pal4", strict=True)
    with pytest.raises(mp.RecipeError, match="already; requantize=True compresses them anew"):
        mp.compress(small, "pal4", strict=True)
    parts = [ct.models.MLModel(str(path), skip_model_load=True) for path in (model, model)]
    ct.models.utils.make_pipeline(*parts).save(str(tmp_path / "pipeline.mlpackage"))
    with pytest.raises(mp.RecipeError, match="nothing was compressed"):
        mp.compress(
            tmp_path / "pipeline.mlpackage", "quantize(dtype=int8, weight_threshold=10000000)", strict=True
        )
