"""A budget is for the weight file that the parts of a pipeline share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_models import detector_pipeline, linear_part, pipeline_of

import milpasses as mp
from milpasses.budget import Sensitivity, fit, sensitivity
from milpasses.program.pipelines import open_pipeline

WEIGHTS = ["part0/made_weight_0_to_fp16", "part1/made_weight_0_to_fp16"]


def two(second_seed: int = 1) -> Any:
    import coremltools as ct

    return ct.models.utils.make_pipeline(linear_part("x", "y"), linear_part("y", "z", seed=second_seed))


def samples(count: int = 8) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(count)]


def weight_bytes(model: Any) -> int:
    return Path(model.weights_dir, "weight.bin").stat().st_size


def test_a_table_names_the_parts_and_adds_them_up() -> None:
    table = sensitivity(two(), candidates=["pal4", "int8"])
    assert [weight.name for weight in table] == WEIGHTS
    alone = sensitivity(two(), candidates=["pal4", "int8"], part="part1")
    assert [weight.name for weight in alone] == WEIGHTS[1:]
    assert alone[WEIGHTS[1]] == table[WEIGHTS[1]]
    assert table.elements == 2 * alone.elements
    assert Sensitivity.from_dict(table.to_dict()) == table


@pytest.mark.parametrize("data", [None, samples()])
def test_a_fit_keeps_its_budget_over_all_parts(data: Any) -> None:
    found = fit(two(), "5 bits", data=data, candidates=["pal4", "int8", "pal6"])
    assert set(found.chosen) == set(WEIGHTS)
    assert (found.measured is None) == (data is None)
    small = mp.compress(two(), found.recipe, strict=True)
    for name, option in found.chosen.items():
        assert small.report[name].form == option.form
    assert weight_bytes(small) <= found.used + 63
    assert found.used <= (found.asked or 0)


def test_measured_is_what_the_parts_lose_together() -> None:
    found = fit(two(), max_loss="30 dB", data=samples(), candidates=["pal4", "int8", "pal8"])
    assert found.measured is not None
    assert found.measured <= 1e-3
    assert found.snr_db >= 30


def test_equal_weights_of_two_parts_are_decided_and_stored_once() -> None:
    equal = two(second_seed=0)
    table = sensitivity(equal, candidates=["pal4"])
    assert [weight.name for weight in table] == WEIGHTS[:1]
    both = sensitivity(two(), candidates=["pal4"])
    pal4 = table.weights[0].option("pal4")
    other = both[WEIGHTS[0]].option("pal4")
    assert pal4 is not None
    assert other is not None
    assert pal4.output_error == pytest.approx(2 * other.output_error)
    found = fit(equal, "6 bits", data=samples(), candidates=["pal4"])
    small = mp.compress(equal, found.recipe)
    assert small.report.count("compressed") == 2
    assert weight_bytes(small) <= found.used + 63
    assert weight_bytes(small) < 0.6 * weight_bytes(mp.compress(two(), "pal4"))


def test_equal_weights_that_stay_are_stored_once(tmp_path: Path) -> None:
    equal = two(second_seed=0)
    dense = mp.compress(equal, "keep")
    assert weight_bytes(dense) < 0.6 * weight_bytes(mp.compress(two(), "keep"))
    programs = open_pipeline(dense).programs()
    values = [next(s.weight.value for s in p.sites() if s.weight.rank == 2) for p in programs.values()]
    np.testing.assert_array_equal(*values)


def test_data_of_a_detector_is_its_pipelines_input() -> None:
    found = fit(detector_pipeline(), "6 bits", data="random", samples=1, candidates=["pal4", "int8"])
    assert all(name.startswith("detector/") for name in found.chosen)
    assert found.measured is not None


def test_what_cannot_be_meant_is_refused() -> None:
    statistics = mp.statistics(linear_part("x", "y"), samples())
    with pytest.raises(mp.MilpassesError, match="say of which part"):
        sensitivity(two(), statistics=statistics)
    with pytest.raises(mp.MilpassesError, match="function main: the parts of a pipeline have one"):
        sensitivity(two(), function="main")
    with pytest.raises(mp.PackageError, match="part nms is no ML Program"):
        fit(detector_pipeline(), "4 bits", part="nms")
    with pytest.raises(mp.MilpassesError, match="part x: the model is no pipeline"):
        fit(linear_part("x", "y"), "4 bits", part="x")
    table = sensitivity(two(), candidates=["pal4"])
    with pytest.raises(mp.MilpassesError, match="the table is of another model"):
        fit(detector_pipeline(), "4 bits", sensitivity=table)


def test_a_nested_pipelines_parts_are_named_by_their_path() -> None:
    inner = detector_pipeline()
    outer = pipeline_of([inner.get_spec()], inner.weights_dir, ("outer",))
    found = fit(outer, "5 bits", candidates=["pal4", "int8"])
    assert all(name.startswith("outer/detector/") for name in found.chosen)
    small = mp.compress(outer, found.recipe, strict=True)
    assert weight_bytes(small) <= found.used + 63
