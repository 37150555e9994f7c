"""``milpasses tune``: ``milpasses.tune`` from the command line."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from milpasses_tools._options import (
    Force,
    Function,
    Json,
    Model,
    Output,
    Part,
    Recipe,
    ReportFile,
    Requantize,
    SampleCount,
    Strict,
    Target,
    Verbose,
    read_target,
)
from milpasses_tools._output import folder_bytes, print_json, print_written, sizes_line
from milpasses_tools._progress import progress


def command(
    model: Model,
    output: Output,
    recipe: Recipe = None,
    compressed: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Instead of a recipe: MODEL compressed already, as an .mlpackage."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What the model is used on, without labels (.npz, image folder, module:function): 8 samples "
            "or more, better 256; every fourth is held out and decides.",
        ),
    ] = None,
    samples: SampleCount = None,
    minutes: Annotated[
        float, typer.Option(metavar="N", min=0, help="Most time to take, calibration included.")
    ] = 20.0,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most steps of each stage, and of each block.")
    ] = 400,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where torch computes: cpu, cuda, mps.")
    ] = "cpu",
    force: Force = False,
    requantize: Requantize = False,
    target: Target = None,
    function: Function = None,
    part: Part = None,
    strict: Strict = False,
    report: ReportFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compress a model, then learn what its weights store.

    Tables, scales, codes and biases are learned by gradients from the outputs of MODEL: the same forms and
    bytes, nearer outputs. What is written is never worse on held-out samples than what tuning began with.
    For 2 and 3 bits. Needs torch. MODEL is never changed.

    \b
    milpasses tune model.mlpackage -r pal3-g16 --data photos -o tuned.mlpackage
    milpasses tune model.mlpackage -r pal2-g16 --data photos --minutes 5 -o tuned.mlpackage
    milpasses tune model.mlpackage --compressed small.mlpackage --data photos -o tuned.mlpackage
    """
    if (recipe is None) == (compressed is None):
        raise typer.BadParameter(
            "what to begin with: give a --recipe such as pal3-g16, or with --compressed the model compressed "
            "already" + ("" if recipe is None else ", not both")
        )
    if data is None:
        raise typer.BadParameter("--data is missing: tuning learns from what the model makes of samples")
    with progress("starting", as_json):
        import milpasses
    from milpasses.program.files import check_files, write_text
    from milpasses_tools.compress import print_report, unmatched_in_report

    check_files([output, report], force, (model, recipe, compressed, data))
    began = time.perf_counter()
    wanted = read_target(target)
    with progress("tuning", as_json) as step, unmatched_in_report():
        tuned = milpasses.tune(
            model,
            compressed if recipe is None else milpasses.Recipe.of(recipe),
            data,
            output=output,
            minutes=minutes,
            steps=steps,
            device=device,
            limit=samples,
            part=part,
            function=function,
            minimum_deployment_target=wanted,
            requantize=requantize,
            strict=strict,
            force=force,
            progress=step,
        )
    seconds = time.perf_counter() - began
    if report is not None:
        write_text(report, tuned.report.to_json(indent=2) + "\n", force)
    if as_json:
        content = json.loads(tuned.report.to_json())
        content["input"] = {"path": str(model), "bytes": folder_bytes(model)}
        content["output"] = {"path": str(output), "bytes": folder_bytes(output)}
        print_json({**content, "seconds": round(seconds, 3)})
        return
    print_report(tuned.report, verbose)
    print(sizes_line(model, output, seconds))
    print_written(report)
