"""What a recipe must know of a weight: what rules match. ``milpasses.Weight`` is one."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class MatchableUse(Protocol):
    """One use of a weight: the op's type and name, and the parameter that takes the weight."""

    @property
    def op_type(self) -> str: ...

    @property
    def op_name(self) -> str: ...

    @property
    def param(self) -> str: ...


class MatchableWeight(Protocol):
    """A weight as rules see it.

    Reading ``value`` and ``content`` may load the weight from disk: rules ask for them last.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str:
        """NumPy's name of its type, ``"float16"``."""
        ...

    @property
    def size(self) -> int:
        """Number of elements."""
        ...

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def channel_axes(self) -> tuple[int, int]:
        """(output channel, input channel) axes."""
        ...

    @property
    def consumers(self) -> Sequence[MatchableUse]:
        """Each op that uses it."""
        ...

    @property
    def functions(self) -> tuple[str, ...]:
        """The program's functions that use it."""
        ...

    @property
    def value(self) -> NDArray[Any]:
        """The weight itself, dense."""
        ...

    @property
    def content(self) -> str:
        """The shape and a digest of the values, ``64x32x3x3:0123456789abcdef``."""
        ...

    @property
    def content_shape(self) -> str:
        """How ``content`` begins, up to and with the colon."""
        ...
