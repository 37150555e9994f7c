"""Look at, check and compare Core ML models; each tool is also a subcommand of ``milpasses``.

>>> from milpasses_tools import explain
>>> print(explain("model.mlpackage").by_form())
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milpasses_tools._bisect.passes import bisect_passes
    from milpasses_tools.bisect import bisect
    from milpasses_tools.compare import compare
    from milpasses_tools.demo import demo
    from milpasses_tools.diff import diff
    from milpasses_tools.doctor import doctor
    from milpasses_tools.dump import dump
    from milpasses_tools.explain import explain
    from milpasses_tools.quantize_nn import quantize_nn
    from milpasses_tools.replay import replay
    from milpasses_tools.sensitivity import sensitivity
    from milpasses_tools.sweep import sweep
    from milpasses_tools.trace import trace

# Each is a function in the module of the same name, but for those in _ELSEWHERE.
__all__ = [
    "bisect",
    "bisect_passes",
    "compare",
    "demo",
    "diff",
    "doctor",
    "dump",
    "explain",
    "quantize_nn",
    "replay",
    "sensitivity",
    "sweep",
    "trace",
]


_ELSEWHERE = {"bisect_passes": "_bisect.passes"}


class _Package(ModuleType):
    """This package: a tool's name means its function, also once its module has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its name here, which would hide the function.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, name)}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__all__", "__doc__"])
