"""The weight file against coremltools' own writer and reader."""

from pathlib import Path

import numpy as np
import pytest

from milpasses.encoding.storage import packed_bytes
from milpasses.errors import PackageError
from milpasses.program.blobfile import BLOB_TYPES, BlobReader, BlobWriter

native = pytest.importorskip("coremltools.libmilstoragepython")

METHODS = {
    "float32": "float",
    "float16": "fp16",
    **{name: name for name in BLOB_TYPES if name not in ("float16", "float32", "bfloat16")},
}


def values_of(dtype: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    if dtype.startswith("float"):
        return rng.standard_normal(count).astype(dtype)
    bits = BLOB_TYPES[dtype].nbits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype.startswith("int") else (0, 2**bits)
    return rng.integers(low, high, count).astype(BLOB_TYPES[dtype].unpacked)


def native_values(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.view(np.uint16) if dtype == "float16" else values


@pytest.mark.parametrize("count", [1, 7, 64, 1001])
def test_same_bytes_as_the_native_writer(tmp_path: Path, count: int) -> None:
    reference = native._BlobStorageWriter(str(tmp_path / "native.bin"))
    offsets = {}
    writer = BlobWriter(tmp_path / "ours.bin")
    for dtype, method in METHODS.items():
        values = values_of(dtype, count)
        offsets[dtype] = writer.write(values, dtype)
        wanted = getattr(reference, f"write_{method}_data")(native_values(values, dtype))
        assert offsets[dtype] == wanted
    writer.finish()
    del reference
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "native.bin").read_bytes()


@pytest.mark.parametrize("dtype", METHODS)
def test_reads_what_the_native_writer_wrote(tmp_path: Path, dtype: str) -> None:
    values = values_of(dtype, 333)
    writer = native._BlobStorageWriter(str(tmp_path / "w.bin"))
    offset = getattr(writer, f"write_{METHODS[dtype]}_data")(native_values(values, dtype))
    del writer
    reader = BlobReader(tmp_path / "w.bin")
    np.testing.assert_array_equal(reader.read(offset), values)
    assert reader.raw(offset)[1].size == packed_bytes(333, dtype)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    writer = BlobWriter(path)
    offset = writer.write(np.ones(100, np.float32), "float32")
    writer.finish()
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(PackageError, match="truncated"):
        BlobReader(path).read(offset)
    path.write_bytes(b"\0" * 128)
    with pytest.raises(PackageError, match="not a version 2 weight file"):
        BlobReader(path)
    path.write_bytes(whole[:64] + b"\1" * (len(whole) - 64))
    with pytest.raises(PackageError, match="damaged"):
        BlobReader(path).read(offset)
    with pytest.raises(PackageError, match="cannot be read"):
        BlobReader(tmp_path / "none.bin")


def test_an_interrupted_file_has_no_header(tmp_path: Path) -> None:
    writer = BlobWriter(tmp_path / "w.bin")
    writer.write(np.ones(10, np.float16), "float16")
    writer.close()
    with pytest.raises(PackageError):
        BlobReader(tmp_path / "w.bin")
