"""One function of a program as the search for weights sees it, in memory or saved."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.lowering import NOT_DATA, lift

CONSTEXPR = "constexpr_"


@attrs.frozen(eq=False)
class StoredConstant:
    """A constant as the program stores it.

    ``dtype`` is MIL's name of its type. ``identity`` is equal for two that share storage. ``load`` reads the
    elements, unpacked; ``stored`` the bytes that are there, to be compared.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    identity: Hashable
    load: Callable[[], NDArray[Any]]
    stored: Callable[[], NDArray[np.uint8]]


@attrs.frozen(eq=False)
class Produced:
    """An input that is output number ``output`` of ``op``."""

    op: Any
    output: int


class FunctionGraph(Protocol):
    """A function, indexed: its ops in order, nested ones included, and who uses each variable.

    Ops and variables are what the program itself has for them: messages and names where it is saved,
    coremltools' objects where it is in memory.
    """

    @property
    def name(self) -> str:
        """The function's name."""
        ...

    def operations(self) -> Iterable[Any]:
        """Every op in order, those of nested blocks after the op that has them."""
        ...

    def body(self) -> Iterable[Any]:
        """The ops of the function itself in order, without those of nested blocks."""
        ...

    def operands(self, op: Any) -> list[tuple[str, str]]:
        """What ``op`` takes: parameters in order of their names, each with the name of a variable."""
        ...

    def op_type(self, op: Any) -> str:
        """The type of ``op``."""
        ...

    def op_name(self, op: Any) -> str:
        """The name of ``op``."""
        ...

    def outputs(self, op: Any) -> Sequence[Any]:
        """The variables that ``op`` makes."""
        ...

    def variable_name(self, variable: Any) -> str:
        """The name of a variable."""
        ...

    def uses(self, variable: Any) -> Sequence[tuple[Any, str]]:
        """The ops that take ``variable``, each with the parameter, in order."""
        ...

    def returned(self, variable: Any) -> bool:
        """The function, or a block inside it, returns ``variable``."""
        ...

    def weight(self, op: Any) -> StoredConstant | None:
        """The constant of a const op that goes to the weight file, None for any other."""
        ...

    def inputs(self, op: Any) -> dict[str, StoredConstant | Produced]:
        """What a constexpr op takes: constants, or outputs of constexpr ops."""
        ...

    def result(self, op: Any) -> tuple[tuple[int, ...], str]:
        """Shape and NumPy's name of the type of the first output of ``op``."""
        ...

    def scalar(self, op: Any, param: str) -> Any:
        """The value of a constant scalar input, None where it is not given or not known."""
        ...

    def takes_input(self, op: Any) -> bool:
        """``op`` takes an input of the function, as it is or cast."""
        ...

    def inferred(self, op: Any) -> bool:
        """``op`` has a value that was inferred from its constant inputs."""
        ...


def gives_weight(graph: FunctionGraph, op: Any) -> bool:
    """A constexpr op gives a weight itself if no other constexpr op takes an output of it."""
    return not any(
        graph.op_type(user).startswith(CONSTEXPR)
        for variable in graph.outputs(op)
        for user, _ in graph.uses(variable)
    )


def chain(graph: FunctionGraph, op: Any) -> list[Any]:
    """``op`` and the constexpr ops that feed it, first to last."""
    parts: list[Any] = []
    for source in graph.inputs(op).values():
        if isinstance(source, Produced):
            parts += [part for part in chain(graph, source.op) if not any(part is known for known in parts)]
    return [*parts, op]


def lift_weight(graph: FunctionGraph, op: Any, output: int = 0) -> Any:
    """The encoding that a constexpr op holds, with those that feed it; see ``lowering.lift``."""
    inputs: dict[str, Any] = {}
    for param, source in graph.inputs(op).items():
        if isinstance(source, Produced):
            inputs[param] = lift_weight(graph, source.op, source.output)
        else:
            inputs[param], inputs[f"dtype:{param}"] = source.load(), source.dtype
    return lift(graph.op_type(op), inputs, output)


def data_of(graph: FunctionGraph, op: Any) -> Iterator[StoredConstant]:
    """The constants that hold the data of a compressed weight (not shapes or axes), each storage once."""
    seen: set[Hashable] = set()
    for part in chain(graph, op):
        for param, source in graph.inputs(part).items():
            if param in NOT_DATA or isinstance(source, Produced) or source.identity in seen:
                continue
            seen.add(source.identity)
            yield source
