"""Messages of the library in the words of the command.

The library speaks of arguments (``force=True``), the command has options (``--force``). A message names an
argument as ``name=value``, or as ``name=``; here, and nowhere else, the option that stands for it takes its
place: that of the command which runs, or where it has none, that of another one, which is named.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import attrs

# Arguments that messages name, and the options that stand for them: of several the first that the running
# command has.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "budget": ("--budget",),
    "by": ("--by",),
    "calibration": ("--data",),
    "candidates": ("--candidates", "--recipe"),
    "data": ("--data",),
    "dump_after_change": ("--dump-after-change",),
    "every_value": ("--every-value",),
    "fallback": ("--fallback",),
    "force": ("--force",),
    "function": ("--function",),
    "keep_programs": ("--keep-programs",),
    "max_error": ("--max-error",),
    "max_loss": ("--max-loss",),
    "max_size": ("--max-size",),
    "metrics": ("--metric",),
    "minimum_deployment_target": ("--target",),
    "nbits": ("--bits",),
    "original": ("--original",),
    "part": ("--part",),
    "per_op": ("--per-op",),
    "recipe": ("--recipe",),
    "requantize": ("--requantize",),
    "resume": ("--resume",),
    "runtime": ("--runtime",),
    "scores": ("--scores",),
    "seed": ("--seed",),
    "sequential": ("--sequential",),
    "statistics": ("--statistics",),
    "tolerance": ("--tolerance",),
    "units": ("--for",),
}
# What stands for a value that only Python has, or for one that is left out.
_PLACES = {
    "--budget": "SIZE", "--data": "DATA", "--dump-after-change": "DIR", "--fallback": "LOSS",
    "--function": "NAME", "--max-loss": "LOSS", "--max-size": "SIZE", "--metric": "MODULE:FUNCTION",
    "--original": "MODEL",
    "--part": "NAME", "--scores": "OUTPUT", "--statistics": "FILE",
}  # fmt: skip
_IN_RECIPES = {"nbits"}  # the name of a scheme's field, too: an option only in a command that has it
_ALWAYS_PLACES = {"--data", "--statistics"}  # their values in Python are objects
_ARGUMENT = re.compile(rf'\b({"|".join(ARGUMENTS)})=("[^"]*"|(?:[\w.]*\w)?(?:\([^()]*\))?)')
# coremltools' own sentence, which the library keeps because people search for it.
_NEWER_TARGET = re.compile(
    r"\. Please re-convert your model with minimum_deployment_target set to at least ct\.target\.(\w+)"
    r"(, or pass minimum_deployment_target=ct\.target\.\w+ to milpasses)?"
)
# What the parser of the command line puts before its own messages.
_PARSER = (
    (re.compile(r"^Invalid value: "), ""),
    (re.compile(r"^Invalid value for '?([^':]+)'?: (Value error, )?"), r"\1: "),
)


@attrs.define
class _Speaking:
    """The command that runs, and the options of each command; nothing where no command runs."""

    command: str = ""
    options: Mapping[str, frozenset[str]] = attrs.field(factory=dict[str, frozenset[str]])


_speaking = _Speaking()


@contextmanager
def words_of(options: Mapping[str, frozenset[str]]) -> Generator[None]:
    """A context in which one of the commands runs that ``options`` has the options of; see ``speak_for``."""
    _speaking.command, _speaking.options = "", options
    try:
        yield
    finally:
        _speaking.command, _speaking.options = "", {}


def speak_for(command: str) -> None:
    """From here on ``command`` runs."""
    _speaking.command = command


def in_options(text: str) -> str:
    """``text`` with options in the place of arguments."""
    if has_option("--target") or not _speaking.command:
        text = _NEWER_TARGET.sub(r": give --target \1, or convert the model for it", text)
    return _ARGUMENT.sub(_option, text)


def of_parser(text: str) -> str:
    """A message of the command line's parser, without the words around it that say nothing."""
    for pattern, words in _PARSER:
        text = pattern.sub(words, text)
    return text


def has_option(option: str) -> bool:
    """Whether the command that runs has ``option``."""
    return option in _speaking.options.get(_speaking.command, ())


def _option(argument: "re.Match[str]") -> str:
    name, value = argument[1], argument[2].removeprefix("ct.target.").strip('"')
    option = next(filter(has_option, ARGUMENTS[name]), None)
    elsewhere = ""
    if option is None:
        if name in _IN_RECIPES:
            return argument[0]
        option = ARGUMENTS[name][0]
        others = [command for command, known in _speaking.options.items() if option in known]
        if _speaking.command and others:
            elsewhere = f" (of milpasses {others[0]})"
    if value == "True":
        return option + elsewhere
    value = _PLACES.get(option, "") if not value or option in _ALWAYS_PLACES else value
    value = f'"{value}"' if " " in value else value
    return f"{option} {value}".rstrip() + elsewhere
