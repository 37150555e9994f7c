"""coremltools' own activation tests from the installed package, with our pass in the place of theirs."""

import importlib.util
import itertools
import sys
import types as modules
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import milpasses as mp
from milpasses.activations.configs import read_activation_config
from milpasses.activations.grid import ActivationRange
from milpasses.activations.quantize import ActivationQuantizer
from milpasses.program.memory import MemoryProgram

_absent = importlib.util.find_spec("torchvision") is None
if _absent:  # imported by a helper of theirs, used by none of these tests
    sys.modules["torchvision"] = modules.ModuleType("torchvision")
theirs: Any = pytest.importorskip("coremltools.test.optimize.coreml.test_passes")
if _absent:
    del sys.modules["torchvision"]

MODES, DTYPES = ("LINEAR", "LINEAR_SYMMETRIC"), (np.int8, np.uint8, types.int8, types.uint8)
PATTERNS = [name for name in dir(theirs.TestLinearActivationQuantizer) if "on_pattern" in name]
CALIBRATION = [name for name in dir(theirs.TestGetActivationStats) if name.startswith("test_")]


class Ours(AbstractGraphPass):
    """In the place of ``insert_prefix_quantize_dequantize_pair``: all pairs at once."""

    ran = 0

    def __init__(self, config: Any) -> None:
        self.config = config

    def set_options(self, pass_options: Any = None) -> None:
        self.stats = next(each.option_val for each in pass_options if each.option_name == "activation_stats")

    def apply(self, prog: Any) -> None:
        # they give a range to ops alone, and a cast of an input has the input's
        ranges = {name: ActivationRange(span["rmin"], span["rmax"]) for name, span in self.stats.items()}
        functions = dict.fromkeys(prog.functions, ranges)
        quantizer = ActivationQuantizer(read_activation_config(self.config), functions)
        Ours.ran += quantizer.quantize_memory(MemoryProgram(prog), mp.Report())


class Nothing(AbstractGraphPass):
    """In the place of their second pass."""

    def set_options(self, pass_options: Any = None) -> None:
        """Nothing to set."""

    def apply(self, prog: Any) -> None:
        """Ours has done it."""


def test_there_are_eight_of_them() -> None:
    assert (len(PATTERNS), len(CALIBRATION)) == (4, 4)


@pytest.mark.parametrize(("mode", "dtype"), itertools.product(MODES, DTYPES))
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str, mode: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {"compression::insert_suffix_quantize_dequantize_pair": Nothing()}
    monkeypatch.setattr(theirs, "_insert_prefix_quantize_dequantize_pair", Ours)
    monkeypatch.setattr(theirs, "PASS_REGISTRY", _Registry(registry))
    before = Ours.ran
    getattr(theirs.TestLinearActivationQuantizer(), name)(mode, dtype, 1000)
    assert Ours.ran > before


class _Registry:
    def __init__(self, replaced: dict[str, Any]) -> None:
        self.replaced = replaced

    def __getitem__(self, name: str) -> Any:
        return self.replaced.get(name) or PASS_REGISTRY[name]


def measured(model: Any, data: Any) -> dict[str, dict[str, float]]:
    """``_get_activation_calibration_stats``: of the tensors that our pairs take their ranges from.

    What these four tests then hold is which tensors have a range and what a concat shares.
    """
    found = mp.statistics(model, data)
    config = theirs.cto.coreml.OptimizationConfig(theirs.cto.coreml.OpLinearQuantizerConfig())
    records = mp.coreml.linear_quantize_activations(model, config, data).report.activations
    assert records
    assert all(record.name in found.ranges for record in records)
    stats: dict[str, dict[str, float]] = {}
    for record in records:
        for name in record.tensors:
            assert record.low is not None
            assert record.high is not None
            stats[name] = {"rmin": record.low, "rmax": record.high}
    return stats


@pytest.mark.parametrize("name", CALIBRATION)
def test_calibration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(theirs, "_get_activation_calibration_stats", measured)
    getattr(theirs.TestGetActivationStats(), name)()
