"""The second door keeps everything but the weights; and what it refuses, it refuses in one line."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from models import constexprs, conv_linear_program, convert, random, weights_program

import milpasses as mp

EVERY = mp.Recipe(default=mp.Palettize(nbits=4, weight_threshold=500))


def test_metadata_image_and_labels_come_through(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 16, 16))], opset_version=ct.target.iOS16)
    def program(image: Any) -> Any:
        y = mb.conv(x=image, weight=random((32, 3, 5, 5)), name="conv")
        y = mb.reduce_mean(x=y, axes=[2, 3])
        return mb.softmax(x=mb.linear(x=y, weight=random((20, 32)), name="fc"), axis=-1)

    model = convert(
        program,
        ct.target.iOS16,
        inputs=[
            ct.ImageType(
                "image", shape=(1, 3, 16, 16), scale=1 / 255, bias=[0.1, 0.2, 0.3], color_layout="BGR"
            )
        ],
        classifier_config=ct.ClassifierConfig([f"class {i}" for i in range(20)]),
    )
    model.author, model.short_description, model.version = "somebody", "a test", "3.1"
    model.user_defined_metadata["mine"] = "kept"
    small = mp.compress(model, EVERY, output=tmp_path / "s.mlpackage")
    before, after = (
        model.get_spec(),
        ct.models.MLModel(str(tmp_path / "s.mlpackage"), skip_model_load=True).get_spec(),
    )
    report = json.loads(after.description.metadata.userDefined.pop("milpasses.report"))
    assert before.description == after.description
    assert before.specificationVersion == after.specificationVersion
    assert report["totals"]["compressed"] == 2 == small.report.count("compressed")
    assert [w["form"] for w in report["weights"] if w["status"] == "compressed"] == ["lut4 per_tensor"] * 2


def stateful_program() -> Any:
    @mb.program(
        input_specs=[mb.TensorSpec((1, 64)), mb.StateTensorSpec((1, 64), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        y = mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=random((64, 64)).astype(np.float16), name="fc")
        old = mb.read_state(input=memory)
        mb.coreml_update_state(state=memory, value=mb.add(x=old, y=y))
        return mb.cast(x=mb.read_state(input=memory), dtype="fp32")

    return program


def test_states_come_through() -> None:
    model = convert(stateful_program())
    small = mp.compress(model, EVERY)
    assert small.report.count("compressed") == 1
    assert small.get_spec().description.state == model.get_spec().description.state
    kinds = [op.op_type for op in small._mil_program.functions["main"].operations]
    assert kinds.count("read_state") >= 1
    assert "coreml_update_state" in kinds


def multifunction(folder: Path, shared: bool = True) -> str:
    for name, seed in (("a", 0), ("b", 0 if shared else 7)):
        convert(conv_linear_program(seed=seed)).save(str(folder / f"{name}.mlpackage"))
    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(folder / "a.mlpackage"), "main", "first")
    descriptor.add_function(str(folder / "b.mlpackage"), "main", "second")
    descriptor.default_function_name = "first"
    ct.utils.save_multifunction(descriptor, str(folder / "both.mlpackage"))
    return str(folder / "both.mlpackage")


def test_functions_share_what_they_shared(tmp_path: Path) -> None:
    both = multifunction(tmp_path)
    small = mp.compress(both, EVERY, output=tmp_path / "small.mlpackage")
    assert small.report.count("compressed") == 2
    assert small.report["conv1_weight_0_to_fp16"].functions == ("first", "second")
    spec = small.get_spec()
    assert sorted(spec.mlProgram.functions) == ["first", "second"]
    assert spec.description.defaultFunctionName == "first"
    single = mp.compress(tmp_path / "a.mlpackage", EVERY, output=tmp_path / "one.mlpackage")
    size = (Path(small.weights_dir) / "weight.bin").stat().st_size
    assert size == (Path(single.weights_dir) / "weight.bin").stat().st_size
    offsets = []
    for function in spec.mlProgram.functions.values():
        block = function.block_specializations[function.opset]
        offsets.append(
            [
                op.inputs["indices"].arguments[0].value.blobFileValue.offset
                for op in block.operations
                if op.type == "constexpr_lut_to_dense"
            ]
        )
    assert offsets[0] == offsets[1]


def test_equal_bytes_are_stored_once(tmp_path: Path) -> None:
    weight = random((64, 64))
    model = convert(weights_program(weight, weight.copy()), pass_pipeline=ct.PassPipeline.EMPTY)
    small = mp.compress(model, EVERY)
    ops = constexprs(small)
    assert len(ops) == 2
    assert small.report.count("compressed") == 1
    one = mp.compress(convert(weights_program(weight), pass_pipeline=ct.PassPipeline.EMPTY), EVERY)
    (record,) = [r for r in small.report if r.status == "compressed"]
    assert record.bytes_after == one.report["linear0_weight_0"].bytes_after
    assert (Path(small.weights_dir) / "weight.bin").stat().st_size < 3000


def test_a_second_run_rewrites_nothing_and_requantize_does(conv_linear: Any) -> None:
    first = mp.compress(conv_linear("iOS18"), EVERY)
    second = mp.compress(first, EVERY)
    assert second.report.count("compressed") == 0
    assert second.get_spec().mlProgram == first.get_spec().mlProgram
    third = mp.compress(first, "int8", requantize=True)
    assert [r.form for r in third.report if r.status == "compressed"] == []  # int8 is larger than lut4
    fourth = mp.compress(first, mp.Palettize(nbits=2, weight_threshold=500), requantize=True)
    assert {r.form for r in fourth.report if r.status == "compressed"} == {"lut2 per_tensor"}
    assert sorted(constexprs(fourth)) == sorted(constexprs(first))
    for form in ("sparse50+pal4", "pal4+int8"):
        chained = mp.compress(conv_linear("iOS18"), mp.Rule(scheme=form, min_elements=500).scheme)
        again = mp.compress(chained, mp.Palettize(nbits=1, weight_threshold=500), requantize=True)
        chain = [
            op.op_type for op in again._mil_program.functions["main"].operations if "constexpr" in op.op_type
        ]
        assert set(chain) == {"constexpr_lut_to_dense"}


def test_the_input_is_never_changed(conv_linear: Any, tmp_path: Path) -> None:
    conv_linear("iOS18").save(str(tmp_path / "in.mlpackage"))
    before = {p: p.read_bytes() for p in (tmp_path / "in.mlpackage").rglob("*") if p.is_file()}
    mp.compress(tmp_path / "in.mlpackage", EVERY, output=tmp_path / "out.mlpackage")
    assert before == {p: p.read_bytes() for p in (tmp_path / "in.mlpackage").rglob("*") if p.is_file()}
    assert sorted(os.listdir(tmp_path)) == ["in.mlpackage", "out.mlpackage"]


def test_an_old_model_is_raised(tmp_path: Path) -> None:
    model = convert(conv_linear_program(ct.target.iOS15), ct.target.iOS15)
    unasked = mp.compress(model, EVERY)
    assert unasked.get_spec().specificationVersion == 7
    assert unasked.report.notes == ["raised from iOS15 to iOS16: iOS15 has no compressed weights"]
    assert "note: raised from iOS15 to iOS16" in str(unasked.report)
    with pytest.raises(mp.TargetError, match="supported since iOS18"):
        mp.compress(model, "int4-b32")
    raised = mp.compress(model, EVERY, minimum_deployment_target=ct.target.iOS16)
    assert raised.get_spec().specificationVersion == 7
    assert (raised.report.count("compressed"), raised.report.notes) == (2, [])
    higher = mp.compress(model, "pal4-g16", minimum_deployment_target=ct.target.iOS18)
    assert higher.get_spec().specificationVersion == 9
    assert higher.report["conv1_weight_0_to_fp16"].form == "lut4 per_grouped_channel(16)"
    assert model.get_spec().description.input == higher.get_spec().description.input


@pytest.mark.parametrize(
    "recipe", ["int4", "int4-b32", "pal3", "pal4-g16", "pal4-v2", "sparse50+pal4", "pal4+int8"]
)
@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
def test_forms_that_the_target_lacks(conv_linear: Any, tmp_path: Path, target: str, recipe: str) -> None:
    with pytest.raises(mp.TargetError, match=rf"ct\.target\.iOS18.*this model targets {target}"):
        mp.compress(conv_linear(target), recipe, output=tmp_path / "x.mlpackage")
    assert os.listdir(tmp_path) == []


def test_bad_files(conv_linear: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.mlpackage"
    conv_linear("iOS18").save(str(good))

    def refuse(path: Path, words: str) -> None:
        with pytest.raises(mp.PackageError, match=words):
            mp.compress(path, EVERY, output=tmp_path / "out.mlpackage")
        assert not (tmp_path / "out.mlpackage").exists()
        assert not list(tmp_path.glob(".*"))

    refuse(tmp_path / "none.mlpackage", "no such file")
    (tmp_path / "legacy.mlmodel").write_bytes(b"x")
    refuse(tmp_path / "legacy.mlmodel", "legacy")
    (tmp_path / "folder.mlpackage").mkdir()
    refuse(tmp_path / "folder.mlpackage", "Manifest.json is missing or damaged")

    def damaged(name: str, change: Any) -> Path:
        copy = tmp_path / f"{name}.mlpackage"
        shutil.copytree(good, copy)
        change(copy)
        return copy

    weights = Path("Data/com.apple.CoreML/weights/weight.bin")
    spec = Path("Data/com.apple.CoreML/model.mlmodel")
    cut = damaged("cut", lambda p: (p / weights).write_bytes((p / weights).read_bytes()[:5000]))
    refuse(cut, "truncated")
    refuse(damaged("noweights", lambda p: (p / weights).unlink()), "missing")
    refuse(damaged("nospec", lambda p: (p / spec).unlink()), "model file .* is missing")
    refuse(
        damaged("badspec", lambda p: (p / spec).write_bytes((p / spec).read_bytes()[:1000])),
        "damaged or truncated",
    )


def test_outputs_are_not_overwritten_or_left_half(conv_linear: Any, tmp_path: Path, monkeypatch: Any) -> None:
    model, out = conv_linear("iOS18"), tmp_path / "out.mlpackage"
    mp.compress(model, EVERY, output=out)
    before = (out / "Manifest.json").stat().st_mtime_ns
    with pytest.raises(mp.PackageError, match="exists already"):
        mp.compress(model, EVERY, output=out)
    assert (out / "Manifest.json").stat().st_mtime_ns == before
    mp.compress(model, "keep", output=out, force=True)
    assert mp.compress(out, "keep").report.count("compressed") == 0
    with pytest.raises(mp.PackageError, match=r"must end in \.mlpackage"):
        mp.compress(model, EVERY, output=tmp_path / "x.zip")
    with pytest.raises(mp.PackageError, match="does not exist"):
        mp.compress(model, EVERY, output=tmp_path / "no" / "x.mlpackage")

    from milpasses.program.blobfile import BlobWriter

    calls = []

    def fails(self: Any, *arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write_raw(self, *arguments)

    write_raw = BlobWriter.write_raw
    monkeypatch.setattr(BlobWriter, "write_raw", fails)
    listing = sorted(os.listdir(tmp_path))
    with pytest.raises(mp.PackageError, match="No space left on device"):
        mp.compress(model, EVERY, output=tmp_path / "full.mlpackage")
    assert sorted(os.listdir(tmp_path)) == listing

    def interrupted(self: Any, *arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlobWriter, "write_raw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mp.compress(model, EVERY, output=out, force=True)
    assert sorted(os.listdir(tmp_path)) == listing
    monkeypatch.undo()
    assert mp.compress(out, "keep").report.count("kept") == 4


def test_report_forms(conv_linear: Any) -> None:
    report = mp.compress(conv_linear("iOS18"), EVERY).report
    text = str(report)
    assert "2 of 4 weights compressed" in text
    assert "rank 1: Core ML needs vectors dense" in text
    content = json.loads(report.to_json())
    assert content["totals"]["weights"] == 4 == len(report.to_rows())
    assert content["recipe"] == str(EVERY)
    assert content["weights"][0]["shape"] == "64x32x3x3"
    with pytest.raises(KeyError, match="no weight"):
        report["nothing"]


def test_the_saved_report_says_how_the_model_was_made() -> None:
    pipeline = mp.pipeline(EVERY)
    model = convert(conv_linear_program(), pass_pipeline=pipeline)
    kept = json.loads(model.user_defined_metadata["milpasses.report"])
    assert kept["totals"] == pipeline.report.totals()
    assert kept["milpasses"] == mp.__version__
