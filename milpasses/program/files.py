"""Files and folders that are written whole or not at all, and never over what is to stay.

Each is made beside its target, under a hidden name that ends in ``.partial``, and put in its place at the end:
whenever a process ends, the target is whole, or as it was. What exists already stays unless ``force`` is given,
also where it appeared in the meantime. What the disk refuses is a ``PackageError`` of one line.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from milpasses.errors import PackageError
from milpasses.program.publish import put, remove


def check_output(
    output: Path, suffix: str | tuple[str, ...] = (), force: bool = False, inputs: Iterable[Any] = ()
) -> None:
    """Raise ``PackageError`` unless ``output`` can be written without a loss.

    It must end in ``suffix`` (of several any will do, without any each), its folder must exist, and nothing
    stand there that ``force`` does not replace. Whatever ``force`` says it is none of ``inputs``, stands in
    none, and has none inside: paths, or models that know theirs; anything else is passed over.
    """
    accepted = (suffix,) if isinstance(suffix, str) else suffix
    if accepted and output.suffix not in accepted:
        raise PackageError(f"{output}: the output must end in {' or '.join(accepted)}")
    try:
        check_no_input(output, inputs)
        if os.path.lexists(output) and not force:
            raise _exists(output)
        if output.exists() and not (output.is_file() or output.is_dir()):
            raise PackageError(f"{output}: is a device or a pipe; a file is needed")
        if not output.absolute().parent.is_dir():
            raise PackageError(f"{output}: the folder {output.parent} does not exist")
    except (OSError, ValueError, RuntimeError) as error:  # a name with NUL, too long, or of links in a circle
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{str(output)!r}: cannot be written ({error})") from None


def check_no_input(output: Path, inputs: Iterable[Any]) -> None:
    """Raise ``PackageError`` where writing ``output`` would change one of ``inputs`` (see ``check_output``)."""
    there = output.resolve()
    for given in filter(None, map(_path_of, inputs)):
        with suppress(OSError, ValueError, RuntimeError):
            if not given.exists():
                continue
            here = given.resolve()
            if there == here or (output.exists() and output.samefile(given)):
                raise PackageError(f"{output}: is an input; the output must be another file")
            if here in there.parents:
                raise PackageError(f"{output}: is inside {given}, an input; write it elsewhere")
            if there in here.parents and (output.is_file() or output.suffix):
                raise PackageError(f"{output}: holds {given}, an input; write it elsewhere")


def _path_of(given: Any) -> Path | None:
    """The path that ``given`` is, or that the model came from; None where it has none."""
    if isinstance(given, str | os.PathLike):
        text: Any = os.fspath(given)
        return Path(text) if isinstance(text, str) else None
    for name in ("package_path", "path"):
        found: Any = getattr(given, name, None)
        if isinstance(found, str | Path):
            return Path(found)
    package = getattr(given, "package", None)
    return None if package is None else _path_of(package)


def _exists(path: Path) -> PackageError:
    return PackageError(f"{path}: exists already; force=True replaces it")


@contextmanager
def whole_file(path: Path, force: bool = False) -> Generator[IO[bytes]]:
    """Yields a file to write, which gets the name ``path`` at the end unless an error is raised."""
    staged: Path | None = None
    with _clear_errors(path):
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}-", suffix=".partial", dir=path.parent)
            staged = Path(name)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            staged.chmod(0o644)
            put(staged, path, force)
        finally:
            if staged is not None:
                remove(staged)


def write_text(path: Path, text: str, force: bool = False) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole_file(path, force) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Any, force: bool = False) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", force)


@contextmanager
def whole_folder(path: Path, force: bool = False) -> Generator[Path]:
    """Yields a folder to fill, which gets the name ``path`` at the end unless an error is raised."""
    staged: Path | None = None
    with _clear_errors(path):
        try:
            staged = Path(tempfile.mkdtemp(prefix=f".{path.stem[:100]}-", suffix=".partial", dir=path.parent))
            staged.chmod(0o755)
            yield staged
            put(staged, path, force)
        finally:
            if staged is not None:
                remove(staged)


def copy_whole(source: Path, path: Path, force: bool = False) -> None:
    """Copy a file or a folder to ``path``, whole or not at all; links in it stay links."""
    if source.is_dir():
        with whole_folder(path, force) as folder:
            shutil.copytree(source, folder, symlinks=True, dirs_exist_ok=True)
    else:
        with whole_file(path, force) as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)


@contextmanager
def _clear_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError) and error.filename == str(path):
            raise _exists(path) from None
        folder = path.absolute().parent
        if error.filename is not None and folder not in Path(error.filename).absolute().parents:
            raise  # about a file that was read to make this one
        message = f"{path}: cannot be written ({error.strerror or error}); nothing was left"
        raise PackageError(message) from error
