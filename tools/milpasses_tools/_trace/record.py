"""What ``trace`` found, as data. Imports nothing heavy."""

from collections import Counter
from pathlib import Path
from typing import Any

import attrs

KINDS = ("added", "removed", "changed", "moved")


@attrs.define
class PassRecord:
    """One run of one pass.

    ``changed`` counts values of constants and the order of the ops too; ``changes`` says what, op by op
    (``_trace.fingerprint.Change``). ``memory`` is the growth of the process in bytes, None where that is not
    known.
    ``notes`` are traps that the pass has left behind. ``text`` is the program after it, if it was asked for.
    """

    index: int
    name: str
    pipeline: str
    seconds: float = 0.0
    memory: int | None = None
    changed: bool = False
    changes: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    text: str | None = None

    def counts(self, kind: str) -> dict[str, int]:
        """How many ops of each type were added, removed, changed or moved."""
        return dict(sorted(Counter(one.type for one in self.changes if one.kind == kind).items()))

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``text`` as plain values for JSON."""
        content = attrs.asdict(self, filter=lambda attribute, _: attribute.name not in ("text", "changes"))
        return {
            **content,
            **{f"ops_{kind}": self.counts(kind) for kind in KINDS},
            "changes": [str(change) for change in self.changes],
        }


@attrs.define
class Failure:
    """The pass that raised (or left an invalid program), why, and where the program before it was kept."""

    name: str
    error: str
    folder: Path | None = None


@attrs.define
class Trace:
    """The passes that ran, in order. ``notes`` are findings about the whole conversion."""

    passes: list[PassRecord] = attrs.field(factory=list)
    failure: Failure | None = None
    notes: list[str] = attrs.field(factory=list)
    overhead: float = 0.0  # seconds that tracing took

    @property
    def changed(self) -> list[PassRecord]:
        """The passes that changed the program."""
        return [one for one in self.passes if one.changed]

    def touched(self, name: str) -> list[tuple[str, str]]:
        """(pass, what it did) of every change to the op or constant ``name``."""
        return [
            (one.name, str(change)) for one in self.passes for change in one.changes if change.name == name
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        failure = self.failure and {
            "pass": self.failure.name,
            "error": self.failure.error,
            "kept_in": self.failure.folder and str(self.failure.folder),
        }
        return {
            "passes": [one.to_dict() for one in self.passes],
            "failure": failure,
            "notes": self.notes,
            "tracing_seconds": round(self.overhead, 4),
        }
