"""Fixtures of the interpreter's tests: converting networks."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def convert() -> Callable[..., Any]:
    """``convert(network, inputs, half=False, **options)``: the coremltools model of a torch network."""
    torch = pytest.importorskip("torch")
    import coremltools as ct

    logging.getLogger("coremltools").setLevel(logging.ERROR)

    def run(network: Any, example: Any, inputs: Any = None, half: bool = False, **options: Any) -> Any:
        network = network.eval()
        with torch.no_grad():
            traced = torch.jit.trace(network, example, check_trace=False)
        examples = example if isinstance(example, tuple) else (example,)
        default = [
            ct.TensorType(
                f"in{i}", tuple(e.shape), dtype=np.int32 if not e.is_floating_point() else np.float32
            )
            for i, e in enumerate(examples)
        ]
        options.setdefault("minimum_deployment_target", ct.target.iOS17)
        options.setdefault("compute_precision", ct.precision.FLOAT16 if half else ct.precision.FLOAT32)
        return ct.convert(traced, inputs=inputs or default, skip_model_load=True, **options)

    return run
