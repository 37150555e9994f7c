"""``milpasses bisect``: which weight, or which pass, first makes what a model computes wrong."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from milpasses_tools._bisect.found import Bisection, WeightOutputError
from milpasses_tools._bisect.measure import Tolerance
from milpasses_tools._bisect.original import raised_original
from milpasses_tools._bisect.passes import PassBisection, bisect_passes
from milpasses_tools._options import (
    Data,
    Force,
    Function,
    Json,
    OutputFile,
    Part,
    SampleCount,
    Seed,
    Target,
    read_target,
)
from milpasses_tools._output import print_json, printed_to
from milpasses_tools._progress import Progress, progress

if TYPE_CHECKING:
    from milpasses_tools._bisect.weights import Search, Swap

__all__ = ["Bisection", "PassBisection", "WeightOutputError", "bisect", "bisect_passes"]


def bisect(
    original: Any,
    compressed: Any,
    data: Any = "random",
    *,
    tolerance: float | None = 40.0,
    max_error: float | None = None,
    samples: int | None = 4,
    seed: int = 0,
    function: str | None = None,
    part: str | None = None,
    minimum_deployment_target: Any = None,
    every: bool = False,
    progress: Progress | None = None,
) -> Bisection:
    """Find the fewest weights of a compressed model to keep uncompressed for outputs that are good enough.

    The original runs with some weights replaced by what the compressed model's decode to; weights are paired
    as ``diff`` does. While few weights are at fault they are found by halves: about log2(n) + 5 runs for one.
    Else each weight runs alone, and those that add most error are kept, until the rest is within the
    tolerance. What is kept was verified by a run, and so was that no one of it can be spared. Halving takes
    it that more compressed weights do not make the outputs better.

    Args:
        original, compressed: paths, ``MLModel`` or ``Program``. Of pipelines the weights of every part that
            runs here are searched, and the outputs are those of every part.
        data: what ``milpasses.samples.Samples.of`` takes.
        tolerance: decibels of signal to noise that every output has to reach.
        max_error: absolute error instead; then ``tolerance`` is not used.
        samples: use the first so many; None uses all.
        seed: of random data.
        function: which function of multifunction models; of each its default one unless given.
        part: of pipelines, this part alone, on what reaches it in the original.
        minimum_deployment_target: raise the original to it first, so that its ops are those of the compressed
            model. One before iOS16 is raised to the compressed model's target.
        every: measure each weight alone in any case.
        progress: called with (runs so far, 0, what runs).

    Raises:
        MilpassesError: models with different inputs or outputs, data that does not fit.
    """
    from milpasses_tools._bisect.weights import Search, Subject, differing
    from milpasses_tools._compare.runners import PipelineReference, Reference, open_pair

    limit = Tolerance.of(None if max_error is not None else tolerance, max_error)
    with raised_original(original, compressed, minimum_deployment_target) as (raised, raised_notes):
        first, second, source = open_pair(raised, compressed, data, part, function, samples, seed)
        assert isinstance(first, Reference | PipelineReference)
        assert isinstance(second, Reference | PipelineReference)
        functions = {
            name or part or "": (one.function_name, second.programs[name].function_name)
            for name, one in first.programs.items()
        }
        swaps, notes = differing(raised, compressed, functions)
        if part is not None:  # it runs alone
            swaps = [swap.outside() for swap in swaps]
        notes += raised_notes
        subject = Subject(first, {swap.variable: swap for swap in swaps}, list(source), progress)
        whole, nonfinite = subject.whole(second)
        del second
        search = Search(subject, limit)
        search.run(every)
        combined = subject.error(subject.swaps)
        if limit.keeps(combined) != limit.keeps(whole):
            notes.append(
                f"ops differ too: the compressed model is at {whole.snr_db:.1f} dB, its weights in the "
                f"original's ops at {combined.snr_db:.1f} dB (milpasses diff shows them)"
            )
        keep = tuple(subject.swaps[name].name for name in search.keep)
        rules, recipe = _recipe(compressed, [subject.swaps[name] for name in search.keep])
        return Bisection(
            _name(original),
            _name(compressed),
            source.description,
            source.random,
            len(subject.samples),
            str(limit),
            limit.keeps(whole),
            len(swaps),
            subject.executions,
            combined,
            whole,
            _table(search),
            None if search.first is None else subject.swaps[search.first].name,
            keep,
            subject.error(set(subject.swaps) - set(search.keep)) if keep else None,
            sum(_saved(search, name) for name in search.keep),
            rules,
            recipe,
            nonfinite,
            tuple(notes),
        )


def _saved(search: "Search", name: str) -> int:
    swap = search.subject.swaps[name]
    return swap.original.nbytes - swap.compressed.nbytes


def _table(search: "Search") -> tuple[WeightOutputError, ...]:
    rows = [
        WeightOutputError(
            swap.name,
            swap.compressed.form,
            swap.compressed.nbytes,
            swap.original.nbytes,
            error,
            name in search.keep,
        )
        for name, error in search.alone.items()
        for swap in (search.subject.swaps[name],)
    ]
    return tuple(sorted(rows, key=lambda row: (row.error.snr_db, -row.error.max_error, row.name)))


def _recipe(compressed: Any, keep: "list[Swap]") -> tuple[tuple[str, ...], str]:
    """Rules that keep the weights, as texts; and the compressed model's own recipe with them, as YAML."""
    from milpasses.errors import MilpassesError
    from milpasses.recipe import Recipe

    if not keep:
        return (), ""
    rules = [swap.keeping() for swap in keep]
    rules = [rule for index, rule in enumerate(rules) if rule not in rules[:index]]
    texts = tuple(rule.to_text() for rule in rules)
    known = _known_recipe(compressed)
    if not known:
        return texts, ""
    try:
        recipe = Recipe.parse(known)
        return texts, attrs.evolve(recipe, rules=[*rules, *recipe.rules]).to_yaml()
    except MilpassesError:  # a rule of it was a Python function
        return texts, ""


