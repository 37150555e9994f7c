"""The folder of a sweep: what is finished, by content; whole files or none; one sweep at a time."""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from milpasses.errors import MilpassesError

_MARK = "sweep.json"


def content_hash(parts: Iterable[bytes | str]) -> str:
    """SHA-256 over the parts, each with its length, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()


def hash_files(root: Path, paths: Iterable[Path] | None = None) -> str:
    """The hash of a file, or of the files of a folder (or only ``paths`` in it) with their names."""
    if root.is_file():
        return _hash_file(root)
    listed = sorted(path for path in root.rglob("*") if path.is_file()) if paths is None else list(paths)
    return content_hash(part for path in listed for part in (str(path.relative_to(root)), _hash_file(path)))


def _hash_file(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def hash_model(path: Path) -> str:
    """The hash of a model: of its file, or of what is in its package beside the manifest."""
    return hash_files(path / "Data" if (path / "Data").is_dir() else path)


def is_full(error: BaseException | None) -> bool:
    """A disk had no room, or a quota none, for what ``error`` is about."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


@attrs.frozen
class Store:
    """The folders of a sweep: ``variants`` (a file each), ``cache`` (inputs, outputs), temporary ``work``."""

    folder: Path

    @property
    def variants(self) -> Path:
        """Where each finished variant has its file."""
        return self.folder / "variants"

    @property
    def cache(self) -> Path:
        """What can be made again: prepared inputs, the original's outputs."""
        return self.folder / "cache"

    @property
    def work(self) -> Path:
        """Models while they are measured."""
        return self.folder / ".work"

    def result(self, name: str, key: str) -> Path:
        """The file of the variant ``name`` with the content hash ``key``."""
        return self.variants / f"{file_name(name)}-{key[:20]}.json"

    def read(self, path: Path) -> dict[str, Any] | None:
        """A finished variant; None if it is not there, or nothing that a sweep wrote."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and "status" in content else None

    @contextmanager
    def opened(self, resume: bool, force: bool) -> Generator[None]:
        """Make the folders, for this process alone; raises ``MilpassesError``.

        A folder that holds a sweep needs ``resume`` or ``force``, which starts anew; one that holds anything
        else is refused.
        """
        self.check(resume or force)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if force and not resume:
                for folder in (self.variants, self.cache):
                    shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.work, ignore_errors=True)
            for folder in (self.variants, self.cache, self.work):
                folder.mkdir(exist_ok=True)
                for partial in folder.glob(".*.partial"):  # of a process that was killed
                    partial.unlink(missing_ok=True)
            for partial in self.folder.glob(".*.partial"):
                partial.unlink(missing_ok=True) if partial.is_file() else shutil.rmtree(partial)
            try:
                yield
            finally:
                shutil.rmtree(self.work, ignore_errors=True)

    def check(self, again: bool) -> None:
        """Raise ``MilpassesError`` if no sweep can write here; ``again``: where one may have before."""
        if self.folder.is_file():
            raise MilpassesError(f"{self.folder}: is a file; the results of a sweep need a folder")
        holds = any(self.folder.iterdir()) if self.folder.exists() else False
        ours = (self.folder / _MARK).exists() or self.variants.is_dir()
        if holds and not ours:
            raise MilpassesError(f"{self.folder}: holds other files; give a new or empty folder")
        if holds and not again:
            raise MilpassesError(
                f"{self.folder}: holds a sweep already; resume=True goes on with it, force=True starts anew"
            )

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Held until the process ends, however it ends; where there is no fcntl nothing is held."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise MilpassesError(f"{self.folder}: another sweep is writing here") from None
            yield


def file_name(name: str) -> str:
    """``name`` with nothing that a file name could not hold."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.")[:60] or "variant"
