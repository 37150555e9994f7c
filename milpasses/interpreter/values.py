"""What flows between ops: NumPy's arrays here, torch's tensors in ``tensor_values``."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from milpasses.interpreter.io import fetch
from milpasses.interpreter.program import Loaded


class Values(Protocol):
    """How a run holds its values; ``watches``: ``stepped`` is to be called after each op."""

    watches: bool

    def running(self) -> AbstractContextManager[Any]:
        """The context in which ops run."""
        ...

    def constant(self, value: Any) -> Any:
        """A constant as handlers see it: floats in float32, numbers as arrays, lists as lists."""
        ...

    def taken(self, value: Any) -> Any:
        """A value from outside, NumPy's arrays, as what flows."""
        ...

    def given(self, value: Any) -> Any:
        """A value for whoever looks on: the inverse of ``taken``."""
        ...

    def finish(self, value: Any, declared: Any, moves: bool) -> Any:
        """A result, rounded once to its ``declared`` NumPy type (floats stay in float32)."""
        ...

    def fetch(self, loaded: Loaded, results: Sequence[Any]) -> dict[str, Any]:
        """The outputs for the caller, by name."""
        ...

    def stepped(self, op: Any, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """An op has run."""
        ...


class ArrayValues:
    """NumPy's arrays. ``rounds``: results are rounded to the types that MIL declares, else float32 stays."""

    watches = False

    def __init__(self, rounds: bool) -> None:
        self._rounds = rounds

    def running(self) -> AbstractContextManager[Any]:
        """No warnings of what overflows."""
        return np.errstate(all="ignore")

    def constant(self, value: Any) -> Any:
        """A constant as handlers see it: floats as float32 arrays, numbers as arrays, lists as lists."""
        if hasattr(value, "ls"):  # coremltools' mil_list
            return list(value.ls)
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.floating):
            return np.asarray(array, np.float32)
        return array

    def taken(self, value: Any) -> Any:
        """The value itself."""
        return value

    def given(self, value: Any) -> Any:
        """The value itself."""
        return value

    def finish(self, value: Any, declared: Any, moves: bool) -> Any:
        """Round a result once to its declared type (floats stay in float32 arrays)."""
        if declared is None:
            return value
        array = np.asarray(value)
        if declared == np.float16:
            array = np.asarray(array, np.float32)
            if moves or not self._rounds:
                return array
            from milpasses_kernels.half import round_to_half  # Numba: not before something runs

            return round_to_half(array)
        if declared == np.float32:
            return np.asarray(array, np.float32)
        return array.astype(declared, copy=False)

    def fetch(self, loaded: Loaded, results: Sequence[Any]) -> dict[str, Any]:
        """Arrays in the types that MIL declares."""
        return fetch(loaded, results, self._rounds)

    def stepped(self, op: Any, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """Nothing to note."""
