"""Whole calls: milpasses.coreml against coremltools.optimize.coreml on the same model, in the same run."""

import logging
import time
import warnings
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto

import milpasses as mp
from bench.models import package
from bench.table import Table

Q, P, M = cto.OpLinearQuantizerConfig, cto.OpPalettizerConfig, cto.OpMagnitudePrunerConfig
GROUPED = {"granularity": "per_grouped_channel", "group_size": 16}
# Larger than the language model's attention mask, whose -inf ends coremltools' k-means with an error.
LARGE = {"weight_threshold": 4096}
CASES: dict[str, tuple[str, Any]] = {
    "int8": ("linear_quantize_weights", Q(**LARGE)),
    "int4-b32": (
        "linear_quantize_weights",
        Q(dtype="int4", granularity="per_block", block_size=32, **LARGE),
    ),
    "pal4": ("palettize_weights", P(nbits=4, **LARGE)),
    "pal6": ("palettize_weights", P(nbits=6, **LARGE)),
    "pal8": ("palettize_weights", P(nbits=8, **LARGE)),
    "pal4-g16": ("palettize_weights", P(nbits=4, **GROUPED, **LARGE)),
    "sparse50": ("prune_weights", M(target_sparsity=0.5, **LARGE)),
}
RUNS: list[tuple[str, str, float | None]] = [
    ("resnet50", "int8", None),
    ("resnet50", "int4-b32", None),
    ("resnet50", "pal4", 5),
    ("resnet50", "pal6", None),
    ("resnet50", "pal8", 20),
    ("resnet50", "pal4-g16", 8),
    ("resnet50", "sparse50", None),
    ("decoder_184m", "int4-b32", 2),
    ("decoder_184m", "pal4", None),
    ("decoder_184m", "pal4-g16", 15),
]


def speed(quick: bool) -> Table:
    """Seconds of the whole call, model in hand, result in hand."""
    note = "Seconds for the call with the model loaded and caches warm; the ratio is coremltools / milpasses."
    table = Table("Whole calls", note)
    loaded: dict[str, Any] = {}
    for name, case, wanted in RUNS:
        if quick and name != "resnet50":
            continue
        if name not in loaded:
            loaded.clear()
            loaded[name] = ct.models.MLModel(str(package(name)), skip_model_load=True)
        ours = min(timed(mp.coreml, loaded[name], case)[0] for _ in range(3))
        theirs, reference = timed(cto, loaded[name], case)
        small = timed(mp.coreml, loaded[name], case)[1]
        table.add(
            model=name,
            recipe=case,
            milpasses_s=ours,
            coremltools_s=theirs,
            ratio=theirs / ours,
            wanted=wanted or "",
            bytes_ratio=weight_bytes(small) / weight_bytes(reference),
        )
    return table


def ultralytics(_: bool) -> Table:
    """The call that Ultralytics' ``export(format="coreml", int8=True)`` makes, through the drop-in.

    Its arguments, on a classifier of the size of its smallest; coremltools' call is made once.
    """
    table = Table(
        "Ultralytics' call", "palettize_weights, kmeans, 8 bits a tensor; seconds of processor time."
    )
    name = "yolo_classifier"
    model = ct.models.MLModel(str(package(name, "iOS16")), skip_model_load=True)
    config = cto.OptimizationConfig(
        global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=8, weight_threshold=512)
    )

    def call(library: Any) -> tuple[float, Any]:
        start = time.process_time()
        result = library.palettize_weights(model, config=config)
        return time.process_time() - start, result

    call(mp.coreml)  # a warm one
    ours, small = min((call(mp.coreml) for _ in range(3)), key=lambda made: made[0])
    theirs, reference = call(cto)
    table.add(
        model=name,
        milpasses_s=ours,
        coremltools_s=theirs,
        ratio=theirs / ours,
        bytes_ratio=weight_bytes(small) / weight_bytes(reference),
    )
    return table


def timed(library: Any, model: Any, case: str) -> tuple[float, Any]:
    """(seconds, model) of one call of a case."""
    function, config = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        start = time.perf_counter()
        result = getattr(library, function)(model, cto.OptimizationConfig(global_config=config))
        return time.perf_counter() - start, result


def weight_bytes(model: Any) -> int:
    """Size of the weight file."""
    from pathlib import Path

    return (Path(model.weights_dir) / "weight.bin").stat().st_size
