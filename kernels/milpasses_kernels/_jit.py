"""The one place that wraps numba: who is cached, who releases the lock, who may reorder sums.

Every kernel is compiled lazily for the argument types it meets, cached on disk, and releases the
interpreter lock, so that plain threads (see ``_threads``) run it in parallel. Rounding, packing and
counting use ``njit``: strict IEEE arithmetic. ``njit_sums`` may contract and reorder float additions; it
is for inner products and distances, where no bit of the result is a stored code's tie-break.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

_THREADS = os.environ.get("NUMBA_NUM_THREADS", "1").strip()
if _THREADS.lstrip("-").isdecimal() and int(_THREADS[:9]) < 1:
    raise OSError(errno.EINVAL, f"must be 1 or more, not {_THREADS[:9]}", "NUMBA_NUM_THREADS")

import numba  # noqa: E402 (it would end in an error of its own)

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile ``function`` with strict IEEE semantics, cached, without the interpreter lock.

    ``fastmath=False`` is said aloud: left out, numba lets a function inherit the policy of the first caller
    that it is compiled for.
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)(function))


def njit_sums(function: F) -> F:
    """Compile ``function`` like ``njit``, but let the compiler contract and reorder float sums."""
    policy = {"reassoc", "contract", "arcp", "nsz"}
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=policy)(function))


def njit_fused(function: F) -> F:
    """Compile ``function`` like ``njit``, but let a product and a sum be rounded once, where a machine can."""
    policy = {"contract", "nsz"}
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=policy)(function))
