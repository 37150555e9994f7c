"""Where a file or folder is made before it gets its name, and what killed processes left of theirs.

A hidden name beside the target that ends in ``.partial``, held by a lock that the system lets go of whenever
the process ends. One that nobody holds is stale: the next process that writes into the same folder deletes
it. Where the file system has no locks, or a name is seconds old, it stays.
"""

import os
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from milpasses.program.publish import remove

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing stale deleted
    fcntl = None

_NAME = re.compile(r"\..*-[0-9a-f]{8}\.partial")
_YOUNG = 2.0  # seconds in which a name may not be locked yet
_seen: set[Path] = set()  # folders that were looked through: once a process is enough


def partial_name(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else has; stale ones in that folder are deleted."""
    folder = path.absolute().parent
    if folder not in _seen:
        _seen.add(folder)
        remove_stale(folder)
    return path.with_name(f".{path.stem[:100]}-{secrets.token_hex(4)}.partial")


@contextmanager
def held(staged: Path) -> Generator[None]:
    """``staged``, which exists, is in use inside."""
    descriptor = _locked(staged)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Delete what processes that were killed left in ``folder``."""
    with suppress(OSError):  # a folder that cannot be listed: writing into it tells why
        for path in sorted(folder.iterdir()):
            if not _NAME.fullmatch(path.name) or path.is_symlink():
                continue
            with suppress(OSError):  # another process deletes it as well
                if time.time() - path.stat().st_mtime < _YOUNG:
                    continue
                descriptor = _locked(path)
                if descriptor is not None:
                    remove(path)
                    os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor of ``path`` that holds its lock; None where another has it, or there are no locks."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor
