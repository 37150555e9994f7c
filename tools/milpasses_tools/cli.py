"""The ``milpasses`` command: its subcommands, and how every one of them fails.

A subcommand is a module of this package with a function ``command``: its parameters are the arguments, its
docstring the help. It may import nothing heavy at the top, so that ``--help`` stays fast. To add one, write
the module and name it in ``SUBCOMMANDS``.
"""

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
from milpasses_tools._words import in_options, of_parser, speak_for, words_of

SUBCOMMANDS = (
    "compress",
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
        result = super().invoke(ctx)
        sys.stdout.flush()  # here, where a closed pipe is dealt with, and not at exit
        return result

    def main(self, *args: Any, **options: Any) -> Any:
        self.traceback = self.quiet = False
        known = {name: options_of(command) for name, command in self.commands.items()}
        with quiet_coremltools(), warnings_as_lines(), words_of(known):
            try:
                status = super().main(*args, **{**options, "standalone_mode": False})
            except Exception as error:
                message = _advice(error)
                if message is None:
                    raise
                if self.traceback:
                    traceback.print_exc()
                print(f"milpasses: error: {message}", file=sys.stderr)
                status = 2
        sys.exit(status)


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
        return _one_line(f"{error.filename}: {error.strerror}" if error.filename else str(error))
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
    return " ".join(text.split())


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


def main() -> None:
    """Run the command line of this process."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # coremltools' bars, one for each of its pipelines
    app(prog_name="milpasses")
