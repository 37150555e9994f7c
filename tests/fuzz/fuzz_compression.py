"""One seed: a random program, a few random recipes, every entry point, and what must hold of each."""

import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import coremltools as ct
import numpy as np
from fuzz_checks import (
    blobs,
    check_bytes,
    check_decoded,
    check_outputs,
    check_records,
    read_program,
    require,
    skeleton,
)
from fuzz_programs import RandomProgram, random_program
from fuzz_recipes import calibrated_recipe, drop_in_config, random_recipe, random_scheme

import milpasses as mp

RECIPES = 3  # of each program


@attrs.define
class Counts:
    """What was tried: programs, those that coremltools itself cannot convert, recipes, weights, refusals."""

    programs: int = 0
    unconverted: int = 0
    compressions: int = 0
    weights: int = 0
    compressed: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in attrs.asdict(self).items())


def run_program(
    seed: int, counts: Counts, say: Callable[[str], None] = lambda text: None, recipes: int = RECIPES
) -> None:
    """Raise ``Find``, or whatever milpasses raises, where something does not hold for ``seed``.

    ``recipes``: how many are tried on its program; ``say`` is told what is tried.
    """
    rng = np.random.default_rng([seed, 1])
    counts.programs += 1
    try:
        made = random_program(seed)
        steps = made.steps
        dense = made.convert()
    except Exception as error:  # coremltools has its own limits, which are not looked for here
        counts.unconverted += 1
        say(f"coremltools: {error}")
        return
    say(f"{made.target}, {made.precision}, {'; '.join(steps)}")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        path = folder / "dense.mlpackage"
        dense.save(str(path))
        work = _Work(seed, made, dense, path, folder, counts)
        typed = made.target in ("iOS18", "iOS26")
        for _ in range(recipes):
            recipe = random_recipe(rng, typed)
            say(recipe)
            with _named(recipe):
                work.compress(recipe, rng)
        if rng.random() < 0.2:
            recipe = f"{random_scheme(rng, typed)}+{rng.choice(['a8', 'a8-asym', 'a8-uint8-asym'])}"
            say(recipe)
            with _named(recipe):
                work.quantize_activations(recipe)
        if rng.random() < 0.3:
            recipe = calibrated_recipe(rng, typed)
            say(f"with data: {recipe}")
            with _named(recipe):
                work.calibrate(recipe, bool(rng.random() < 0.3))
        if typed and rng.random() < 0.15:
            scheme = random_scheme(rng, typed)
            recipe = f"{scheme}; min_elements=0 -> {scheme}"
            say(f"two functions: {recipe}")
            with _named(recipe):
                work.share(recipe)
        name, config = drop_in_config(rng, typed)
        say(f"{name} {config.global_config}")
        with _named(f"coreml.{name}({config.global_config})"):
            work.drop_in(name, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(recipe: str) -> Generator[None]:
    """Names the recipe in what is raised."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):  # since Python 3.11
            error.add_note(f"recipe: {recipe}")
        raise


@attrs.define(eq=False)
class _Work:
    """A converted program and the checks of it; ``before`` is what coremltools reads of the package."""

    seed: int
    made: RandomProgram
    dense: Any
    path: Path
    folder: Path
    counts: Counts
    _before: Any = None

    @property
    def before(self) -> Any:
        """The program as coremltools reads it from the saved package."""
        if self._before is None:
            self._before = read_program(self.path)
        return self._before

    def compress(self, text: str, rng: Any) -> None:
        """Compress with one recipe through every entry point."""
        self.counts.compressions += 1
        recipe = mp.Recipe.of(text)
        require(mp.Recipe.of(recipe.to_text()) == recipe, "the recipe's text does not read back", text)
        small, report = self._outcome(lambda: self._saved(recipe))
        other, in_memory = self._outcome(lambda: self._model(recipe))
        self._agree("a saved package and the model", report, in_memory)
        if rng.random() < 0.4:
            converted, passed = self._outcome(lambda: self._converted(recipe))
            self._agree("ct.convert and a saved package", passed, report)
            self._same_bytes("ct.convert and a saved package", converted, small)
        if isinstance(report, str):
            self.counts.refused += 1
            return
        self._same_bytes("a saved package and the model", small, other)
        self.counts.weights += len(report)
        self.counts.compressed += report.count("compressed")
        self.check(small, report)
        again = mp.compress(small, recipe)
        require(again.report.count("compressed") == 0, "a second run compresses", again.report)
        self._same_bytes("a second run and the first", Path(again.package_path), small)

    def check(self, small: Path, report: Any, tolerant: bool = False) -> None:
        """What must hold of a compressed package; ``tolerant``: as for ``check_records``."""
        after = read_program(small)
        check_records(report, self.before, after, tolerant)
        check_bytes(report, small)
        back = Path(mp.decompress(small).package_path)
        check_decoded(after, read_program(back))
        check_outputs(small, back, self.made.sample(self.seed))

    def calibrate(self, text: str, sequential: bool) -> None:
        """Encodings that are fitted to random samples, one layer after another where ``sequential``."""
        self.counts.compressions += 1
        samples = [self.made.sample(self.seed + place) for place in range(4)]
        options = {"calibration": samples, "sequential": sequential}
        small, report = self._outcome(lambda: self._saved(text, **options))
        other, in_memory = self._outcome(lambda: self._model(text, **options))
        self._agree("a saved package and the model", report, in_memory)
        if isinstance(report, str):
            self.counts.refused += 1
            return
        self._same_bytes("a saved package and the model", small, other)
        self.check(small, report, tolerant=True)
        again = mp.compress(small, text, **options)
        require(again.report.count("compressed") == 0, "a second run compresses", again.report)
        self._same_bytes("a second run and the first", Path(again.package_path), small)

    def quantize_activations(self, text: str) -> None:
        """8-bit activations, whose ranges come from random samples, and weights chosen by the same."""
        self.counts.compressions += 1
        samples = [self.made.sample(self.seed + place) for place in range(3)]
        small, report = self._outcome(lambda: self._saved(text, calibration=samples))
        other, in_memory = self._outcome(lambda: self._model(text, calibration=samples))
        self._agree("a saved package and the model", report, in_memory)
        if isinstance(report, str):
            self.counts.refused += 1
            return
        self._same_bytes("a saved package and the model", small, other)
        rows = [[record.row() for record in one.activations] for one in (report, in_memory)]
        require(rows[0] == rows[1], "a saved package and the model give other activations", rows)
        after = read_program(small)
        pairs = sum(kind == "quantize" for _, kind, _ in skeleton(after))
        require(bool(pairs) == any(r.status == "quantized" for r in report.activations), "other pairs", pairs)
        check_bytes(report, small)
        back = Path(mp.decompress(small).package_path)
        check_decoded(after, read_program(back))
        check_outputs(small, back, samples[0])
        again = mp.compress(small, text, calibration=samples)
        require(again.report.count("compressed") == 0, "a second run compresses", again.report)
        same = skeleton(read_program(again.package_path)) == skeleton(after)
        require(same, "a second run adds or takes pairs")

    def share(self, text: str) -> None:
        """Two functions of the same program: what they share is compressed once, and stays shared."""
        self.counts.compressions += 1
        dense = self.folder / "functions.mlpackage"
        description = ct.utils.MultiFunctionDescriptor()
        for name in ("first", "second"):
            description.add_function(str(self.path), "main", name)
        description.default_function_name = "first"
        ct.utils.save_multifunction(description, str(dense))
        small, report = self._outcome(lambda: self._saved(text, dense))
        one, alone = self._outcome(lambda: self._saved(text))
        if isinstance(report, str) or isinstance(alone, str):
            require(report == alone, "functions and one end differently", report, alone)
            return
        # coremltools stores equal constants of functions once, which one program may have several times.
        require(set(blobs(small)) == set(blobs(one)), "two functions and one store other bytes")
        check_records(report, read_program(dense), read_program(small))
        check_bytes(report, small)
        back = Path(mp.decompress(small).package_path)
        check_decoded(read_program(small), read_program(back))
        for name in ("first", "second"):
            check_outputs(small, back, self.made.sample(self.seed), name)

    def drop_in(self, name: str, config: Any) -> None:
        """The function that stands in for coremltools'."""
        self.counts.compressions += 1
        small, report = self._outcome(lambda: self._dropped(name, config))
        if not isinstance(report, str):
            self.check(small, report)

    def _outcome(self, run: Callable[[], tuple[Path, Any]]) -> tuple[Any, Any]:
        """The package and the report, or None and what was refused, in one line."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return run()
            except mp.MilpassesError as error:
                require("\n" not in str(error), "an error of several lines", error)
                return None, f"{type(error).__name__}: {error}"

    def _saved(self, recipe: Any, path: Path | None = None, **options: Any) -> tuple[Path, Any]:
        target = Path(tempfile.mkdtemp(dir=self.folder)) / "small.mlpackage"
        report = mp.compress(path or self.path, recipe, output=target, **options).report
        return target, report

    def _model(self, recipe: Any, **options: Any) -> tuple[Path, Any]:
        small = mp.compress(self.dense, recipe, **options)
        return Path(small.package_path), small.report

    def _converted(self, recipe: Any) -> tuple[Path, Any]:
        pipeline = mp.pipeline(recipe, self.made.passes)
        model = random_program(self.seed).convert(pass_pipeline=pipeline)
        target = Path(tempfile.mkdtemp(dir=self.folder)) / "converted.mlpackage"
        model.save(str(target))
        return target, pipeline.report

    def _dropped(self, name: str, config: Any) -> tuple[Path, Any]:
        small = getattr(mp.coreml, name)(self.dense, config)
        return Path(small.package_path), small.report

    def _agree(self, who: str, one: Any, other: Any) -> None:
        if isinstance(one, str) or isinstance(other, str):
            require(_spelled(str(one)) == _spelled(str(other)), f"{who} end differently", one, other)
            return
        first, second = map(_rows, (one, other))
        require(len(first) == len(second), f"{who} find other weights", len(first), len(second))
        for row, twin in zip(first, second, strict=True):
            differing = {key: (row[key], twin[key]) for key in row if row[key] != twin[key]}
            require(not differing, f"{who} give other records", differing, row)

    def _same_bytes(self, who: str, one: Path | None, other: Path | None) -> None:
        if one is None or other is None:
            return
        first, second = blobs(one), blobs(other)
        require(first == second, f"{who} store other bytes", _sizes(first - second), _sizes(second - first))


def _sizes(counted: Any) -> list[tuple[str, int]]:
    return [(name, len(raw)) for name, raw in counted.elements()]


def _rows(report: Any) -> list[dict[str, Any]]:
    """The rows of a report, with names as coremltools saves them: a pass meets them as they were given."""
    rows = report.to_rows()
    for row, record in zip(rows, report, strict=True):
        row["name"] = _spelled(row["name"])
        row["consumers"] = " ".join(sorted(map(_spelled, record.consumers)))
        row["reason"] = _spelled(row["reason"].replace(record.name, "NAME"))
    return rows


def _spelled(text: str) -> str:
    return re.sub(r"^(?:op)?_(?=[0-9])", "", re.sub(r"[^a-zA-Z0-9_]", "_", text))
