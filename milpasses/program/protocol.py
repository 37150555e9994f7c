"""What the entry points need of a program, in memory or saved: to find weights, replace them, and run it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from milpasses.encoding.lowering import OpSpec
from milpasses.errors import MilpassesError
from milpasses.program.opset import Opset
from milpasses.program.weights import Site

Rewrite = Callable[[Site], "list[OpSpec] | None"]


class Runner(Protocol):
    """Runs one function of a program: ``milpasses.interpreter.Interpreter``, which registers itself."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs of the function, by name."""
        ...

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs, by name."""
        ...


class WeightProgram(Protocol):
    """A program whose weights can be found, replaced and run with: ``SavedProgram``, ``MemoryProgram``."""

    @property
    def target(self) -> Opset:
        """The oldest opset among the functions: every form that is emitted must exist there."""
        ...

    def sites(self) -> list[Site]:
        """Every constant of ten elements or more, and every compressed weight, in program order."""
        ...

    def replace(self, sites: Sequence[Site], rewrite: Rewrite) -> int:
        """Put the ops that ``rewrite`` gives in the place of each of ``sites``, None leaves it; the count.

        ``rewrite`` is called once for each site, in any order.
        """
        ...

    def runner(self, function: str | None = None) -> Runner:
        """What runs a function of the program as it is, the default one unless another is named."""
        ...


_makers: list[Callable[[Any, "str | None"], Runner]] = []


def register_runner(make: Callable[[Any, "str | None"], Runner]) -> None:
    """Let ``make(program, function)`` be what runs programs; the layer above that can run them calls this."""
    _makers[:] = [make]


def make_runner(program: Any, function: str | None) -> Runner:
    """What runs ``function`` of ``program``; ``MilpassesError`` where nothing that can run it is loaded."""
    if not _makers:
        raise MilpassesError("nothing runs programs here: import milpasses.interpreter")
    return _makers[0](program, function)
