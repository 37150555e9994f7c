"""Files and folders that are written whole or not at all.

Each is made beside its target, under a hidden name that ends in ``.partial``, and renamed at the end:
whenever a process ends, the target is whole, or as it was. What the disk refuses is a ``PackageError`` of one
line.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from milpasses.errors import PackageError


def check_output(output: Path, suffix: str | tuple[str, ...], force: bool) -> None:
    """Raise ``PackageError`` unless ``output`` ends in ``suffix`` and can be written; ``force`` replaces.

    Of several suffixes any will do.
    """
    accepted = (suffix,) if isinstance(suffix, str) else suffix
    if output.suffix not in accepted:
        raise PackageError(f"{output}: the output must end in {' or '.join(accepted)}")
    if output.exists() and not force:
        raise PackageError(f"{output}: exists already; force=True replaces it")
    if not output.parent.is_dir():
        raise PackageError(f"{output}: the folder {output.parent} does not exist")


@contextmanager
def whole_file(path: Path) -> Generator[IO[bytes]]:
    """Yields a file to write, which takes the place of ``path`` at the end unless an error is raised."""
    staged: Path | None = None
    with _clear_errors(path):
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent)
            staged = Path(name)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            staged.chmod(0o644)
            staged.replace(path)
        finally:
            if staged is not None:
                with suppress(OSError):
                    staged.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Yields a folder to fill, which takes the place of ``path`` at the end unless an error is raised.

    A folder that is there already is moved out of the way first, and back if that fails.
    """
    staged: Path | None = None
    with _clear_errors(path):
        try:
            staged = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=".partial", dir=path.parent))
            staged.chmod(0o755)
            yield staged
            _replace_folder(staged, path)
        finally:
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file or a folder to ``path``, whole or not at all."""
    if source.is_dir():
        with whole_folder(path) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        with whole_file(path) as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)


@contextmanager
def _clear_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        folder = path.absolute().parent
        if error.filename is not None and folder not in Path(error.filename).absolute().parents:
            raise  # about a file that was read to make this one
        message = f"{path}: cannot be written ({error.strerror or error}); nothing was left"
        raise PackageError(message) from error


def _replace_folder(staged: Path, path: Path) -> None:
    """Rename ``staged`` to ``path``, moving what is there out of the way first."""
    if not path.exists():
        staged.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=".old", dir=path.parent)) / path.name
    path.rename(old)
    try:
        staged.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
