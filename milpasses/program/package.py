"""An ``.mlpackage`` on disk: its manifest, its specification, its weight files; written atomically.

Only the standard layout is read (``Manifest.json`` and ``Data/``); nothing here needs coremltools' native
libraries, so it works wherever Python does.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.errors import PackageError
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
    if output.suffix != ".mlpackage":
        raise PackageError(f"{output}: the output must end in .mlpackage")
    if output.exists() and not force:
        raise PackageError(f"{output}: exists already; --force (force=True) replaces it")
    if not output.parent.is_dir():
        raise PackageError(f"{output}: the folder {output.parent} does not exist")


def write_package(
    package: Package, output: Path, write_weights: Callable[[Path], Any], force: bool = False
) -> None:
    """Write a copy of ``package`` at ``output``, all of it or nothing.

    ``write_weights(model_folder)`` writes the weight files and returns the specification; every other file
    is copied. The copy is made beside ``output`` and renamed at the end.
    """
    check_output(output, force)
    with _staging(output) as staged:
        shutil.copytree(package.path, staged, ignore=_ignore_weights(package), dirs_exist_ok=True)
        inside = package.spec_path.relative_to(package.path)
        spec = write_weights((staged / inside).parent)
        (staged / inside).write_bytes(spec.SerializeToString())
        _replace(staged, output)


def _ignore_weights(package: Package) -> Callable[[str, list[str]], list[str]]:
    weights = package.model_folder / "weights"

    def ignore(folder: str, names: list[str]) -> list[str]:
        here = Path(folder)
        return [name for name in names if here == weights or here / name == package.spec_path]

    return ignore


@contextmanager
def _staging(output: Path) -> Generator[Path]:
    """A new folder beside ``output``, removed unless renamed away; disk errors become one clear line."""
    staged: Path | None = None
    try:
        staged = Path(tempfile.mkdtemp(prefix=f".{output.stem}-", suffix=".partial", dir=output.parent))
        staged.chmod(0o755)
        yield staged
    except OSError as error:
        raise PackageError(
            f"{output}: cannot be written ({error.strerror or error}); nothing was left"
        ) from error
    finally:
        if staged is not None and staged.exists():
            shutil.rmtree(staged, ignore_errors=True)


def _replace(staged: Path, output: Path) -> None:
    """Rename ``staged`` to ``output``, moving an old package out of the way first."""
    if not output.exists():
        staged.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.stem}-", suffix=".old", dir=output.parent)) / output.name
    output.rename(old)
    try:
        staged.rename(output)
    except OSError:
        old.rename(output)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
