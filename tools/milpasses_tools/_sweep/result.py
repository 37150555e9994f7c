"""What ``sweep`` found, as data. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from milpasses_tools._sweep.choice import Choice


@attrs.frozen
class Sweep:
    """What ``sweep`` found.

    ``rows``: a dictionary for each variant, the original first, as in ``results.jsonl``; ``choice`` the one
    to take and why, None where nothing could tell; ``saved`` where it is; ``computed`` how many variants this
    run measured, the others were there.
    """

    folder: Path
    about: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    choice: "Choice | None"
    saved: Path | None
    computed: int
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> dict[str, Any]:
        for row in self.rows:
            if row["name"] == name:
                return row
        raise KeyError(f"no variant {name!r}; there are {', '.join(row['name'] for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""

        def plain(_: object, __: object, value: Any) -> Any:
            return list(value) if isinstance(value, tuple) else value

        choice = None if self.choice is None else attrs.asdict(self.choice, value_serializer=plain)
        return {
            **self.about,
            "choice": choice,
            "saved": str(self.saved) if self.saved else None,
            "notes": list(self.notes),
            "variants": [{key: value for key, value in row.items() if key != "each"} for row in self.rows],
        }


def measured(row: dict[str, Any], measure: str) -> float | None:
    """The mean of the measure that the choice was made by; shares in percent."""
    if row["status"] != "done":
        return None
    if measure == "accuracy":
        return None if row["accuracy"] is None else 100 * row["accuracy"]["top1"]
    if measure == "agreement":
        return None if row["agreement"] is None else 100 * row["agreement"]
    if measure == "output SNR":
        snr = row["output_snr_db"]
        return snr if isinstance(snr, int | float) else None
    return row["metrics"].get(measure)
