"""An ``.mlpackage`` on disk: its manifest, its specification, its weight files; written atomically.

Only the standard layout is read (``Manifest.json`` and ``Data/``); nothing here needs coremltools' native
libraries, so it works wherever Python does.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.errors import PackageError
from milpasses.program import files
from milpasses.program.blobfile import BlobReader

MODEL_PATH = "@model_path/"


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
    """Read the package at ``path``; ``spec`` replaces the specification on disk if given.

    Raises ``PackageError`` with what is wrong: missing, no package, not an ML Program, damaged.
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
    try:
        manifest = json.loads((folder / "Manifest.json").read_text(encoding="utf-8"))
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PackageError(f"{folder}: not an .mlpackage (its Manifest.json is missing or damaged)") from None
    spec_path = folder / "Data" / root
    if spec is None:
        try:
            data = spec_path.read_bytes()
        except OSError:
            raise PackageError(f"{folder}: the model file {root} is missing") from None
        spec = new_message("Model_pb2", "Model")
        try:
            spec.ParseFromString(data)
        except Exception:
            raise PackageError(f"{folder}: the model file {root} is damaged or truncated") from None
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise PackageError(f"{folder}: an ML Program is needed, and this is of type {kind or 'unknown'}")
    return Package(folder, spec, spec_path)


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
