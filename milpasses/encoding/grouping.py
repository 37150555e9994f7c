"""Which elements of a weight share a scale or a look-up table."""

import attrs

from milpasses.encoding.blocks import Shape, nearest_divisor
from milpasses.encoding.weights import EncodableWeight, vector_channels
from milpasses.errors import Refusal
from milpasses.recipe.schemes import Palettize, Quantize


@attrs.frozen
class Grouping:
    """The blocks of a weight, each with a scale or a table of its own.

    ``blocks``: their size along each axis, a divisor of the dimension. ``notes``: what was changed of the
    scheme so that they fit. ``axis``: that of a table's channels and vectors.
    """

    blocks: Shape
    notes: tuple[str, ...] = ()
    axis: int = 0


@attrs.frozen
class Grouper:
    """Divides a weight into blocks as a scheme asks; raises ``Refusal`` where they do not fit.

    ``fit_groups``: take the nearest divisor where a group or block size does not divide the channels;
    otherwise refuse, as coremltools does.
    """

    weight: EncodableWeight
    fit_groups: bool = True

    def scales(self, scheme: Quantize) -> Grouping:
        """The blocks that have a scale each."""
        shape = self.weight.shape
        if scheme.granularity == "per_tensor":
            return Grouping(shape)
        if scheme.granularity == "per_channel":
            output, _ = self.weight.channel_axes
            return Grouping(tuple(1 if axis == output else size for axis, size in enumerate(shape)))
        wanted = self._wanted_blocks(scheme.block_size)
        fitted = [self._fit(size, block, "block_size") for size, block in zip(shape, wanted, strict=True)]
        return Grouping(tuple(size for size, _ in fitted), tuple(note for _, note in fitted if note))

    def _wanted_blocks(self, block_size: int | tuple[int, ...]) -> Shape:
        """A block size for each axis, 0 for the whole of it; one size is along the input channels."""
        rank = self.weight.rank
        if not isinstance(block_size, int):
            if len(block_size) != rank:
                raise Refusal("block-rank", given=len(block_size), rank=rank)
            return block_size
        output, channel_in = self.weight.channel_axes
        wanted = [0] * rank
        wanted[output] = 1
        wanted[channel_in] = block_size
        return tuple(wanted)

    def tables(self, scheme: Palettize) -> Grouping:
        """The blocks that have a look-up table each."""
        axis = self._table_axis(scheme)
        width = scheme.cluster_dim
        if width > 1:
            for channels in vector_channels(self.weight, axis):
                if channels % width:
                    raise self._no_vectors(width, channels)
        size = self.weight.shape[axis]
        wanted = scheme.group_size if scheme.granularity == "per_grouped_channel" else size
        fitted, note = self._fit(size, wanted, "group_size", width)
        blocks = (*self.weight.shape[:axis], fitted, *self.weight.shape[axis + 1 :])
        return Grouping(blocks, (note,) if note else (), axis)

    def _table_axis(self, scheme: Palettize) -> int:
        axis = self.weight.channel_axes[0] if scheme.channel_axis is None else scheme.channel_axis
        rank = self.weight.rank
        if not -rank <= axis < rank:
            raise Refusal("axis-outside", axis=axis, rank=rank)
        return axis % rank

    def _fit(self, size: int, wanted: int, what: str, multiple: int = 1) -> tuple[int, str]:
        """``wanted``, or the nearest divisor of ``size`` (a multiple of ``multiple``) and a note on it.

        The whole of the axis where ``wanted`` is 0.
        """
        if wanted > 0 and size % wanted == 0 and wanted % multiple == 0:
            return wanted, ""
        if wanted <= 0:
            return size, ""
        if not self.fit_groups:
            raise Refusal("not-divisible", what=what, wanted=wanted, size=size)
        if size % multiple:
            raise self._no_vectors(multiple, size)
        fitted = multiple * nearest_divisor(size // multiple, max(1, round(wanted / multiple)))
        return fitted, f"{what} {fitted}: {wanted} does not divide {size} channels"

    def _no_vectors(self, width: int, channels: int) -> Refusal:
        return Refusal("vectors-not-divisible", name=self.weight.name, wanted=width, size=channels)
