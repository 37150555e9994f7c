"""How models that hold no MIL program become one: a higher layer registers a reader, a lower one asks for it.

``milpasses`` registers the reader of legacy neural networks, which stands above this layer.
"""

from collections.abc import Callable
from typing import Any, Protocol


class ReadModel(Protocol):
    """What a reader makes of a model: a coremltools ``Program`` and the ``ModelDescription`` for it."""

    @property
    def program(self) -> Any:
        """The program in memory."""
        ...

    @property
    def description(self) -> Any:
        """What the specification says of its inputs and outputs."""
        ...


Reader = Callable[[Any], ReadModel]
_READERS: dict[str, Reader] = {}


def register_reader(kind: str, reader: Reader) -> None:
    """``reader`` reads models of ``kind`` (``"neuralnetwork"``) from now on.

    It takes a ``Source``, or what ``read_source`` takes, and may import what it needs when it is called.
    """
    _READERS[kind] = reader


def reader_of(kind: str) -> Reader:
    """The reader of models of ``kind``. Raises KeyError where nothing registered one."""
    return _READERS[kind]
