"""The options that subcommands share: one name and one meaning each. Imports nothing heavy.

A command that could have one of these takes it from here; ``tests/tools/test_vocabulary.py`` walks them all.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An .mlpackage of an ML Program, or of a pipeline with some.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", metavar="RECIPE", help="A short name (pal4-g16), a text form, or a YAML file."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="An .npz file, a folder of images, module:function, or random (:uniform, :positive).",
    ),
]
SampleCount = Annotated[
    int | None, typer.Option("--samples", metavar="N", min=1, help="Use the first N samples of DATA.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The seed of random data.")]
Scores = Annotated[
    str | None, typer.Option("--scores", metavar="OUTPUT", help="The output that holds class scores.")
]
TopK = Annotated[int, typer.Option("--top-k", metavar="K", min=1, help="The k of top-k.")]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        metavar="LOSS",
        help="For a8: activations that cost outputs most stay float, as few as keep '35 dB' or '1 %', "
        "or so many ('3').",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="The .mlpackage to write, whole or not at all.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of stdout.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
Function = Annotated[
    str | None,
    typer.Option(
        "--function", metavar="NAME", help="The function of a multifunction model; else its default one."
    ),
]
OneFunction = Annotated[
    str | None, typer.Option("--function", metavar="NAME", help="Of several functions, this one alone.")
]
Requantize = Annotated[
    bool, typer.Option("--requantize", help="Take weights that are compressed already, too: anew.")
]
Part = Annotated[str | None, typer.Option("--part", metavar="NAME", help="Of a pipeline, this part alone.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="Raise an older model to this target first, such as iOS18 (one before iOS16 is raised to that).",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail where a rule decides no weight, or nothing is compressed.")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the whole report to FILE, as JSON.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="List the weights that were not compressed, too.")
]


def read_target(name: str | None) -> Any:
    """The deployment target of that name, whatever its case; None without. Raises ``TargetError``."""
    import coremltools as ct

    from milpasses.errors import TargetError, did_you_mean

    if name is None:
        return None
    names = list(ct.target.__members__)
    members = {member.lower(): target for member, target in ct.target.__members__.items()}
    if name.lower() not in members:
        raise TargetError(
            f"there is no target {name}{did_you_mean(name, names)}; there are {', '.join(names)}"
        )
    return members[name.lower()]
