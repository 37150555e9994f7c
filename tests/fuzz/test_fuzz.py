"""A short run of the fuzzer with fixed seeds, and what is planted is found. ``make fuzz`` is the long run."""

import gc
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import fuzz
import fuzz_mutants
import pytest
from coremltools.models import MLModel
from fuzz_checks import Find, read_program, uses_of
from fuzz_compression import Counts, run_program
from fuzz_mutants import MutantCounts, run_mutant
from fuzz_programs import random_program
from models import convert, random, weights_program

from milpasses.report import Report
from milpasses.rewrite import Rewriter

pytestmark = pytest.mark.slow
EXPLAIN = import_module("milpasses_tools.explain")  # the name of the package is the function


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary packages go with the test, and coremltools' garbage collections stay short."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_programs(first: int) -> None:
    counts = Counts()
    for seed in range(first, first + 25):
        run_program(seed, counts, recipes=1)
    assert counts.programs == 25
    assert counts.unconverted <= 3
    assert counts.compressed > 8


def test_mutants() -> None:
    counts = MutantCounts()
    for seed in range(50):
        run_mutant(seed, counts, most=2)
    assert counts.mutants == 50
    assert counts.commands == 100
    assert counts.errors > 20


def test_a_seed_makes_the_same_program() -> None:
    first, second = (random_program(11) for _ in range(2))
    assert first.steps == second.steps
    assert _text(first) == _text(second)
    assert {random_program(seed).target for seed in range(60)} == {"iOS16", "iOS17", "iOS18", "iOS26"}


def _text(made: Any) -> str:
    """The program in words, without the numbers that coremltools counts its blocks by."""
    return re.sub(r"block\d+", "block", str(made.program))


def _find(seeds: range) -> str:
    """The first thing that is found among ``seeds``."""
    try:
        for seed in seeds:
            run_program(seed, Counts(), recipes=1)
    except Find as find:
        return str(find)
    return ""


class TestPlanted:
    """What would be wrong is found."""

    def _plant(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        rewrite = Rewriter.rewrite

        def changed(self: Any, *arguments: Any) -> Any:
            rewritten = rewrite(self, *arguments)
            record = rewritten.record
            if record.status != "compressed":
                return rewritten
            new = {name: change(getattr(record, name)) for name, change in changes.items()}
            return attrs.evolve(rewritten, record=attrs.evolve(record, **new))

        monkeypatch.setattr(Rewriter, "rewrite", changed)

    def test_an_error_that_is_not_true(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plant(monkeypatch, max_error=lambda error: error * 0.999 + 1e-9)
        assert _find(range(20)).startswith("max_error is not true")

    def test_bytes_that_are_not_true(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plant(monkeypatch, bytes_after=lambda nbytes: nbytes - 1)
        assert _find(range(20)).startswith("the bytes are not true")

    def test_a_weight_that_is_not_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plant(monkeypatch, status=lambda status: "kept")
        assert "does not call compressed" in _find(range(20))

    def test_entry_points_that_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = Report.to_rows
        calls: list[int] = []

        def changed(report: Any) -> Any:
            calls.append(0)
            return [row | {"form": f"{row['form']}{len(calls) % 2}"} for row in rows(report)]

        monkeypatch.setattr(Report, "to_rows", changed)
        assert "give other records" in _find(range(20))

    def test_an_interpreter_that_decodes_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from milpasses.interpreter import constants

        decode = constants.decode_weight

        def changed(op_type: str, **inputs: Any) -> Any:
            made = decode(op_type, **inputs)
            return made * 2 if getattr(made, "dtype", None) in ("float16", "float32") else made

        monkeypatch.setattr(constants, "decode_weight", changed)
        assert "the outputs differ" in _find(range(30))

    def test_a_command_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise KeyError("planted")

        monkeypatch.setattr(EXPLAIN, "explain", broken)
        assert "planted" in str(_find_of_a_command())

    def test_a_command_that_writes_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work = EXPLAIN.explain

        def leaky(*arguments: Any, **options: Any) -> Any:
            Path("leak").write_text("")
            return work(*arguments, **options)

        monkeypatch.setattr(EXPLAIN, "explain", leaky)
        assert "wrote what is not its output" in str(_find_of_a_command())

    def test_a_command_that_does_not_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def endless(*_: Any, **__: Any) -> None:
            while True:
                pass

        monkeypatch.setattr(EXPLAIN, "explain", endless)
        monkeypatch.setattr(fuzz_mutants, "SECONDS", 1)
        assert "takes more than 1 seconds" in str(_find_of_a_command())


def _find_of_a_command() -> Exception | None:
    """The first find of ``explain`` on a sound model."""
    every, damage = fuzz_mutants.commands, fuzz_mutants.make_mutant
    try:
        fuzz_mutants.commands = lambda *paths: [c for c in every(*paths) if c[0] == "explain"]
        fuzz_mutants.make_mutant = lambda rng, sound, path: str(shutil.copytree(sound, path))
        run_mutant(0, MutantCounts(), most=1)
    except Exception as error:
        return error
    finally:
        fuzz_mutants.commands, fuzz_mutants.make_mutant = every, damage
    return None


def test_values_are_read_by_coremltools(tmp_path: Path) -> None:
    weight = random((16, 12))
    convert(weights_program(weight), skip_model_load=True).save(str(tmp_path / "a.mlpackage"))
    uses = uses_of(read_program(tmp_path / "a.mlpackage"))
    (value,) = [
        value
        for (_, op, param, _), (_, value) in uses.items()
        if op.startswith("linear0") and param == "weight"
    ]
    assert (value == weight.astype("float16")).all()
    assert MLModel(str(tmp_path / "a.mlpackage"), skip_model_load=True).get_spec()


def test_the_command_line(tmp_path: Path) -> None:
    """Both kinds in processes of their own, counted, with the seed that was given."""
    command = [sys.executable, fuzz.__file__, "--seconds", "1", "--first", "7", "--kind", "program"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "the first seed is 7" in done.stdout
    assert re.search(r"program: seeds 7 to \d+: [1-9]\d* programs", done.stdout)
    assert done.stdout.endswith("nothing was found\n")
    assert not list(tmp_path.iterdir())


def test_a_find_is_told_by_its_place() -> None:
    with pytest.raises(ValueError, match="non-negative") as raised:
        random_program(-1)
    assert fuzz.signature(raised.value) == "ValueError"
    assert fuzz.signature(Find("the bytes are not true: 3 for 4")) == "the bytes are not true"
    assert fuzz.details(Find("a:  b")) == "a: b"
