"""The one place that chooses between NumPy and torch for the heavy kernels."""

from importlib.util import find_spec

from milpasses.interpreter.backend import Backend, BackendName
from milpasses.interpreter.numpy_kernels import NumpyBackend


def choose_backend(name: BackendName) -> Backend:
    """The backend called ``name``; ``auto`` takes torch where it is installed, else NumPy."""
    if name not in ("auto", "numpy", "torch"):
        raise ValueError(f"backend must be 'auto', 'numpy' or 'torch', got {name!r}")
    if name == "numpy" or (name == "auto" and find_spec("torch") is None):
        return NumpyBackend()
    from milpasses.interpreter.torch_kernels import TorchBackend  # torch takes seconds to import

    return TorchBackend()
