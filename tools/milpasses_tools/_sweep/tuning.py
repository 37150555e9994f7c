"""What is learnt from the samples set aside: once, for all variants that tune on data."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from milpasses.data.samples import Sample, Samples
from milpasses.program.files import write_json
from milpasses.program.pipelines import is_pipeline
from milpasses.recipe.recipe import Recipe
from milpasses_tools._progress import Progress
from milpasses_tools._sweep.data import Prepared
from milpasses_tools._sweep.store import content_hash, hash_model
from milpasses_tools._sweep.threads import one_thread

PROBES = 4  # samples to see each scheme's error on; whole choices run on four times as many


@attrs.frozen(eq=False)
class Calibration:
    """The samples set aside, and what is known from them; it is sent to other processes.

    Iterating gives the samples. ``statistics`` (.npz): of the inputs of all weights that a recipe calibrates;
    None where they do not fit into memory together, so that each variant computes its own, a few weights at a
    time. ``sensitivity`` (.json): what each scheme stores and what error it makes, for budgets.
    ``function``: the one that runs.
    """

    data: Prepared
    statistics: Path | None = None
    sensitivity: Path | None = None
    function: str | None = None

    def __iter__(self) -> Iterator[Sample]:
        return self.data.samples(self.data.calibration)

    def options(self, itself: bool = False) -> dict[str, Any]:
        """What to give to ``milpasses.compress``; ``itself``: the samples, for ranges or tuning."""
        if self.statistics is not None and not itself:
            return {"statistics": self.statistics}
        return {"calibration": self, "function": self.function}


def learn(
    data: Prepared,
    program: Path,
    recipes: Sequence[Recipe],
    fits: bool,
    cache: Path,
    function: str | None,
    progress: Progress | None,
    part: str | None = None,
) -> Calibration:
    """Statistics for ``recipes``, and with ``fits`` a sensitivity table; what ``cache`` holds is taken.

    ``program`` is the package that variants are made from. Raises ``MilpassesError``.
    """
    from milpasses import __version__

    recipes = [*recipes, Recipe.of("pal4")] if fits else recipes  # a fit calibrates every weight that is used
    texts = sorted(map(repr, recipes))
    given = [__version__, hash_model(program), data.key, repr(data.calibration), str(function), str(part)]
    key = content_hash([*given, *texts])[:20]
    statistics, sensitivity = cache / f"statistics-{key}.npz", cache / f"sensitivity-{key}.json"
    found = Calibration(data, function=function)
    with one_thread():
        if recipes:
            known = not is_pipeline(program) and (  # of a pipeline each variant computes its own, by part
                statistics.exists() or _write_statistics(found, program, recipes, statistics, progress)
            )
            found = attrs.evolve(found, statistics=statistics.absolute() if known else None)
        if fits:
            if not sensitivity.exists():
                _write_sensitivity(found, program, sensitivity, progress, part)
            found = attrs.evolve(found, sensitivity=sensitivity.absolute())
    return found


def _write_statistics(
    samples: Calibration, program: Path, recipes: Sequence[Recipe], path: Path, progress: Progress | None
) -> bool:
    """Write what ``compress`` would compute for each recipe; nothing, and False, where it is too much."""
    from milpasses.calibration.ahead import collect_ahead
    from milpasses.program.opening import open_program
    from milpasses.program.weights import Site
    from milpasses.rewrite import Rewriter

    def shown(done: int, total: int | None, name: str) -> None:
        if progress is not None:
            progress(done, total or done, f"what flows into the weights: {name}")

    opened = open_program(program)
    rewriters = [Rewriter(recipe, opened.target) for recipe in recipes]

    def calibrates(site: Site) -> bool:
        return any(rewriter.calibrates(site) for rewriter in rewriters)

    found = collect_ahead(opened, calibrates, samples, function=samples.function, progress=shown)
    if found is not None:
        found.save(path)
    return found is not None


def _write_sensitivity(
    samples: Calibration, program: Path, path: Path, progress: Progress | None, part: str | None
) -> None:
    from milpasses.budget import sensitivity
    from milpasses.budget.candidates import tuned_candidates
    from milpasses.program.opening import open_program

    names: Sequence[str] | None = None
    if samples.statistics is not None:
        names = tuned_candidates(open_program(program).target)
    statistics = _load(samples.statistics)
    found = sensitivity(
        program,
        samples,
        candidates=names,
        statistics=statistics,
        samples=PROBES,
        function=samples.function,
        part=part,
        progress=progress,
    )
    write_json(path, found.to_dict(), force=True)


def _load(statistics: Path | None) -> Any:
    from milpasses import Statistics

    return None if statistics is None else Statistics.load(statistics)


def fitted(program: Path, budget: str, calibration: "Calibration | None", part: str | None = None) -> Recipe:
    """The recipe for a budget (``4 bits``, ``500 kB``, ``25 %``), or an SNR (``30 dB``).

    Without ``calibration`` a layer's error is its weight's own. Raises ``MilpassesError``.
    """
    from milpasses.budget import fit
    from milpasses.calibration.sources import HELD_OUT

    wanted: dict[str, Any] = {"max_loss" if budget.lower().endswith("db") else "budget": budget, "part": part}
    if calibration is None:
        return fit(program, **wanted).recipe
    samples = Samples.of(list(calibration), program, function=calibration.function)
    statistics = _load(calibration.statistics)
    return fit(
        program,
        data=samples,
        validation=samples.apart(HELD_OUT) if statistics is not None and statistics.held_out else None,
        samples=PROBES,
        statistics=statistics,
        sensitivity=calibration.sensitivity,
        function=calibration.function,
        **wanted,
    ).recipe
