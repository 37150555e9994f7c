"""8-bit activations of the programs of a pipeline, each on what reaches it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from milpasses.activations.measure import ActivationPlan, Finish, activations_of
from milpasses.calibration.sources import Prepare
from milpasses.data.norms import is_norms
from milpasses.data.parts import samples_of_part
from milpasses.interpreter import PipelineInterpreter
from milpasses.program.pipelines import SavedPipeline
from milpasses.program.saved import SavedProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report


@attrs.frozen(eq=False)
class PartActivations:
    """``pipeline``: with what its programs are to be; ``finishes``: by part, what adds the pairs.

    ``prepares``: by part, as in ``ActivationPlan``.
    """

    pipeline: SavedPipeline
    finishes: Mapping[str, Finish] = attrs.field(factory=dict)
    prepares: Mapping[str, Prepare] = attrs.field(factory=dict)

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

    ``data``: samples of the pipeline. A rule may be for one part alone: ``check_rules`` is for all together.
    """
    if not recipe.wants_activations:
        return PartActivations(pipeline)
    runs = data is not None and not is_norms(data)
    interpreter = PipelineInterpreter(pipeline) if runs else None
    raised = dict(pipeline.raised)
    plans: dict[str, ActivationPlan] = {}
    for index, (name, program) in enumerate(programs.items()):
        known: Any = data if interpreter is None else samples_of_part(interpreter, data, name)
        place = folder / str(index)
        place.mkdir()
        plans[name] = activations_of(
            program, recipe, statistics, known, place,
            check=False, equalize=equalize, fallback=fallback,
        )  # fmt: skip
        raised[name] = plans[name].program
    finishes = {name: plan.finish for name, plan in plans.items() if plan.finish is not None}
    prepares = {name: plan.prepare for name, plan in plans.items() if plan.prepare is not None}
    return PartActivations(attrs.evolve(pipeline, raised=raised), finishes, prepares)
