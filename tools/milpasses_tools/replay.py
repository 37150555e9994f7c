"""``milpasses replay``: a pass that failed, run again on the program that ``trace`` kept."""

import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from milpasses_tools._options import Json
from milpasses_tools._output import print_json


@attrs.define
class Replay:
    """The pass that was run again: ``error`` is what it raised now, None if it ran; ``expected`` before.

    ``program`` is the program after it, or as the failing pass left it. ``lost_options`` could not be kept.
    """

    name: str
    expected: str
    error: Exception | None
    program: Any
    lost_options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the program as plain values for JSON."""
        now = None if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return {
            "pass": self.name,
            "expected": self.expected,
            "error": now,
            "same": now == self.expected,
            "lost_options": list(self.lost_options),
        }


def replay(folder: "str | os.PathLike[str]") -> Replay:
    """Run the pass that failed again, on the program that ``trace(on_failure=folder)`` kept.

    Passes that are not coremltools' or milpasses' own must be registered before. Values that ops had inferred
    are inferred anew. Raises ``MilpassesError`` if the folder keeps nothing that can be run.
    """
    import milpasses.passes  # registers milpasses' own
    from milpasses import _coremltools as host
    from milpasses.errors import MilpassesError

    assert milpasses.passes
    from milpasses_tools._trace.keep import build

    path = Path(folder)
    content = _read(path)
    name = content["pass"]
    if content["problem"]:
        raise MilpassesError(f"{path}: only the text of the program could be kept: {content['problem']}")
    registry = host.pass_registry()
    if name not in registry:
        raise MilpassesError(f"there is no pass {name}: import what registers it first (--import)")
    program = build(path)
    graph_pass = registry[name]
    options = [host.pass_option(option, value) for option, value in content["options"].items()]
    error: Exception | None = None
    try:
        graph_pass.set_options(options or None)
        graph_pass(program)
        program.validate()
    except Exception as raised:
        error = raised
    return Replay(name, content["error"], error, program, tuple(content["lost_options"]))


def _read(folder: Path) -> dict[str, Any]:
    """What ``replay.json`` says, each part of the type that ``trace`` wrote; raises ``MilpassesError``."""
    from milpasses.errors import MilpassesError

    try:
        content = json.loads((folder / "replay.json").read_text(encoding="utf-8"))
        texts = [*(content[name] for name in ("pass", "problem", "error")), *content["lost_options"]]
        values = content["options"].values()
        if all(isinstance(text, str) for text in texts) and all(
            isinstance(value, str | bool | int | float) for value in values
        ):
            return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise MilpassesError(f"{folder}: trace kept no failure here (replay.json is missing or damaged)")


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What trace --on-failure wrote.")],
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module, or a .py file, that registers passes."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a pass that failed again, on the same program.

    Ends with status 1 if it fails again, and shows where; 0 if it runs now.
    """
    sys.path.insert(0, os.getcwd())
    for name in imports or ():
        if name.endswith(".py"):
            runpy.run_path(name)
        else:
            importlib.import_module(name)
    found = replay(folder)
    if as_json:
        print_json(found.to_dict())
    else:
        if found.error is not None:
            traceback.print_exception(found.error)
        outcome = (
            "ran without error" if found.error is None else f"{type(found.error).__name__}: {found.error}"
        )
        print(f"{found.name}: {outcome}")
        print(f"in the conversion: {found.expected}")
        for option in found.lost_options:
            print(f"note: the option {option} had no text form and was not set")
    if found.error is not None:
        raise typer.Exit(1)
