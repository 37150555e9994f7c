"""Torch's tensors as what flows between ops, on a device, with gradients where asked."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from milpasses.interpreter.program import Loaded
from milpasses.interpreter.registry import InterpreterError
from milpasses.interpreter.tensors import TORCH_TYPES, TensorArray, round_half
from milpasses.interpreter.values import ArrayValues


def resolve_device(name: str) -> torch.device:
    """The device of that name, once something could be put there; else ``InterpreterError``."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception as error:  # each backend of torch fails in its own way
        has = ["cpu"]
        has += ["cuda"] if torch.cuda.is_available() else []
        has += ["mps"] if torch.backends.mps.is_available() else []
        raise InterpreterError(f"no device {name!r}: torch has {', '.join(has)} here") from error
    return device


class TensorValues(ArrayValues):
    """Floats are tensors on ``device``, and so is what comes of them; other integers stay NumPy's.

    ``cuts``: in the last run, the type of each op, by name, that some gradient reached and none left.
    """

    def __init__(self, rounds: bool, device: str, gradients: bool) -> None:
        super().__init__(rounds)
        self.device = resolve_device(device)
        self.watches = self.gradients = gradients
        self.cuts: dict[str, str] = {}

    def running(self) -> AbstractContextManager[Any]:
        """Where gradients are asked for, they are as the caller has set them."""
        self.cuts = {}
        return nullcontext() if self.gradients else torch.no_grad()

    def constant(self, value: Any) -> Any:
        """Floats as tensors, but scalars, which are parameters; a tensor as it is."""
        if isinstance(value, torch.Tensor):
            return TensorArray(value)
        array = super().constant(value)
        return self.taken(array) if isinstance(array, np.ndarray) and array.ndim else array

    def taken(self, value: Any) -> Any:
        """Arrays of floats as tensors, in lists as well."""
        if isinstance(value, list):
            return [self.taken(element) for element in value]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return TensorArray(torch.tensor(np.asarray(value, np.float32), device=self.device))
        return value

    def given(self, value: Any) -> Any:
        """NumPy's arrays; tensors where there are gradients."""
        if isinstance(value, list):
            return [self.given(element) for element in value]
        if isinstance(value, TensorArray):
            return value.tensor if self.gradients else np.asarray(value)
        return value

    def finish(self, value: Any, declared: Any, moves: bool) -> Any:
        """Round a result once to its declared type (floats stay in float32), gradients straight through."""
        if not isinstance(value, TensorArray):
            return self.taken(super().finish(value, declared, moves))
        if declared is None:
            return value
        wanted = TORCH_TYPES.get(np.dtype(declared))
        if wanted is None:  # unsigned types wider than a byte
            return np.asarray(value).astype(declared)
        if not wanted.is_floating_point:
            return TensorArray(value.tensor.to(wanted))
        tensor = value.tensor.float()
        if declared == np.float16 and self._rounds and not moves:
            tensor = round_half(tensor)
        return TensorArray(tensor)

    def fetch(self, loaded: Loaded, results: Sequence[Any]) -> dict[str, Any]:
        """Arrays in the types that MIL declares; with gradients tensors in float32."""
        if not self.gradients:
            return super().fetch(loaded, [self.given(value) for value in results])
        names = [var.name for var in loaded.function.outputs]
        return dict(zip(names, map(self.given, results), strict=True))

    def stepped(self, op: Any, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """Note an op at which a gradient ends."""
        if any(map(_has_gradient, arguments.values())) and not any(map(_has_gradient, outputs)):
            self.cuts[op.name] = op.op_type


def _has_gradient(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_gradient, value))
    return isinstance(value, TensorArray) and value.tensor.requires_grad
