"""Values and ops for MIL's builder: types that NumPy lacks, and encodings as ops in a block."""

from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types.type_mapping import numpy_type_to_builtin_type

from milpasses.encoding.encodings import Palettized, Quantized, Scaled
from milpasses.encoding.lowering import lower
from milpasses.program.builder import built, mb, typed_value
from milpasses.program.opset import opset_of


def test_values_come_in_the_type_that_mil_names() -> None:
    codes = np.array([[0, 15], [7, 8]], np.uint8)
    typed = typed_value(codes, "uint4")
    assert numpy_type_to_builtin_type(typed.dtype) == types.uint4
    np.testing.assert_array_equal(typed.astype(np.uint8), codes)
    assert typed_value(np.array([1.5], np.float16), "float16").dtype == np.float16
    scalar = typed_value(np.array(3, np.int32), "int32")
    assert isinstance(scalar, np.int32)
    assert typed_value(np.array("fp16"), "str") == "fp16"


def test_ops_of_an_encoding_refer_to_each_other() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (8, 4)).astype(np.uint8)
    table = Quantized(
        rng.integers(-128, 128, (1, 1, 16, 1)).astype(np.int8),
        np.full((1, 1, 1, 1), 0.01, "f2"),
        None,
        "int8",
    )
    encoding = Scaled(Palettized(codes, table), rng.random((8, 1)).astype(np.float16))
    weights: list[Any] = []

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4), dtype=types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        specs = lower(encoding, "weight", opset_of(int(ct.target.iOS18)).generation)
        assert len(specs) == 3
        weights.append(built(specs))
        return mb.linear(x=x, weight=weights[0], name="product")

    (weight,) = weights
    scaled = weight.op
    looked_up = scaled.inputs["data"].op
    dequantized = looked_up.inputs["lut"].op
    assert [op.op_type for op in (scaled, looked_up, dequantized)] == [
        "constexpr_blockwise_shift_scale",
        "constexpr_lut_to_dense",
        "constexpr_blockwise_shift_scale",
    ]
    assert weight.shape == encoding.shape
    np.testing.assert_array_equal(scaled.inputs["scale"].val, encoding.scale)
    np.testing.assert_array_equal(looked_up.inputs["indices"].val.astype(np.uint8), codes)
    np.testing.assert_array_equal(dequantized.materialized_val_inference(), table.decode())
    assert program.functions["main"].outputs[0].shape == (1, 8)
