"""Comparisons that are known to fail, each with its reason, and the torch frontend tests that are run."""

_UNDEFINED = (
    "indices out of bounds without validate_indices: MIL leaves the result undefined and the test expects "
    "any wrong result; the interpreter refuses and names the op"
)

# (test file, end of "Class::function") -> why the interpreter does not meet the expectation.
KNOWN: dict[tuple[str, str], str] = {
    ("iOS14/test_image_resizing.py", "TestCrop::test_builder_to_backend_smoke"): (
        "neuralnetwork backend, sizes that only the run knows: the reader asks for input_shapes"
    ),
    ("iOS15/test_image_resizing.py", "TestCropResize::test_builder_to_backend_smoke"): (
        "an inverted box wholly outside the image: the recorded values reflect at the border, which no "
        "version of the op documents; points outside are pad_value here, as iOS16 and later document"
    ),
    ("iOS14/test_tensor_operation.py", "TestOneHot::test_builder_to_backend_smoke"): (
        "neuralnetwork backend, a size that is an input of the model: the reader refuses and names the layer"
    ),
    ("iOS17/test_scatter_gather.py", "test_ios17_invalid_indices"): _UNDEFINED,
    ("torch::TestGroupNorm", "test_groupnorm_rank2_input"): (
        "groups of two near numbers, in float16: their mean lies halfway between two float16 numbers, and "
        "its rounding by up to 2^-12 is divided by a deviation of 0.003 or 0.01; with precision='float32' "
        "the program meets the expected values, and coremltools' own tolerance in float16 is 0.5"
    ),
    ("torch::TestIndexPut", "test_index_put_negative_indices_case_2"): (
        "converted wrong: add_int16_cast takes the type for a squeeze from the constant that it saw last, "
        "and casts the index -1 to uint16, so that scatter_nd gets 65535 without validate_indices: undefined "
        "in MIL, and refused here. The test cannot see it, as a 1 replaces a 1; the cases that add, or write "
        "other numbers, are among coremltools' expected failures"
    ),
}

# Classes of coremltools' test_torch_ops.py: convolution, pooling, normalization, resizing, recurrent layers,
# attention and indexing.
TORCH_TESTS = [
    "TestConv",
    "TestDynamicConv",
    "TestConvTranspose",
    "TestAvgPool",
    "TestMaxPool",
    "TestAdaptiveAvgPool",
    "TestAdaptiveMaxPool",
    "TestBatchNorm",
    "TestInstanceNorm",
    "TestGroupNorm",
    "TestLayerNorm",
    "TestNormalize",
    "TestUpsample",
    "TestLSTM",
    "TestRNN",
    "TestGRU",
    "TestStackedBLSTM",
    "TestScaledDotProductAttention",
    "TestTransformer",
    "TestGather",
    "TestScatter",
    "TestSlice",
    "TestSelect",
    "TestIndex",
    "TestIndexPut",
    "TestIndexSelect",
    "TestTupleIndex",
]


def reason_of(file: str, test: str) -> str | None:
    """Why ``test`` of ``file`` may fail, or None."""
    return next((why for (f, t), why in KNOWN.items() if f == file and test.endswith(t)), None)
