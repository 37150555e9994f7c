"""Tables of vectors, one or one for each group of channels, against the function that coremltools calls."""

from typing import Any

import numpy as np

from bench.table import Table
from bench.timing import processors

SIZES = (128, 256), (512, 512)
RECIPES = (  # bits, width, channels in a group (0: all)
    *((bits, width, 0) for width in (2, 4) for bits in (4, 6, 8)),
    *((4, 2, 16), (4, 4, 16), (6, 2, 32), (6, 4, 32)),
)
SEEDS = 4


def vectors() -> Table:
    """Ratios of processor time, and of squared error: the mean and the worst over weights."""
    from coremltools.optimize.coreml._quantization_passes import palettize_weights
    from milpasses_kernels.vector import vector_kmeans

    host_pass: Any = palettize_weights
    note = "Processor time of all threads, median of five in turns; heavy tails: Student's t of 3 degrees."
    table = Table("Vector k-means", note)
    for shape, (bits, width, group), weights in (
        (shape, recipe, weights)
        for shape in SIZES
        for recipe in RECIPES
        for weights in ("gaussian", "heavy tails")
    ):
        seconds, errors = [], []
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            drawn = rng.standard_normal(shape) if weights == "gaussian" else rng.standard_t(3, shape)
            value = (drawn * 0.02).astype(np.float16)
            rows = vectors_of(value, width, group)

            def ours(rows: Any = rows, entries: int = 2**bits) -> Any:
                return vector_kmeans(rows, entries)

            def theirs(value: Any = value, recipe: Any = (bits, width, group)) -> Any:
                nbits, cluster_dim, size = recipe
                return host_pass.grouped_channelwise_compress(
                    value, "KMEANS", nbits, 0, size, cluster_dim=cluster_dim
                )

            seconds.append(processors(ours, theirs))
            found, reference = ours(), theirs()
            lut = reference.lut.reshape(len(rows), 2**bits, width)
            codes = reference.indices.reshape(len(rows), -1)
            errors.append(error(rows, found.lut, found.codes) / error(rows, lut, codes))
        mine, other = np.median(seconds, axis=0)
        table.add(
            weights=f"{shape[0]}x{shape[1]} {weights}",
            recipe=f"pal{bits}-v{width}" + (f"-g{group}" if group else ""),
            ours_ms=mine * 1e3,
            coremltools_ms=other * 1e3,
            ratio=other / mine,
            wanted=5,
            error_ratio=f"{np.mean(errors):.4f}",
            worst_error_ratio=f"{max(errors):.4f}",
        )
    return table


def vectors_of(value: Any, width: int, group: int) -> Any:
    """The vectors (groups, n, width) of a weight, along its channels."""
    groups = len(value) // group if group else 1
    split = value.reshape(groups, len(value) // groups // width, width, -1)
    return np.ascontiguousarray(np.moveaxis(split, 2, -1)).reshape(groups, -1, width)


def error(rows: Any, lut: Any, codes: Any) -> float:
    """The squared error of what is stored."""
    decoded = np.take_along_axis(lut.astype(np.float64), codes[..., None].astype(np.int64), axis=1)
    return float(np.square(decoded - rows).sum())
