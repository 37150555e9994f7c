"""``--target`` and ``--function`` of every command that has them, on real packages."""

import json
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from models import convert

import milpasses as mp
from milpasses.program.opening import open_program


def linear(factor: float, target: Any) -> Any:
    """A linear model, (1, 64) each way."""
    weight = factor * np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=target)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, name="made")

    return convert(program, target)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for iOS15, which has no compressed weights."""
    path = tmp_path_factory.mktemp("targets") / "old.mlpackage"
    linear(1, ct.target.iOS15).save(str(path))
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two functions, neither called main; the default one is the second by name."""
    folder = tmp_path_factory.mktemp("functions")
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("alpha", 1.0), ("omega", 100.0)):
        linear(factor, ct.target.iOS18).save(str(folder / f"{name}.mlpackage"))
        descriptor.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "omega"
    path = folder / "several.mlpackage"
    ct.utils.save_multifunction(descriptor, str(path))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((8, 1, 64)).astype(np.float32))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands write, empty; its parent holds what they read."""
    path = tmp_path / "work"
    path.mkdir()
    return path


def commands(model: Path, data: Path, folder: Path) -> dict[str, list[Any]]:
    """Each command that runs or compresses a model, with what it would write into ``folder``."""
    small = folder.parent / f"{model.stem}-small.mlpackage"
    if not small.exists():
        mp.compress(model, "pal6", output=small)
    out = ["-o", folder / "out.mlpackage"]
    return {
        "compress": ["compress", model, "-r", "pal4-gptq", "--data", data, *out],
        "compress --compare": ["compress", model, "-r", "int8", "--compare", data, *out],
        "compress --budget": ["compress", model, "--budget", "6 bits", "--data", data, *out],
        "sensitivity": ["sensitivity", model, "--data", data, "--candidates", "int8", "--json"],
        "sweep": ["sweep", model, "-r", "int8", "--data", data, "-j", "1", "-o", folder / "sweep"],
        "compare": ["compare", model, small, "--data", data, "--csv", folder / "all.csv"],
        "bisect": ["bisect", model, small, "--data", data, "--tolerance", "10"],
    }


def refused(done: Any, words: str, folder: Path) -> None:
    """A command ended with an error that says so, and wrote nothing."""
    assert done.status == 2
    assert words in done.err
    assert list(folder.iterdir()) == []


NAMES = ["compress", "compress --compare", "compress --budget", "sensitivity", "sweep", "compare", "bisect"]


@pytest.mark.parametrize("name", NAMES)
def test_the_default_function_runs(
    several: Path, data: Path, folder: Path, milpasses_command: Run, name: str
) -> None:
    done = milpasses_command(*commands(several, data, folder)[name])
    assert done.status == 0, done.err


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_function_is_refused_before_anything_is_written(
    several: Path, data: Path, folder: Path, milpasses_command: Run, name: str
) -> None:
    asked = [*commands(several, data, folder)[name], "--function", "bogus"]
    refused(milpasses_command(*asked), "no function 'bogus'; the program has alpha, omega", folder)


def test_it_is_the_default_function_that_is_measured(
    several: Path, data: Path, tmp_path: Path, milpasses_command: Run
) -> None:
    """The functions differ by a factor of 100, which only absolute errors show."""
    worst: dict[str, float] = {}
    small = tmp_path / "small.mlpackage"
    mp.compress(several, "pal4", output=small)
    for name, option in (("", []), ("alpha", ["--function", "alpha"]), ("omega", ["--function", "omega"])):
        done = milpasses_command("compare", several, small, "--data", data, "--json", *option)
        assert done.status == 0, done.err
        worst[name] = json.loads(done.out)["outputs"][0]["max_error"]
    assert worst[""] == worst["omega"] > 50 * worst["alpha"]


@pytest.mark.parametrize("name", ["compress", "compress --compare", "compress --budget", "sweep", "bisect"])
def test_an_old_target_is_raised_with_a_note(
    old: Path, data: Path, folder: Path, milpasses_command: Run, name: str
) -> None:
    done = milpasses_command(*commands(old, data, folder)[name])
    assert done.status == 0, done.err
    assert "iOS16" in done.out
    if (folder / "out.mlpackage").exists():
        assert open_program(folder / "out.mlpackage").target.name == "iOS16"


def test_sensitivity_says_that_it_raised_the_model(old: Path, data: Path, milpasses_command: Run) -> None:
    done = milpasses_command("sensitivity", old, "--data", data, "--candidates", "int8")
    assert done.status == 0, done.err
    assert "note: " in done.out
    assert "iOS16" in done.out


@pytest.mark.parametrize("name", ["compress", "compress --compare", "compress --budget", "sweep", "bisect"])
def test_a_target_that_is_asked_for(
    old: Path, data: Path, folder: Path, milpasses_command: Run, name: str
) -> None:
    done = milpasses_command(*commands(old, data, folder)[name], "--target", "ios18")
    assert done.status == 0, done.err
    if (folder / "out.mlpackage").exists():
        assert open_program(folder / "out.mlpackage").target.name == "iOS18"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "compare"])
def test_a_target_that_there_is_none_of(
    old: Path, data: Path, folder: Path, milpasses_command: Run, name: str
) -> None:
    asked = [*commands(old, data, folder)[name], "--target", "iOS99"]
    refused(milpasses_command(*asked), "there is no target iOS99", folder)


def test_explain_and_dump_show_every_function_and_target(
    several: Path, old: Path, milpasses_command: Run
) -> None:
    for command in ("explain", "dump"):
        done = milpasses_command(command, several, "--json")
        assert done.status == 0, done.err
        names = [function["name"] for function in json.loads(done.out)["functions"]]
        assert names == ["alpha", "omega"]
    planned = milpasses_command("explain", old, "-r", "int4-b32", "--target", "iOS18", "--json")
    assert json.loads(planned.out)["plan"]["refused"] == ""
    assert "iOS18" in milpasses_command("explain", old, "-r", "int4-b32").out
    assert milpasses_command("explain", old, "-r", "int8", "--target", "iOS99").status == 2


def test_upgrade_for_a_target(tmp_path: Path, milpasses_command: Run) -> None:
    from coremltools.models import datatypes, neural_network

    builder = neural_network.NeuralNetworkBuilder(
        [("x", datatypes.Array(64))], [("y", datatypes.Array(64))], disable_rank5_shape_mapping=True
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    builder.add_inner_product("dense", weight, None, 64, 64, False, "x", "y")
    path = tmp_path / "net.mlmodel"
    path.write_bytes(builder.spec.SerializeToString())
    for name, target in (("iOS17", "ios17"), ("iOS16", None)):
        out = tmp_path / f"{name}.mlpackage"
        option = [] if target is None else ["--target", target]
        done = milpasses_command("upgrade", path, "-o", out, *option)
        assert done.status == 0, done.err
        assert open_program(out).target.name == name
    refused = milpasses_command("upgrade", path, "-o", tmp_path / "no.mlpackage", "--target", "iOS99")
    assert refused.status == 2
    assert not (tmp_path / "no.mlpackage").exists()


def overflowing(scale: float) -> Any:
    """Ops of which the first overflows in both models, and the last only where its weight is large."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        huge = mb.mul(x=mb.add(x=x, y=np.float32(6e4)), y=np.float32(2), name="both")
        small = mb.linear(x=x, weight=(scale * weight).astype(np.float32), name="grows")
        return mb.clip(x=huge, alpha=-1.0, beta=1.0, name="out1"), mb.mul(x=small, y=1.0, name="out2")

    return convert(program, ct.target.iOS16)


def test_bisects_last_line_names_the_op_that_only_the_compressed_model_makes_infinite(
    tmp_path: Path, milpasses_command: Run
) -> None:
    paths = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    for path, scale in zip(paths, (1.0, 6e3), strict=True):
        overflowing(scale).save(str(path))
    np.savez(tmp_path / "x.npz", x=np.full((1, 64), 30, np.float32))
    done = milpasses_command("bisect", *paths, "--data", tmp_path / "x.npz")
    assert done.status == 1, done.err
    last = done.out.strip().splitlines()[-1]
    assert "grows" in last
    assert "first inf" in last
    assert "which the original keeps finite" in last
    assert "both" not in last
    found = json.loads(milpasses_command("bisect", *paths, "--data", tmp_path / "x.npz", "--json").out)
    assert found["nonfinite"]["op"].startswith("grows")
