"""Comparisons that are known to fail, each with its reason, and the torch frontend tests that are run."""

_EVEN_LRN = (
    "size 2: the expected values were recorded from Core ML, whose window of an even size is one channel "
    "narrower; the stress test of the same class expects torch's window, as implemented"
)
_UNDEFINED = (
    "indices out of bounds without validate_indices: MIL leaves the result undefined and the test expects "
    "any wrong result; the interpreter refuses and names the op"
)

# (test file, end of "Class::function") -> why the interpreter does not meet the expectation.
KNOWN: dict[tuple[str, str], str] = {
    ("iOS14/test_elementwise_binary.py", "test_real_div_int_builder_to_backend"): (
        "neuralnetwork backend: it divides in float32, where MIL declares an int32 result"
    ),
    ("iOS14/test_normalization.py", "LocalResponseNorm::test_builder_to_backend_smoke"): _EVEN_LRN,
    ("iOS17/test_normalization.py", "LocalResponseNorm::test_builder_to_backend_smoke"): _EVEN_LRN,
    ("iOS15/test_image_resizing.py", "TestCropResize::test_builder_to_backend_smoke"): (
        "an inverted box wholly outside the image: the recorded values reflect at the border, which no "
        "version of the op documents; points outside are pad_value here, as iOS16 and later document"
    ),
    ("iOS17/test_scatter_gather.py", "test_ios17_invalid_indices"): _UNDEFINED,
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
