"""A pytest plugin that makes coremltools' op tests compare on any machine.

coremltools ships its op tests with expected values, but its ``compare_backend`` returns at once where Core ML
cannot predict. This plugin puts the interpreter there: models of the ``mlprogram`` backend are read back from
their package, those of the ``neuralnetwork`` backend by the reader of legacy networks. Each call that
compared at least one output with an expected value is one comparison; nothing else counts. Use with ``pytest
-p ops_plugin`` and ``MILPASSES_CONFORMANCE_LOG`` naming the file that takes one JSON line for each.
"""

import json
import os
import sys
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import testing_utils
from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

from milpasses.interpreter import Interpreter, InterpreterError

# float16 programs are compared with float32 expectations: inputs, weights and every result carry a relative
# rounding error of 2^-11 each, which sums amplify by the size of their terms. One rule for all tests.
HALF_RTOL = 1e-2
HALF_ATOL = 5e-3  # times the largest expected magnitude, at least 1

_LOG = os.environ.get("MILPASSES_CONFORMANCE_LOG")
_BACKEND: Any = os.environ.get("MILPASSES_CONFORMANCE_BACKEND", "auto")
_DEVICE = os.environ.get("MILPASSES_CONFORMANCE_DEVICE")  # values are torch tensors there between ops


def _interpreter(model: Any) -> Interpreter:
    cached = getattr(model, "_milpasses_interpreter", None)
    if cached is None:
        cached = Interpreter(model, model.function_name or "main", backend=_BACKEND, device=_DEVICE)
        model._milpasses_interpreter = cached
    return cached


def _as_input(value: Any, feature: Any) -> Any:
    """A test's value in the shape and type that the model declares: Core ML's predict converts as well."""
    if feature.kind == "image":
        return value
    array = np.asarray(value)
    if len(feature.shape) != array.ndim and array.size == 1:
        array = array.reshape([1] * len(feature.shape))
    return array.astype(feature.dtype) if np.dtype(feature.dtype).kind != "f" else array


def _output(outputs: dict[str, Any], name: str) -> Any:
    return outputs[name if name in outputs else NameSanitizer._replace_invalid_char_with_underscore(name)]


def _check(
    name: str, got: Any, expected: Any, half: bool, atol: float, rtol: float, shapes: bool, ratio: float
) -> None:
    if isinstance(got, dict):
        assert set(got) == set(expected), f"{name}: labels differ"
        for label, value in got.items():
            np.testing.assert_allclose(value, expected[label], atol=1e-4, rtol=1e-3 if half else 1e-5)
        return
    if not isinstance(got, np.ndarray):
        assert got == expected, f"{name}: {got!r} != {expected!r}"
        return
    wanted = np.asarray(expected)
    if shapes and {wanted.shape, got.shape} != {(), (1,)}:
        assert got.shape == wanted.shape, f"{name}: shape {got.shape}, expected {wanted.shape}"
    values = got.astype(np.float64) if got.dtype != np.bool_ else got
    if half:
        finite = np.abs(wanted[np.isfinite(wanted)], dtype=np.float64) if wanted.size else wanted
        largest = float(finite.max()) if finite.size else 0.0
        atol, rtol = max(atol, HALF_ATOL * max(1.0, largest)), max(rtol, HALF_RTOL)
    close = np.isclose(values, wanted, atol=atol, rtol=rtol, equal_nan=True)
    if np.sum(~close) > ratio * max(1, wanted.size):
        np.testing.assert_allclose(values, wanted, atol=atol, rtol=rtol)


def compare_backend(
    mlmodel: Any,
    input_key_values: dict[str, Any],
    expected_outputs: dict[str, Any] | None,
    dtype: str = "fp32",
    atol: float = 1e-04,
    rtol: float = 1e-05,
    also_compare_shapes: bool = True,
    state: Any = None,
    allow_mismatch_ratio: float = 0.0,
) -> dict[str, Any] | None:
    """Stand in for coremltools' function of the same name."""
    if not expected_outputs:
        return None
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
    kind = mlmodel.get_spec().WhichOneof("Type")
    try:
        interpreter = _interpreter(mlmodel)
        features = interpreter.inputs
        inputs = {
            k: _as_input(v, features[k]) if k in features else v for k, v in (input_key_values or {}).items()
        }
        try:
            outputs = interpreter.run(inputs, state)
        except InterpreterError as error:  # tests of bad indices look for what Core ML says then
            raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error
        half = dtype == "fp16"
        for name, expected in expected_outputs.items():
            got = _output(outputs, name)
            _check(name, got, expected, half, atol, rtol, also_compare_shapes, allow_mismatch_ratio)
    except (Exception, AssertionError) as error:
        _record(test, kind, f"{type(error).__name__}: {error}")
        raise
    _record(test, kind, None)
    return outputs


