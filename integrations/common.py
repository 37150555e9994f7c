"""What the scripts share: the table that each prints."""

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
from milpasses_tools import compare

Rows = list[tuple[str, ...]]


@attrs.define
class Table:
    """One row for each model that was compressed; ``packages`` are those whose versions head it."""

    packages: tuple[str, ...]
    rows: Rows = attrs.field(factory=list)

    def add(self, exported: str, recipe: str, dense: Path, small: Path, note: str = "") -> None:
        """Compare two packages by the interpreter on random samples and note what came out.

        The ratio is that of the worst output, in decibels. Raises ``SystemExit`` where nothing shrank.
        """
        before, after = folder_bytes(dense), folder_bytes(small)
        if after >= before:
            raise SystemExit(f"{exported}, {recipe}: {after:,} bytes of {before:,}: nothing was gained")
        outputs = compare(dense, small, "random", samples=4).outputs
        ratios = [output.snr_db for output in outputs if output.snr_db is not None]
        worst = "none" if not ratios else f"{min(ratios):.1f}"
        self.rows.append(
            (exported, recipe, f"{before:,}", f"{after:,}", f"{before / after:.2f}", worst, note)
        )

    def show(self) -> None:
        """Print the versions and the rows."""
        names = (*self.packages, "coremltools", "numpy", "milpasses")
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
        head = ("exported", "recipe", "bytes before", "after", "times", "outputs dB", "")
        widths = [max(len(row[column]) for row in (head, *self.rows)) for column in range(len(head))]
        for row in (head, *self.rows):
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a package."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def saved(model: Any, path: Path) -> Path:
    """The path where a converted model was saved."""
    model.save(str(path))
    return path


@contextlib.contextmanager
def timed() -> Generator[list[float]]:
    """Yields a list that holds the CPU seconds of the block once it has ended."""
    seconds: list[float] = []
    began = time.process_time()
    yield seconds
    seconds.append(time.process_time() - began)


os.environ.setdefault("TQDM_DISABLE", "1")
