"""The ``milpasses`` command: its subcommands, and how every one of them fails.

A subcommand is a module of this package with a function ``command``: its parameters are the arguments, its
docstring the help. It may import nothing heavy at the top, so that ``--help`` stays fast. To add one, write
the module and name it in ``SUBCOMMANDS``.
"""

import errno
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from milpasses_tools._output import quiet_coremltools, quieted, warnings_as_lines
from milpasses_tools._script import ScriptError
from milpasses_tools._words import in_options, of_parser, speak_for, words_of

SUBCOMMANDS = (
    "compress",
    "tune",
    "explain",
    "dump",
    "diff",
    "trace",
    "replay",
    "bisect",
    "compare",
    "sweep",
    "sensitivity",
    "quantize-nn",
    "doctor",
    "upgrade",
    "demo",
)

_UsageError: Any = typer.BadParameter.__base__  # click's, or that of the click inside newer typers


_NOT_FINISHED = "an output that was not finished was not written; the same command begins anew"
_DEFECT = (
    "milpasses: this is a defect of milpasses, not of what you gave it; please report it, with the lines "
    "above, the command and the output of milpasses doctor"
)
_LONGEST = 2000  # characters of a message
_DEFECT_STATUS = 70  # EX_SOFTWARE; 1 is an answer of compare, diff and others


class _InterruptedError(Exception):
    """Ctrl-C; what was kept, and how to go on."""


class _Group(TyperGroup):
    """Turns what people can put right into one line on stderr and status 2."""

    traceback = quiet = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for command in self.commands.values():  # these are understood after the subcommand, too
            command.params.extend(
                param for param in self.params if {"--traceback", "--quiet"} & {*param.opts}
            )

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError(str(error)) from None
        sys.stdout.flush()  # here, where a closed pipe is dealt with, and not at exit
        return result

    def main(self, *args: Any, **options: Any) -> Any:
        self.traceback = self.quiet = False
        known = {name: options_of(command) for name, command in self.commands.items()}
        with quiet_coremltools(), warnings_as_lines(), words_of(known):
            try:
                status = super().main(*args, **{**options, "standalone_mode": False})
            except Exception as error:
                status = self._report(error)
        sys.exit(status)

    def _report(self, error: Exception) -> int:
        """Say on stderr what went wrong; the status that the command ends with."""
        if isinstance(error, _InterruptedError):
            print(f"milpasses: interrupted: {in_options(str(error) or _NOT_FINISHED)}", file=sys.stderr)
            return 130
        message = _advice(error)
        if isinstance(error, ScriptError):
            sys.stderr.write(error.frames)
        elif self.traceback or message is None:
            traceback.print_exc()
        if message is None:
            print(_DEFECT, file=sys.stderr)
            return _DEFECT_STATUS
        print(f"milpasses: error: {message}", file=sys.stderr)
        return 2


def options_of(command: Any) -> frozenset[str]:
    """The options of a command, as they are written."""
    return frozenset(option for param in command.params for option in param.opts)


class _Command(TyperCommand):
    """Imports coremltools first: its imports catch every exception, so Ctrl-C would be lost in them."""

    def invoke(self, ctx: Any) -> Any:
        speak_for(self.name or "")
        before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing has begun, nothing is left
        try:
            with suppress(Exception):  # raised again where it is needed; doctor goes on without
                import_module("coremltools")
        finally:
            signal.signal(signal.SIGINT, before)
        with quieted(ctx.find_root().command.quiet, keep_stdout=bool(ctx.params.get("as_json"))):
            return super().invoke(ctx)


def _advice(error: Exception) -> str | None:
    """One line for an error that people can put right; None for any other, which is a defect here."""
    if isinstance(error, _UsageError):
        usage: Any = error
        nearest = _nearest_option(usage)
        where = f" (see {usage.ctx.command_path} --help)" if usage.ctx else ""
        return of_parser(_one_line(usage.format_message())).rstrip(".") + nearest + where
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return _one_line(f"{error.filename}: {what}" if error.filename else what)
    if isinstance(error, MemoryError):
        return _one_line(f"there is not enough memory: {error}".removesuffix(": "))
    # The exceptions that milpasses defines are written for people. Asked by name: nothing is imported here.
    packages = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return in_options(_one_line(str(error))) if packages & {"milpasses", "milpasses_tools"} else None


def _nearest_option(usage: Any) -> str:
    """Of an option that there is none of, the nearest that the command has."""
    wanted = getattr(usage, "option_name", None)
    if wanted is None or usage.ctx is None:
        return ""
    usage.possibilities = None  # the parser lists whatever begins alike
    nearest = get_close_matches(str(wanted), sorted(options_of(usage.ctx.command)), 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _one_line(text: str) -> str:
    """``text`` on one line, which a terminal can show: what somebody gave may be of any length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"milpasses {version('milpasses')}")
        raise typer.Exit


def _be_quiet(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        group: Any = ctx.find_root().command
        group.quiet = True


def _show_traceback(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        group: Any = ctx.find_root().command
        group.traceback = True


app = typer.Typer(
    cls=_Group,
    rich_markup_mode=None,  # plain help: the same text on a terminal and in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _milpasses(  # pyright: ignore[reportUnusedFunction]  (typer keeps it)
    ctx: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            expose_value=False,
            help="Print the version and exit.",
        ),
    ] = False,
    _quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            callback=_be_quiet,
            is_eager=True,
            expose_value=False,
            help="Print nothing but errors (and JSON, with --json).",
        ),
    ] = False,
    _traceback: Annotated[
        bool,
        typer.Option(
            "--traceback",
            callback=_show_traceback,
            is_eager=True,
            expose_value=False,
            help="Show where in the program an error came from.",
        ),
    ] = False,
) -> None:
    """Compress the weights of Core ML models, and see what that does to them."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


for _name in SUBCOMMANDS:
    app.command(_name, cls=_Command)(import_module(f"milpasses_tools.{_name.replace('-', '_')}").command)


class _Closed(io.TextIOBase):
    """Standard output that is closed: only who writes to it gets an error."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "is closed", "standard output")


def main() -> None:
    """Run the command line of this process."""
    if sys.stderr is None:  # closed by whoever started it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as the process runs)
    if sys.stdout is None:
        sys.stdout = _Closed()
    for stream in (sys.stdout, sys.stderr):  # names that the terminal cannot show are shown escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TQDM_DISABLE", "1")  # coremltools' bars, one for each of its pipelines
    app(prog_name="milpasses")
