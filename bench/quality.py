"""Error at the same bytes: SQNR of each weight, ours against coremltools'."""

import math
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np

import milpasses as mp
from bench.calls import CASES, GROUPED, P, Q, timed, weight_bytes
from bench.models import package
from bench.table import Table

MORE: dict[str, tuple[str, Any]] = {
    "int8-asym": ("linear_quantize_weights", Q(mode="linear")),
    "int4": ("linear_quantize_weights", Q(dtype="int4")),
    "int4-b32-asym": (
        "linear_quantize_weights",
        Q(mode="linear", dtype="int4", granularity="per_block", block_size=32),
    ),
    "pal2": ("palettize_weights", P(nbits=2)),
    "pal3": ("palettize_weights", P(nbits=3)),
    "pal6-g16": ("palettize_weights", P(nbits=6, **GROUPED)),
    "pal2-g16": ("palettize_weights", P(nbits=2, **GROUPED)),
    "pal4-v2": ("palettize_weights", P(nbits=4, cluster_dim=2)),
}
WANTED = {"int4-b32": 0.5, "pal4-g16": 0.2, "pal6-g16": 0.35, "sparse50+pal2": 2.0}


def quality(quick: bool) -> Table:
    """Overall and worst-layer SQNR, in dB; no weight may be worse, no file larger."""
    CASES.update(MORE)
    note = "MobileNetV3-Small. SQNR in dB over all weights; the worst difference is over single weights."
    table = Table("Error at the same bytes", note)
    model = ct.models.MLModel(str(package("mobilenet_v3_small")), skip_model_load=True)
    reference = values(model)
    for case in CASES:
        _, theirs = timed(cto, model, case)
        _, ours = timed(mp.coreml, model, case)
        add(table, case, reference, ours, theirs)
    joint = cto.prune_weights(model, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5)))
    joint = cto.palettize_weights(joint, cto.OptimizationConfig(P(nbits=2)), joint_compression=True)
    # What the tables cost, against the pruned weights. Above 65,504 elements coremltools prunes nothing: its
    # percentile is NaN.
    pruned = {name: w for name, w in values(mp.compress(model, "sparse50")).items() if w.size <= 65_504}
    add(table, "sparse50+pal2", pruned, mp.compress(model, "sparse50+pal2"), joint)
    return table


def add(table: Table, case: str, reference: dict[str, Any], ours: Any, theirs: Any) -> None:
    """One row: both errors and both sizes."""
    mine, other = values(ours), values(theirs)
    ratios = []
    totals = np.zeros(3)
    for name, value in reference.items():
        noise = [float(np.sum((value - side[name]) ** 2)) for side in (mine, other)]
        totals += [float(np.sum(value**2)), *noise]
        if noise[1] > 0:
            ratios.append(10 * math.log10(noise[1] / max(noise[0], 1e-300)))
    gain = 10 * math.log10(totals[2] / totals[1]) if totals[1] else math.inf
    table.add(
        recipe=case,
        milpasses_dB=10 * math.log10(totals[0] / totals[1]),
        coremltools_dB=10 * math.log10(totals[0] / totals[2]),
        gain_dB=gain,
        wanted=WANTED.get(case, ""),
        worst_weight_dB=min(ratios),
        bytes_ratio=weight_bytes(ours) / weight_bytes(theirs),
    )


def values(model: Any) -> dict[str, Any]:
    """The weights of conv and linear ops by consumer, decoded, in float64."""
    found = {}
    for op in mp.decompress(model)._mil_program.functions["main"].operations:
        if op.op_type in ("conv", "linear"):
            found[op.name] = np.asarray(op.weight.val, np.float64)
    return found
