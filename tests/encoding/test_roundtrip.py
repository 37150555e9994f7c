"""Every emitted op decodes to what the encoding says, bit for bit: emitted, saved, loaded, decompressed."""

from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
from models import TARGETS, constexprs, conv_linear_program, convert, materialize, random, weights_program

import milpasses as mp
from milpasses.program.blobfile import BlobReader
from milpasses.program.package import open_package
from milpasses.program.proto import stored_bytes
from milpasses.program.saved import SavedProgram, walk
from milpasses.rewrite import Rewriter

SMALL = "min_elements=500 -> "
IOS16 = [
    "int8",
    "uint8",
    "int8-tensor",
    "int8-asym",
    "pal8",
    "pal6",
    "pal4",
    "pal2",
    "pal1",
    "sparse50",
    "sparse2of4",
]
IOS18 = [
    *IOS16,
    *["int4", "uint4", "int4-asym", "int4-b16", "uint4-b16-asym", "int8-b16", "pal3", "pal4-g16", "pal6-g8"],
    *["pal4-v2", "pal2-g16-v2", "sparse50+pal4", "sparse50+pal2-g16", "sparse50+int8", "sparse75+int4-b16"],
    *["pal4+int8", "pal4-g16+int8"],
]
CASES = (
    [("iOS16", recipe) for recipe in IOS16] + [("iOS17", "int8")] + [("iOS18", recipe) for recipe in IOS18]
)


def everything(recipe: str) -> mp.Recipe:
    """``recipe`` for the small weights of the test model too."""
    return mp.Recipe(
        default=mp.Keep(), rules=[mp.Rule(scheme=mp.Recipe.of(recipe).default, min_elements=500)]
    )


@pytest.mark.parametrize(("target", "recipe"), CASES)
def test_saved_ops_decode_to_the_encoding(conv_linear: Any, tmp_path: Path, target: str, recipe: str) -> None:
    model = conv_linear(target)
    package = open_package(model.package_path)
    program = SavedProgram(package)
    rewriter = Rewriter(everything(recipe), program.target, only_if_smaller=False)
    expected = {}
    for site in program.sites():
        rewritten = rewriter.rewrite(site)
        if rewritten.encoding is not None:
            expected[site.weight.name] = (rewritten.encoding, rewritten.encoding.decode())
    assert set(expected) == {"conv1_weight_0_to_fp16", "fc_weight_0_to_fp16"}

    small = mp.compress(model, everything(recipe), output=tmp_path / "small.mlpackage")
    loaded = ct.models.MLModel(str(tmp_path / "small.mlpackage"), skip_model_load=True)
    ops = constexprs(small)
    again = {one.weight.name: one for one in SavedProgram(open_package(loaded.package_path)).sites()}
    dense = mp.decompress(loaded)
    values = {op.name: op.outputs[0].val for op in dense._mil_program.functions["main"].operations}
    for name, (encoding, decoded) in expected.items():
        (op,) = [op for op_name, op in ops.items() if op_name.startswith(name)]
        assert identical(materialize(op), decoded)
        assert identical(again[name].existing().decode(), decoded)
        assert identical(values[name], decoded)
        assert again[name].existing().form == encoding.form
        assert small.report[name].bytes_after == encoding.nbytes == again[name].nbytes
        assert encoding.nbytes == again[name].existing().nbytes


def identical(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("target", "recipe"), CASES)
def test_the_pass_emits_the_same(target: str, recipe: str) -> None:
    pipeline = mp.pipeline(everything(recipe))
    model = convert(conv_linear_program(TARGETS[target]), TARGETS[target], pass_pipeline=pipeline)
    compressed = mp.compress(
        convert(conv_linear_program(TARGETS[target]), TARGETS[target]), everything(recipe)
    )
    ours, theirs = constexprs(compressed), constexprs(model)
    assert list(ours) == list(theirs)
    for name, op in ours.items():
        assert identical(materialize(op), materialize(theirs[name]))


@pytest.mark.parametrize("recipe", ["int4-b16", "pal3", "pal4-g16", "sparse50+pal4", "sparse75", "pal4+int8"])
def test_stored_bytes_are_the_reports(conv_linear: Any, recipe: str) -> None:
    small = mp.compress(conv_linear("iOS18"), everything(recipe))
    package = open_package(small.package_path)
    in_message = in_file = 0
    seen = set()
    for function in package.spec.mlProgram.functions.values():
        for op in walk(function.block_specializations[function.opset]):
            values = [op.attributes["val"]] if op.type == "const" else []
            if op.type.startswith("constexpr_"):
                for param, argument in op.inputs.items():
                    values += [
                        b.value
                        for b in argument.arguments
                        if b.WhichOneof("binding") == "value" and param != "vector_axis"
                    ]
            for value in values:
                if value.WhichOneof("value") == "blobFileValue":
                    blob = value.blobFileValue
                    if blob.offset not in seen:
                        seen.add(blob.offset)
                        in_file += (
                            BlobReader(package.model_folder / "weights" / "weight.bin")
                            .raw(blob.offset)[1]
                            .size
                        )
                elif op.type != "const":
                    in_message += stored_bytes(value)
    assert in_file + in_message == small.report.bytes_after


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(40, 24), (40, 24, 5), (40, 24, 3, 3), (40, 24, 2, 2, 2)])
def test_any_rank_and_both_float_types(dtype: str, shape: tuple[int, ...]) -> None:
    weight = mp.Weight("w", shape, dtype, (mp.Consumer("conv", "c", "weight"),), load=lambda: values)
    values = random(shape).astype(dtype)
    from milpasses.program.opset import opset_of
    from milpasses.program.weights import Site

    for recipe in IOS18:
        rewriter = Rewriter(everything(recipe), opset_of(9), only_if_smaller=False)
        rewritten = rewriter.rewrite(Site(weight, values.nbytes))
        assert rewritten.record.status == "compressed", (recipe, rewritten.record.reason)
        assert rewritten.record.sqnr_db is not None
        assert rewritten.record.sqnr_db > 2, recipe


def test_an_op_weight_of_each_layout_is_grouped_along_its_output_channels() -> None:
    weights = [random((64, 96), 1), random((64, 96), 2)]
    for op, axis in (("linear", 0), ("matmul", 1)):
        values = weights if op == "linear" else [w.T.copy() for w in weights]
        model = convert(weights_program(*values, op=op))
        small = mp.compress(model, everything("pal4-g16"))
        for constexpr in constexprs(small).values():
            assert constexpr.lut.shape[axis] == 4, (op, constexpr.lut.shape)
