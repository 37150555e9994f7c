"""The one place that wraps numba: who is cached, who releases the lock, who may reorder sums.

Every kernel is compiled lazily for the argument types it meets, cached on disk, and releases the
interpreter lock, so that plain threads (see ``_threads``) run it in parallel. Rounding, packing and
counting use ``njit``: strict IEEE arithmetic. ``njit_sums`` may contract and reorder float additions; it
is for inner products and distances, where no bit of the result is a stored code's tie-break.
"""

import errno
import os
import platform
from collections.abc import Callable
from typing import Any, TypeVar, cast

_THREADS = os.environ.get("NUMBA_NUM_THREADS", "1").strip()
if _THREADS.lstrip("-").isdecimal() and int(_THREADS[:9]) < 1:
    raise OSError(errno.EINVAL, f"must be 1 or more, not {_THREADS[:9]}", "NUMBA_NUM_THREADS")

import llvmlite.binding  # noqa: E402
import numba  # noqa: E402 (it would end in an error of its own)
from llvmlite import ir  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

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
    """Compile ``function`` like ``njit``, but let a product and a sum be rounded once."""
    policy = {"contract", "nsz"}
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=policy)(function))


def has_half_casts() -> bool:
    """Whether the processor that kernels are compiled for has instructions that convert float16.

    x86 has them beside AVX (F16C, 2012), 64-bit ARM always. One that the environment names may lack them.
    """
    config = cast(Any, numba).config
    if config.DISABLE_JIT or config.CPU_NAME or config.CPU_FEATURES:
        return False
    if platform.machine() in ("arm64", "aarch64"):
        return True
    return bool(config.ENABLE_AVX) and bool(llvmlite.binding.get_host_cpu_features().get("f16c"))


def _half_to_float(_: Any, __: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return numba.types.float32(numba.types.uint16), generate


def _float_to_half(_: Any, __: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return numba.types.uint16(numba.types.float32), generate


# One instruction each, between float32 and float16 bit patterns: for kernels, where ``has_half_casts``.
cast_half_to_float: Any = intrinsic(_half_to_float)
cast_float_to_half: Any = intrinsic(_float_to_half)
