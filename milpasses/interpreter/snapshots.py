"""What one run computed, kept to run again from any op on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snapshot:
    """What one run computed, by variable: its inputs, and all that the ops of the main block gave.

    Made by ``Interpreter.record``, for ``Interpreter.resume`` of the same interpreter. Not to be changed.
    """

    function: Any
    values: Mapping[Any, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(map(_nbytes, self.values.values()))


def _nbytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_nbytes, value))
    return getattr(value, "nbytes", 0)


class Recorder:
    """The observer that keeps what ``operations`` give, and drops all of it beyond ``limit`` bytes."""

    def __init__(self, values: dict[Any, Any], operations: set[Any], limit: int | None) -> None:
        self.values = values
        self.exceeded = False
        self._operations = operations
        self._room = None if limit is None else limit - sum(map(_nbytes, values.values()))

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        if self.exceeded or op not in self._operations:
            return
        self.values.update(zip(op.outputs, outputs, strict=True))
        if self._room is not None:
            self._room -= sum(map(_nbytes, outputs))
            self.exceeded = self._room < 0
        if self.exceeded:
            self.values.clear()
