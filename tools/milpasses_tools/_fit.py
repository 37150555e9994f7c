"""``milpasses compress --budget``: the recipe is fitted before it is used."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from milpasses_tools._progress import Progress
from milpasses_tools.sensitivity import read_candidate_texts

if TYPE_CHECKING:
    from milpasses import Statistics
    from milpasses.budget import Fit
    from milpasses.program.saved import SavedProgram
    from milpasses.program.weights import Site


@attrs.frozen
class Wanted:
    """What was asked for: a recipe, or what to fit one to."""

    recipe: str | None
    budget: str | None
    max_loss: str | None
    candidates: str | None
    data: str | None
    statistics: Path | None
    sensitivity: Path | None

    @property
    def calibrates(self) -> bool:
        """Whether there is data that says something of what the model is used on."""
        from milpasses.data.random_data import is_random

        return self.data is not None and not is_random(self.data)

    def check(self) -> None:
        """Refuse both, neither, and what goes with a budget alone."""
        from milpasses.data.random_data import is_random

        fitted = self.budget is not None or self.max_loss is not None
        if self.recipe is None and not fitted:
            raise typer.BadParameter(
                "what weights are to become is missing: give a --recipe such as pal4-g16, or a --budget or "
                "--max-loss that one is found for"
            )
        if self.recipe is not None and fitted:
            option = "--budget" if self.budget is not None else "--max-loss"
            raise typer.BadParameter(
                f"--recipe and {option}: {option} finds the recipe itself; give one of the two "
                f"(--candidates {self.recipe},... limits what it may choose)"
            )
        if self.data is not None and self.statistics is not None:
            raise typer.BadParameter("give --data, or --statistics made of it, not both")
        if is_random(self.data) and self.recipe is not None:
            raise typer.BadParameter(f"--data {self.data}: random samples calibrate nothing, give real ones")
        if self.data == "norms" and fitted:
            raise typer.BadParameter("--data norms: a budget is spent by what is measured, give samples")
        extras = {"--candidates": self.candidates, "--sensitivity": self.sensitivity}
        given = [option for option, value in extras.items() if value is not None]
        if given and not fitted:
            raise typer.BadParameter(f"{', '.join(given)}: only with --budget or --max-loss")


def fit_recipe(
    model: Path,
    wanted: Wanted,
    target: Any,
    requantize: bool,
    function: str | None,
    part: str | None,
    progress: Progress,
) -> "tuple[Fit, Statistics | None]":
    """The fit for ``model``, raised to ``target`` first where one is given, and the statistics it took.

    ``function``: the one that runs on data. Of a pipeline no statistics come back: each part has its own.
    """
    from milpasses import Statistics
    from milpasses.budget import fit
    from milpasses.calibration.sources import HELD_OUT
    from milpasses.data.samples import Samples
    from milpasses.program.pipelines import opened_parts

    progress(0, 0, f"opening {model.name}")
    with opened_parts(model, target, part) as (pipeline, programs):
        candidates: Any = read_candidate_texts(wanted.candidates)
        statistics = None if wanted.statistics is None else Statistics.load(wanted.statistics)
        validation = None
        if candidates is None and wanted.calibrates and wanted.sensitivity is None:
            if pipeline is None:
                candidates, statistics = _tuned(programs[""], wanted.data, requantize, function, progress)
                if statistics is not None and statistics.held_out:
                    data = Samples.of(wanted.data, programs[""], function=function)
                    validation = data.apart(HELD_OUT)
            else:
                candidates = candidates_of_parts(programs.values())
        found = fit(
            programs[""] if pipeline is None else pipeline,
            wanted.budget,
            max_loss=wanted.max_loss,
            data=wanted.data,
            validation=validation,
            statistics=statistics,
            candidates=candidates,
            sensitivity=wanted.sensitivity,
            function=function,
            requantize=requantize,
            part=part,
            progress=progress,
        )
        return found, statistics


def candidates_of_parts(programs: "Iterable[SavedProgram]") -> list[str]:
    """Candidates with error feedback that every one of ``programs`` has."""
    from milpasses.budget.candidates import tuned_candidates

    return tuned_candidates(min((program.target for program in programs), key=lambda opset: opset.version))


def _tuned(
    program: "SavedProgram", data: Any, requantize: bool, function: str | None, progress: Progress
) -> "tuple[list[str] | None, Statistics | None]":
    """Candidates that error feedback improves, and the statistics that it takes.

    Nothing where these do not fit into memory together: the candidates are then judged as they are without,
    and calibrated when they are used.
    """
    from milpasses import Recipe
    from milpasses.budget.candidates import tuned_candidates
    from milpasses.calibration.ahead import collect_ahead
    from milpasses.rewrite import Rewriter

    candidates = tuned_candidates(program.target)

    def shown(done: int, total: int | None, name: str) -> None:
        progress(done, total or 0, f"running {name}")

    rewriters = [Rewriter(Recipe.of(name), program.target, requantize=requantize) for name in candidates]

    def calibrates(site: "Site") -> bool:
        return any(rewriter.calibrates(site) for rewriter in rewriters)

    found = collect_ahead(program, calibrates, data, function=function, progress=shown)
    return (None, None) if found is None else (candidates, found)
