"""A pytest plugin that makes coremltools' tests of neural network layers predict on any machine.

Those tests build a network, predict with Core ML, and compare with NumPy, TensorFlow or torch; off macOS they
skip. This plugin tells them that they are on macOS and answers ``MLModel.predict`` with the reader and the
interpreter: each prediction is one that a test compares. Use with ``pytest -p nn_plugin`` and
``MILPASSES_CONFORMANCE_LOG`` naming the file that takes one JSON line for each prediction and each test.
"""

import json
import os
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.models import utils

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import read

_LOG = os.environ.get("MILPASSES_CONFORMANCE_LOG")
_ORIGINAL = utils._is_macos, utils._macos_version


def _layers(network: Any) -> list[str]:
    """Layer types of a network and of those inside it."""
    found: list[str] = []
    for layer in network.layers:
        kind = layer.WhichOneof("layer")
        nonlinearity = f".{layer.activation.WhichOneof('NonlinearityType')}" if kind == "activation" else ""
        found.append(kind + nonlinearity)
        for field in {"branch": ("ifBranch", "elseBranch"), "loop": ("conditionNetwork", "bodyNetwork")}.get(
            kind, ()
        ):
            found += _layers(getattr(getattr(layer, kind), field))
    return found


def _kinds(spec: Any) -> list[str]:
    kind = spec.WhichOneof("Type")
    if kind in ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor"):
        return sorted(set(_layers(getattr(spec, kind))))
    return []


def _given_shapes(interpreter: Interpreter, inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes that differ from those declared: sequences, batches, flexible inputs."""
    shapes = {name: np.shape(value) for name, value in inputs.items() if isinstance(value, np.ndarray)}
    return {
        name: shape
        for name, shape in shapes.items()
        if name in interpreter.inputs and shape != tuple(interpreter.inputs[name].shape)
    }


def predict(self: Any, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    """Stand in for ``MLModel.predict``."""
    del state
    spec = self.get_spec()
    kinds = _kinds(spec)
    _write({"test": _test(), "layers": kinds})
    inputs = {name: np.asarray(v) if isinstance(v, (list, float, int)) else v for name, v in data.items()}
    interpreter = Interpreter(read(spec))
    shapes = _given_shapes(interpreter, inputs)
    if shapes:
        interpreter = Interpreter(read(spec, input_shapes=shapes))
    return interpreter.run(inputs)


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]


def _write(row: dict[str, Any]) -> None:
    if _LOG:
        with open(_LOG, "a") as log:
            log.write(json.dumps(row) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each test's outcome, with the last line of what went wrong."""
    if report.when != "call" and report.outcome == "passed":
        return
    reason = ""
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
        reason = " ".join(line.strip() for line in lines if line.strip())[:300]
    elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    _write({"outcome": report.outcome, "test": report.nodeid, "reason": reason})


def pytest_configure(config: pytest.Config) -> None:
    """Before the test modules are imported: their decorators ask for macOS then."""
    del config
    utils._is_macos = lambda: True
    utils._macos_version = lambda: (15, 0)
    ct.models.MLModel.predict = predict  # type: ignore[method-assign]


def pytest_collection_finish(session: pytest.Session) -> None:
    """coremltools itself goes on knowing where it is; the test modules keep what they imported."""
    del session
    utils._is_macos, utils._macos_version = _ORIGINAL
