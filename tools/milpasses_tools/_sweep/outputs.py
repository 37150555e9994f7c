"""The original's outputs on disk: written once, read by every variant."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from milpasses.program.files import whole_file


@contextmanager
def references(path: Path, write: bool) -> Generator[tuple[Iterator[dict[str, Any]], Callable[[Any], None]]]:
    """The original's outputs in order, and what keeps those of the original itself."""
    if not write:
        with np.load(path, allow_pickle=False) as file:
            yield _read_outputs(file), lambda outputs: None
        return
    arrays: dict[str, Any] = {}
    count = 0

    def keep(outputs: Mapping[str, Any]) -> None:
        nonlocal count
        for name, value in outputs.items():
            if isinstance(value, Mapping):
                named = cast("Mapping[Any, Any]", value)
                arrays[f"{count}|{name}|classes"] = np.array(list(named))
                arrays[f"{count}|{name}|values"] = np.array(list(named.values()), np.float64)
            else:
                arrays[f"{count}|{name}|array"] = np.asarray(value)
        count += 1

    yield iter(()), keep
    with whole_file(path, force=True) as file:
        np.savez(file, **arrays)


def _read_outputs(file: Any) -> Iterator[dict[str, Any]]:
    entries: dict[int, list[tuple[str, str]]] = {}
    for entry in file.files:
        index, name, kind = entry.split("|")
        entries.setdefault(int(index), []).append((name, kind))
    for index in sorted(entries):
        outputs: dict[str, Any] = {}
        for name, kind in entries[index]:
            value = file[f"{index}|{name}|{kind}"]
            if kind == "classes":
                outputs[name] = dict(
                    zip(value.tolist(), file[f"{index}|{name}|values"].tolist(), strict=True)
                )
            elif kind == "array":
                outputs[name] = str(value) if value.dtype.kind == "U" and value.ndim == 0 else value
        yield outputs
