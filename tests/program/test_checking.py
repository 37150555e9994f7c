"""What the one reader finds in a damaged package, fault by fault."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
from coremltools.converters.mil import Builder as mb
from models import convert, random

import milpasses
from milpasses.errors import PackageError
from milpasses.interpreter import Interpreter
from milpasses.program.checking import check_package
from milpasses.program.opening import open_program
from milpasses.program.package import open_package
from milpasses.program.saved import walk
from milpasses.program.sources import read_source


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A program with a branch, as it is and compressed."""
    mb.name_count.clear()

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 40))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        large = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False), y=0.0)
        y = mb.cond(pred=large, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.abs(x=x), name="chosen")
        return mb.linear(x=y, weight=random((80, 40)), name="fc")

    folder = tmp_path_factory.mktemp("saved")
    paths = {"dense": folder / "dense.mlpackage", "small": folder / "small.mlpackage"}
    convert(program).save(str(paths["dense"]))
    milpasses.compress(paths["dense"], "pal4", output=paths["small"])
    return paths


def edited(package: Path, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """A copy with ``change(specification, main block)`` made to it."""
    copy = folder / "copy.mlpackage"
    shutil.copytree(package, copy)
    source = read_source(copy)
    function = source.spec.mlProgram.functions["main"]
    change(source.spec, function.block_specializations[function.opset])
    assert source.spec_path is not None
    source.spec_path.write_bytes(source.spec.SerializeToString())
    return copy


def op(block: Any, kind: str) -> Any:
    return next(one for one in walk(block) if one.type == kind)


def blob(block: Any) -> Any:
    """The value of the first constant in the weight file."""
    values = [one.attributes["val"] for one in walk(block) if one.type == "const"]
    return next(value for value in values if value.WhichOneof("value") == "blobFileValue")


def lengths(value_type: Any, *sizes: int) -> None:
    for dimension, size in zip(value_type.tensorType.dimensions, sizes, strict=True):
        dimension.constant.size = size


def taken(block: Any, kind: str = "linear") -> Any:
    """What the op takes as x."""
    return op(block, kind).inputs["x"].arguments[0]


def swap(inputs: Any) -> None:
    first = type(inputs["lut"])()
    first.CopyFrom(inputs["lut"])
    inputs["lut"].CopyFrom(inputs["indices"])
    inputs["indices"].CopyFrom(first)


def main_set(spec: Any, field: str, value: Any) -> None:
    setattr(spec.mlProgram.functions["main"], field, value)


Change = Callable[[Any, Any], Any]
NOTHING = "which nothing before it makes"
MEMORY = "more elements than any memory"

# Each changes the specification and the block of its function, and says what is found.
FAULTS: dict[str, tuple[Change, str]] = {
    "no function": (lambda s, b: s.mlProgram.functions.clear(), "the program has no function"),
    "no default": (
        lambda s, b: setattr(s.description, "defaultFunctionName", "gone"),
        "default function gone is missing",
    ),
    "no block": (lambda s, b: main_set(s, "opset", "CoreML99"), "has no block for CoreML99"),
    "cycle": (
        lambda s, b: setattr(taken(b), "name", op(b, "linear").outputs[0].name),
        f"linear fc.*: takes .* as x, {NOTHING}",
    ),
    "order": (lambda s, b: b.operations.append(b.operations.pop(0)), NOTHING),
    "nothing given": (lambda s, b: op(b, "linear").inputs["x"].Clear(), "linear fc.*: is given nothing as x"),
    "not said what": (lambda s, b: taken(b).Clear(), "linear fc.*: takes '' as x"),
    "no type": (lambda s, b: op(b, "linear").ClearField("type"), "an op fc.*: has no type"),
    "no name": (lambda s, b: op(b, "linear").attributes["name"].Clear(), "name has no value or no type"),
    "no output": (lambda s, b: op(b, "linear").outputs[0].ClearField("name"), "has an output without a name"),
    "twice": (lambda s, b: b.operations.add().CopyFrom(op(b, "linear")), "makes .* a second time"),
    "no result": (lambda s, b: b.outputs.append("gone"), "returns 'gone', which nothing makes"),
    "inside a branch": (
        lambda s, b: setattr(taken(b, "relu"), "name", "gone"),
        f"relu .*: takes 'gone' as x, {NOTHING}",
    ),
    "no value": (lambda s, b: op(b, "const").attributes.pop("val"), "is a constant without a value"),
    "offset": (lambda s, b: setattr(blob(b).blobFileValue, "offset", 65), "no weight at offset 65"),
    "far": (
        lambda s, b: setattr(blob(b).blobFileValue, "offset", 2**63),
        "no weight at offset 92233720368547",
    ),
    "file": (
        lambda s, b: setattr(blob(b).blobFileValue, "fileName", "x.bin"),
        "the weight file x.bin is missing",
    ),
    "blob type": (
        lambda s, b: setattr(blob(b).type.tensorType, "dataType", 11),
        "is stored as float16, and float32 was declared",
    ),
    "blob size": (
        lambda s, b: lengths(blob(b).type, 80, 41),
        "takes 6,560 bytes as float16 80x41, and 6,400 are stored",
    ),
    "huge": (lambda s, b: lengths(blob(b).type, 2**40, 2**40), MEMORY),
    "overflowing": (lambda s, b: lengths(blob(b).type, 2**32, 2**32), MEMORY),
    "huge result": (lambda s, b: lengths(op(b, "relu").outputs[0].type, 2**40, 2**40), MEMORY),
    "rank": (lambda s, b: setattr(blob(b).type.tensorType, "rank", 7), "is of rank 7, with 2 sizes"),
    "immediate": (
        lambda s, b: lengths(op(b, "const").attributes["val"].type, 9),
        "2 ints, 9 elements of int32 were declared",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(saved: dict[str, Path], tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    copy = edited(saved["dense"], tmp_path, change)
    for use in (
        lambda: open_program(copy).sites(),
        lambda: Interpreter(copy),
        lambda: milpasses.compress(copy, "int8", output=tmp_path / "o.mlpackage"),
    ):
        with pytest.raises(PackageError, match=message) as error:
            use()
        assert str(error.value).startswith(str(copy))
        assert len(str(error.value)) < 400
    assert not (tmp_path / "o.mlpackage").exists()


LUT = "constexpr_lut_to_dense"
LUT_FAULTS: dict[str, Change] = {
    "no table": lambda s, b: op(b, LUT).inputs.pop("lut"),
    "no codes": lambda s, b: op(b, LUT).inputs.pop("indices"),
    "another shape": lambda s, b: lengths(op(b, LUT).outputs[0].type, 40, 80),
    "codes and table swapped": lambda s, b: swap(op(b, LUT).inputs),
}


@pytest.mark.parametrize("fault", LUT_FAULTS)
def test_parts_of_a_weight_that_do_not_fit(saved: dict[str, Path], tmp_path: Path, fault: str) -> None:
    copy = edited(saved["small"], tmp_path, LUT_FAULTS[fault])
    with pytest.raises(PackageError, match=f"a damaged {LUT}, or one of a newer") as error:
        [site.weight.value for site in open_program(copy).sites()]
    assert len(str(error.value)) < 400
    with pytest.raises(PackageError):
        milpasses.compress(copy, "int8", requantize=True, output=tmp_path / "o.mlpackage")


def test_a_weight_file_that_ends_early_or_is_shifted(saved: dict[str, Path], tmp_path: Path) -> None:
    copy = edited(saved["dense"], tmp_path, lambda *_: None)
    (weights,) = copy.rglob("weight.bin")
    data = weights.read_bytes()
    for content, message in (
        (data[: len(data) // 2], "the file is truncated"),
        (data[:64] + b"\0" + data[65:], "damaged weight record"),
        (data[:80] + (65).to_bytes(8, "little") + data[88:], "damaged weight record"),  # data not aligned
        (b"", "the weight file cannot be read"),
    ):
        weights.write_bytes(content)
        with pytest.raises(PackageError, match=message):
            Interpreter(copy)


def test_whole_packages_are_checked_once(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    package = open_package(saved["small"])
    check_package(package)
    assert package.checked
    monkeypatch.setattr(package, "spec", None)
    check_package(package)
