"""``milpasses sensitivity``: what each form of each weight would do to the model's outputs, and save."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._options import (
    Force,
    Function,
    Json,
    Model,
    OutputFile,
    Part,
    Requantize,
    Seed,
    Target,
    read_target,
)
from milpasses_tools._output import print_json, print_written, printed_to, shape_text
from milpasses_tools._progress import Progress, progress
from milpasses_tools._sensitivity.order import by_sensitivity, decibels
from milpasses_tools._table import print_table

if TYPE_CHECKING:
    from milpasses.budget import Sensitivity, WeightOptions

_HOW = {
    "exact": "the model ran once for each weight and candidate",
    "probed": "the model ran once or twice for each weight, the rest follows from the error of its ops",
    "layers": "of the outputs of the ops that use each weight; --data measures those of the model",
}


def sensitivity(
    model: Any,
    data: Any = None,
    *,
    candidates: Sequence[Any] | None = None,
    statistics: Any = None,
    rules: Sequence[Any] = (),
    exact: bool = False,
    samples: int | None = None,
    seed: int = 0,
    function: str | None = None,
    requantize: bool = False,
    minimum_deployment_target: Any = None,
    part: str | None = None,
    progress: Progress | None = None,
) -> "Sensitivity":
    """What every candidate would store, and the error that it would make: ``milpasses.budget.sensitivity``.

    ``statistics`` may also be the path of a file that ``Statistics.save`` wrote. The table that comes back
    goes into ``milpasses.budget.fit(..., sensitivity=table)``, as does the file of its JSON. Raises
    ``MilpassesError``.
    """
    from milpasses.budget import sensitivity as measure
    from milpasses.data.collect import Statistics

    if isinstance(statistics, str | os.PathLike):
        statistics = Statistics.load(os.fspath(statistics))
    return measure(
        model,
        data,
        candidates=candidates,
        statistics=statistics,
        rules=rules,
        exact=exact,
        samples=samples,
        seed=seed,
        function=function,
        requantize=requantize,
        minimum_deployment_target=minimum_deployment_target,
        part=part,
        progress=progress,
    )


def read_candidate_texts(text: str | None) -> list[str] | None:
    """Candidates from one text, divided by commas outside brackets: ``pal4, int4-b32``."""
    if text is None:
        return None
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def command(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Run the model on it: .npz, image folder, module:function, random."
        ),
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            "--candidates",
            metavar="SCHEME,...",
            help="Schemes to try, divided by commas; may be given again. Default: a dozen.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Run the model for each weight and candidate: slower, no estimate."),
    ] = False,
    statistics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Statistics of the weights' inputs, as saved.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use the first N samples of DATA (default: 2 to 16)."),
    ] = None,
    seed: Seed = 0,
    requantize: Requantize = False,
    target: Target = None,
    function: Function = None,
    part: Part = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="List the N most sensitive; totals count all."),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row for each weight and candidate.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the table: .html (one offline page) or .svg.")
    ] = None,
    output: OutputFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what each form of each weight would save, and lose.

    Each weight is encoded with each candidate. A figure is the signal-to-noise ratio, in dB, of the outputs
    if that weight alone had that form. Most sensitive weights first. The JSON feeds compress --budget.

    \b
    milpasses sensitivity model.mlpackage --data photos --json -o table.json
    milpasses compress model.mlpackage --budget "4 bits" --sensitivity table.json -o small.mlpackage
    """
    if plot is not None and plot.suffix not in (".html", ".svg"):
        raise typer.BadParameter(f"--plot: {plot.name}: the name must end in .html or .svg")
    from milpasses.program.files import check_files, write_text

    check_files([output, csv_file, plot], force, (model, data, statistics))
    given = read_candidate_texts(",".join(recipes)) if recipes else None
    with progress("measuring", as_json) as step:
        table = sensitivity(
            model, data, candidates=given, statistics=statistics, exact=exact,
            samples=samples, seed=seed, function=function, requantize=requantize,
            minimum_deployment_target=read_target(target), part=part, progress=step,
        )  # fmt: skip
    if csv_file is not None:
        write_text(csv_file, to_csv(table), force)
    if plot is not None:
        from milpasses_tools._sensitivity.page import page
        from milpasses_tools._sensitivity.plot import picture

        drawn = page(table, model.name, _HOW[table.how]) if plot.suffix == ".html" else picture(table)
        write_text(plot, drawn, force)
    with printed_to(output, force):
        if as_json:
            print_json(table.to_dict())
        else:
            print_sensitivity(table, top)
    if not as_json:
        print_written(csv_file, plot)


def to_csv(table: "Sensitivity") -> str:
    """A row for each weight and candidate, with bytes saved."""
    rows = table.rows()
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def print_sensitivity(table: "Sensitivity", top: int | None = None) -> None:
    """Print a row for each weight, a column for each candidate, then what each would do for all weights."""
    columns = list(table.candidates)
    weights = [one for one in by_sensitivity(table) if not one.pinned]

    def cells(weight: "WeightOptions") -> list[object]:
        found = [weight.option(scheme) for scheme in columns]
        return [None if one is None else decibels(one.output_error) for one in found]

    saved: list[object] = []
    total: list[object] = []
    for scheme in columns:
        options = [(one, one.option(scheme)) for one in weights]
        saved.append(sum(one.nbytes - option.nbytes for one, option in options if option is not None))
        total.append(decibels(sum(option.output_error for _, option in options if option is not None)))
    rows: list[list[object]] = [
        [one.name, shape_text(one.shape), one.nbytes, one.basis, *cells(one)] for one in weights[:top]
    ]
    rows.append(["all: dB", None, sum(one.nbytes for one in weights), None, *total])
    rows.append(["all: bytes saved", None, None, None, *saved])
    print_table(["weight", "shape", ">bytes", "known from", *(f">{scheme}" for scheme in columns)], rows)
    print()
    left = len(weights) - len(weights[:top])
    print(f"{len(weights):,} weights" + (f", {left:,} not listed" if left else ""))
    print(f"signal-to-noise ratio in dB, each weight alone: {_HOW[table.how]}")
    if table.data:
        print(f"data: {table.data}")
    for note in table.notes:
        print(f"note: {note}")
