"""A model that random data makes NaN is measured on data that does not."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder
from milpasses_tools import bisect, compare, sensitivity, sweep

import milpasses as mp

AGAIN = "in [0, 1), seed 0 (normal data makes the model itself NaN or infinite)"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An echo canceller in small: it takes the logarithm of its input."""
    mb: Any = Builder
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 64))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.linear(x=mb.log(x=x, epsilon=1e-3), weight=mb.const(val=weight, name="w"))

    made = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
        compute_units=ct.ComputeUnit.CPU_ONLY,
    )
    path = tmp_path_factory.mktemp("log") / "log.mlpackage"
    made.save(str(path))
    return path


def test_every_tool_measures_it_and_says_so(model: Path, tmp_path: Path):
    small = tmp_path / "small.mlpackage"
    mp.compress(model, "pal2", output=small)
    compared = compare(model, small)
    assert AGAIN in compared.data
    assert compared.outputs[0].snr_db is not None
    assert 0 < compared.outputs[0].snr_db < 40
    assert not compared.nonfinite
    swept = sweep(model, tmp_path / "out", ["pal2", "int8"])
    assert AGAIN in swept.about["data"]
    assert swept["pal2"]["output_snr_db"] == pytest.approx(compared.outputs[0].snr_db)
    assert AGAIN in bisect(model, small).data
    assert AGAIN in sensitivity(model, "random", candidates=["pal4"]).data
    assert compare(model, small, "random:normal").nonfinite


def test_positive_data_is_taken_as_it_is(model: Path, tmp_path: Path):
    small = tmp_path / "small.mlpackage"
    mp.compress(model, "int8", output=small)
    assert compare(model, small, "random:positive").data == "random positive data, seed 0"
