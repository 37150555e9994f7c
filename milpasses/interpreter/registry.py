"""Which Python function runs which MIL op.

A handler takes the op's inputs by their MIL names, as NumPy arrays (floats always as float32), strings or
lists, and returns one array, or a tuple for several outputs. It never changes its inputs. A handler whose
first parameter is called ``ctx`` also gets the ``Context`` of the call.

Arrays may be ``TensorArray`` as well. NumPy's functions take those, its constructors (``np.array``,
``np.empty``) do not, and a view that is kept and written to does not reach what it was taken from.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from milpasses.errors import MilpassesError
from milpasses.interpreter.backend import Backend

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])


class InterpreterError(MilpassesError):
    """A program, an input or an op that the interpreter cannot run; the message says which and why."""


class Context(Protocol):
    """What an op may ask of the engine beyond its inputs."""

    @property
    def op(self) -> Any:
        """The coremltools operation."""
        ...

    @property
    def backend(self) -> Backend:
        """The heavy kernels: NumPy or torch."""
        ...

    def rng(self, seed: int) -> np.random.Generator:
        """Generator of this op for the whole run; a negative ``seed`` takes the interpreter's."""
        ...

    def run_block(self, index: int, arguments: list[Any]) -> list[Any]:
        """Run the op's nested block ``index`` and return its outputs."""
        ...

    def read_state(self, name: str) -> Array:
        """Current content of a state."""
        ...

    def write_state(self, name: str, value: Array) -> None:
        """Replace the content of a state."""
        ...


def contiguous(x: Array) -> Array:
    """NumPy's arrays in row-major order; tensors as they are, whose kernels take any."""
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x  # pyright: ignore


@dataclass(frozen=True)
class Rule:
    """A handler and how to call it; ``moves`` says that it only moves values, so none needs rounding."""

    function: Callable[..., Any]
    wants_context: bool
    moves: bool


_RULES: dict[str, Rule] = {}


def op(*names: str, moves: bool = False) -> Callable[[F], F]:
    """Register the decorated function as the handler of the MIL ops ``names``."""

    def register(function: F) -> F:
        wants_context = next(iter(inspect.signature(function).parameters), "") == "ctx"
        for name in names:
            _RULES[name] = Rule(function, wants_context, moves)
        return function

    return register


def rule(name: str) -> Rule | None:
    """The rule of the MIL op ``name``, or None."""
    return _RULES.get(name)


def supported_ops() -> list[str]:
    """Names of all MIL ops that the interpreter runs, sorted."""
    from milpasses.interpreter import ops  # noqa: F401  # pyright: ignore[reportUnusedImport]

    return sorted([*_RULES, "const"])
