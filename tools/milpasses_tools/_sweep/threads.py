"""One thread for NumPy and torch, so that sums come out the same wherever, with whatever else, they run."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Generator[None]:
    """BLAS and OpenMP use one thread inside.

    OpenMP keeps a number for each thread, so whatever computes enters by itself. BLAS has one number for the
    process, which belongs to who sets it first: whoever starts such threads stays inside until they end.
    """
    if find_spec("torch") is not None:
        import torch  # before the libraries are looked for

        torch.get_num_threads()  # its first call in a thread sets that thread's number
    with threadpool_limits(1):
        yield
