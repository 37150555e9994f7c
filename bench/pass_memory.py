"""Memory of the compression pass inside ``ct.convert``: how much of the old weights stays beside the new."""

import tracemalloc
import warnings
from typing import Any
from unittest import mock

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder, Program, Var, types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from bench.costs import child
from bench.networks import heavy_tailed
from bench.table import Table

mb: Any = Builder  # its methods, one an op, are registered at run time

WIDE, NARROW = 2048, 1024  # a weight of WIDE * NARROW float16 values has 4 MB
RECIPES = {"int8": "linear_quantize_weights", "pal4": "palettize_weights"}


def passes() -> Table:
    """Peak of the arrays that are alive during the pass, as a multiple of the weights' bytes."""
    table = Table(
        "Peak memory of the pass",
        "Arrays alive while the last pass of ct.convert runs, by tracemalloc; 32 weights of 4 MB each. "
        "1 is the weights before the pass; wanted of milpasses: at most 1.3.",
    )
    for recipe in RECIPES:
        for library in ("milpasses", "coremltools"):
            call = f"measured({library!r}, {recipe!r}, 32)"
            facts = child(f"from bench.pass_memory import measured; facts = {call}")
            table.add(
                recipe=recipe,
                library=library,
                weights_MB=facts["weights"] / 1e6,
                above_MB=(facts["highest"] - facts["before"]) / 1e6,
                after_MB=facts["after"] / 1e6,
                multiple=facts["highest"] / facts["weights"],
            )
    return table


def measured(library: str, recipe: str, count: int) -> dict[str, int]:
    """Convert a chain of ``count`` linears of 4 MB each, with a compression pass last; bytes that were alive.

    Returns ``weights`` (before compression) and, of all that was allocated since the start, ``before`` the
    pass, at its ``highest``, and ``after`` it. Arrays are counted as they are allocated and freed, which the
    resident size of a process shows late or never; old weights that wait for the garbage collector are alive.
    What kernels allocate inside compiled code is not seen.
    """
    name = "milpasses::compress_weights" if library == "milpasses" else f"compression::{RECIPES[recipe]}"
    _convert(_chain(1), library, recipe, name)  # what is compiled and imported once is no part of the pass
    alive: dict[str, int] = {}
    compression: Any = PASS_REGISTRY.passes[name]
    apply = compression.apply

    def watched(self: Any, program: Program) -> None:
        tracemalloc.reset_peak()
        alive["before"] = tracemalloc.get_traced_memory()[0]
        apply(self, program)
        alive["after"], alive["highest"] = tracemalloc.get_traced_memory()

    tracemalloc.start(1)
    try:
        with mock.patch.object(compression, "apply", watched):
            _convert(_chain(count), library, recipe, name)
    finally:
        tracemalloc.stop()
    return {"weights": 2 * WIDE * NARROW * count, **alive}


def _convert(program: Program, library: str, recipe: str, name: str) -> None:
    import milpasses as mp

    pipeline: Any = ct.PassPipeline.DEFAULT
    if library == "milpasses":
        pipeline = mp.pipeline(recipe)
    else:
        config = (
            cto.OpPalettizerConfig(nbits=4) if recipe == "pal4" else cto.OpLinearQuantizerConfig(dtype="int8")
        )
        pipeline.append_pass(name)
        pipeline.set_options(name, {"config": cto.OptimizationConfig(global_config=config)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            pass_pipeline=pipeline,
            skip_model_load=True,
        )


def _chain(count: int) -> Program:
    """``count`` linears in float16, of 2,048 values to 1,024 and of 1,024 to 2,048 in turns."""
    rng = np.random.default_rng(0)
    start = mb.TensorSpec(shape=(1, WIDE), dtype=types.fp16)

    @mb.program(input_specs=[start], opset_version=ct.target.iOS18)
    def program(x: Var) -> Var:
        for index in range(count):
            inputs = int(x.shape[-1])
            shape = (WIDE + NARROW - inputs, inputs)
            weight = heavy_tailed(rng, shape, inputs**-0.5).astype(np.float16)
            x = mb.tanh(x=mb.linear(x=x, weight=weight, name=f"linear_{index}"), name=f"tanh_{index}")
        return x

    return program
