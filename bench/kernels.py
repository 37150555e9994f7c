"""Kernels alone: exact k-means against coremltools' own, packing against memcpy."""

from typing import Any

import numpy as np

from bench.table import Table
from bench.timing import best


def half_gaussian(count: int, seed: int = 0) -> Any:
    """Float16 weights; a million of them have about 21,700 distinct values."""
    return (np.random.default_rng(seed).standard_normal(count) * 0.05).astype(np.float16)


def kmeans() -> Table:
    """The same optimum as coremltools' kmeans1d, at a fraction of the time."""
    from coremltools._deps.kmeans1d.core import cluster as kmeans1d
    from milpasses_kernels.histogram import histogram
    from milpasses_kernels.kmeans import solve

    table = Table(
        "k-means", "A million float16 weights; both sides start from the distinct values and their counts."
    )
    values, weights = histogram(half_gaussian(1_000_000).reshape(1, -1))
    values = values.astype(np.float64)
    for k, wanted in ((4, None), (16, 20), (64, None), (256, 200)):
        ours = best(lambda k=k: solve(values, weights, k), 20, 2)
        theirs = best(lambda k=k: kmeans1d(values, k, weights=weights), 2, 6)
        _, cost = solve(values, weights, k)
        found = kmeans1d(values, k, weights=weights)
        centers = np.asarray(found.centroids)[np.asarray(found.clusters)]
        reference = float(np.sum(weights * (values - centers) ** 2))
        table.add(
            distinct=len(values),
            k=k,
            ours_ms=ours * 1e3,
            coremltools_ms=theirs * 1e3,
            ratio=theirs / ours,
            wanted=wanted or "",
            cost_ratio=f"{cost / reference:.12f}",
        )
    return table


def packing() -> Table:
    """Packing and unpacking, in bandwidth of the unpacked side, against a copy of the same bytes.

    The result of both is new memory, whose pages cost about as much as the copy; ``memcpy_into`` is a copy
    into memory that is there already.
    """
    from milpasses_kernels.bitpack import pack, unpack

    table = Table("Packing", "64 MB of codes; GB/s counted on the wider side; wanted: a third of memcpy.")
    count = 64_000_000
    codes = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
    target = np.empty_like(codes)
    into = count / best(lambda: np.copyto(target, codes), 10, 2) / 1e9
    copy = count / best(lambda: codes.copy(), 10, 2) / 1e9
    for bits in range(1, 9):
        small = codes & (2**bits - 1)
        packed = pack(small, bits)
        packing = count / best(lambda small=small, bits=bits: pack(small, bits), 5, 2) / 1e9
        unpacking = count / best(lambda packed=packed, bits=bits: unpack(packed, bits, count), 5, 2) / 1e9
        slower = min(packing, unpacking)
        table.add(
            bits=bits, pack=packing, unpack=unpacking, memcpy=copy, share=slower / copy, memcpy_into=into
        )
    return table
