"""8-bit activations of the programs of a pipeline, each on what reaches it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from milpasses.activations.measure import ActivationPlan, Finish, activations_of
from milpasses.activations.quantize import check_rules
from milpasses.calibration.sources import Prepare
from milpasses.data.norms import is_norms
from milpasses.data.parts import samples_of_part
from milpasses.interpreter import PipelineInterpreter
from milpasses.program.pipelines import SavedPipeline
from milpasses.program.saved import SavedProgram, check_functions
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import Rewriter, rewriter_for


@attrs.frozen(eq=False)
class PartActivations:
    """``pipeline``: with what its programs are to be; ``finishes``: by part, what adds the pairs.

    ``prepares``: by part, as in ``ActivationPlan``.
    """

    pipeline: SavedPipeline
    finishes: Mapping[str, Finish] = attrs.field(factory=dict)
    prepares: Mapping[str, Prepare] = attrs.field(factory=dict)

    @property
    def notes(self) -> list[str]:
        """Of all programs."""
        return [note for program in self.pipeline.raised.values() for note in program.notes]

    def rewriters(self, recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Rewriter]:
        """What applies ``recipe`` to each program, on what reaches it; ``options``: of ``rewriter_for``."""
        found: dict[str, Rewriter] = {}
        for name, known in _reaching(self.pipeline, self.pipeline.raised, options["calibration"]):
            program = self.pipeline.raised[name]
            check_functions(program)
            changed: dict[str, Any] = {**options, "calibration": known, "prepare": self.prepares.get(name)}
            found[name] = rewriter_for(program, recipe, **changed)
            found[name].check(program.sites())
        return found

    def check_rules(self, recipe: Recipe, report: Report, strict: bool) -> None:
        """Say of each rule for activations that is for no op of any part; an error with ``strict``."""
        views = [view for program in self.pipeline.raised.values() for view in program.functions]
        check_rules(recipe, views, report, strict)

    def finish(self, name: str, spec: Any, report: Report) -> None:
        """Add the pairs of a part to its new specification, and to ``report`` of the part what was done."""
        if name in self.finishes:
            self.finishes[name](spec, report)


def activations_of_parts(
    pipeline: SavedPipeline,
    programs: Mapping[str, SavedProgram],
    recipe: Recipe,
    statistics: Any,
    data: Any,
    folder: Path,
    *,
    equalize: bool = True,
    fallback: Any = None,
) -> PartActivations:
    """What makes activations of ``programs`` 8-bit, parts of ``pipeline`` by name; see ``activations_of``.

    ``data``: samples of the pipeline.
    """
    if not recipe.wants_activations:
        return PartActivations(pipeline)
    raised = dict(pipeline.raised)
    plans: dict[str, ActivationPlan] = {}
    for index, (name, known) in enumerate(_reaching(pipeline, programs, data)):
        place = folder / str(index)
        place.mkdir()
        plans[name] = activations_of(
            programs[name], recipe, statistics, known, place,
            check=False, equalize=equalize, fallback=fallback,
        )  # fmt: skip
        raised[name] = plans[name].program
    finishes = {name: plan.finish for name, plan in plans.items() if plan.finish is not None}
    prepares = {name: plan.prepare for name, plan in plans.items() if plan.prepare is not None}
    return PartActivations(attrs.evolve(pipeline, raised=raised), finishes, prepares)


def _reaching(pipeline: SavedPipeline, names: Iterable[str], data: Any) -> Iterator[tuple[str, Any]]:
    """Each part with its own data: what reaches it where there are samples of the pipeline."""
    runs = data is not None and not is_norms(data)
    interpreter = PipelineInterpreter(pipeline) if runs else None
    for name in names:
        yield name, data if interpreter is None else samples_of_part(interpreter, data, name)
