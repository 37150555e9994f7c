"""What ``bisect`` and ``bisect_passes`` found, as data. Imports nothing heavy."""

from typing import TYPE_CHECKING, Any

import attrs

from milpasses_tools._bisect.measure import WorstError
from milpasses_tools._output import json_decibels

if TYPE_CHECKING:
    from milpasses_tools._compare.comparison import NonFinite

NOTE = (
    "by milpasses' interpreter, a float32 reference that rounds each result to its declared type; "
    "not an emulation of Core ML"
)


@attrs.frozen
class WeightOutputError:
    """What one weight does: ``error`` of the outputs where it alone is compressed."""

    name: str
    form: str
    nbytes: int
    nbytes_original: int
    error: WorstError
    keep: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**attrs.asdict(self, filter=lambda field, _: field.name != "error"), **self.error.to_dict()}


@attrs.frozen
class Bisection:
    """What was found.

    ``within``: the compressed model keeps the tolerance. ``differ`` counts the weights that differ.
    ``weights``: the output error of weights alone, most first; all if ``every``, else those that had to be
    tried. ``first``: in program order, the weight that brings the outputs outside the tolerance. ``keep``:
    the weights to leave uncompressed, none of which can be spared; ``kept`` is the error that is left then,
    ``added_bytes`` what that costs. ``all`` is the error of all compressed weights in the original's ops,
    ``whole`` that of the compressed model itself. ``rules`` are texts of rules that keep them, ``recipe``
    (YAML) has them before the model's own recipe, where that is known. ``nonfinite``: the first NaN or
    infinity that an op of the compressed model makes and that op of the original does not. ``executions``
    counts the runs of a model over all samples.
    """

    original: str
    compressed: str
    data: str
    random: bool
    samples: int
    tolerance: str
    within: bool
    differ: int
    executions: int
    all: WorstError
    whole: WorstError
    weights: tuple[WeightOutputError, ...]
    first: str | None = None
    keep: tuple[str, ...] = ()
    kept: WorstError | None = None
    added_bytes: int = 0
    rules: tuple[str, ...] = ()
    recipe: str = ""
    nonfinite: "NonFinite | None" = None
    notes: tuple[str, ...] = ()
    note: str = NOTE

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        plain = attrs.asdict(
            self, filter=lambda field, _: field.name not in ("weights", "all", "whole", "kept")
        )
        return {
            **plain,
            "all": self.all.to_dict(),
            "whole": self.whole.to_dict(),
            "kept": None if self.kept is None else self.kept.to_dict(),
            "weights": [one.to_dict() for one in self.weights],
        }


@attrs.frozen
class PassOutputError:
    """The program after one pass that changed it.

    ``error`` is against the program at the start, ``added_db`` the signal-to-noise ratio against the program
    before the pass (None unless every program ran), ``nonfinite`` the first NaN or infinity that an op of it
    makes and the program at the start does not. ``problem`` says why it could not be run.
    """

    index: int
    name: str
    error: WorstError | None = None
    added_db: float | None = None
    nonfinite: "NonFinite | None" = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "index": self.index,
            "pass": self.name,
            **({} if self.error is None else self.error.to_dict()),
            "added_db": json_decibels(self.added_db),
            "nonfinite": None if self.nonfinite is None else attrs.asdict(self.nonfinite),
            "problem": self.problem,
        }


@attrs.frozen
class PassBisection:
    """What was found.

    ``first`` is the first pass after which the outputs are outside the tolerance, None if they stay within;
    ``between`` has the passes before it whose programs could not be run, so that it may be one of those.
    ``worst`` is the pass that adds most error (only if every program ran). ``nonfinite`` is the first NaN or
    infinity, ``nonfinite_pass`` the pass that made it. ``programs`` counts the programs that were kept;
    ``passes`` has those that ran, in order; ``executions`` how often the model ran over all samples.
    """

    data: str
    random: bool
    samples: int
    tolerance: str
    programs: int
    executions: int
    passes: tuple[PassOutputError, ...]
    first: PassOutputError | None = None
    between: tuple[str, ...] = ()
    worst: PassOutputError | None = None
    nonfinite: "NonFinite | None" = None
    nonfinite_pass: str | None = None
    note: str = NOTE

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            **attrs.asdict(self, filter=lambda field, _: field.name not in ("passes", "first", "worst")),
            "between": list(self.between),
            "first": None if self.first is None else self.first.name,
            "worst": None if self.worst is None else self.worst.name,
            "passes": [one.to_dict() for one in self.passes],
        }
