"""What the subcommands share: common options, tables, JSON, progress. Imports nothing heavy."""

import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from milpasses_tools._words import in_options

Progress = Callable[[int, int, str], None]
_COUNTED = 10_000  # from so many on, the share that is done says more than the numbers

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An .mlpackage of an ML Program, or of a pipeline with some.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="The .mlpackage to write, whole or not at all.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Function = Annotated[
    str | None,
    typer.Option(
        "--function", metavar="NAME", help="The function of a multifunction model; else its default one."
    ),
]
Requantize = Annotated[
    bool, typer.Option("--requantize", help="Take weights that are compressed already, too: anew.")
]
Part = Annotated[str | None, typer.Option(metavar="NAME", help="Of a pipeline, this part alone.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="Raise an older model to this target first, such as iOS18 (one before iOS16 is raised to that).",
    ),
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


def console(stderr: bool = False, width: int | None = None) -> Any:
    """A rich console that prints text as it is: no markup, no emoji, no highlighting; honours NO_COLOR."""
    from rich.console import Console

    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        stderr=stderr, width=width, color_system=colors, markup=False, emoji=False, highlight=False
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; a column whose name begins with ``>`` is aligned to the right.

    Cells are texts, None (empty), integers (with thousands separators) or floats (two decimals). Where stdout
    is no terminal a row is one line, however long.
    """
    from rich.table import Table

    out = console()
    terminal = out.is_terminal
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(
            name, justify="left" if name == column else "right", overflow="fold", no_wrap=not terminal
        )
    for row in rows:
        table.add_row(*map(cell, row))
    if terminal:
        out.print(table)
        return
    out = console(width=1_000_000)
    with out.capture() as text:
        out.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def cell(value: object) -> str:
    """The text of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def json_decibels(sqnr_db: float | None) -> float | str | None:
    """A signal-to-noise ratio for JSON, which has no infinity: ``"inf"``, ``"-inf"``."""
    return str(sqnr_db) if sqnr_db in (float("inf"), float("-inf")) else sqnr_db


def print_json(content: Any) -> None:
    """Print ``content`` as indented JSON on stdout."""
    print(json.dumps(content, indent=2, allow_nan=False))


@contextmanager
def progress(quiet: bool = False) -> Generator[Progress]:
    """Yields ``progress(done, total, name)``, which moves a bar on stderr if stderr is a terminal.

    ``total`` is 0 where it is not known. What a step will still take is estimated by its own speed.
    """
    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda done, total, name: None
        return
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    from milpasses_tools._remaining import Remaining

    remaining = Remaining()

    class Left(ProgressColumn):
        """Drawn anew several times a second, so that it counts down."""

        def render(self, task: Any) -> Text:
            return Text(remaining.text())

    name_column = TextColumn("{task.description}", markup=False)
    share = TextColumn("{task.fields[share]}")
    with Bar(
        BarColumn(), share, TimeElapsedColumn(), Left(), name_column, console=err, transient=True
    ) as bar:
        task = bar.add_task("starting", total=None, share="")

        def step(done: int, total: int, name: str) -> None:
            remaining.update(done, total)
            many = total >= _COUNTED
            share = f"{done / total:.0%}" if many else f"{done}/{total}" if total else ""
            bar.update(task, completed=done, total=total or None, description=name, share=share)

        yield step


@contextmanager
def quiet_coremltools() -> Generator[None]:
    """Silence coremltools' notices about optional parts and untested versions; its errors still show."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def warnings_as_lines() -> Generator[None]:
    """Show warnings that milpasses defines as one line each on stderr, without the place in the source."""
    import warnings

    before = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] in ("milpasses", "milpasses_tools"):
            print(f"milpasses: warning: {in_options(' '.join(str(message).split()))}", file=sys.stderr)
        else:
            before(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def shape_text(shape: Sequence[int]) -> str:
    """A shape as reports write it: ``64x32x3x3``, ``scalar``."""
    return "x".join(map(str, shape)) or "scalar"


def sqnr_text(sqnr_db: float | None) -> str | None:
    """A signal-to-noise ratio in decibels: one decimal, ``exact`` where nothing was lost."""
    if sqnr_db is None:
        return None
    return "exact" if sqnr_db == float("inf") else f"{sqnr_db:.1f}"


def size_change(before: int, after: int) -> str:
    """How the sizes of two files compare: ``3.33 times smaller``, ``1.02 times larger``, the same."""
    if not (before and after) or 0.995 < before / after < 1.005:
        return "the same size" if after == before else "about the same size"
    return f"{before / after:.2f} times smaller" if after < before else f"{after / before:.2f} times larger"


def sizes_line(model: Path, output: Path, seconds: float) -> str:
    """What became of ``model``: bytes before and after, and which of the two is larger."""
    before, after = folder_bytes(model), folder_bytes(output)
    change = size_change(before, after)
    return f"{model} {before:,} bytes -> {output} {after:,} bytes ({change}) in {seconds:.1f} s"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in ``folder``, as they are on disk; those of a file itself."""
    paths = [folder] if folder.is_file() else folder.rglob("*")
    return sum(path.stat().st_size for path in paths if path.is_file())
