"""Paths that come out of a package: each must lead to something inside it, by no link."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from milpasses.errors import PackageError


def path_inside(root: Path, name: Any, label: str, what: str) -> Path:
    """The path that ``name``, which a package gives relative to its folder ``root``, stands for.

    Raises ``PackageError``, which calls the package ``label`` and the name ``what``: no text, absolute, with
    ``..``, a drive, a backslash or NUL in it, too long, or a link on the way.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    bad = {"..", "/", "//"}
    if not parts or bad & set(parts) or any(sign in name for sign in ("\0", "\\", ":")):
        raise _outside(label, name, what)
    path = root
    for part in parts:
        path = path / part
        try:
            linked = path.is_symlink()
        except OSError:  # a name that is too long for any file
            raise _outside(label, name, what) from None
        if linked:
            raise _link(label, path)
    return path


def check_tree(folder: Path) -> None:
    """Raise ``PackageError`` unless everything inside ``folder`` is a file or a folder.

    A link, a device or a pipe is refused: a package that was sent by somebody must not say what is read.
    """
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_symlink():
                    raise _link(str(folder), Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    raise PackageError(f"{folder}: {entry.name} is a device or a pipe; a package holds files")


def _outside(label: str, name: Any, what: str) -> PackageError:
    text = repr(name)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return PackageError(f"{label}: {what} {text} does not lead to a file inside the package")


def _link(label: str, path: Path) -> PackageError:
    return PackageError(
        f"{label}: {path.name} is a link, and links in a package are not followed; "
        "copy the package with its links resolved (cp -RL) if you trust them"
    )
