"""A budget on a network with small and large weights: what is said on the way, and that nothing overflows."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from milpasses.budget import fit

CANDIDATES = ("pal4-gptq", "int4-gptq", "int8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two convolutions and a linear of float32 weights far below 1."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return mb.const(val=rng.normal(0, 1e-2, shape).astype(np.float32), name=name)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 3, 16, 16))],
        opset_version=ct.target.iOS18,
    )
    def built(x: Any) -> Any:
        first = mb.relu(x=mb.conv(x=x, weight=weight("first", 32, 3, 5, 5), pad_type="same"))
        second = mb.relu(x=mb.conv(x=first, weight=weight("second", 16, 32, 3, 3), pad_type="same"))
        pooled = mb.reduce_mean(x=second, axes=[2, 3])
        return mb.linear(x=pooled, weight=weight("third", 500, 16), bias=weight("bias", 500), name="y")

    path = tmp_path_factory.mktemp("budget") / "model.mlpackage"
    ct.convert(built, minimum_deployment_target=ct.target.iOS18, pass_pipeline=ct.PassPipeline.EMPTY).save(
        str(path)
    )
    return str(path)


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(6)]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_progress_goes_by_elements_from_the_first_weight_on(model: str) -> None:
    said: list[tuple[int, int, str]] = []
    found = fit(
        model,
        "10 bits",
        data=samples,
        candidates=CANDIDATES,
        progress=lambda *step: said.append(step),
    )
    assert found.used <= found.asked
    sizes = {"first": 32 * 75, "second": 16 * 288, "third": 8000, "bias": 500}
    total = sum(sizes.values())
    expected: list[tuple[int, int, str]] = []
    done = 0
    for name, size in sizes.items():
        expected += [(done, total, name), (done + size, total, name)]
        done += size
    weights = [step for step in said if step[2] in sizes]
    assert weights == expected
