"""What a sweep says beside its table, and what its choice says of each row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from milpasses_tools._sweep.choice import Choice

if TYPE_CHECKING:
    from milpasses_tools._sweep.data import Prepared
    from milpasses_tools._sweep.request import Request
    from milpasses_tools._sweep.variants import Variant


def marked(rows: Sequence[dict[str, Any]], choice: Choice | None) -> tuple[dict[str, Any], ...]:
    """The rows with what the choice says of each."""
    if choice is None:
        return tuple(rows)
    found: list[dict[str, Any]] = []
    for row in rows:
        loss = choice.losses.get(row["name"])
        marks = {
            "loss": None if loss is None else attrs.asdict(loss),
            "front": row["name"] in choice.front,
            "chosen": row["name"] == choice.chosen,
        }
        found.append({**row, **marks})
    return tuple(found)


def notes_of(data: "Prepared", rows: Sequence[dict[str, Any]], choice: Choice | None) -> tuple[str, ...]:
    """What the table does not say."""
    notes: list[str] = []
    if choice is None:
        notes.append(
            "nothing is chosen: the outputs are no class scores, and no metric was given (metrics=); the "
            "table still says what each variant costs"
        )
    if data.skipped:
        which = data.skipped[0]
        files = "file" if len(data.skipped) == 1 else "files"
        notes.append(f"{len(data.skipped):,} {files} could not be read, left out; {which.reason}")
    if data.random:
        notes.append("the data is random: it says little about real data")
    if data.labelled < len(data.measured) and data.labelled:
        notes.append(f"{len(data.measured) - data.labelled:,} samples have no label")
    failed = [row["name"] for row in rows if row["status"] == "failed"]
    if failed:
        notes.append(f"failed, and tried again with resume=True: {', '.join(failed)}")
    broken = {name: text for row in rows for name, text in row.get("metric_errors", {}).items()}
    notes += [
        f"metric {name} failed, its column is empty where it did: {text}" for name, text in broken.items()
    ]
    return tuple(notes)


def about_sweep(
    request: "Request", data: "Prepared", variants: "Sequence[Variant]", base: str
) -> dict[str, Any]:
    """What was measured, of what, and how: for the page and for JSON."""
    from milpasses import __version__
    from milpasses_tools._compare.comparison import NOTES

    return {
        "milpasses": __version__,
        "model": str(request.model),
        "data": data.description,
        "samples": len(data.measured),
        "labelled": data.labelled,
        "calibration": len(data.calibration),
        "skipped": len(data.skipped),
        "seed": request.seed,
        "limit": str(request.limit),
        "computed": NOTES[request.runtime],
        "key": base,
        "count": len(variants),
    }
