"""The files of a sweep: CSV, JSON lines, one page that opens offline, a picture."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import attrs

from milpasses.program.files import write_json, write_text
from milpasses.program.publish import remove
from milpasses_tools._sweep.result import Sweep, measured

PICTURE = "front.png"
_TEMPLATE = Path(__file__).with_name("page.html")
_COLUMNS = (
    "variant", "status", "bytes", "times_smaller", "bits_per_weight", "weight_bytes", "weight_sqnr_db",
    "worst_weight_sqnr_db", "output_snr_db", "agreement", "samples", "accuracy", "top_k_accuracy",
    "loss", "loss_low", "loss_high", "front", "chosen", "seconds_compress", "seconds_run", "recipe", "error",
)  # fmt: skip


def write_results(found: Sweep, folder: Path) -> list[str]:
    """Write everything into ``folder``; what could not be made, as sentences."""
    write_text(folder / "results.csv", to_csv(found), force=True)
    write_text(folder / "results.jsonl", "".join(f"{_line(row)}\n" for row in found.rows), force=True)
    write_text(folder / "report.html", to_html(found), force=True)
    write_json(folder / "sweep.json", {"status": "finished", **found.to_dict()}, force=True)
    try:
        from milpasses_tools._sweep.plot import draw
    except ImportError:
        remove(folder / PICTURE)
        return ["no front.png: a picture needs matplotlib: pip install 'milpasses[plots]'"]
    if found.choice is None:
        remove(folder / PICTURE)
    else:
        draw(found, folder / PICTURE)
    return []


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def classes_of(found: Sweep) -> list[str]:
    """The classes that accuracy was measured on, in the model's order."""
    accuracy = found.rows[0]["accuracy"]
    return [] if accuracy is None else [str(one["label"]) for one in accuracy["classes"]]


def flat_rows(found: Sweep) -> list[dict[str, Any]]:
    """A flat dictionary for each variant, all with the same keys: ``class NAME`` and ``metric NAME`` too."""
    classes = classes_of(found)
    metrics = list(found.rows[0].get("metrics", {}))
    rows: list[dict[str, Any]] = []
    for row in found.rows:
        accuracy: dict[str, Any] = row.get("accuracy") or {}
        loss: dict[str, Any] = row.get("loss") or {}
        by_class = {str(one["label"]): one["top1"] for one in accuracy.get("classes", [])}
        measured: dict[str, Any] = row.get("metrics", {})
        flat = {column: row.get(column) for column in _COLUMNS}
        flat |= {
            "variant": row["name"],
            "recipe": row["text"],
            "times_smaller": found.rows[0]["bytes"] / row["bytes"] if "bytes" in row else None,
            "samples": found.about["samples"],
            "accuracy": accuracy.get("top1"),
            "top_k_accuracy": accuracy.get("top_k"),
            "loss": loss.get("loss"),
            "loss_low": loss.get("low"),
            "loss_high": loss.get("high"),
        }
        flat |= {f"class {name}": by_class.get(name) for name in classes}
        rows.append(flat | {f"metric {name}": measured.get(name) for name in metrics})
    return rows


def to_csv(found: Sweep) -> str:
    """``flat_rows`` as CSV with a header; numbers as Python writes them."""
    rows = flat_rows(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_html(found: Sweep) -> str:
    """The page: the template with the results as JSON inside; it loads nothing from anywhere."""
    choice = found.choice
    content = {
        "about": found.about,
        "model": Path(found.about["model"]).name,
        "choice": None if choice is None else {**attrs.asdict(choice), "limit": str(choice.limit)},
        "saved": None if found.saved is None else found.saved.name,
        "notes": found.notes,
        "classes": classes_of(found),
        "counts": [one["count"] for one in (found.rows[0]["accuracy"] or {"classes": []})["classes"]],
        "variants": [{key: value for key, value in row.items() if key != "each"} for row in found.rows],
        "means": {row["name"]: measured(row, choice.measure) for row in found.rows} if choice else {},
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # In a script element only this sequence could end the data.
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text.replace("<", "\\u003c"))
