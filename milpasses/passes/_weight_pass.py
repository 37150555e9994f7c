"""Options of a pass: checked when they are set, with a message that lists what is accepted."""

from typing import Any

from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from milpasses.calibration import KnownStatistics
from milpasses.data.norms import is_norms
from milpasses.errors import MilpassesError
from milpasses.passes._reporting import remember
from milpasses.program.memory import MemoryProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import Rewriter, rewrite_program

COMMON = ("report", "requantize", "statistics", "strict")


class WeightPass(AbstractGraphPass):
    """A pass that applies a recipe; subclasses say what their options are.

    Every pass takes ``report`` (a ``milpasses.Report`` to fill), ``requantize``, ``strict`` and
    ``statistics`` (as ``milpasses.compress`` does, or ``"norms"``).
    """

    accepted: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.report = Report()
        self.requantize = self.strict = False
        self.statistics: KnownStatistics | None = None
        self.norms = False
        self._recipe: Recipe | None = None

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """The recipe that ``options`` (without the common ones) mean."""
        raise NotImplementedError

    def set_options(self, pass_options: Any = None) -> None:
        """Take coremltools' ``PassOption`` list; an unknown name or a wrong value is refused here."""
        given = {option.option_name: option.option_val for option in pass_options or ()}
        unknown = sorted(set(given) - set(self.accepted) - set(COMMON))
        if unknown:
            accepted = ", ".join(sorted({*self.accepted, *COMMON}))
            raise MilpassesError(f"milpasses::{self}: no option {unknown[0]!r}; accepted are {accepted}")
        report = given.pop("report", None)
        if report is not None and not isinstance(report, Report):
            raise MilpassesError(f"milpasses::{self}: report must be a milpasses.Report, not {report!r}")
        self.report = Report() if report is None else report
        self.requantize = read_flag(self, "requantize", given)
        self.strict = read_flag(self, "strict", given)
        statistics = given.pop("statistics", None)
        self.norms = is_norms(statistics)
        self.statistics = None if statistics is None or self.norms else KnownStatistics(statistics)
        self._recipe = self.read_options(given)

    def apply(self, prog: Any) -> None:
        """Rewrite the program in place; a second run over its own output rewrites nothing."""
        recipe, program = self._recipe or self.read_options({}), MemoryProgram(prog)
        source = _from_norms(prog) if self.norms else self.statistics
        rewriter = Rewriter(
            recipe, program.target, requantize=self.requantize, calibration=source, strict=self.strict
        )
        if isinstance(source, KnownStatistics):
            source.check([site.weight for site in program.sites() if rewriter.calibrates(site)])
        rewrite_program(program, rewriter, self.report)
        remember(prog, self.report)


def _from_norms(program: Any) -> KnownStatistics:
    from milpasses.data.collect import without_data

    return KnownStatistics(without_data(next(iter(program.functions.values())), {}))


def read_flag(owner: object, name: str, given: dict[str, Any]) -> bool:
    """Take the option ``name``, true or false, out of ``given``; false where it is not there."""
    value = given.pop(name, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise MilpassesError(f"milpasses::{owner}: {name} must be true or false, not {value!r}")
    return value
