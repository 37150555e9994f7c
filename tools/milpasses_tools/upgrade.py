"""``milpasses upgrade``: ``milpasses.neuralnetwork.upgrade`` from the command line."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from milpasses_tools._options import Fallback, Force, Json, Output, Part, Recipe, Strict, Verbose, read_target
from milpasses_tools._output import folder_bytes, print_json, sizes_line
from milpasses_tools._progress import progress


def command(
    model: Annotated[Path, typer.Argument(metavar="IN", help="A neural network: .mlmodel or .mlpackage.")],
    output: Output,
    recipe: Recipe = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="For a recipe: what the model is used on, as in milpasses compress."
        ),
    ] = None,
    fallback: Fallback = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="TARGET", help="iOS16 or later; by default the lowest that holds the weights."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="Arithmetic and weights: float16 or float32.")
    ] = "float16",
    part: Part = None,
    strict: Strict = False,
    force: Force = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Turn a legacy neural network into an ML Program.

    Inputs, outputs, labels and texts stay; quantized weights keep their codes. Of a pipeline every neural
    network; other parts stay as they are. IN is never changed.

    \b
    milpasses upgrade model.mlmodel -o model.mlpackage
    milpasses upgrade model.mlmodel -o small.mlpackage --recipe pal4
    milpasses upgrade model.mlmodel -o small.mlpackage --recipe pal4-g16-gptq --data photos
    """
    from milpasses import neuralnetwork
    from milpasses_tools.compress import unmatched_in_report

    if data is not None and recipe is None:
        raise typer.BadParameter("--data: only with a --recipe, which it calibrates")
    began = time.perf_counter()
    wanted = None if target is None else read_target(target)
    chosen: Any = precision
    with progress("upgrading", as_json) as step, unmatched_in_report():
        upgraded = neuralnetwork.upgrade(
            model,
            recipe,
            wanted,
            precision=chosen,
            part=part,
            strict=strict,
            calibration=data,
            fallback=fallback,
            output=output,
            force=force,
            progress=step,
        )
    seconds = time.perf_counter() - began
    sizes = folder_bytes(model), folder_bytes(output)
    if as_json:
        content: dict[str, Any] = json.loads(upgraded.report.to_json()) if recipe is not None else {}
        content["input"] = {"path": str(model), "bytes": sizes[0]}
        content["output"] = {"path": str(output), "bytes": sizes[1]}
        print_json({**content, "notes": upgraded.notes, "seconds": round(seconds, 3)})
        return
    if recipe is not None:
        from milpasses_tools.compress import print_report

        print_report(upgraded.report, verbose)
    for note in upgraded.notes:
        print(note)
    print(sizes_line(model, output, seconds))
