"""What an encoder must know of a weight. ``milpasses.Weight`` is one."""

from collections.abc import Sequence
from typing import Protocol


class EncodableUse(Protocol):
    """One use of a weight by an op."""

    @property
    def structured(self) -> bool:
        """Whether the weight may be pruned by blocks, or n of every m."""
        ...

    def groups_along(self, axis: int) -> int:
        """Into how many parts the op splits the weight along ``axis``."""
        ...


class EncodableWeight(Protocol):
    """A weight as an encoder sees it; its values are passed beside it."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def channel_axes(self) -> tuple[int, int]:
        """(output channel, input channel) axes."""
        ...

    @property
    def consumers(self) -> Sequence[EncodableUse]:
        """Each op that uses it."""
        ...


def allows_structured_pruning(weight: EncodableWeight) -> bool:
    """Whether every op that uses the weight may have it pruned by blocks, or n of every m."""
    return all(use.structured for use in weight.consumers)


def vector_channels(weight: EncodableWeight, axis: int) -> list[int]:
    """Channels along ``axis`` that hold whole vectors of a look-up table: a count for each op.

    A grouped convolution's vectors must not straddle its groups (coremltools' own restriction).
    """
    groups = [use.groups_along(axis) for use in weight.consumers]
    return [weight.shape[axis] // count for count in groups or [1]]
