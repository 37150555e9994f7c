"""Statistics of a saved model in a conversion: PyTorch's names are not those that a package has."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest

import milpasses as mp

torch = pytest.importorskip("torch")


def converted(recipe: str = "", statistics: Any = None) -> Any:
    """Layers named ``0``, ``2``: as a package has them, ``op_0_weight`` and ``op_2_weight``."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    traced = torch.jit.trace(net, torch.zeros(1, 64))
    pipeline = mp.pipeline(recipe, statistics=statistics) if recipe else None
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=(1, 64))],
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=pipeline,
        skip_model_load=True,
    )
    return model, pipeline


@pytest.fixture(scope="module")
def statistics() -> mp.Statistics:
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(96)]
    return mp.statistics(converted()[0], inputs, full=True, held_out=24)


@pytest.mark.parametrize("recipe", ["pal3-gptq", "int8+a8"])
def test_statistics_find_their_weights_and_activations(recipe: str, statistics: mp.Statistics) -> None:
    assert all(name.startswith("op_") for name in statistics.weights)
    report = converted(recipe, statistics)[1].report
    compressed = [record for record in report if record.status == "compressed"]
    assert {record.name.split("_to_")[0] for record in compressed} == {"0.weight", "2.weight"}
    assert all(record.output_sqnr_db and record.output_sqnr_db > 15 for record in compressed)
    if recipe == "int8+a8":
        assert [record.status for record in report.activations] == ["quantized", "quantized"]


def test_statistics_of_another_model_are_refused(statistics: mp.Statistics) -> None:
    renamed = mp.Statistics(weights={f"other_{name}": value for name, value in statistics.weights.items()})
    with pytest.raises(mp.MilpassesError, match="belong to another model"):
        converted("pal3-gptq", renamed)
