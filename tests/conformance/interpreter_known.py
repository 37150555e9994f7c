"""Comparisons that are known to fail, each with its reason, and the torch frontend tests that are run."""

_EVEN_LRN = (
    "size 2: the expected values were recorded from Core ML, whose window of an even size is one channel "
    "narrower; the stress test of the same class expects torch's window, as implemented"
)
_UNDEFINED = (
    "indices out of bounds without validate_indices: MIL leaves the result undefined and the test expects "
    "any wrong result; the interpreter refuses and names the op"
)
_GROWING = (
    "neuralnetwork backend: a list there is an array that grows in a branch or a loop, whose results must "
    "keep their shape in MIL; the reader refuses and names the layer"
)

# (test file, end of "Class::function") -> why the interpreter does not meet the expectation.
KNOWN: dict[tuple[str, str], str] = {
    ("iOS14/test_control_flow.py", "TestList::test_builder_to_backend_smoke"): _GROWING,
    ("iOS14/test_control_flow.py", "TestList::test_builder_to_backend_while"): _GROWING,
    ("iOS14/test_image_resizing.py", "TestCrop::test_builder_to_backend_smoke"): (
        "neuralnetwork backend, sizes that only the run knows: the reader asks for input_shapes"
    ),
    ("iOS14/test_normalization.py", "LocalResponseNorm::test_builder_to_backend_smoke"): _EVEN_LRN,
    ("iOS17/test_normalization.py", "LocalResponseNorm::test_builder_to_backend_smoke"): _EVEN_LRN,
    ("iOS15/test_image_resizing.py", "TestCropResize::test_builder_to_backend_smoke"): (
        "an inverted box wholly outside the image: the recorded values reflect at the border, which no "
        "version of the op documents; points outside are pad_value here, as iOS16 and later document"
    ),
    ("iOS14/test_tensor_operation.py", "TestOneHot::test_builder_to_backend_smoke"): (
        "neuralnetwork backend, a size that is an input of the model: the reader refuses and names the layer"
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
