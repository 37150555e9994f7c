"""The page of all subcommands, from the command line's own help."""

import inspect
from typing import Any

import typer
from milpasses_tools.cli import app
from typer.main import get_command

HEAD = """\
# Commands

`milpasses COMMAND --help` prints the same on a terminal. What a command reads is never changed; what it writes is
written whole or not at all. Errors that you can put right are one line, with status 2; `--traceback` shows where one
came from. `--json` prints JSON on stdout and nothing else there.

"""


def commands() -> dict[str, Any]:
    """Each subcommand by its name, in the order of the help."""
    group: Any = get_command(app)
    return dict(group.commands)


def cell(text: object) -> str:
    """Text for a cell of a table."""
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def help_record(param: Any, command: Any) -> tuple[str, str]:
    """How an option or an argument is written, and its help, as ``--help`` has them."""
    context: Any = typer.Context(command)
    written, text = param.get_help_record(context) or (param.name, "")
    return written, text or ""


def usage(name: str, command: Any) -> str:
    """The line to type."""
    context: Any = typer.Context(command, info_name=f"milpasses {name}")
    return " ".join(command.get_usage(context).removeprefix("Usage:").split())


def paragraph(text: str) -> str:
    """A paragraph of a help; what it marks as lines to keep apart is a block."""
    kept = text.strip()
    return f"```text\n{kept[1:].strip()}\n```\n" if kept.startswith("\b") else f"{kept}\n"


def section(name: str, command: Any) -> str:
    """One subcommand: its help, then a row for each argument and option."""
    lines = [f"## milpasses {name}", "", "```text", usage(name, command), "```", ""]
    lines += [
        *map(paragraph, inspect.cleandoc(command.help or "").split("\n\n")),
        "| option | |",
        "| --- | --- |",
    ]
    for param in command.params:
        if not getattr(param, "hidden", False):
            written, text = help_record(param, command)
            lines.append(f"| `{cell(written)}` | {cell(text)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Markdown of the page."""
    return HEAD + "\n".join(section(name, command) for name, command in commands().items())
