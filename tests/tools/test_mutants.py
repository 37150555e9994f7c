"""Packages damaged at random, against every command that reads one: an answer, or one clear line."""

import json
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from models import convert, random
from mutants import mutate

import milpasses

pytestmark = pytest.mark.slow
EACH = 25


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small network, and itself compressed in two ways."""
    mb.name_count.clear()

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 6, 6))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        y = mb.conv(x=x, weight=random((40, 8, 3, 3)), bias=random((40,), 1), name="conv1")
        y = mb.reduce_mean(x=mb.relu(x=y), axes=[2, 3])
        return mb.linear(x=y, weight=random((64, 40), 2), name="fc")

    folder = tmp_path_factory.mktemp("packages")
    original, small = folder / "original.mlpackage", folder / "small.mlpackage"
    convert(program).save(str(original))
    report = milpasses.compress(original, "pal4; name=fc* -> sparse50+int8", output=small).report
    assert sum(record.status == "compressed" for record in report) == 2
    return [original, small]


@pytest.mark.parametrize("first", range(0, 200, EACH))
def test_no_mutant_gives_a_traceback(
    packages: list[Path], tmp_path: Path, milpasses_command: Run, first: int
):
    original = packages[0]
    for seed in range(first, first + EACH):
        mutant = tmp_path / f"{seed}.mlpackage"
        done = mutate(packages[seed % 4 > 0], mutant, seed)
        for arguments in (
            ["dump", mutant],
            ["explain", mutant, "--recipe", "pal4"],
            ["compare", original, mutant, "--samples", 1],
            ["bisect", original, mutant, "--samples", 1],
            ["compress", mutant, "-r", "int8", "--requantize", "--force", "-o", tmp_path / "o.mlpackage"],
            ["diff", original, mutant],
        ):
            outcome = milpasses_command(*arguments)
            where = f"seed {seed} ({done}), {arguments[0]}: {outcome.err}"
            assert outcome.status in (0, 1, 2), where
            if outcome.status == 2:
                assert outcome.err.startswith("milpasses: error: "), where
                assert outcome.err.count("\n") == 1, where
        assert not list(tmp_path.glob(".*")), f"seed {seed} left something"
        shutil.rmtree(mutant)


def test_mutants_are_the_same_for_the_same_seed(packages: list[Path], tmp_path: Path):
    def content(name: str, seed: int) -> dict[str, bytes]:
        mutate(packages[0], tmp_path / name, seed)
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}

    for seed in range(20):
        assert content(f"a{seed}", seed) == content(f"b{seed}", seed)


METADATA = ["[" * 100_000, "[]", '{"weights": [{"name": 3, "sqnr_db": "x"}]}', "\0", "9" * 5000]


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("command", ["dump", "explain", "compare", "bisect", "diff", "compress"])
def test_a_report_inside_a_model_that_is_none(
    packages: list[Path], tmp_path: Path, milpasses_command: Run, command: str, metadata: str
):
    from milpasses.program.sources import read_source
    from milpasses.report import METADATA_KEY

    mutant = tmp_path / "mutant.mlpackage"
    shutil.copytree(packages[1], mutant)
    source = read_source(mutant)
    source.spec.description.metadata.userDefined[METADATA_KEY] = metadata
    assert source.spec_path is not None
    source.spec_path.write_bytes(source.spec.SerializeToString())
    extra = ["-r", "int8", "-o", tmp_path / "o.mlpackage"] if command == "compress" else []
    before = [packages[0]] if command in ("compare", "bisect", "diff") else []
    outcome = milpasses_command(command, *before, mutant, *extra)
    assert outcome.status in (0, 1), outcome.err


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 50_000, "[]", "{}", '{"itemInfoEntries": [], "rootModelIdentifier": []}',
     json.dumps({"itemInfoEntries": {"a": 3}, "rootModelIdentifier": "a"}), "\0", "9" * 5000],
)  # fmt: skip
def test_a_manifest_that_is_none(packages: list[Path], tmp_path: Path, milpasses_command: Run, content: str):
    shutil.copytree(packages[0], tmp_path / "mutant.mlpackage")
    (tmp_path / "mutant.mlpackage" / "Manifest.json").write_text(content, encoding="utf-8")
    outcome = milpasses_command("dump", tmp_path / "mutant.mlpackage")
    assert outcome.status == 2
    assert outcome.err.endswith("not an .mlpackage (its Manifest.json is missing or damaged)\n")
