"""Which axis of a table gather reads is known from the op, not guessed from sizes."""

from pathlib import Path
from typing import Any

import attrs
import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from models import convert

import milpasses as mp
from milpasses.budget.layer_error import LayerOutputError
from milpasses.program.opening import open_program


@pytest.fixture(scope="module", params=[0, 1])
def model(request: pytest.FixtureRequest) -> tuple[int, Any]:
    """A square table that is read along one of its axes."""
    table = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(2,), dtype=ct.converters.mil.mil.types.int32)],
        opset_version=ct.target.iOS16,
    )
    def program(i: Any) -> Any:
        return mb.gather(x=table, indices=i, axis=request.param, name="read")

    return request.param, convert(program, ct.target.iOS16)


def test_the_error_is_of_the_slices_that_are_read(model: tuple[int, Any], tmp_path: Path) -> None:
    axis, package = model
    statistics = mp.statistics(package, [{"i": np.array([3, 5], np.int32)}])
    weight = next(site.weight for site in open_program(package).sites() if site.weight.rank == 2)
    assert statistics.lookup_axes == {weight.name: axis}
    statistics.save(tmp_path / "s.npz")
    assert mp.Statistics.load(tmp_path / "s.npz").lookup_axes == {weight.name: axis}
    assert statistics.merge(statistics).lookup_axes == {weight.name: axis}
    value = weight.value.astype(np.float32)
    error = LayerOutputError.of(weight, value, statistics)
    assert error.basis == "lookups"
    read, other = value.copy(), value.copy()
    for changed, at in ((read, axis), (other, 1 - axis)):
        changed[(slice(None),) * at + ([3, 5],)] *= 1.1
    assert error.relative(read) > 4 * error.relative(other)


def test_statistics_of_another_axis_do_not_fit(model: tuple[int, Any]) -> None:
    axis, package = model
    statistics = mp.statistics(package, [{"i": np.array([3, 5], np.int32)}])
    weight = next(site.weight for site in open_program(package).sites() if site.weight.rank == 2)
    other = attrs.evolve(statistics, lookup_axes={weight.name: 1 - axis})
    with pytest.raises(mp.MilpassesError, match="these statistics come from different models"):
        statistics.merge(other)
    beyond = attrs.evolve(statistics, lookup_axes={weight.name: 2})
    with pytest.raises(mp.MilpassesError, match="belong to another model"):
        LayerOutputError.of(weight, weight.value, beyond)
