"""What compares two models sees 8-bit activations, and pairs that are there already stay."""

from typing import Any

import pytest
from milpasses_tools import bisect, compare, diff
from test_form import convnet, program_in, residual, samples, saved_model

import milpasses as mp
from milpasses import budget


def scales(model: Any) -> list[Any]:
    """The kind and the scale of each op of a pair."""
    (block,) = program_in(model).functions.values()
    pairs = [op for op in block.operations if op.op_type in ("quantize", "dequantize")]
    return sorted((op.op_type, float(op.scale.val)) for op in pairs)


def test_compare_and_diff_see_them() -> None:
    model = saved_model(convnet)
    small = mp.compress(model, "a8", calibration=samples(4))
    found = compare(model, small, samples(2), per_op=True)
    lost = [op for op in found.ops if op.op_type == "conv"]
    assert len(lost) == 3
    assert all(15 < op.snr_db < 80 for op in lost)
    added = [change for change in diff(model, small).ops if change.kind == "added"]
    names = [change.name for change in added]
    assert any(name.endswith("_quantized") for name in names)
    assert any(name.endswith("_dequantized") for name in names)


def test_bisect_finds_the_weight_and_not_the_pairs() -> None:
    model = saved_model(residual)
    weights = [record.name for record in mp.compress(model, "keep").report if len(record.shape) == 4]
    recipe = f"int8 + a8; name={weights[1]} min_elements=0 -> pal1; min_elements=0 -> int8"
    small = mp.compress(model, recipe, statistics=mp.statistics(model, samples(4)))
    found = bisect(model, small, samples(2), tolerance=33)
    assert found.keep == (weights[1],)


def test_a_budget_is_of_weights() -> None:
    with pytest.raises(mp.MilpassesError, match=r"int8\+a8: bytes are of weights, .* put \+ a8 behind"):
        budget.fit(saved_model(convnet), "50 %", candidates=["int8", "int8+a8"])


def test_pairs_that_are_there_stay_while_weights_change() -> None:
    model = saved_model(convnet)
    once = mp.compress(model, "a8", calibration=samples(4))
    text = "int8 + a8; min_elements=0 -> int8"
    for recipe in (text, text.replace(" + a8", "")):
        again = mp.compress(once, recipe, calibration=samples(4, 9))
        assert again.report.count("compressed") > 2
        assert scales(again) == scales(once)
        assert not again.report.activations
    assert len(scales(once)) > 10
