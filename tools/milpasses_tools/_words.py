"""Messages of the library in the words of the command.

The library speaks of arguments (``force=True``), the command has options (``--force``): an argument that a
message names as ``name=value`` is the option that stands for it.
"""

import re

# Argument -> option, and what stands for its value; None: the value itself, and none for True.
_OPTIONS = {
    "minimum_deployment_target": ("--target", None),
    "force": ("--force", None),
    "resume": ("--resume", None),
    "requantize": ("--requantize", None),
    "every_value": ("--every-value", None),
    "keep_programs": ("--keep-programs", None),
    "tolerance": ("--tolerance", None),
    "max_error": ("--max-error", None),
    "function": ("--function", None),
    "fallback": ("--fallback", None),
    "calibration": ("--data", "DATA"),
    "statistics": ("--statistics", "FILE"),
    "dump_after_change": ("--dump-after-change", "DIR"),
}
_ARGUMENT = re.compile(rf"\b({'|'.join(_OPTIONS)})=((?:[\w.]*\w)?(?:\([^()]*\))?)")
# coremltools' own sentence, which the library keeps because people search for it.
_NEWER_TARGET = re.compile(
    r"\. Please re-convert your model with minimum_deployment_target set to at least ct\.target\.(\w+)"
    r"(, or pass minimum_deployment_target=ct\.target\.\w+ to milpasses)?"
)


def in_options(text: str) -> str:
    """``text`` with options in the place of arguments."""
    text = _NEWER_TARGET.sub(r": give --target \1, or convert the model for it", text)
    return _ARGUMENT.sub(_option, text)


def _option(argument: "re.Match[str]") -> str:
    option, placeholder = _OPTIONS[argument[1]]
    value = placeholder or argument[2].removeprefix("ct.target.")
    return option if value == "True" else f"{option} {value}"
