"""What an encoder must know of a weight. ``milpasses.Weight`` is one."""

from collections.abc import Sequence
from typing import Protocol


class EncodableUse(Protocol):
    """One use of a weight: the op's type, the parameter that takes the weight, a convolution's groups."""

    @property
    def op_type(self) -> str: ...

    @property
    def param(self) -> str: ...

    @property
    def groups(self) -> int: ...


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


# coremltools prunes blocks and n:m of these ops' weights only.
_STRUCTURED_OPS = ("conv", "linear")


def allows_structured_pruning(weight: EncodableWeight) -> bool:
    """Whether every op that uses the weight may have it pruned by blocks, or n of every m."""
    return all(use.op_type in _STRUCTURED_OPS and use.param == "weight" for use in weight.consumers)


def vector_channels(weight: EncodableWeight, axis: int) -> list[int]:
    """Channels along ``axis`` that hold whole vectors of a look-up table: a count for each op.

    A grouped convolution's vectors must not straddle its groups (coremltools' own restriction).
    """
    groups = [use.groups for use in weight.consumers if use.op_type in ("conv", "conv_transpose")]
    return [weight.shape[axis] // (max(count, 1) if axis == 0 else 1) for count in groups or [1]]
