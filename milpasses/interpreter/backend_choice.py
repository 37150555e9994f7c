"""The one place that chooses between NumPy and torch, for the heavy kernels and for what flows."""

from importlib.util import find_spec

from milpasses.interpreter.backend import Backend, BackendName
from milpasses.interpreter.numpy_kernels import NumpyBackend
from milpasses.interpreter.registry import InterpreterError
from milpasses.interpreter.values import ArrayValues, Values


def choose_backend(name: BackendName) -> Backend:
    """The backend called ``name``; ``auto`` takes torch where it is installed, else NumPy."""
    if name not in ("auto", "numpy", "torch"):
        raise ValueError(f"backend must be 'auto', 'numpy' or 'torch', got {name!r}")
    if name == "numpy" or (name == "auto" and find_spec("torch") is None):
        return NumpyBackend()
    from milpasses.interpreter.torch_kernels import TorchBackend  # torch takes seconds to import

    return TorchBackend()


def choose_values(name: BackendName, rounds: bool, device: str | None, gradients: bool) -> Values:
    """NumPy's arrays, unless a device or gradients are asked for, which tensors alone have.

    ``rounds``: as MIL declares. Raises ``InterpreterError`` without torch, or without the device.
    """
    if device is None and not gradients:
        return ArrayValues(rounds)
    wanted = "gradients" if device is None else f"device {device!r}"
    if name == "numpy":
        raise InterpreterError(f"{wanted}: the backend 'numpy' has none; leave it out or take 'torch'")
    if find_spec("torch") is None:
        raise InterpreterError(f"{wanted}: torch is not installed: pip install 'milpasses[torch]'")
    from milpasses.interpreter.tensor_values import TensorValues

    return TensorValues(rounds, device or "cpu", gradients)
