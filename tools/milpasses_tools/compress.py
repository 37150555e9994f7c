"""``milpasses compress``: ``milpasses.compress`` from the command line."""

import json
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._options import (
    Fallback,
    Force,
    Function,
    Json,
    Output,
    Part,
    Recipe,
    ReportFile,
    Requantize,
    Strict,
    Target,
    Verbose,
    read_target,
)
from milpasses_tools._output import folder_bytes, print_json, print_written, shape_text, sizes_line, sqnr_text
from milpasses_tools._progress import progress
from milpasses_tools._table import print_table
from milpasses_tools._words import in_options

if TYPE_CHECKING:
    from milpasses.report import Record, Report

_COLUMNS = ("weight", "shape", "status", "form", ">bits", ">bytes before", ">after", ">SQNR dB", "note")


def command(
    model: Annotated[
        Path, typer.Argument(metavar="IN", help="An .mlpackage of an ML Program, or of a pipeline with some.")
    ],
    output: Output,
    recipe: Recipe = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help='Instead of a recipe: "4 bits" a weight, "12 MB", "25 %" of now.'),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            metavar="LOSS",
            help='Instead of, or with, a budget: "30 dB" of signal-to-noise in outputs at least, or "1 %" '
            "of their energy as error at most (not points of accuracy).",
        ),
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(metavar="LIST", help="For a budget: schemes to choose from: pal4,pal6,int8.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What the model is used on (.npz, image folder, module:function): encodings are chosen by "
            "what they do to outputs there, and so is what a budget is spent on ('random' for that alone). "
            "Without any, 'norms' goes by the normalizations before the weights.",
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of DATA: what milpasses.statistics saved, as .npz."),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option("--sequential", help="With DATA: each layer sees what those before it became; slower."),
    ] = False,
    fallback: Fallback = None,
    sensitivity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For a budget: the JSON that sensitivity printed.")
    ] = None,
    save_recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the recipe that was used to FILE, as YAML.")
    ] = None,
    force: Force = False,
    requantize: Requantize = False,
    target: Target = None,
    function: Function = None,
    part: Part = None,
    strict: Strict = False,
    report: ReportFile = None,
    compare_on: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="DATA",
            help="Compare outputs before and after on DATA: .npz, image folder, module:function, random.",
        ),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compress the weights of a model.

    Short recipes: int8, int4-b32, pal8, pal6, pal4, pal4-g16, sparse50, sparse50+pal4, and others of their
    kind. Rules follow the default, divided by semicolons. IN is never changed.

    \b
    milpasses compress model.mlpackage -r pal4-g16 -o small.mlpackage
    milpasses compress model.mlpackage -r "pal4; op_type=conv name=stem* -> int8" -o small.mlpackage
    milpasses compress model.mlpackage -r pal4-g16-gptq --data photos -o small.mlpackage
    milpasses compress model.mlpackage --budget "4 bits" --data photos -o small.mlpackage
    """
    with progress("starting", as_json):  # the libraries take a second
        import milpasses
    from milpasses.program.files import check_files, write_text
    from milpasses.program.package import check_output
    from milpasses_tools._fit import Wanted, fit_recipe

    wish = Wanted(recipe, budget, max_loss, candidates, data, statistics, sensitivity)
    wish.check()
    if sequential and data is None:
        raise typer.BadParameter("--sequential: only with --data, which the model is run on again and again")
    inputs = model, recipe, data, statistics, sensitivity, compare_on
    check_output(output, force, inputs)
    check_files([output, report, save_recipe], force, inputs)
    began = time.perf_counter()
    wanted = read_target(target)
    fitted = None
    known: Any = statistics
    if not wish.recipe:
        with progress("fitting the recipe", as_json) as step:
            fitted, known = fit_recipe(model, wish, wanted, requantize, function, part, step)
    chosen = milpasses.Recipe.of(wish.recipe) if fitted is None else fitted.recipe
    with progress("compressing", as_json) as step, unmatched_in_report():
        compressed = milpasses.compress(
            model,
            chosen,
            output=output,
            requantize=requantize,
            minimum_deployment_target=wanted,
            part=part,
            function=function,
            force=force,
            statistics=None if sequential else known,
            calibration=data if wish.calibrates and (known is None or sequential) else None,
            sequential=sequential,
            fallback=fallback,
            strict=strict,
            progress=step,
        )
    seconds = time.perf_counter() - began
    if save_recipe is not None:
        write_text(save_recipe, (chosen if fitted is None else fitted).to_yaml(), force)
    if report is not None:
        write_text(report, compressed.report.to_json(indent=2) + "\n", force)
    found = None
    if compare_on is not None:
        from milpasses_tools.compare import compare

        with progress("comparing", as_json) as step:
            found = compare(model, compressed, compare_on, function=function, progress=step)
    sizes = folder_bytes(model), folder_bytes(output)
    if as_json:
        content = json.loads(compressed.report.to_json())
        content["input"] = {"path": str(model), "bytes": sizes[0]}
        content["output"] = {"path": str(output), "bytes": sizes[1]}
        if fitted is not None:
            content["fit"] = fitted.to_dict()
        if found is not None:
            content["comparison"] = found.to_dict()
        print_json({**content, "nothing": nothing_line(compressed.report), "seconds": round(seconds, 3)})
    else:
        print_report(compressed.report, verbose)
        if fitted is not None:
            print(fitted)
        print(sizes_line(model, output, seconds))
        print_written(save_recipe, report)
        if found is not None:
            from milpasses_tools._compare.text import print_comparison

            print()
            print_comparison(found, top=20)


@contextmanager
def unmatched_in_report() -> Generator[None, None, None]:
    """A context without the warnings of rules that decide nothing: the report has them."""
    from milpasses import UnmatchedRuleWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmatchedRuleWarning)
        yield


def print_report(report: "Report", verbose: bool = False) -> None:
    """Print what became of each weight: those compressed one by one, the others by reason."""
    listed = [record for record in report if verbose or record.status == "compressed"]
    if listed:
        print_table(_COLUMNS, map(_row, listed))
        print()
    if not verbose:
        from milpasses_tools._reasons import by_reason

        for line in by_reason([record for record in report if record.status != "compressed"]):
            print(in_options(line))
    quantized = [record for record in report.activations if record.status == "quantized"]
    for record in report.activations:
        if verbose or record.status != "quantized":
            print(record)
    if report.activations:
        print(f"{len(quantized):,} of {len(report.activations):,} activations quantized")
    for note in report.notes:
        print(f"note: {note}")
    recipe = report.recipe if len(report.recipe) <= 200 else f"{report.recipe[:197]}..."
    totals = report.totals()
    worst = totals["worst_sqnr_db"]
    print(
        f"{totals['compressed']:,} of {totals['weights']:,} weights compressed by {recipe}, "
        f"{totals['bytes_before']:,} -> {totals['bytes_after']:,} bytes, "
        f"{totals['bits_per_weight']:.2f} bits a weight"
        + (f", worst SQNR {sqnr_text(worst)} dB" if worst is not None else "")
    )
    for text in report.unmatched:
        print(f"warning: {text}")
    nothing = nothing_line(report)
    if nothing is not None:
        print(nothing)


def nothing_line(report: "Report") -> str | None:
    """``nothing_compressed`` in the options of the command."""
    from milpasses.recipe.nothing import nothing_compressed

    said = nothing_compressed(report)
    return None if said is None else in_options(said)


def _row(record: "Record") -> tuple[object, ...]:
    return (
        record.name,
        shape_text(record.shape),
        record.status,
        record.form,
        record.bits_per_weight,
        record.bytes_before,
        record.bytes_after,
        sqnr_text(record.sqnr_db),
        in_options(record.reason),
    )
