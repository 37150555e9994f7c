"""A program in memory and the same one saved: the same weights, the same records, the same bytes."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from models import convert, random, weights_program

import milpasses as mp
from milpasses.program import memory
from milpasses.program.memory import MemoryProgram
from milpasses.program.opening import open_program

RECIPE = "int8; min_elements=0 -> int8"
# Without the default pipeline's const_deduplication equal constants stay where they are.
WITH_COPIES = ct.PassPipeline(
    ["common::add_fp16_cast", "common::const_elimination", "common::dead_code_elimination"]
)
WEIGHT = random((64, 64))


def returned_weight() -> Any:
    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 64))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        weight = mb.const(val=WEIGHT, name="weight")
        return mb.linear(x=x, weight=weight), weight

    return program


def equal_weights_in_branches() -> Any:
    @mb.program(
        input_specs=[mb.TensorSpec(shape=(4, 64)), mb.TensorSpec(shape=(1,))], opset_version=ct.target.iOS18
    )
    def program(x: Any, y: Any) -> Any:
        return mb.cond(
            pred=mb.squeeze(x=mb.greater(x=y, y=0.0)),
            _true_fn=lambda: mb.linear(x=x, weight=mb.const(val=WEIGHT, name="first")),
            _false_fn=lambda: mb.relu(x=mb.linear(x=x, weight=mb.const(val=WEIGHT.copy(), name="second"))),
        )

    return program


def recurrent_states() -> Any:
    @mb.program(input_specs=[mb.TensorSpec(shape=(5, 1, 32))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        state = np.zeros((1, 64), np.float32)
        return mb.lstm(
            x=x,
            initial_h=state,
            initial_c=state.copy(),
            weight_ih=random((256, 32), 1),
            weight_hh=random((256, 64), 2),
        )[0]

    return program


def weight_bytes(model: Any, path: Path) -> int:
    model.save(str(path))
    return sum(file.stat().st_size for file in path.rglob("weight.bin"))


@pytest.mark.parametrize(
    ("make", "compressed"), [(returned_weight, 1), (equal_weights_in_branches, 1), (recurrent_states, 2)]
)
def test_same_records_and_bytes(make: Callable[[], Any], compressed: int, tmp_path: Path) -> None:
    pipeline = mp.pipeline(RECIPE)
    mb.name_count.clear()  # the builder numbers what has no name
    in_memory = convert(make(), pass_pipeline=pipeline, skip_model_load=True)
    mb.name_count.clear()
    saved = mp.compress(convert(make(), skip_model_load=True), RECIPE)
    assert pipeline.report.to_rows() == saved.report.to_rows()
    assert saved.report.count("compressed") == compressed
    assert weight_bytes(in_memory, tmp_path / "a.mlpackage") == weight_bytes(saved, tmp_path / "b.mlpackage")


@pytest.mark.parametrize("recipe", ["keep", RECIPE, "pal2; min_elements=0 -> pal2"])
def test_equal_weights_count_what_is_stored_of_all_their_copies(recipe: str, tmp_path: Path) -> None:
    """Both branches have the weight, and each op its own small table: it stands in the program's text."""
    dense = convert(equal_weights_in_branches(), pass_pipeline=WITH_COPIES, skip_model_load=True)
    small = mp.compress(dense, recipe, output=tmp_path / "a.mlpackage")
    (record,) = (record for record in small.report if len(record.shape) == 2)
    one = 2 * 64 * 64
    assert record.bytes_before == 2 * one
    tables = {"keep": 2 * one, RECIPE: 64 * 64 + 2 * 64}.get(recipe, 64 * 64 // 4 + 2 * 2 * 4)
    assert record.bytes_after == tables
    again = mp.compress(small, recipe).report[0]
    assert (again.bytes_before, again.bytes_after) == (tables, tables)


def test_copies_do_not_make_a_form_pay() -> None:
    """One copy of the two is what a form must beat: they could be stored once as they are."""
    dense = convert(equal_weights_in_branches(), pass_pipeline=WITH_COPIES, skip_model_load=True)
    report = mp.compress(dense, "sparse1; min_elements=0 -> sparse1").report
    (record,) = (record for record in report if len(record.shape) == 2)
    assert record.status == "skipped"
    assert "8192 are stored now" in record.reason


def test_equal_weights_of_branches_are_stored_once() -> None:
    model = mp.compress(convert(equal_weights_in_branches(), skip_model_load=True), RECIPE)
    site = next(site for site in open_program(model).sites() if site.existing is not None)
    assert [use.op_type for use in site.weight.consumers] == ["linear", "linear"]
    assert len(site.places) == 2


class TestMemory:
    """A conversion frees each old weight as it goes, without waiting for Python to look for circles."""

    @pytest.fixture(autouse=True)
    def no_collection(self) -> Iterator[None]:
        gc.disable()
        yield
        gc.enable()

    def test_weights_go_batch_by_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        program = weights_program(*(random((64, 64), seed) for seed in range(32)))
        values = [
            weakref.ref(op.outputs[0].val)
            for op in program.functions["main"].operations
            if op.op_type == "const" and np.shape(op.outputs[0].val) == (64, 64)
        ]
        assert len(values) == 32
        alive: list[int] = []
        flush = memory._Batch.flush

        def counted(batch: Any) -> None:
            flush(batch)
            alive.append(sum(value() is not None for value in values))

        monkeypatch.setattr(memory._Batch, "flush", counted)
        report = mp.Report()
        passes = ct.PassPipeline(["milpasses::palettize_weights"])
        passes.set_options("milpasses::palettize_weights", {"nbits": 4, "report": report})
        from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

        PassPipelineManager.apply_pipeline(program, passes)
        assert report.count("compressed") == 32
        assert len(alive) >= 5
        assert all(after < before for before, after in zip([32, *alive], alive, strict=False) if before)
        assert alive[-1] == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("functions")
    program = weights_program(random((256, 256)), random((128, 256), 1))
    convert(program, skip_model_load=True).save(str(folder / "one.mlpackage"))
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        description.add_function(str(folder / "one.mlpackage"), "main", name)
    description.default_function_name = "first"
    path = folder / "shared.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    return path


class TestSharing:
    """Functions that share a weight share it after every rewriting."""

    def test_requantized_and_decompressed(self, shared: Path, tmp_path: Path) -> None:
        dense = weight_bytes(ct.models.MLModel(str(shared), skip_model_load=True), tmp_path / "a.mlpackage")
        small = mp.compress(shared, "int8")
        again = mp.compress(small, "pal4", requantize=True)
        back = mp.decompress(small)
        assert [record.functions for record in again.report if record.status == "compressed"] == (
            [("first", "second")] * 2
        )
        once = mp.compress(shared, "pal4")
        assert weight_bytes(again, tmp_path / "b.mlpackage") == weight_bytes(once, tmp_path / "c.mlpackage")
        assert weight_bytes(back, tmp_path / "d.mlpackage") <= dense

    def test_equal_weights_stored_twice_become_one(self) -> None:
        program = weights_program(random((256, 256)), random((256, 256)))
        model = mp.compress(convert(program, skip_model_load=True), "int8")
        assert len([site for site in open_program(model).sites() if site.existing]) == 1


class TestOpenedOnce:
    def test_a_calibrated_compress_reads_the_package_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.mlpackage"
        convert(weights_program(random((64, 64)), random((64, 64), 1)), skip_model_load=True).save(str(path))
        read: list[Path] = []
        read_bytes = Path.read_bytes

        def counted(self: Path) -> bytes:
            if path in self.parents:
                read.append(self)
            return read_bytes(self)

        monkeypatch.setattr(Path, "read_bytes", counted)
        samples = [{"x": random((2, 64), seed, 1.0)} for seed in range(8)]
        small = mp.compress(path, "pal4-gptq", calibration=samples, sequential=True)
        assert small.report.count("compressed") == 2
        assert [file.name for file in read] == ["model.mlmodel"]

    def test_an_edited_model_is_what_is_calibrated(self, tmp_path: Path) -> None:
        path = tmp_path / "model.mlpackage"
        convert(weights_program(random((64, 64)), random((64, 64), 1)), skip_model_load=True).save(str(path))
        model = ct.models.MLModel(str(path), skip_model_load=True)
        ct.utils.rename_feature(model._spec, "x", "renamed")
        samples = [{"renamed": random((2, 64), seed, 1.0)} for seed in range(8)]
        small = mp.compress(model, "pal4-gptq", calibration=samples)
        assert small.report.count("compressed") == 2
        assert small.get_spec().description.input[0].name == "renamed"

    def test_both_are_programs_with_weights(self) -> None:
        program = weights_program(random((64, 64)))
        inputs = {"x": random((2, 64), 5, 1.0)}
        one, two = MemoryProgram(program), open_program(convert(program, skip_model_load=True))
        for opened in (one, two):
            assert [site.weight.shape for site in opened.sites() if site.weight.rank == 2] == [(64, 64)]
            assert set(opened.runner().inputs) == {"x"}
            assert next(iter(opened.runner().run(inputs).values())).shape == (2, 64)
