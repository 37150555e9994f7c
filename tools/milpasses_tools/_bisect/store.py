"""The programs that the passes of a conversion left behind, in one folder, with each constant stored once.

For each program ``NNN-PASS.json`` has functions, blocks and ops; ``constants/DIGEST.npy`` has an array.
"""

import json
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from milpasses.errors import MilpassesError
from milpasses.program.files import whole_file, write_text

if TYPE_CHECKING:
    from milpasses_tools._trace.keep import Kept


@attrs.frozen
class Step:
    """One program of the folder: the pass that made it (``start``: none yet), and where it is.

    ``index`` counts all passes that ran, those that changed nothing and so left no program as well.
    """

    index: int
    name: str
    path: Path


@attrs.frozen
class Store:
    """A folder of programs."""

    folder: Path

    def add(self, title: str, kept: "Kept") -> None:
        """Write a program as ``title`` (``007-common.add_fp16_cast``)."""
        digests = [self._write(array) for array in kept.arrays]
        content = {"functions": kept.functions, "constants": digests, "problem": kept.problem}
        write_text(self.folder / f"{title}.json", json.dumps(content))

    def _write(self, array: Any) -> str:
        from milpasses_tools._trace.keep import plain

        values = np.asarray(plain(array))
        shape = f"{values.dtype.str} {values.shape}"
        digest = blake2b(np.ascontiguousarray(values).data, digest_size=16)
        digest.update(shape.encode())
        path = self.folder / "constants" / f"{digest.hexdigest()}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as file:
                np.save(file, values, allow_pickle=False)
        return digest.hexdigest()

    def steps(self) -> list[Step]:
        """The programs in the order of their passes; raises ``MilpassesError`` if there are none."""
        found: list[Step] = []
        for path in sorted(self.folder.glob("[0-9][0-9][0-9]*-*.json")):
            index, _, name = path.stem.partition("-")
            if index.isdecimal():
                found.append(Step(int(index), name.replace(".", "::", 1), path))
        if not found:
            raise MilpassesError(
                f"{self.folder}: no programs are kept here: write them with "
                "milpasses trace SCRIPT --dump-after-change DIR --keep-programs"
            )
        return sorted(found, key=lambda step: step.index)

    def load(self, step: Step) -> Any:
        """The program of ``step``; raises ``MilpassesError`` with the reason why it cannot be built again."""
        from milpasses_tools._trace.keep import rebuild

        try:
            content = json.loads(step.path.read_text(encoding="utf-8"))
            functions, digests, problem = content["functions"], content["constants"], content["problem"]
            arrays = {
                number: np.load(self.folder / "constants" / f"{digest}.npy", allow_pickle=False)
                for number, digest in enumerate(digests)
            }
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise MilpassesError(f"{step.path}: no program that can be read ({error})") from None
        if problem:
            raise MilpassesError(f"only its text could be kept: {problem}")
        try:
            return rebuild(functions, arrays)
        except Exception as error:  # coremltools' builder raises what it likes for ops of a frontend's own
            raise MilpassesError(f"it cannot be built again: {type(error).__name__}: {error}") from error
