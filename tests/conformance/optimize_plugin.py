"""A pytest plugin that puts another implementation behind ``coremltools.optimize.coreml``.

The five functions that compress, decompress and describe weights are replaced by those of the module that
``--implementation`` names, each wrapped to count its calls and their CPU time; coremltools itself is wrapped
the same way. Every test starts from the same random seed, so that two implementations see the same weights.
The outcome of each test goes to the JSON file of ``--results``; ``optimize_run`` compares two of them.
"""

import functools
import importlib.util
import json
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FUNCTIONS = (
    "palettize_weights",
    "linear_quantize_weights",
    "prune_weights",
    "decompress_weights",
    "get_weights_metadata",
)
REPLACED = "coremltools.optimize.coreml"

_spent: list[float] = []  # CPU seconds of each call that the running test made
_tests: dict[str, dict[str, Any]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--implementation", default=REPLACED, help="module that has the five functions")
    parser.addoption("--results", type=Path, help="JSON file for the outcome of each test")


def pytest_configure(config: pytest.Config) -> None:
    # The test file imports a helper from a module that imports torchvision; no test here needs it but two,
    # which convert a network of torchvision's and fail the same with every implementation.
    if importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"] = types.ModuleType("torchvision")
    theirs = importlib.import_module(str(config.getoption("--implementation")))
    functions = {name: _timed(getattr(theirs, name)) for name in FUNCTIONS}
    replaced = importlib.import_module(REPLACED)
    for name, function in functions.items():
        setattr(replaced, name, function)


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            _spent.append(time.process_time() - start)

    return call


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Name backends and types by what they are: pytest would number them by their place in the product."""
    from coremltools.converters.mil.mil.types import builtin_to_string, is_builtin
    from coremltools.converters.mil.testing_reqs import BackendConfig

    if isinstance(val, BackendConfig):
        return f"{val.opset_version.name}-{val.precision}"
    if isinstance(val, type):
        return f"mil.{builtin_to_string(val)}" if is_builtin(val) else f"{val.__module__}.{val.__name__}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the tests draw from the global generator
    torch.manual_seed(0)
    _spent.clear()
    try:
        return (yield)
    finally:
        item.user_properties.append(("calls", len(_spent)))
        item.user_properties.append(("seconds", round(sum(_spent), 4)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown" and report.passed:
        return
    if report.when == "setup" and report.passed:
        return
    outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
    result: dict[str, Any] = {"outcome": outcome, **dict(report.user_properties)}
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else str(report.longrepr)
        result["error"] = message.strip().splitlines()[0][:200]
    _tests[report.nodeid.partition("::")[2]] = result


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--results")
    if path is not None and not hasattr(session.config, "workerinput"):
        path.write_text(json.dumps(_tests))
