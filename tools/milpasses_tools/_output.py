"""What the subcommands print with: a console, JSON, sizes, warnings. Imports nothing heavy."""

import io
import json
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from milpasses_tools._words import in_options


def console(stderr: bool = False, width: int | None = None) -> Any:
    """A rich console that prints text as it is: no markup, no emoji, no highlighting; honours NO_COLOR."""
    from rich.console import Console

    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        stderr=stderr, width=width, color_system=colors, markup=False, emoji=False, highlight=False
    )


_quiet = False


def is_quiet() -> bool:
    """Whether nothing but errors, and JSON that was asked for, is to be printed."""
    return _quiet


@contextmanager
def quieted(on: bool, keep_stdout: bool = False) -> Generator[None]:
    """A context in which progress is silent, and stdout as well unless it carries what was asked for."""
    global _quiet
    before, _quiet = _quiet, on
    try:
        silent = on and not keep_stdout
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if silent else sys.stdout):
            yield
    finally:
        _quiet = before


def print_written(*paths: Path | None) -> None:
    """Say which files were written, a line each; nothing of those that are None."""
    for path in paths:
        if path is not None:
            print(f"written: {path}")


@contextmanager
def printed_to(path: Path | None, force: bool = False) -> Generator[None]:
    """A context whose prints become the file ``path``, whole or not at all; without a path they are printed.

    An error leaves no file. ``check_files`` has been asked before.
    """
    if path is None:
        yield
        return
    from milpasses.program.files import write_text

    text = io.StringIO()
    with redirect_stdout(text):
        yield
    write_text(path, text.getvalue(), force)
    if not is_quiet():
        print_written(path)


def json_decibels(sqnr_db: float | None) -> float | str | None:
    """A signal-to-noise ratio for JSON, which has no infinity: ``"inf"``, ``"-inf"``."""
    return str(sqnr_db) if sqnr_db in (float("inf"), float("-inf")) else sqnr_db


def print_json(content: Any) -> None:
    """Print ``content`` as indented JSON on stdout."""
    print(json.dumps(content, indent=2, allow_nan=False))


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
