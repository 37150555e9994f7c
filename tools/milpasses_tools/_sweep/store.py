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
from milpasses.program.publish import put, remove

_MARK, _VARIANTS, _NEW = "sweep.json", "variants", ".new"
_RESULTS = ("front.png", "chosen.mlpackage", "chosen.mlmodel", "models")  # what not every sweep leaves


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
    """The folders of a sweep: ``variants`` (a file each), ``cache`` (inputs, outputs), temporary ``work``.

    ``anew``: an earlier sweep is there, and is to stay until this one is finished: all is written into
    ``.new`` beside it, and ``publish`` puts it in its place.
    """

    folder: Path
    anew: bool = False

    @property
    def written(self) -> Path:
        """Where results are written."""
        return self.folder / _NEW if self.anew else self.folder

    @property
    def variants(self) -> Path:
        """Where each finished variant has its file."""
        return self.written / _VARIANTS

    @property
    def cache(self) -> Path:
        """What can be made again: prepared inputs, the original's outputs."""
        return self.written / "cache"

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
    def opened(self, resume: bool, force: bool) -> Generator["Store"]:
        """Make the folders, for this process alone; yields where to write; raises ``MilpassesError``.

        A folder that holds a sweep needs ``resume`` or ``force``, which starts anew; one that holds anything
        else is refused. What was begun anew is gone on with by ``resume``, unless no variant was finished.
        """
        self.check(resume or force)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            new = self.folder / _NEW
            if not resume or not any(new.glob(f"{_VARIANTS}/*.json")):
                remove(new)
            store = attrs.evolve(self, anew=new.is_dir() or (force and not resume and self._is_sweep()))
            store.written.mkdir(exist_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)
            for folder in (store.variants, store.cache, store.work):
                folder.mkdir(exist_ok=True)
            for folder in (self.folder, store.written, store.variants, store.cache):
                for partial in folder.glob(".*.partial"):  # of a process that was killed
                    remove(partial)
            try:
                yield store
            finally:
                shutil.rmtree(self.work, ignore_errors=True)

    def publish(self) -> None:
        """Put what was written anew in the place of what is there, each file and folder in one step.

        What the new sweep has none of goes then: a picture, a chosen model. Variants come last: until they
        have their place, ``resume`` goes on with them.
        """
        if not self.anew:
            return
        for name in _RESULTS:
            if not (self.written / name).exists():
                remove(self.folder / name)
        for written in sorted(self.written.iterdir(), key=lambda path: (path.name == _VARIANTS, path.name)):
            put(written, self.folder / written.name, force=True)
        remove(self.written)

    def _is_sweep(self) -> bool:
        return (self.folder / _MARK).exists() or (self.folder / _VARIANTS).is_dir()

    def check(self, again: bool) -> None:
        """Raise ``MilpassesError`` if no sweep can write here; ``again``: where one may have before."""
        if self.folder.is_file():
            raise MilpassesError(f"{self.folder}: is a file; the results of a sweep need a folder")
        holds = any(self.folder.iterdir()) if self.folder.exists() else False
        if holds and not self._is_sweep():
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
