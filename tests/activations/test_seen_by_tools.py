"""What compares two models sees 8-bit activations, and pairs that are there already stay."""

from typing import Any

from milpasses_tools import compare, diff
from test_form import convnet, program_in, samples, saved_model

import milpasses as mp


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