def compare_shapes(mlmodel: Any, input_key_values: Any, expected_outputs: Any, pred: Any = None) -> None:
    """Stand in for coremltools' function: predict, then compare shapes alone."""
    if not expected_outputs:
        return
    interpreter = _interpreter(mlmodel)
    outputs = pred or interpreter.run(
        {k: _as_input(v, interpreter.inputs[k]) for k, v in input_key_values.items()}
    )
    for name, expected in expected_outputs.items():
        assert np.shape(_output(outputs, name)) in (
            np.shape(expected),
            (1,) if np.shape(expected) == () else None,
        )


def _record(test: str, kind: str, error: str | None) -> None:
    if _LOG:
        with open(_LOG, "a") as log:
            log.write(json.dumps({"test": test, "kind": kind, "error": error}) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note tests that passed: an error recorded in one of them is the error that the test expects."""
    if _LOG and report.when == "call" and report.outcome == "passed" and not hasattr(report, "wasxfail"):
        with open(_LOG, "a") as log:
            log.write(json.dumps({"passed": report.nodeid}) + "\n")


def _replace_everywhere() -> None:
    """Test modules import the functions by name: replace each reference that exists."""
    for module in list(sys.modules.values()):
        for ours in (compare_backend, compare_shapes):
            theirs = getattr(module, ours.__name__, None)
            if theirs is not None and getattr(theirs, "__module__", "").startswith("coremltools."):
                setattr(module, ours.__name__, ours)


def _wrap_torch() -> None:
    """The torch frontend's tests convert, and compare on macOS only: compare after their conversion."""
    module: Any = sys.modules.get("coremltools.converters.mil.frontend.torch.test.testing_utils")
    if module is None:
        return
    theirs = module.convert_and_compare

    def convert_and_compare(
        input_data: Any, model_spec: Any, expected_results: Any = None, atol: float = 1e-4, **options: Any
    ) -> Any:
        if expected_results is None and not isinstance(model_spec, str):
            data = input_data if isinstance(input_data, (list, tuple)) else [input_data]
            network = model_spec.module() if hasattr(model_spec, "graph_signature") else model_spec
            expected_results = network(*module._copy_input_data(data))
        result = theirs(input_data, model_spec, expected_results=expected_results, atol=atol, **options)
        _, model, inputs, _ = result
        names = [output.name for output in model.get_spec().description.output]
        arrays = module.flatten_and_detach_torch_results(expected_results)
        precision = options.get("backend", ("neuralnetwork", "fp32"))[1]
        rtol = options.get("rtol", 1e-5)
        state = model.make_state() if model._is_stateful() else None
        compare_backend(
            model, inputs, dict(zip(names, arrays, strict=True)), precision, atol, rtol, state=state
        )
        return result

    module.convert_and_compare = convert_and_compare


def pytest_configure(config: pytest.Config) -> None:
    """Put the replacements in place before any test module is imported, and give Linux a state."""
    for ours in (compare_backend, compare_shapes):
        setattr(testing_utils, ours.__name__, ours)
    _replace_everywhere()
    ct.models.MLModel.make_state = lambda self: _interpreter(self).make_state()  # type: ignore[method-assign]


def _keep_attention(items: list[pytest.Item]) -> None:
    """coremltools skips attention on every x86_64, for an old PyTorch there: not where PyTorch has the op."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention"):
        return
    for node in {node for item in items for node in item.listchain()}:
        node.own_markers = [
            mark
            for mark in node.own_markers
            if mark.name != "skipif" or "x86_64 has outdated PyTorch" not in mark.kwargs.get("reason", "")
        ]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Catch modules that came in with the collection."""
    _replace_everywhere()
    _wrap_torch()
    _keep_attention(session.items)
