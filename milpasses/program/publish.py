"""A finished file or folder is put in its place: never over what is there unless that was asked for.

Without ``force`` the rename itself fails where something exists, so that of two writers one gets an error.
With it the new and the old change places in one step. Where the system, or the file system, has no such
renames, ``put`` says what is left of that.
"""

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_AT_FDCWD = -100
# (no replace, exchange): RENAME_NOREPLACE, RENAME_EXCHANGE of linux/fs.h; RENAME_EXCL, RENAME_SWAP of macOS
_FLAGS = {"linux": (1, 2), "darwin": (4, 2)}


def put(staged: Path, path: Path, force: bool) -> None:
    """Rename ``staged`` to ``path``; raises ``FileExistsError`` where something is there and not ``force``.

    With ``force`` what was there is deleted once the new one has its place: at no moment is there neither.
    A file never replaces a folder (``IsADirectoryError``).

    Where the file system cannot exchange two names, that still holds for files; an old folder is first
    renamed to a hidden one that ends in ``.old``, where it is found if the process is killed right then.
    Where it cannot refuse to replace, a file is linked to its name, which fails where one is, and a folder
    replaces an empty folder and nothing else.
    """
    if not force:
        _put_new(staged, path)
    elif os.path.lexists(path):
        _exchange(staged, path)
    else:
        try:
            _put_new(staged, path)
        except FileExistsError:  # another process was quicker, and may be replaced as well
            _exchange(staged, path)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _put_new(staged: Path, path: Path) -> None:
    if _rename(staged, path, 0):
        return
    if os.path.lexists(path):
        raise _exists(path)
    if staged.is_dir():
        staged.rename(path)
        return
    try:
        os.link(staged, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, errno.EPERM):
            raise
        with path.open("xb"):  # no links either: the name is taken first, then filled in one step
            pass
        staged.replace(path)


def _exchange(staged: Path, path: Path) -> None:
    if not staged.is_dir():
        staged.replace(path)
        return
    if _rename(staged, path, 1):
        remove(staged)  # the old one, which has the hidden name now
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.stem[:100]}-", suffix=".old", dir=path.parent))
    try:
        path.rename(old / path.name)
        try:
            staged.rename(path)
        except OSError:
            (old / path.name).rename(path)
            raise
    except OSError:
        with suppress(OSError):  # with what could not be put back in it, it stays
            old.rmdir()
        raise
    remove(old)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _rename(staged: Path, path: Path, which: int) -> bool:
    """Whether the system's own rename with a flag did it; False where it, or the file system, has none."""
    flags = _FLAGS.get(sys.platform)
    if flags is None:
        return False
    library: Any = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(staged), os.fsencode(path)
    if hasattr(library, "renameat2"):
        status = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags[which])
    elif hasattr(library, "renamex_np"):
        status = library.renamex_np(*names, flags[which])
    else:
        return False
    number = ctypes.get_errno() if status else 0
    if number in _UNSUPPORTED:
        return False
    if number:
        raise OSError(number, os.strerror(number), str(path))
    return True
