"""What a fit runs: a program's interpreter with its data, or those of each part of a pipeline."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from milpasses.budget.candidates import SensitivityBuilder, read_candidates
from milpasses.budget.finalists import MeasuredChoices
from milpasses.budget.joined import Measure, summed, table_of_part
from milpasses.budget.probe import Probe
from milpasses.budget.table import Sensitivity
from milpasses.calibration.encode import feedback_method
from milpasses.calibration.sources import HELD_OUT
from milpasses.data.collect import collect
from milpasses.data.moments import Statistics
from milpasses.data.parts import samples_of_part
from milpasses.data.samples import Samples
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, PipelineInterpreter
from milpasses.program.pipelines import SavedPipeline, check_one_function
from milpasses.program.saved import SavedProgram
from milpasses.recipe import Keep, Recipe

NUMBERS = 100  # outputs to probe with, at least; more samples where one has few
FEWEST, MOST = 2, 16  # samples to take statistics of
_LARGE = 1 << 27  # bytes of weights above which no decoded copy of them is kept


@attrs.frozen(eq=False)
class LoadedModel:
    """An interpreter and the data to run it on.

    ``samples``: how many of the data statistics are taken of; ``probed``: how many each weight is run with.
    """

    interpreter: Interpreter
    source: Samples
    samples: int
    probed: int

    @classmethod
    def of(
        cls, program: SavedProgram, data: Any, samples: int | None, seed: int, function: str | None
    ) -> "LoadedModel | None":
        """Load ``program``, a large one without a second, decoded copy of its weights; None without data."""
        if data is None:
            return None
        keep = sum(file.stat().st_size for file in program.package.path.rglob("*.bin")) < _LARGE
        interpreter = Interpreter(program, function, keep_weights=keep)
        source = Samples.of(data, interpreter, limit=4 * (samples or MOST), seed=seed)
        source = source.finite(lambda inputs: interpreter.run(inputs, interpreter.make_state()))
        enough = _enough(interpreter, source)
        return cls(interpreter, source, samples or max(enough, FEWEST), samples or enough)

    def first(self, count: int) -> Samples:
        """So many samples."""
        return Samples.of(self.source, self.interpreter, limit=count)

    def validation_probe(self, validation: Any) -> Probe:
        """What measures whole choices: on more samples than each weight was run with."""
        data = self.source if validation is None else validation
        return Probe(self.interpreter, list(Samples.of(data, self.interpreter, limit=4 * self.probed)))


def _enough(interpreter: Interpreter, source: Samples) -> int:
    """So many samples that their outputs are ``NUMBERS``."""
    first = next(iter(source))
    outputs = interpreter.run(first.inputs, interpreter.make_state())
    count = sum(len(value) if isinstance(value, Mapping) else np.size(value) for value in outputs.values())
    return min(math.ceil(NUMBERS / max(count, 1)), MOST)


def make_builder(
    program: SavedProgram,
    loaded: LoadedModel | None,
    candidates: Any,
    statistics: Statistics | None,
    rules: Sequence[Any],
    exact: bool,
    requantize: bool,
) -> SensitivityBuilder:
    schemes = read_candidates(candidates, program.target)
    pins = Recipe(Keep(), list(rules)).rules
    probe = None
    if loaded is not None:
        if statistics is None:
            full = any(map(feedback_method, (*schemes.values(), *(rule.scheme for rule in pins))))
            statistics = _statistics(loaded, program, full)
        count = loaded.samples if exact else loaded.probed
        probe = Probe(loaded.interpreter, list(loaded.first(count)))
    return SensitivityBuilder(program, schemes, pins, statistics, probe, exact, requantize)


def _statistics(loaded: LoadedModel, program: SavedProgram, full: bool) -> Statistics:
    """What flows into the weights; with ``full``, for error feedback, of more samples, some held out."""
    function = loaded.interpreter.function_name
    names = {variable: site.weight.name for site in program.sites() for variable in site.variables(function)}
    if full:
        return collect(loaded.interpreter, loaded.source, names, full=True, held_out=HELD_OUT)
    return collect(loaded.interpreter, loaded.first(loaded.samples), names)


@attrs.frozen(eq=False)
class Parts:
    """The programs that a fit is about, by name (``""`` where there is no pipeline), with what runs each.

    ``interpreter``: runs the pipeline, where there is one and there is data.
    """

    programs: dict[str, SavedProgram]
    loaded: dict[str, LoadedModel | None]
    interpreter: PipelineInterpreter | None = None

    @classmethod
    def of(
        cls,
        pipeline: SavedPipeline | None,
        programs: dict[str, SavedProgram],
        data: Any,
        samples: int | None,
        seed: int,
        function: str | None,
        part: str | None,
        statistics: Statistics | None,
    ) -> "Parts":
        """Load each program; what reaches the parts of a pipeline is what it gives them on ``data``."""
        check_one_function(pipeline, function)
        if pipeline is not None and part is None and statistics is not None:
            raise MilpassesError("statistics are of one program: say of which part of the pipeline (part=)")
        if pipeline is None or data is None:
            loaded = {
                name: LoadedModel.of(program, data, samples, seed, function)
                for name, program in programs.items()
            }
            return cls(programs, loaded)
        interpreter = PipelineInterpreter(pipeline)
        source = Samples.of(data, interpreter, limit=4 * (samples or MOST), seed=seed)
        source = source.finite(interpreter.run)
        reached = {name: samples_of_part(interpreter, source, name) for name in programs}
        loaded = {
            name: LoadedModel.of(program, reached[name], samples, seed, None)
            for name, program in programs.items()
        }
        return cls(programs, loaded, interpreter)

    def builders(
        self, candidates: Any, statistics: Statistics | None, rules: Sequence[Any], exact: bool, again: bool
    ) -> dict[str, SensitivityBuilder]:
        """What makes the table of each program; ``again``: of weights that are compressed already, too."""
        return {
            name: make_builder(program, self.loaded[name], candidates, statistics, rules, exact, again)
            for name, program in self.programs.items()
        }

    def measure(
        self,
        builders: Mapping[str, SensitivityBuilder],
        table: Sensitivity,
        validation: Any,
        statistics: Statistics | None,
    ) -> Measure:
        """What measures a whole choice of ``table``, on ``validation``, else on what was held out, or all.

        ``statistics`` as given to the fit: of these nobody knows here which samples they held out.
        """
        measures: list[tuple[Measure, list[int]]] = []
        for name, builder in builders.items():
            loaded = self.loaded[name]
            assert loaded is not None
            data = validation
            if validation is not None and self.interpreter is not None:
                data = samples_of_part(self.interpreter, validation, name)
            elif validation is None and statistics is None and builder.statistics is not None:
                data = loaded.source.apart(HELD_OUT) if builder.statistics.held_out else None
            probe = loaded.validation_probe(data)
            if not name:
                return MeasuredChoices(builder, probe, table).output_error
            own, places = table_of_part(table, self.programs[name], name, list(self.programs))
            measures.append((MeasuredChoices(builder, probe, own).output_error, places))
        return summed(measures)
