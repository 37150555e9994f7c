"""``.npz`` files of every odd kind: read, or refused in one line."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpasses.data.moments import Statistics
from milpasses.data.npz import read_npz
from milpasses.data.samples import Samples
from milpasses.errors import MilpassesError, SampleError


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def header(shape: Any, descr: str = "<f4", version: int = 1, order: bool = False) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text


def archive(path: Path, *members: tuple[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


GOOD = npy(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_compression_is_read(tmp_path: Path, how: int):
    fortran = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    words, nothing = np.array(["a", "bc"]), np.zeros((0, 2), bool)
    arrays = {"a": fortran, "b": words, "c": nothing, "d": np.array(3.0)}
    path = archive(tmp_path / "a.npz", *((f"{name}.npy", npy(one)) for name, one in arrays.items()), how=how)
    found = read_npz(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable


HUGE = 10**15
BAD: dict[str, tuple[tuple[tuple[str, bytes], ...], str]] = {
    "pickled": ((("a.npy", npy(np.array([{}], object), allow_pickle=True)),), "'a.npy' holds pickles"),
    "structured": ((("a.npy", npy(np.zeros(2, "i4,f4"))),), "numbers, booleans or texts are needed"),
    "complex": ((("a.npy", npy(np.zeros(2, complex))),), "holds complex128"),
    "no array": ((("a.npy", GOOD), ("note.txt", b"hello")), "'note.txt' is no array"),
    "twice": ((("a.npy", GOOD), ("a.npy", GOOD)), "holds 'a.npy' twice"),
    "huge": ((("a.npy", header((HUGE,)) + b"1234"),), "declares 4,000,000,000,000,000 bytes"),
    "overflowing": ((("a.npy", header((2**40, 2**40))),), "and has 0"),
    "negative": ((("a.npy", header((-1, -1)) + b"1234"),), "and has 4|cannot be read"),
    "short": ((("a.npy", GOOD[:-1]),), "declares 24 bytes of shape"),
    "long": ((("a.npy", GOOD + b"1"),), "and has 25"),
    "cut": ((("a.npy", GOOD[:20]),), "cannot be read as .npz without pickles"),
    "no header": ((("a.npy", b"hello"),), "cannot be read as .npz without pickles"),
    "no shape": ((("a.npy", header("'x'")),), "cannot be read as .npz without pickles"),
    "deep": ((("a.npy", header("(" * 5000 + ")" * 5000)),), "cannot be read as .npz without pickles"),
    "of another version": ((("a.npy", header((1,), version=9) + b"1234"),), "version"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_array_is_one_clear_line(tmp_path: Path, kind: str):
    members, message = BAD[kind]
    path = archive(tmp_path / "a.npz", *members)
    with pytest.raises(SampleError, match=message) as error:
        Samples.of(path, {})
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600
    with pytest.raises(MilpassesError, match="not statistics, or damaged"):
        Statistics.load(path)


def test_an_encrypted_member(tmp_path: Path):
    data = bytearray(archive(tmp_path / "a.npz", ("a.npy", GOOD)).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(SampleError, match="is encrypted"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_anywhere(tmp_path: Path, how: int):
    data = archive(tmp_path / "a.npz", ("a.npy", npy(np.arange(4000))), how=how).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(256)
        (tmp_path / "b.npz").write_bytes(broken if rng.random() < 0.8 else broken[: rng.integers(len(data))])
        try:
            read_npz(tmp_path / "b.npz")
        except SampleError as error:
            assert str(tmp_path / "b.npz") in str(error)  # noqa: PT017 (some mutants can be read)


def test_a_member_larger_than_its_bytes_can_be(tmp_path: Path):
    data = bytearray(archive(tmp_path / "a.npz", ("a.npy", GOOD)).read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(mark) + at
        data[start : start + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(SampleError, match="says that it is larger than its bytes can be"):
        read_npz(tmp_path / "a.npz")


def test_one_array_and_no_file(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(SampleError, match="holds one array without a name"):
        read_npz(tmp_path / "a.npy")
    with pytest.raises(SampleError, match="no such file"):
        read_npz(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "about",
    ["[" * 100_000, "[]", "{}", '{"milpasses_statistics": []}', '{"milpasses_statistics": 2, "weights": 3}'],
)
def test_statistics_that_are_none(tmp_path: Path, about: str):
    np.savez(tmp_path / "a.npz", about=np.array(about))
    with pytest.raises(MilpassesError) as error:
        Statistics.load(tmp_path / "a.npz")
    assert len(str(error.value)) < 600
