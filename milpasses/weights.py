"""A weight as rules see it: its name, shape and dtype, and the ops that use it."""

from collections.abc import Callable
from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray


@attrs.frozen
class Consumer:
    """One use of a weight: the op's type and name, and the parameter that takes the weight."""

    op_type: str
    op_name: str
    param: str


@attrs.frozen
class Weight:
    """A constant that a recipe may compress.

    ``name`` is the const op's (or the constexpr op's) name, ``dtype`` NumPy's name of its type
    (``"float16"``), ``functions`` the functions of the program that use it. ``value`` reads the array: ask for
    it last, it may come from disk.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    consumers: tuple[Consumer, ...]
    functions: tuple[str, ...] = ("main",)
    load: Callable[[], NDArray[Any]] = attrs.field(default=lambda: np.empty(0), repr=False, eq=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def value(self) -> NDArray[Any]:
        """The weight itself, dense."""
        return self.load()
