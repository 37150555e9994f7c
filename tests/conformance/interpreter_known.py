"""Comparisons that are known to fail, each with its reason, and the torch frontend tests that are run."""

# (file, test function as "file.py::Class::function" ends) -> why the interpreter does not meet the
# expectation.
KNOWN: dict[tuple[str, str], str] = {}

# Classes of coremltools' test_torch_ops.py: convolution, pooling, normalization, resizing, recurrent layers,
# attention and indexing.
TORCH_TESTS: list[str] = []


def reason_of(file: str, test: str) -> str | None:
    """Why ``test`` of ``file`` may fail, or None."""
    return next((why for (f, t), why in KNOWN.items() if f == file and test.endswith(t)), None)
