"""One weight and one scheme to an encoding, or to the reason why not.

Kernels do the arithmetic on (groups, elements) rows; here is decided what a group is.
"""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.blocks import Shape, block_counts, from_rows, nearest_divisor, to_rows
from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.encoding.generation import IOS18, OpGeneration
from milpasses.encoding.storage import SMALLEST_IN_FILE
from milpasses.errors import JointError, Refusal
from milpasses.program.weights import Weight
from milpasses.recipe.schemes import Joint, Palettize, Prune, Quantize, Scheme

Array = NDArray[Any]


@attrs.define
class Encoder:
    """Encodes one weight. ``notes`` collects what was changed to make the scheme fit.

    ``fit_groups``: take the nearest divisor where a group or block size does not divide the channels;
    otherwise refuse, as coremltools does. ``importance``: what the squared error of each element counts
    (float32, shaped as the weight); all the same where there is none.
    """

    weight: Weight
    generation: OpGeneration = IOS18
    fit_groups: bool = True
    importance: Array | None = None
    notes: list[str] = attrs.field(factory=list)

    def encode(self, value: Array, scheme: Scheme) -> Encoding:
        """The encoding of ``value`` under ``scheme``; raises ``Refusal`` with the reason."""
        if isinstance(scheme, Quantize):
            return self._quantize(value, scheme)
        if isinstance(scheme, Palettize):
            return self._palettize(value, scheme)
        if isinstance(scheme, Prune):
            return self._prune(value, scheme)
        if isinstance(scheme, Joint):
            return self._joint(value, scheme)
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
                return Sparse(existing.mask, self._palettize(value, scheme, existing.mask))
            if isinstance(scheme, Quantize):
                return Sparse(existing.mask, self._quantize(value, scheme, existing.mask))
        if isinstance(scheme, Quantize) and scheme.granularity != "per_tensor":
            raise JointError(
                f"{self.weight.name}: When use joint compression for palettization-quantization, please make "
                f"sure to use per-tensor quantization: a look-up table has no channels ({scheme})"
            )
        if isinstance(existing, Palettized) and isinstance(scheme, Quantize):
            return attrs.evolve(existing, lut=self._rounded_table(existing.table, scheme))
        if (
            isinstance(existing, Sparse)
            and isinstance(existing.values, Palettized)
            and isinstance(scheme, Quantize)
        ):
            lut = self._rounded_table(existing.values.table, scheme)
            return Sparse(existing.mask, attrs.evolve(existing.values, lut=lut))
        if isinstance(existing, Quantized) and isinstance(scheme, Palettize):
            return self._palettize_codes(existing, scheme)
        raise Refusal("not-joinable", form=existing.form, scheme=str(scheme))

    def _palettize_codes(self, existing: Quantized, scheme: Palettize) -> Palettized | Scaled:
        """A look-up table of integer codes, which the weight's own scale follows."""
        inner = self._palettize(existing.codes.astype(np.float32), scheme)
        table = np.rint(inner.table).astype(existing.codes.dtype)
        if existing.scale.size == 1:  # the scale of the codes is a scale of the table's entries
            ones = (1,) * table.ndim
            zero_point = None if existing.zero_point is None else existing.zero_point.reshape(ones)
            lut = Quantized(table, existing.scale.reshape(ones), zero_point, existing.dtype)
            return attrs.evolve(inner, lut=lut)
        return Scaled(attrs.evolve(inner, lut=table), existing.scale, existing.zero_point)

    def _divide(self, size: int, wanted: int, what: str, multiple: int = 1) -> int:
        """``wanted``, or the nearest divisor of ``size`` (a multiple of ``multiple``), noted or refused."""
        if wanted > 0 and size % wanted == 0 and wanted % multiple == 0:
            return wanted
        if wanted <= 0:
            return size
        if not self.fit_groups:
            raise Refusal("not-divisible", what=what, wanted=wanted, size=size)
        if size % multiple:
            raise self._bad_vectors(multiple, size)
        fitted = multiple * nearest_divisor(size // multiple, max(1, round(wanted / multiple)))
        self.notes.append(f"{what} {fitted}: {wanted} does not divide {size} channels")
        return fitted

    def _quantize_blocks(self, shape: Shape, scheme: Quantize) -> Shape:
        if scheme.granularity == "per_tensor":
            return shape
        output, channel_in = self.weight.channel_axes
        blocks = list(shape)
        if scheme.granularity == "per_block" and not isinstance(scheme.block_size, int):
            if len(scheme.block_size) != len(shape):
                raise Refusal("block-rank", given=len(scheme.block_size), rank=len(shape))
            wanted = zip(shape, scheme.block_size, strict=True)
            return tuple(self._divide(size, block, "block_size") for size, block in wanted)
        blocks[output] = 1
        if scheme.granularity == "per_block":
            assert isinstance(scheme.block_size, int)
            blocks[channel_in] = self._divide(shape[channel_in], scheme.block_size, "block_size")
        return tuple(blocks)

    def _quantize(self, value: Array, scheme: Quantize, mask: Array | None = None) -> Quantized:
        from milpasses_kernels.rounding import quantize

        blocks = self._quantize_blocks(value.shape, scheme)
        importance = self._importance_of(blocks, mask)
        rounded = quantize(
            to_rows(value, blocks),
            nbits=scheme.nbits,
            signed=scheme.signed,
            symmetric=scheme.symmetric,
            search=scheme.method != "minmax",
            importance=importance,
        )
        counts = block_counts(value.shape, blocks)
        zero_point = rounded.zero_point
        if zero_point is None and self.generation.stores_zero_point:
            zero_point = np.zeros(counts, rounded.codes.dtype)  # the iOS16 op stores one always
        zero_point = None if zero_point is None else zero_point.reshape(counts)
        codes = from_rows(rounded.codes, value.shape, blocks)
        return Quantized(codes, rounded.scale.reshape(counts), zero_point, scheme.dtype)

    def _importance_of(self, blocks: Shape, mask: Array | None = None) -> Array | None:
        """The importance in rows of blocks; what is masked counts nothing."""
        importance = self.importance
        if mask is not None:
            importance = (mask != 0).astype(np.float32) * (1 if importance is None else importance)
        return None if importance is None else to_rows(importance, blocks)

    def _palettize_axis(self, scheme: Palettize) -> int:
        axis = self.weight.channel_axes[0] if scheme.channel_axis is None else scheme.channel_axis
        rank = self.weight.rank
        if not -rank <= axis < rank:
            raise Refusal("axis-outside", axis=axis, rank=rank)
        return axis % rank

    def _palettize_blocks(self, shape: Shape, scheme: Palettize, axis: int) -> Shape:
        blocks = list(shape)
        grouped = scheme.granularity == "per_grouped_channel"
        wanted = scheme.group_size if grouped else shape[axis]
        blocks[axis] = self._divide(shape[axis], wanted, "group_size", scheme.cluster_dim)
        return tuple(blocks)

    def _palettize(self, value: Array, scheme: Palettize, mask: Array | None = None) -> Palettized:
        if scheme.enable_per_channel_scale:
            # A scale a channel times one table is a table a channel, which is what gets stored; a separate
            # scale op fails to load on the Neural Engine. So each channel has a table, with its own optimum.
            self.notes.append("one table a channel: the per-channel scales are folded into the tables")
            scheme = attrs.evolve(
                scheme, enable_per_channel_scale=False, granularity="per_grouped_channel", group_size=1
            )
        axis = self._palettize_axis(scheme)
        if scheme.cluster_dim > 1:
            self._check_vectors(axis, scheme.cluster_dim)
        blocks = self._palettize_blocks(value.shape, scheme, axis)
        if scheme.cluster_dim > 1:
            return self._palettize_vectors(value, scheme, blocks, axis)
        rows = to_rows(value, blocks)
        if scheme.mode == "custom":
            lut, codes = self._custom(rows, scheme)
        else:
            lut, codes = self._scalar_tables(rows, scheme, mask is not None, self._importance_of(blocks))
        counts = block_counts(value.shape, blocks)
        return Palettized(from_rows(codes, value.shape, blocks), lut.reshape(*counts, lut.shape[1], 1))

    def _scalar_tables(
        self, rows: Array, scheme: Palettize, sparse: bool, importance: Array | None
    ) -> tuple[Array, Array]:
        from milpasses_kernels.kmeans import kmeans

        if scheme.mode == "unique":
            from milpasses_kernels.lut import unique

            found = unique(rows, 256)
            if found is None:
                raise Refusal("too-many-unique")
            lut, codes = found
            nbits = next(bits for bits in self.generation.lut_bits if 2**bits >= lut.shape[1])
            padding = np.repeat(lut[:, -1:], 2**nbits - lut.shape[1], axis=1)
            return np.concatenate([lut, padding], axis=1), codes
        assert scheme.nbits is not None
        if scheme.mode == "uniform":
            from milpasses_kernels.lut import uniform

            return uniform(rows, 2**scheme.nbits)
        clustered = kmeans(rows, 2**scheme.nbits, importance, ignore_zeros=sparse)
        return clustered.lut, clustered.codes

    def _custom(self, rows: Array, scheme: Palettize) -> tuple[Array, Array]:
        from milpasses_kernels.lut import assign

        assert scheme.lut_function is not None
        tables: list[Array] = []
        for row in rows:
            answer = scheme.lut_function(row)
            table = np.asarray(answer[0] if isinstance(answer, tuple) else answer)
            if table.ndim != 1 or table.size not in {2**bits for bits in self.generation.lut_bits}:
                sizes = ", ".join(str(2**bits) for bits in self.generation.lut_bits)
                raise Refusal("table-size", shape=table.shape, sizes=sizes)
            tables.append(table.astype(rows.dtype))
        lut = np.stack(tables)
        return lut, assign(rows, lut)

    def _palettize_vectors(self, value: Array, scheme: Palettize, blocks: Shape, axis: int) -> Palettized:
        from milpasses_kernels.vector import vector_kmeans

        width = scheme.cluster_dim
        split = (*value.shape[:axis], value.shape[axis] // width, width, *value.shape[axis + 1 :])
        index_shape = (*split[: axis + 1], *split[axis + 2 :])
        index_blocks = tuple(b // width if a == axis else b for a, b in enumerate(blocks))

        def vectors_of(values: Array) -> Array:
            vectors = np.ascontiguousarray(np.moveaxis(values.reshape(split), axis + 1, -1))
            vectors = to_rows(vectors, (*index_blocks, width))
            return vectors.reshape(vectors.shape[0], -1, width)

        rows = vectors_of(value)
        if scheme.mode == "unique":
            lut, codes = self._unique_vectors(rows)
        else:
            assert scheme.nbits is not None
            importance = None if self.importance is None else vectors_of(self.importance)
            lut, codes, _ = vector_kmeans(rows, 2**scheme.nbits, importance)
        counts = block_counts(index_shape, index_blocks)
        return Palettized(
            from_rows(codes, index_shape, index_blocks), lut.reshape(*counts, *lut.shape[1:]), axis
        )

    def _unique_vectors(self, rows: Array) -> tuple[Array, Array]:
        """Tables of exactly the vectors that each group holds; one number of bits for all groups."""
        found = [np.unique(group, axis=0, return_inverse=True) for group in rows]
        most = max(len(vectors) for vectors, _ in found)
        nbits = next((bits for bits in self.generation.lut_bits if 2**bits >= most), None)
        if nbits is None:
            raise Refusal("too-many-unique")
        lut = np.stack([np.pad(v, ((0, 2**nbits - len(v)), (0, 0)), mode="edge") for v, _ in found])
        codes = np.stack([inverse.reshape(-1) for _, inverse in found]).astype(np.uint8)
        return lut, codes

    def _check_vectors(self, axis: int, width: int) -> None:
        """A grouped convolution's vectors must not straddle its groups (coremltools' own restriction)."""
        for groups in [use.groups_along(axis) for use in self.weight.consumers] or [1]:
            channels = self.weight.shape[axis] // groups
            if channels % width:
                raise self._bad_vectors(width, channels)

    def _bad_vectors(self, width: int, channels: int) -> Refusal:
        return Refusal("vectors-not-divisible", name=self.weight.name, wanted=width, size=channels)

    def _mask(self, value: Array, scheme: Prune) -> Array:
        from milpasses_kernels.sparsity import block_mask, magnitude_mask, n_m_mask, threshold_mask

        structured = scheme.n_m_ratio is not None or scheme.block_size is not None
        if structured and not all(use.weight_use.structured for use in self.weight.consumers):
            raise Refusal("unstructured-op")
        if scheme.threshold is not None:
            mask = threshold_mask(value, scheme.threshold)
        elif scheme.method == "obs" and self.importance is not None:
            # What a weight adds to the output, as far as its input alone tells: |w| sqrt(E[x^2]).
            importance, self.importance = self.importance, None
            largest = np.maximum(np.abs(value).max(), np.finfo(np.float32).tiny)
            kept = self._mask(value.astype(np.float32) / largest * np.sqrt(importance), scheme)
            self.importance = importance
            return kept
        elif scheme.n_m_ratio is not None:
            n, m = scheme.n_m_ratio
            dim = 1 if scheme.dim is None else scheme.dim
            if m > value.shape[dim] / 2:
                raise Refusal("ratio-too-wide", n=n, m=m, size=value.shape[dim])
            mask = n_m_mask(value, n, m, dim)
        elif scheme.block_size is not None:
            dim = 0 if scheme.dim is None else scheme.dim
            assert scheme.target_sparsity is not None
            if scheme.block_size > value.shape[dim] / 2:
                raise Refusal("block-too-wide", block=scheme.block_size, size=value.shape[dim])
            mask = block_mask(value, scheme.target_sparsity, scheme.block_size, dim)
        else:
            assert scheme.target_sparsity is not None
            mask = magnitude_mask(value, scheme.target_sparsity)
        sparsity = 1 - np.count_nonzero(mask) / mask.size
        if scheme.threshold is not None and sparsity < scheme.minimum_sparsity_percentile:
            raise Refusal("low-sparsity", sparsity=sparsity, minimum=scheme.minimum_sparsity_percentile)
        return mask

    def _prune(self, value: Array, scheme: Prune) -> Sparse:
        from milpasses_kernels.sparsity import gather

        mask = self._mask(value, scheme)
        return Sparse(mask, gather(value, mask))

    def _joint(self, value: Array, scheme: Joint) -> Encoding:
        first, second = scheme.first, scheme.second
        if isinstance(first, Prune):
            return self.fill(self._mask(value, first), value, second)
        assert isinstance(first, Palettize)
        assert isinstance(second, Quantize)
        return self._quantize_table(value, first, second)

    def fill(self, mask: Array, value: Array, scheme: Scheme) -> Sparse:
        """The values under ``mask`` in the form of ``scheme``: what a ``Prune`` is joined with."""
        pruned = np.where(mask != 0, value, value.dtype.type(0))
        if isinstance(scheme, Palettize):
            if scheme.cluster_dim > 1 or scheme.enable_per_channel_scale:
                raise Refusal("masked-tables")
            return Sparse(mask, self._palettize(pruned, scheme, mask))
        assert isinstance(scheme, Quantize)
        return Sparse(mask, self._quantize(pruned, scheme, mask))

    def _quantize_table(self, value: Array, first: Palettize, second: Quantize) -> Palettized:
        """Round the tables' entries, then choose the codes again against the rounded tables."""
        from milpasses_kernels.lut import assign

        palettized = self._palettize(value, first)
        table = palettized.table
        lut = self._rounded_table(table, second)
        if palettized.cluster_dim > 1:
            return Palettized(palettized.codes, lut, palettized.vector_axis)
        blocks = tuple(s // c for s, c in zip(value.shape, table.shape[:-2], strict=True))
        entries = np.ascontiguousarray(lut.decode().reshape(-1, table.shape[-2]))
        codes = assign(to_rows(value, blocks), entries)
        return Palettized(from_rows(codes, value.shape, blocks), lut)

    def _rounded_table(self, table: Array, scheme: Quantize) -> Quantized:
        """Integer entries with one scale for all tables of a weight (what the ops can chain)."""
        from milpasses_kernels.rounding import quantize

        if table.size < SMALLEST_IN_FILE:
            raise Refusal("small-table", size=table.size)
        rounded = quantize(
            table.reshape(1, -1),
            nbits=scheme.nbits,
            signed=scheme.signed,
            symmetric=scheme.symmetric,
            search=scheme.method != "minmax",
        )
        ones = (1,) * table.ndim
        zero_point = None if rounded.zero_point is None else rounded.zero_point.reshape(ones)
        return Quantized(
            rounded.codes.reshape(table.shape), rounded.scale.reshape(ones), zero_point, scheme.dtype
        )
