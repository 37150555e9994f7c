"""Legacy neural networks: k-means of a layer's weights against coremltools', and many variants of a model."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bench.table import Table
from bench.timing import best


def _layer(model: Path | None) -> Any:
    """The largest weights of ``model``; without it, as many random ones as its 3x3 convolutions have."""
    if model is None or not model.is_file():
        return (np.random.default_rng(0).standard_normal((256, 64, 3, 3)) * 0.05).astype(np.float32)
    from milpasses.neuralnetwork.quantize.quantized_model import read_model
    from milpasses.neuralnetwork.spec.layer_weights import layer_weights
    from milpasses.neuralnetwork.spec.networks import scopes
    from milpasses.neuralnetwork.spec.weight_params import decode

    layers = [layer for scope in scopes(read_model(model).spec) for layer in scope.network.layers]
    largest = max((weight for layer in layers for weight in layer_weights(layer)), key=lambda w: w.size)
    return decode(largest.params, largest.shape, largest.axis)


def kmeans(model: Path | None = None) -> Table:
    """k-means of one layer in float32: ours is the optimum, coremltools calls scikit-learn."""
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    from milpasses.neuralnetwork.quantize import code_fitting

    weights = _layer(model)
    shape = "x".join(map(str, weights.shape))
    table = Table("Neural networks: k-means", f"One layer of {shape} float32 weights; wanted at 8 bits: 50.")
    for nbits in (4, 8):
        ours = best(lambda nbits=nbits: code_fitting.kmeans(weights.reshape(-1), nbits), 10, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            lut, codes = _get_kmeans_lookup_table_and_weight(nbits, weights)
            theirs = time.perf_counter() - start
        found = code_fitting.kmeans(weights.reshape(-1), nbits)
        costs = [
            float(np.sum((entries[index] - weights.reshape(-1).astype(np.float64)) ** 2))
            for entries, index in ((found.table, found.codes), (np.asarray(lut).reshape(-1), codes))
        ]
        table.add(
            nbits=nbits,
            ours_ms=ours * 1e3,
            coremltools_ms=theirs * 1e3,
            ratio=theirs / ours,
            cost_ratio=costs[0] / costs[1],
        )
    return table


def variants(model: Path) -> Table:
    """27 variants of one model: three modes, 16 and 8 to 1 bits."""
    from milpasses.neuralnetwork import quantize_variants

    table = Table(
        "Neural networks: variants", f"{model.name} in three modes, 16 and 8 to 1 bits, in one run."
    )
    for mode in ("kmeans_lut", "linear", "linear_lut"):
        wanted = [(nbits, mode) for nbits in (16, *range(8, 0, -1))]
        start = time.perf_counter()
        sizes = [len(spec.SerializeToString()) for spec, _ in quantize_variants(model, wanted)]
        seconds = time.perf_counter() - start
        table.add(mode=mode, variants=len(sizes), seconds=seconds, smallest=min(sizes), largest=max(sizes))
    return table
