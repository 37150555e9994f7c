"""milpasses: weight compression for Core ML programs, as passes for coremltools.

>>> import coremltools as ct, milpasses as mp
>>> model = ct.convert(traced, ..., pass_pipeline=mp.pipeline("pal4-g16"))    # while converting
>>> small = mp.compress("model.mlpackage", "int8")                            # or afterwards
"""

from importlib.metadata import version
from typing import Any

from milpasses import coreml, passes
from milpasses.compress import CompressedModel, compress, decompress
from milpasses.data.collect import Statistics, statistics
from milpasses.data.samples import Sample, Samples
from milpasses.errors import MilpassesError, PackageError, SampleError, TargetError, UnmatchedRuleWarning
from milpasses.passes._reporting import register as _register
from milpasses.passes.recipe_passes import register_pass
from milpasses.pipeline import pipeline
from milpasses.program.readers import ReadModel, register_reader
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe import (
    ActivationRule,
    Activations,
    Half,
    Keep,
    Palettize,
    Prune,
    Quantize,
    Recipe,
    RecipeError,
    Rule,
)
from milpasses.report import ActivationRecord, Record, Report
from milpasses.tuning import tune

__version__ = version("milpasses")

__all__ = [
    "ActivationRecord",
    "ActivationRule",
    "Activations",
    "CompressedModel",
    "Consumer",
    "Half",
    "Keep",
    "MilpassesError",
    "PackageError",
    "Palettize",
    "Prune",
    "Quantize",
    "Recipe",
    "RecipeError",
    "Record",
    "Report",
    "Rule",
    "Sample",
    "SampleError",
    "Samples",
    "Statistics",
    "TargetError",
    "UnmatchedRuleWarning",
    "Weight",
    "compress",
    "coreml",
    "decompress",
    "passes",
    "pipeline",
    "register_pass",
    "statistics",
    "tune",
]


def __dir__() -> list[str]:
    """The front door: what is public, and no modules."""
    return sorted([*__all__, "__all__", "__doc__", "__version__"])


def _read_neural_network(model: Any) -> ReadModel:
    from milpasses.neuralnetwork import read  # only who has a legacy model pays for it

    return read(model)


_register()
register_reader("neuralnetwork", _read_neural_network)
