"""A name that blocks of a function use for values of their own is told apart, wherever a model is opened."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from models import convert, random

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program
from milpasses.program.saved import walk
from milpasses.program.scopes import with_unique_names

FIRST, SECOND = random((16, 24), 1), random((16, 24), 2)
WITHOUT_DEDUP = ct.PassPipeline(
    ["common::add_fp16_cast", "common::const_elimination", "common::dead_code_elimination"]
)


def branches() -> Any:
    """Two branches; with ``WITHOUT_DEDUP`` the cast of the input has one name in both, and outside."""
    mb.name_count.clear()

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(2, 24)), mb.TensorSpec(shape=(1,))], opset_version=ct.target.iOS18
    )
    def program(x: Any, y: Any) -> Any:
        z = mb.cond(
            pred=mb.squeeze(x=mb.greater(x=y, y=0.0)),
            _true_fn=lambda: mb.linear(x=x, weight=FIRST, name="yes"),
            _false_fn=lambda: mb.linear(x=x, weight=SECOND, name="no"),
        )
        return mb.identity(x=z, name="z"), mb.relu(x=x, name="after")

    return program


def names_of(spec: Any) -> list[str]:
    (function,) = spec.mlProgram.functions.values()
    return [out.name for op in walk(function.block_specializations[function.opset]) for out in op.outputs]


def one_name(model: Any, path: Path) -> Any:
    """``model`` saved with the weights of both branches called ``weight``."""
    model.save(str(path))
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    (function,) = spec.mlProgram.functions.values()
    for op in walk(function.block_specializations[function.opset]):
        for output in op.outputs:
            output.name = _shared(output.name)
            op.attributes["name"].immediateValue.tensor.strings.values[:] = [output.name]
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = _shared(binding.name)
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
    return path


def _shared(name: str) -> str:
    return "weight" if name in ("yes_weight_0_to_fp16", "no_weight_0_to_fp16") else name


@pytest.fixture
def ambiguous(tmp_path: Path) -> Path:
    model = convert(branches(), pass_pipeline=WITHOUT_DEDUP, skip_model_load=True)
    sources = [name for name in names_of(model.get_spec()) if name == "x_to_fp16"]
    assert len(sources) == 3  # coremltools writes such programs itself
    return one_name(model, tmp_path / "model.mlpackage")


SAMPLES = [{"x": np.ones((2, 24), np.float32), "y": np.float32([side])} for side in (1, -1)]


def expected(sample: Any, weights: tuple[Any, Any]) -> Any:
    weight = weights[0 if sample["y"][0] > 0 else 1].astype(np.float16).astype(np.float32)
    return (sample["x"] @ weight.T).astype(np.float16)


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_interpreter_takes_each_for_itself(ambiguous: Path, sample: Any) -> None:
    outputs = Interpreter(ambiguous).run(sample)
    np.testing.assert_allclose(outputs["z"], expected(sample, (FIRST, SECOND)), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(outputs["after"], sample["x"])


def test_both_weights_are_found_and_keep_their_values(ambiguous: Path) -> None:
    sites = [site for site in open_program(ambiguous).sites() if site.weight.rank == 2]
    assert [site.weight.name for site in sites] == ["weight", "weight"]
    for site, value in zip(sites, (FIRST, SECOND), strict=True):
        np.testing.assert_array_equal(site.weight.value, value.astype(np.float16))
    small = mp.compress(ambiguous, "int8; min_elements=0 -> int8")
    assert small.report.count("compressed") == 2
    decoded = [site.existing().decode() for site in open_program(small).sites() if site.existing]
    names = names_of(small.get_spec())
    assert len(set(names)) == len(names)
    for value, found in zip((FIRST, SECOND), decoded, strict=True):
        assert np.abs(value - found.astype(np.float32)).max() < 0.01
    for sample in SAMPLES:
        outputs = Interpreter(small).run(sample)
        np.testing.assert_allclose(outputs["z"], expected(sample, tuple(decoded)), rtol=1e-3, atol=1e-3)


def test_the_outputs_keep_their_names_and_nothing_changes_without_need(ambiguous: Path) -> None:
    spec = ct.models.MLModel(str(ambiguous), skip_model_load=True).get_spec()
    before = names_of(spec)
    renamed = with_unique_names(spec)
    assert names_of(spec) == before
    names = names_of(renamed)
    assert len(set(names)) == len(names) > len(set(before))
    (function,) = renamed.mlProgram.functions.values()
    assert list(function.block_specializations[function.opset].outputs) == ["z", "after"]
    assert with_unique_names(renamed) is renamed


def test_an_output_keeps_its_name_though_a_branch_has_it_first() -> None:
    spec = convert(branches(), skip_model_load=True).get_spec()
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    (cond,) = (op for op in block.operations if op.type == "cond")
    inner = cond.blocks[0]
    old, inner.operations[-1].outputs[0].name = inner.operations[-1].outputs[0].name, "z"
    inner.outputs[:] = ["z" if name == old else name for name in inner.outputs]
    renamed = with_unique_names(spec)
    (function,) = renamed.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    (cond,) = (op for op in block.operations if op.type == "cond")
    assert (
        list(cond.blocks[0].outputs) == ["z_0"] == [out.name for out in cond.blocks[0].operations[-1].outputs]
    )
    assert "z" in block.outputs
    assert Interpreter(convert(branches(), skip_model_load=True)).run(SAMPLES[0])["z"].shape == (2, 16)
