"""An ``.mlpackage`` on disk: its manifest, its specification, its weight files; written atomically.

Only the standard layout is read (``Manifest.json`` and ``Data/``); nothing here needs coremltools' native
libraries, so it works wherever Python does.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from milpasses import _coremltools as host
from milpasses.errors import PackageError
from milpasses.program import files
from milpasses.program.blobfile import BlobReader
from milpasses.program.inside import check_tree, path_inside
from milpasses.program.sources import PROGRAM, Source, program_needed, read_source, spec_path

MODEL_PATH = "@model_path/"
_FIRST_TYPE = 200  # in Model.proto, the fields from here on are the types of models


@attrs.define
class Package:
    """A package that has been read: its folder, its specification (``Model_pb2.Model``), its weights.

    ``checked``: its program was found whole (``checking.check_package``).
    """

    path: Path
    spec: Any
    spec_path: Path
    _readers: dict[str, BlobReader] = attrs.field(factory=dict)
    checked: bool = attrs.field(default=False, init=False)

    @property
    def model_folder(self) -> Path:
        """What ``@model_path`` in the specification stands for."""
        return self.spec_path.parent

    def weight_path(self, file_name: str) -> Path:
        """The path of a weight file; ``PackageError`` where the name leads out of the model's folder."""
        name = file_name.removeprefix(MODEL_PATH)
        return path_inside(self.model_folder, name, str(self.path), "the weight file")

    def reader(self, file_name: str) -> BlobReader:
        """The weight file that the specification calls ``file_name`` (``@model_path/weights/weight.bin``)."""
        if file_name not in self._readers:
            path = self.weight_path(file_name)
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
    if spec is None:
        return package_of(read_source(folder))
    check_tree(folder)
    return package_of(Source(spec, str(folder), folder, spec_path(folder)))


def package_of(source: Source) -> Package:
    """The package of the ML Program in ``source``; ``PackageError`` for any other kind of model."""
    if source.kind != PROGRAM or source.path is None or source.spec_path is None:
        raise PackageError(program_needed(source))
    return Package(source.path, source.spec, source.spec_path)


def type_field(path: Path) -> int:
    """The number of the field of ``Model_pb2.Model`` that says of which type the model at ``path`` is.

    Only the outermost tags of the file are read: quick, however large the specification. 0 where the file
    is none, or damaged; who opens it says so.
    """
    try:
        data = (spec_path(path) if path.is_dir() else path).open("rb")
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


def check_output(output: Path, force: bool, inputs: Iterable[Any] = ()) -> None:
    """Raise ``PackageError`` if ``output`` cannot become a package, or is one of ``inputs``."""
    files.check_output(output, ".mlpackage", force, inputs)


def write_package(
    package: Package, output: Path, write_weights: Callable[[Path], Any], force: bool = False
) -> None:
    """Write a copy of ``package`` at ``output``, all of it or nothing.

    ``write_weights(model_folder)`` writes the weight files and returns the specification; every other file
    is copied.
    """
    check_output(output, force, (package.path,))
    check_tree(package.path)  # what is copied is what is there now
    with files.whole_folder(output, force) as staged:
        shutil.copytree(
            package.path, staged, symlinks=True, ignore=_ignore_weights(package), dirs_exist_ok=True
        )
        inside = package.spec_path.relative_to(package.path)
        spec = write_weights((staged / inside).parent)
        (staged / inside).write_bytes(spec.SerializeToString(deterministic=True))


def copy_weights(package: Package, folder: Path) -> Any:
    """Copy the weight files of ``package`` under ``folder``; the specification that goes with them."""
    weights = package.model_folder / "weights"
    if weights.is_dir():
        shutil.copytree(weights, folder / "weights", dirs_exist_ok=True)
    return package.spec


def _ignore_weights(package: Package) -> Callable[[str, list[str]], list[str]]:
    weights = package.model_folder / "weights"

    def ignore(folder: str, names: list[str]) -> list[str]:
        here = Path(folder)
        return [name for name in names if here == weights or here / name == package.spec_path]

    return ignore
