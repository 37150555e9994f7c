"""A sensitivity table as one page that opens offline: sortable, with bytes, coloured by what is lost."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpasses_tools._sensitivity.order import by_sensitivity, decibels

if TYPE_CHECKING:
    from milpasses.budget import Option, Sensitivity, WeightOptions

_TEMPLATE = Path(__file__).with_name("page.html")


def page(table: "Sensitivity", title: str, how: str) -> str:
    """The page: the template with the table as JSON inside; it loads nothing from anywhere."""
    weights = [one for one in by_sensitivity(table) if not one.pinned]
    nbytes = sum(one.nbytes for one in weights)
    headline = [(f"{len(weights):,}", "weights"), (f"{nbytes:,}", "bytes")]
    if weights:
        headline.append((weights[0].name, "most sensitive"))
    content = {
        "title": f"Sensitivity of {title}",
        "how": f"How: {how}.",
        "headline": headline,
        "candidates": list(table.candidates),
        "weights": [_weight(one, table.candidates) for one in weights],
        "totals": [_total(weights, scheme) for scheme in table.candidates],
        "bytes": nbytes,
        "notes": [*([f"data: {table.data}"] if table.data else []), *table.notes],
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # In a script element only this sequence could end the data.
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text.replace("<", "\\u003c"))


def _weight(weight: "WeightOptions", candidates: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": "x".join(map(str, weight.shape)),
        "size": weight.size,
        "bytes": weight.nbytes,
        "options": [_option(weight, weight.option(scheme)) for scheme in candidates],
    }


def _option(weight: "WeightOptions", option: "Option | None") -> dict[str, Any] | None:
    if option is None:
        return None
    saved = weight.nbytes - option.nbytes
    return {"db": decibels(option.output_error), "bytes": option.nbytes, "saved": saved}


def _total(weights: "list[WeightOptions]", scheme: str) -> dict[str, Any]:
    """What a candidate would do for all weights that have it."""
    options = [(one, option) for one in weights if (option := one.option(scheme)) is not None]
    return {
        "db": decibels(sum(option.output_error for _, option in options)),
        "saved": sum(one.nbytes - option.nbytes for one, option in options),
    }
