"""An ``.mlpackage`` on disk: its manifest, its specification, its weight files; written atomically.

Only the standard layout is read (``Manifest.json`` and ``Data/``); nothing here needs coremltools' native
libraries, so it works wherever Python does.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from milpasses import _coremltools as host
from milpasses.errors import PackageError
from milpasses.program import files
from milpasses.program.blobfile import BlobReader

MODEL_PATH = "@model_path/"
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
_FIRST_TYPE = 200  # in Model.proto, the fields from here on are the types of models


@attrs.define
class Package:
    """A package that has been read: its folder, its specification (``Model_pb2.Model``), its weights."""

    path: Path
    spec: Any
    spec_path: Path
    _readers: dict[str, BlobReader] = attrs.field(factory=dict)

    @property
    def model_folder(self) -> Path:
        """What ``@model_path`` in the specification stands for."""
        return self.spec_path.parent

    def reader(self, file_name: str) -> BlobReader:
        """The weight file that the specification calls ``file_name`` (``@model_path/weights/weight.bin``)."""
        if file_name not in self._readers:
            path = self.model_folder / file_name.removeprefix(MODEL_PATH)
            if not path.is_file():
                raise PackageError(f"{self.path}: the weight file {path.name} is missing")
            self._readers[file_name] = BlobReader(path)
        return self._readers[file_name]

    def release(self) -> None:
        """Give the memory of the weights that were read back."""
        for reader in self._readers.values():
            reader.release()


def open_package(path: str | os.PathLike[str], spec: Any = None) -> Package:
    """Read the package of an ML Program, as ``read_package``; ``PackageError`` where it is no such."""
    package = read_package(path, spec)
    kind = package.spec.WhichOneof("Type")
    if kind != "mlProgram":
        advice = "; compress, decompress, explain, dump and compare take pipelines" * (kind in PIPELINES)
        raise PackageError(
            f"{package.path}: an ML Program is needed, and this is of type {kind or 'unknown'}{advice}"
        )
    return package


def read_package(path: str | os.PathLike[str], spec: Any = None) -> Package:
    """Read the package at ``path``, of a model of any type; ``spec`` replaces the one on disk if given.

    Raises ``PackageError`` with what is wrong: missing, no package, damaged.
    """
    folder = Path(path)
    if not folder.exists():
        raise PackageError(f"{folder}: no such file or folder")
    if folder.is_file():
        raise PackageError(
            f"{folder}: an .mlpackage folder is needed, and this is a file"
            + (
                " (a legacy .mlmodel holds no ML Program; milpasses upgrade makes one of it)"
                if folder.suffix == ".mlmodel"
                else ""
            )
        )
    spec_path = _spec_path(folder)
    if spec is None:
        try:
            data = spec_path.read_bytes()
        except OSError:
            raise PackageError(f"{folder}: the model file {_root(folder, spec_path)} is missing") from None
        spec = new_message("Model_pb2", "Model")
        try:
            spec.ParseFromString(data)
        except Exception:
            raise PackageError(
                f"{folder}: the model file {_root(folder, spec_path)} is damaged or truncated"
            ) from None
    return Package(folder, spec, spec_path)


def _root(folder: Path, spec_path: Path) -> str:
    return spec_path.relative_to(folder / "Data").as_posix()


def _spec_path(folder: Path) -> Path:
    """The file of the specification, by the package's manifest."""
    try:
        manifest = json.loads((folder / "Manifest.json").read_text(encoding="utf-8"))
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        return folder / "Data" / root
    except (OSError, ValueError, KeyError, TypeError):
        raise PackageError(f"{folder}: not an .mlpackage (its Manifest.json is missing or damaged)") from None


def type_field(path: Path) -> int:
    """The number of the field of ``Model_pb2.Model`` that says of which type the model at ``path`` is.

    Only the outermost tags of the file are read: quick, however large the specification. 0 where the file
    is none, or damaged; who opens it says so.
    """
    try:
        data = (_spec_path(path) if path.is_dir() else path).open("rb")
    except (OSError, PackageError):
        return 0
    with data:
        while tag := _varint(data):
            number, wire = tag >> 3, tag & 7
            if number >= _FIRST_TYPE:
                return number
            if wire == 0:
                _varint(data)
            elif wire == 2:
                data.seek(_varint(data), os.SEEK_CUR)
            else:
                return 0
    return 0


def _varint(data: BinaryIO) -> int:
    """The next number of a protobuf message, 0 at its end."""
    value = shift = 0
    while byte := data.read(1):
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            break
    return value


def new_message(module: str, name: str, **fields: Any) -> Any:
    """An empty message of one of coremltools' protobuf modules, whose generated code has no types."""
    return host.message_class(module, name)(**fields)


def check_output(output: Path, force: bool) -> None:
    """Raise ``PackageError`` if ``output`` cannot become a package."""
    files.check_output(output, ".mlpackage", force)


def write_package(
    package: Package, output: Path, write_weights: Callable[[Path], Any], force: bool = False
) -> None:
    """Write a copy of ``package`` at ``output``, all of it or nothing.

    ``write_weights(model_folder)`` writes the weight files and returns the specification; every other file
    is copied.
    """
    check_output(output, force)
    with files.whole_folder(output) as staged:
        shutil.copytree(package.path, staged, ignore=_ignore_weights(package), dirs_exist_ok=True)
        inside = package.spec_path.relative_to(package.path)
        spec = write_weights((staged / inside).parent)
        (staged / inside).write_bytes(spec.SerializeToString())


def _ignore_weights(package: Package) -> Callable[[str, list[str]], list[str]]:
    weights = package.model_folder / "weights"

    def ignore(folder: str, names: list[str]) -> list[str]:
        here = Path(folder)
        return [name for name in names if here == weights or here / name == package.spec_path]

    return ignore
