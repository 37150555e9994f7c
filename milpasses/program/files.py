"""Files and folders that are written whole or not at all, and never over what is to stay.

Each is made beside its target, under a hidden name that ends in ``.partial``, and put in its place at the
end: whenever a process ends, the target is whole, or as it was, and what is left under the hidden name is
deleted by the next one (``staging``). What exists already stays unless ``force`` is given, also where it
appeared in the meantime. What the disk refuses is a ``PackageError`` of one line.
"""

import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import IO, Any

from milpasses.errors import PackageError
from milpasses.program.publish import put, remove
from milpasses.program.staging import held, partial_name


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
    check_no_input(output, inputs)
    with _possible_name(output):
        if output.exists() and not (output.is_file() or output.is_dir()):
            raise PackageError(f"{output}: is a device or a pipe; a file is needed")
        if os.path.lexists(output) and not force:
            raise _exists(output)
        if not output.absolute().parent.is_dir():
            raise PackageError(f"{output}: the folder {output.parent} does not exist")


def check_files(outputs: Iterable[Path | None], force: bool = False, inputs: Iterable[Any] = ()) -> None:
    """``check_output`` of each file that a command was told to write (None: not told), before it begins.

    Two of them cannot be the same, nor one inside another. A file never takes the place of a folder.
    """
    wanted, known = [output for output in outputs if output is not None], list(inputs)
    for output in wanted:
        check_output(output, (), force, known)
        if output.is_dir() and output.suffix != ".mlpackage":
            raise PackageError(f"{output}: is a folder; a file is needed")
    for first, second in combinations([output.resolve() for output in wanted], 2):
        if first == second or first in second.parents or second in first.parents:
            raise PackageError(f"{second}: is an output twice; give each a name of its own")


def check_folder(output: Path, force: bool = False, inputs: Iterable[Any] = ()) -> bool:
    """``check_output`` of a folder that is written whole; returns whether it is to be replaced."""
    if output.is_file():
        raise PackageError(f"{output}: is a file; a folder is needed")
    force = force or (output.is_dir() and not any(output.iterdir()))
    check_output(output, (), force, inputs)
    return force


def check_no_input(output: Path, inputs: Iterable[Any]) -> None:
    """Raise ``PackageError`` where writing ``output`` would change one of ``inputs`` of ``check_output``."""
    with _possible_name(output):
        there = output.resolve()
    for given in filter(None, map(_path_of, inputs)):
        with suppress(OSError, RuntimeError):
            if not given.exists():
                continue
            here = given.resolve()
            if there == here or (output.exists() and output.samefile(given)):
                raise PackageError(f"{output}: is an input; the output must be another file")
            if here in there.parents:
                raise PackageError(f"{output}: is inside {given}, an input; write it elsewhere")
            if there in here.parents:
                raise PackageError(f"{output}: holds {given}, an input; write it elsewhere")


def _path_of(given: Any) -> Path | None:
    """The path that ``given`` is, or that the model came from; None where it has none."""
    if isinstance(given, str | os.PathLike):
        text: Any = os.fspath(given)
        return Path(text) if isinstance(text, str) and "\0" not in text else None
    for name in ("package_path", "path"):
        found: Any = getattr(given, name, None)
        if isinstance(found, str | Path):
            return Path(found)
    package = getattr(given, "package", None)
    return None if package is None else _path_of(package)


@contextmanager
def _possible_name(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # a name with NUL, too long, or of links in a circle
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{str(path)[:200]!r}: cannot be written ({_reason(error)})") from None


def _exists(path: Path) -> PackageError:
    return PackageError(f"{path}: exists already; force=True replaces it")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def whole_file(path: Path, force: bool = False) -> Generator[IO[bytes]]:
    """Yields a file to write, which gets the name ``path`` at the end unless an error is raised."""
    staged = partial_name(path)
    with _clear_errors(path):
        try:
            with staged.open("xb") as file, held(staged):
                yield file
                file.flush()
                os.fsync(file.fileno())
            put(staged, path, force)
        finally:
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
    staged = partial_name(path)
    with _clear_errors(path):
        try:
            staged.mkdir()
            with held(staged):
                yield staged
                put(staged, path, force)
        finally:
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
        message = f"{path}: cannot be written ({_reason(error)}); nothing was left"
        raise PackageError(message) from error
