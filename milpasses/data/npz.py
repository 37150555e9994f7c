"""Arrays of an ``.npz`` file from anybody: no pickles, and no more memory than the file has values."""

import lzma
import os
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from milpasses.errors import SampleError, no_such_file

_KINDS = "biufU"  # booleans, integers, floats, texts
_PER_BYTE = 1032  # bytes that deflate makes of one, at most
_ENCRYPTED = 1  # a flag of a zip member


def read_npz(path: "str | os.PathLike[str]") -> dict[str, NDArray[Any]]:
    """The arrays of the file by name. Raises ``SampleError``, which names the file and what is wrong."""
    place = Path(path)
    try:
        with place.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise SampleError(
                    f"{path}: holds one array without a name; numpy.savez writes a file with names"
                )
        with zipfile.ZipFile(place) as archive:
            names = [info.filename for info in archive.infolist()]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise SampleError(f"{path}: holds {twice[0]!r} twice")
            return {
                info.filename.removesuffix(".npy"): _read_member(archive, info, str(path))
                for info in archive.infolist()
            }
    except SampleError:
        raise
    except FileNotFoundError:
        raise SampleError(no_such_file(place, "no such file")) from None
    except (
        OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, MemoryError, lzma.LZMAError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        text = str(error) or type(error).__name__
        raise SampleError(f"{path}: cannot be read as .npz without pickles ({text[:300]})") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> NDArray[Any]:
    """One array; its header is believed only as far as the member has bytes for it."""
    where = f"{label}: {info.filename[:80]!r}"
    if info.flag_bits & _ENCRYPTED:
        raise SampleError(f"{where} is encrypted")
    if not info.filename.endswith(".npy"):
        raise SampleError(f"{where} is no array (.npy)")
    if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > _PER_BYTE * max(info.compress_size, 1):
        raise SampleError(f"{where} says that it is larger than its bytes can be")
    with archive.open(info) as member:
        version = npy.read_magic(member)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise SampleError(f"{where} is an array of version {version}, which is not read here")
        shape, fortran, dtype = read(member)
        if dtype.hasobject:
            raise SampleError(
                f"{label}: cannot be read: {info.filename[:80]!r} holds pickles, which may be code"
            )
        if dtype.kind not in _KINDS:
            raise SampleError(f"{where} holds {dtype}: numbers, booleans or texts are needed")
        size, stored = prod(shape) * dtype.itemsize, info.file_size - member.tell()
        if size != stored or any(length < 0 for length in shape):
            raise SampleError(f"{where} declares {size:,} bytes of shape {shape}, and has {stored:,}")
        data = member.read()
    array = np.frombuffer(bytearray(data), dtype, count=prod(shape))
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
