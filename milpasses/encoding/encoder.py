"""One weight and one scheme to an encoding, or to the reason why not.

Kernels do the arithmetic on (groups, elements) rows; ``grouping`` decides what a group is.
"""

from typing import Any, Generic, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.affine import quantize_blocks, quantize_entries
from milpasses.encoding.casts import cast_half
from milpasses.encoding.channel_scales import palettize_scaled
from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.encoding.generation import IOS18, OpGeneration
from milpasses.encoding.grouping import Grouper, Grouping
from milpasses.encoding.masks import prune_mask
from milpasses.encoding.storage import SMALLEST_IN_FILE
from milpasses.encoding.tables import palettize_blocks, quantize_tables, tables_of_codes
from milpasses.encoding.weights import EncodableWeight
from milpasses.errors import JointError, Refusal
from milpasses.recipe.schemes import Half, Joint, Palettize, Prune, Quantize, Scheme

Array = NDArray[Any]
W = TypeVar("W", bound=EncodableWeight)


@attrs.frozen(eq=False)
class Encoder(Generic[W]):
    """Encodes one weight. ``notes`` collects what was changed to make the scheme fit.

    ``fit_groups``: take the nearest divisor where a group or block size does not divide the channels;
    otherwise refuse, as coremltools does. ``importance``: what the squared error of each element counts
    (float32, shaped as the weight); all the same where there is none. ``separate_scales``: per-channel
    scales may stay an op of their own, which fails to load on the Neural Engine, where folding them takes
    more bytes. ``mask_zeros``: a weight of zeros alone is pruned, too, as by coremltools.
    """

    weight: W
    generation: OpGeneration = IOS18
    fit_groups: bool = True
    importance: Array | None = None
    separate_scales: bool = False
    mask_zeros: bool = False
    notes: list[str] = attrs.field(factory=list)

    def encode(self, value: Array, scheme: Scheme) -> Encoding:
        """The encoding of ``value`` under ``scheme``; raises ``Refusal`` with the reason."""
        if isinstance(scheme, Quantize):
            return self._quantize(value, scheme)
        if isinstance(scheme, Palettize) and scheme.enable_per_channel_scale:
            return self._scale_channels(value, scheme, self.separate_scales)
        if isinstance(scheme, Palettize):
            return self._palettize(value, scheme)
        if isinstance(scheme, Prune):
            return self._prune(value, scheme)
        if isinstance(scheme, Joint):
            return self._joint(value, scheme)
        if isinstance(scheme, Half):
            return cast_half(value)
        raise Refusal("no-encoding", scheme=str(scheme))

    def extend(self, existing: Encoding, value: Array, scheme: Scheme) -> Encoding:
        """``scheme`` on top of the form that a weight has already: coremltools' ``joint_compression``."""
        if isinstance(scheme, Prune) and isinstance(existing, Palettized | Quantized):
            if isinstance(existing, Palettized) and existing.cluster_dim > 1:
                raise Refusal("masked-vectors")
            return Sparse(self._mask(value, scheme), existing)
        if isinstance(existing, Sparse) and isinstance(existing.values, np.ndarray):
            if existing.values.size < SMALLEST_IN_FILE:
                raise Refusal("few-nonzeros", count=existing.values.size)
            if isinstance(scheme, Palettize):
                if scheme.cluster_dim > 1:
                    raise Refusal("masked-vectors")
                return Sparse(existing.mask, self._palettize(value, scheme, existing.mask))
            if isinstance(scheme, Quantize):
                return Sparse(existing.mask, self._quantize(value, scheme, existing.mask))
        if isinstance(scheme, Quantize):
            return self._quantize_tables_of(existing, scheme)
        if isinstance(existing, Quantized) and isinstance(scheme, Palettize):
            return self._palettize_codes(existing, scheme)
        raise Refusal("not-joinable", form=existing.form, scheme=str(scheme))

    def fill(self, mask: Array, value: Array, scheme: Scheme) -> Sparse:
        """The values under ``mask`` in the form of ``scheme``: what a ``Prune`` is joined with."""
        pruned = np.where(mask != 0, value, value.dtype.type(0))
        if isinstance(scheme, Palettize):
            if scheme.cluster_dim > 1 or scheme.enable_per_channel_scale:
                raise Refusal("masked-tables")
            return Sparse(mask, self._palettize(pruned, scheme, mask))
        assert isinstance(scheme, Quantize)
        return Sparse(mask, self._quantize(pruned, scheme, mask))

    def _quantize(self, value: Array, scheme: Quantize, mask: Array | None = None) -> Quantized:
        blocks = self._noted(self._grouper.scales(scheme)).blocks
        importance = self.importance
        if mask is not None:  # what is masked counts nothing
            importance = (mask != 0).astype(np.float32) * (1 if importance is None else importance)
        return quantize_blocks(value, scheme, blocks, importance, self.generation.stores_zero_point)

    def _scale_channels(self, value: Array, scheme: Palettize, separate: bool) -> Palettized | Scaled:
        """Tables that do what a scale a channel would; the scales themselves with ``separate``."""
        grouping = self._noted(self._grouper.tables(scheme))
        encoding = palettize_scaled(value, scheme, grouping, self.generation, self.importance, separate)
        if isinstance(encoding, Scaled):
            self.notes.append("the per-channel scales stay an op of their own: tables would take more bytes")
        else:
            self.notes.append(f"the per-channel scales are folded into the tables: {encoding.form}")
        return encoding

    def _palettize(self, value: Array, scheme: Palettize, mask: Array | None = None) -> Palettized:
        if scheme.enable_per_channel_scale:
            encoding = self._scale_channels(value, scheme, separate=False)
            assert isinstance(encoding, Palettized)
            return encoding
        grouping = self._noted(self._grouper.tables(scheme))
        return palettize_blocks(
            value, scheme, grouping, self.generation, self.importance, masked=mask is not None
        )

    def _palettize_codes(self, existing: Quantized, scheme: Palettize) -> Palettized | Scaled:
        """A look-up table of integer codes, which the weight's own scale follows."""
        return tables_of_codes(existing, self._palettize(existing.codes.astype(np.float32), scheme))

    def _prune(self, value: Array, scheme: Prune) -> Sparse:
        from milpasses_kernels.sparsity import gather

        mask = self._mask(value, scheme)
        return Sparse(mask, gather(value, mask))

    def _mask(self, value: Array, scheme: Prune) -> Array:
        if not (value.any() or self.mask_zeros):
            raise Refusal("all-zero")
        return prune_mask(self.weight, value, scheme, self.importance)

    def _joint(self, value: Array, scheme: Joint) -> Encoding:
        first, second = scheme.first, scheme.second
        if isinstance(first, Prune):
            return self.fill(self._mask(value, first), value, second)
        assert isinstance(first, Palettize)
        assert isinstance(second, Quantize)
        return quantize_tables(value, self._palettize(value, first), second)

    def _quantize_tables_of(self, existing: Encoding, scheme: Quantize) -> Encoding:
        """The look-up tables of a weight that has some as integers, the indices as they are."""
        if scheme.granularity != "per_tensor":
            raise JointError(
                f"{self.weight.name}: When use joint compression for palettization-quantization, please make "
                f"sure to use per-tensor quantization: a look-up table has no channels ({scheme})"
            )
        if isinstance(existing, Palettized):
            return attrs.evolve(existing, lut=quantize_entries(existing.table, scheme))
        if isinstance(existing, Sparse) and isinstance(existing.values, Palettized):
            lut = quantize_entries(existing.values.table, scheme)
            return Sparse(existing.mask, attrs.evolve(existing.values, lut=lut))
        raise Refusal("not-joinable", form=existing.form, scheme=str(scheme))

    @property
    def _grouper(self) -> Grouper:
        return Grouper(self.weight, self.fit_groups)

    def _noted(self, grouping: Grouping) -> Grouping:
        self.notes.extend(grouping.notes)
        return grouping
