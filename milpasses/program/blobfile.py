"""Weight files of an ML Program (``weights/weight.bin``): MIL blob storage, version 2.

A 64-byte header (count, version), then for each blob a 64-byte record (sentinel, type, size in bytes, offset
of the data, padding bits of the last byte) and its data, both aligned to 64 bytes. Reading maps the file;
writing appends. The layout is that of coremltools' own writer (mlmodel/src/MILBlob), against which the tests
compare it byte for byte.
"""

import mmap
from hashlib import blake2b
from io import BufferedWriter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.storage import STORED_BITS
from milpasses.errors import PackageError

_ALIGNMENT = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_HEADER = np.dtype([("count", "<u4"), ("version", "<u4"), ("reserved", "<u8", 7)])
_RECORD = np.dtype(
    [
        ("sentinel", "<u4"),
        ("type", "<u4"),
        ("nbytes", "<u8"),
        ("offset", "<u8"),
        ("padding_bits", "<u8"),
        ("reserved", "<u8", 4),
    ]
)


@attrs.frozen
class BlobType:
    """A stored element type: its number in the file, its bits, and the NumPy type it unpacks to."""

    code: int
    nbits: int
    unpacked: str

    @property
    def packed(self) -> bool:
        """Several elements share a byte."""
        return self.nbits < 8


BLOB_TYPES = {
    name: BlobType(code, STORED_BITS[name], unpacked)
    for code, (name, unpacked) in enumerate(
        (
            ("float16", "<f2"), ("float32", "<f4"), ("uint8", "u1"), ("int8", "i1"), ("bfloat16", "<u2"),
            ("int16", "<i2"), ("uint16", "<u2"), ("int4", "i1"), ("uint1", "u1"), ("uint2", "u1"),
            ("uint4", "u1"), ("uint3", "u1"), ("uint6", "u1"), ("int32", "<i4"), ("uint32", "<u4"),
        ),
        1,
    )
}  # fmt: skip
_NAMES = {blob_type.code: name for name, blob_type in BLOB_TYPES.items()}


class BlobReader:
    """Reads blobs of one file by their record's offset; arrays are views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise PackageError(f"{path}: the weight file cannot be read ({error})") from None
        self._data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        if self._data.size < _HEADER.itemsize or self._data[:64].view(_HEADER)[0]["version"] != _VERSION:
            raise PackageError(f"{path}: not a version {_VERSION} weight file, or truncated")

    def release(self) -> None:
        """Give the memory of what was read back; it is read again from the file where it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def raw(self, offset: int) -> tuple[str, NDArray[np.uint8], int]:
        """The type name, the stored bytes, and the padding bits of the blob whose record is at ``offset``."""
        if offset % _ALIGNMENT or offset + _RECORD.itemsize > self._data.size:
            raise PackageError(f"{self.path}: no weight at offset {offset}; the file is truncated")
        record = self._data[offset : offset + _RECORD.itemsize].view(_RECORD)[0]
        start, nbytes = int(record["offset"]), int(record["nbytes"])
        aligned = start % _ALIGNMENT == 0 and start >= offset + _RECORD.itemsize
        if record["sentinel"] != _SENTINEL or int(record["type"]) not in _NAMES or not aligned:
            raise PackageError(f"{self.path}: damaged weight record at offset {offset}")
        if start + nbytes > self._data.size:
            raise PackageError(
                f"{self.path}: the weight at offset {offset} ends at byte {start + nbytes}, "
                f"the file at {self._data.size}; the file is truncated"
            )
        return _NAMES[int(record["type"])], self._data[start : start + nbytes], int(record["padding_bits"])

    def read(self, offset: int) -> NDArray[Any]:
        """The blob's elements, flat; types below a byte come unpacked, one element a byte."""
        name, raw, padding = self.raw(offset)
        blob_type = BLOB_TYPES[name]
        if not blob_type.packed:
            return raw.view(blob_type.unpacked)
        from milpasses_kernels.bitpack import unpack

        count = (raw.size * 8 - padding) // blob_type.nbits
        return unpack(raw, blob_type.nbits, count, signed=name.startswith("int"))


class BlobWriter:
    """Appends blobs to a new file; ``finish`` makes it whole.

    ``once``: bytes that are there already, as the same type, are not written again: the offset is theirs.
    """

    def __init__(self, path: Path, once: bool = False) -> None:
        self.path = path
        self._known: dict[tuple[str, int, bytes], int] | None = {} if once else None
        self._file: BufferedWriter = path.open("xb")
        self._file.write(bytes(_HEADER.itemsize))
        self._position = _HEADER.itemsize
        self._count = 0

    def finish(self) -> None:
        """Write the header, without which the file is no weight file, and close it."""
        header = np.zeros(1, _HEADER)
        header["count"], header["version"] = self._count, _VERSION
        self._file.seek(0)
        self._file.write(header.tobytes())
        self.close()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def write(self, values: NDArray[Any], dtype: str) -> int:
        """Append ``values`` as ``dtype`` (a key of ``BLOB_TYPES``); returns the record's offset."""
        blob_type = BLOB_TYPES[dtype]
        if blob_type.packed:
            from milpasses_kernels.bitpack import pack

            stored = pack(np.ascontiguousarray(values), blob_type.nbits)
        else:
            stored = np.ascontiguousarray(values, dtype=blob_type.unpacked).reshape(-1).view(np.uint8)
        return self.write_raw(stored, dtype, stored.size * 8 - values.size * blob_type.nbits)

    def write_raw(self, stored: NDArray[np.uint8], dtype: str, padding_bits: int) -> int:
        """Append bytes that are already in the file's form; returns the record's offset."""
        if self._known is None:
            return self._append(stored, dtype, padding_bits)
        key = dtype, padding_bits, blake2b(stored.data, digest_size=16).digest()
        if key not in self._known:
            self._known[key] = self._append(stored, dtype, padding_bits)
        return self._known[key]

    def _append(self, stored: NDArray[np.uint8], dtype: str, padding_bits: int) -> int:
        offset = self._align()
        record = np.zeros(1, _RECORD)
        record["sentinel"], record["type"] = _SENTINEL, BLOB_TYPES[dtype].code
        record["nbytes"], record["offset"] = stored.size, offset + _RECORD.itemsize
        record["padding_bits"] = padding_bits
        self._file.write(record.tobytes())
        self._file.write(stored.data)
        self._position += _RECORD.itemsize + stored.size
        self._count += 1
        return offset

    def _align(self) -> int:
        gap = -self._position % _ALIGNMENT
        self._file.write(bytes(gap))
        self._position += gap
        return self._position
