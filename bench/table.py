"""Rows of measurements, as Markdown and JSON."""

import json
from pathlib import Path
from typing import Any

import attrs


@attrs.define
class Table:
    """One table: a title, what it says, and rows of equal keys."""

    title: str
    note: str
    rows: list[dict[str, Any]] = attrs.field(factory=list)

    def add(self, **row: Any) -> None:
        """Append a row and print it, so that a long run shows where it is."""
        self.rows.append(row)
        print("  " + "  ".join(f"{key}={_text(value)}" for key, value in row.items()), flush=True)

    def markdown(self) -> str:
        """The table in Markdown."""
        if not self.rows:
            return f"## {self.title}\n\n{self.note}\n"
        keys = list(self.rows[0])
        lines = [
            f"## {self.title}",
            "",
            self.note,
            "",
            "| " + " | ".join(keys) + " |",
            "|" + " --- |" * len(keys),
        ]
        lines += ["| " + " | ".join(_text(row.get(key, "")) for key in keys) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def write(tables: list[Table], folder: Path, machine: str) -> None:
    """``bench.md`` and ``bench.json`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# Measurements\n\n{machine}\n\n" + "\n".join(table.markdown() for table in tables)
    (folder / "bench.md").write_text(text, encoding="utf-8")
    content = {"machine": machine, "tables": [attrs.asdict(table) for table in tables]}
    (folder / "bench.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
