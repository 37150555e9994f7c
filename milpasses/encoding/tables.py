"""Look-up tables of scalars or vectors: clustered, uniform, of the values there are, or a caller's own."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.affine import quantize_entries
from milpasses.encoding.blocks import block_counts, from_rows, to_rows
from milpasses.encoding.encodings import Palettized, Quantized, Scaled
from milpasses.encoding.generation import OpGeneration
from milpasses.encoding.grouping import Grouping
from milpasses.errors import Refusal
from milpasses.recipe.schemes import Palettize, Quantize

Array = NDArray[Any]


def palettize_blocks(
    value: Array,
    scheme: Palettize,
    grouping: Grouping,
    generation: OpGeneration,
    importance: Array | None = None,
    masked: bool = False,
) -> Palettized:
    """Indices into a look-up table for each block.

    ``importance``: what the squared error of each element counts (float32, shaped as ``value``). ``masked``:
    zeros are under a mask and need no entry.
    """
    if scheme.cluster_dim > 1:
        return _vectors(value, scheme, grouping, generation, importance)
    blocks = grouping.blocks
    rows = to_rows(value, blocks)
    weights = None if importance is None else to_rows(importance, blocks)
    lut, codes = _scalars(rows, scheme, generation, weights, masked)
    counts = block_counts(value.shape, blocks)
    return Palettized(from_rows(codes, value.shape, blocks), lut.reshape(*counts, lut.shape[1], 1))


def _scalars(
    rows: Array, scheme: Palettize, generation: OpGeneration, importance: Array | None, masked: bool
) -> tuple[Array, Array]:
    """Tables (groups, 2**nbits), and the codes of ``rows`` (groups, elements)."""
    if scheme.mode == "custom":
        return _custom(rows, scheme, generation)
    if scheme.mode == "unique":
        return _unique(rows, generation)
    assert scheme.nbits is not None
    if scheme.mode == "uniform":
        from milpasses_kernels.lut import uniform

        return uniform(rows, 2**scheme.nbits)
    from milpasses_kernels.kmeans import kmeans

    clustered = kmeans(rows, 2**scheme.nbits, importance, ignore_zeros=masked)
    return clustered.lut, clustered.codes


def _unique(rows: Array, generation: OpGeneration) -> tuple[Array, Array]:
    """Tables of exactly the values that each group holds."""
    from milpasses_kernels.lut import unique

    tables = unique(rows, 256)
    if tables is None:
        raise Refusal("too-many-unique")
    lut, codes = tables
    padding = np.repeat(lut[:, -1:], _entries(lut.shape[1], generation) - lut.shape[1], axis=1)
    return np.concatenate([lut, padding], axis=1), codes


def _entries(needed: int, generation: OpGeneration) -> int:
    """Entries of the smallest table that holds ``needed``."""
    nbits = next((bits for bits in generation.lut_bits if 2**bits >= needed), None)
    if nbits is None:
        raise Refusal("too-many-unique")
    return 2**nbits


def _custom(rows: Array, scheme: Palettize, generation: OpGeneration) -> tuple[Array, Array]:
    """The tables that the scheme's ``lut_function`` gives, and the nearest entries."""
    from milpasses_kernels.lut import assign

    assert scheme.lut_function is not None
    tables: list[Array] = []
    for row in rows:
        answer = scheme.lut_function(row)
        table = np.asarray(answer[0] if isinstance(answer, tuple) else answer)
        if table.ndim != 1 or table.size not in {2**bits for bits in generation.lut_bits}:
            *sizes, largest = (2**bits for bits in generation.lut_bits)
            sizes = f"{', '.join(map(str, sizes))} or {largest}"
            raise Refusal("table-size", shape=table.shape, sizes=sizes)
        tables.append(table.astype(rows.dtype))
    lut = np.stack(tables)
    return lut, assign(rows, lut)


def _vectors(
    value: Array, scheme: Palettize, grouping: Grouping, generation: OpGeneration, importance: Array | None
) -> Palettized:
    """Tables of vectors along the grouping's axis."""
    from milpasses_kernels.vector import vector_kmeans

    axis, width = grouping.axis, scheme.cluster_dim
    split = (*value.shape[:axis], value.shape[axis] // width, width, *value.shape[axis + 1 :])
    index_shape = (*split[: axis + 1], *split[axis + 2 :])
    index_blocks = tuple(size // width if a == axis else size for a, size in enumerate(grouping.blocks))

    def vectors_of(values: Array) -> Array:
        vectors = np.ascontiguousarray(np.moveaxis(values.reshape(split), axis + 1, -1))
        vectors = to_rows(vectors, (*index_blocks, width))
        return vectors.reshape(vectors.shape[0], -1, width)

    rows = vectors_of(value)
    if scheme.mode == "unique":
        lut, codes = _unique_vectors(rows, generation)
    else:
        assert scheme.nbits is not None
        weights = None if importance is None else vectors_of(importance)
        lut, codes, _ = vector_kmeans(rows, 2**scheme.nbits, weights)
    counts = block_counts(index_shape, index_blocks)
    return Palettized(from_rows(codes, index_shape, index_blocks), lut.reshape(*counts, *lut.shape[1:]), axis)


def _unique_vectors(rows: Array, generation: OpGeneration) -> tuple[Array, Array]:
    """Tables of exactly the vectors that each group holds; one number of bits for all groups."""
    groups = [np.unique(group, axis=0, return_inverse=True) for group in rows]
    entries = _entries(max(len(vectors) for vectors, _ in groups), generation)
    lut = np.stack([np.pad(v, ((0, entries - len(v)), (0, 0)), mode="edge") for v, _ in groups])
    codes = np.stack([inverse.reshape(-1) for _, inverse in groups]).astype(np.uint8)
    return lut, codes


def quantize_tables(value: Array, palettized: Palettized, scheme: Quantize) -> Palettized:
    """Round the tables' entries, then choose the codes of ``value`` again against the rounded tables."""
    from milpasses_kernels.lut import assign

    table = palettized.table
    lut = quantize_entries(table, scheme)
    if palettized.cluster_dim > 1:
        return attrs.evolve(palettized, lut=lut)
    blocks = tuple(size // count for size, count in zip(value.shape, table.shape[:-2], strict=True))
    entries = np.ascontiguousarray(lut.decode().reshape(-1, table.shape[-2]))
    codes = assign(to_rows(value, blocks), entries)
    return Palettized(from_rows(codes, value.shape, blocks), lut)


def tables_of_codes(quantized: Quantized, codes: Palettized) -> Palettized | Scaled:
    """``codes``, a palettized form of the codes of ``quantized``, as integer tables with its scales."""
    table = np.rint(codes.table).astype(quantized.codes.dtype)
    if quantized.scale.size == 1:  # the scale of the codes is a scale of the table's entries
        ones = (1,) * table.ndim
        zero_point = None if quantized.zero_point is None else quantized.zero_point.reshape(ones)
        lut = Quantized(table, quantized.scale.reshape(ones), zero_point, quantized.dtype)
        return attrs.evolve(codes, lut=lut)
    return Scaled(attrs.evolve(codes, lut=table), quantized.scale, quantized.zero_point)