def _known_recipe(compressed: Any) -> str:
    """The text of the recipe that a model's own report names."""
    from coremltools.converters.mil.mil import Program

    from milpasses.program.sources import read_source
    from milpasses.report import METADATA_KEY, read_metadata

    if isinstance(compressed, Program):
        return ""
    metadata = read_source(compressed).spec.description.metadata.userDefined
    return str(read_metadata(metadata.get(METADATA_KEY, "")).get("recipe", ""))


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else f"a {type(model).__name__} in memory"


def command(
    original: Annotated[
        Path,
        typer.Argument(
            metavar="ORIGINAL",
            help="The uncompressed model; or a conversion: a folder of trace, or a script.",
        ),
    ],
    compressed: Annotated[
        Path | None, typer.Argument(metavar="[COMPRESSED]", help="The compressed model.")
    ] = None,
    data: Data = "random",
    tolerance: Annotated[
        float, typer.Option(metavar="DB", help="Decibels of signal to noise that every output must reach.")
    ] = 40.0,
    max_error: Annotated[
        float | None, typer.Option(metavar="X", help="Tolerate this absolute error instead.")
    ] = None,
    samples: SampleCount = 4,
    seed: Seed = 0,
    function: Function = None,
    part: Part = None,
    target: Target = None,
    every: Annotated[
        bool, typer.Option("--all", help="Measure every weight alone, or run the program after every pass.")
    ] = False,
    output: OutputFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find the weights, or the pass, that make outputs wrong.

    With two models: the weights that bring the outputs outside the tolerance, the fewest to keep
    uncompressed, and the recipe that does so. With a folder that trace --dump-after-change DIR
    --keep-programs wrote, or with a script that converts a model: the first pass after which the outputs are
    outside the tolerance, and the first op that makes a NaN. Ends with status 0 if the outputs are within the
    tolerance, 1 if not, 2 if that could not be found out.

    \b
    milpasses bisect model.mlpackage small.mlpackage --data photos --tolerance 40
    milpasses bisect convert.py --data inputs.npz
    """
    options: dict[str, Any] = {
        "tolerance": tolerance,
        "max_error": max_error,
        "samples": samples,
        "seed": seed,
        "function": function,
        "every": every,
    }
    from milpasses.program.files import check_files
    from milpasses_tools._bisect import text

    check_files([output], force, (original, compressed, data))
    for option, value in (("--target", target), ("--part", part)):
        if value is not None and compressed is None:
            raise typer.BadParameter(f"{option}: only with two models")
    with progress("searching", as_json) as step:
        found: Bisection | PassBisection
        if compressed is not None:
            raised = read_target(target)
            found = bisect(
                original,
                compressed,
                data,
                **options,
                part=part,
                minimum_deployment_target=raised,
                progress=step,
            )
        else:
            found = bisect_passes(_conversion(original), data, **options, progress=step)
    with printed_to(output, force):
        if as_json:
            print_json(found.to_dict())
        elif isinstance(found, Bisection):
            text.print_weights(found)
        else:
            text.print_passes(found)
    within = found.within if isinstance(found, Bisection) else found.first is None and found.nonfinite is None
    if not within:
        raise typer.Exit(1)


def _conversion(path: Path) -> Any:
    """A folder of programs as it is; a script as a function that runs it."""
    from milpasses.errors import MilpassesError
    from milpasses_tools._script import run_script

    if not path.exists():
        raise FileNotFoundError(2, "no such script, folder or model", str(path))
    if path.suffix == ".mlpackage":
        raise MilpassesError(f"{path}: one model alone; name the compressed one as well")
    return path if path.is_dir() else lambda: run_script(path, [])
