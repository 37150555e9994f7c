"""A program as one page that opens offline: searchable, collapsible, with a map of the weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from milpasses_tools._output import json_decibels
from milpasses_tools._select import EVERYTHING, Selection
from milpasses_tools._text import op_line
from milpasses_tools._view import Block, GraphView, Op, Weight

_TEMPLATE = Path(__file__).with_name("_page.html")
_MOST_SAMPLES = 1 << 18
_BINS = 48


def page(view: GraphView, selection: Selection = EVERYTHING) -> str:
    """The page: the template with the program as JSON inside; it loads nothing from anywhere."""
    weights: list[dict[str, Any]] = []

    def op_data(op: Op) -> dict[str, Any]:
        data: dict[str, Any] = {"text": op_line(op), "type": op.type}
        if op.blocks:
            data["blocks"] = [block_data(block) for block in op.blocks]
        if op.weight is not None:
            data["weight"] = len(weights)
            weights.append(_weight_data(op.weight))
        return data

    def block_data(block: Block) -> dict[str, Any]:
        return {
            "inputs": [f"%{variable.name}: {variable.type}" for variable in block.inputs],
            "ops": [op_data(op) for op in block.ops if selection.reaches(op)],
            "outputs": [f"%{name}" for name in block.outputs],
        }

    functions = [
        {"name": function.name, "target": function.target, **block_data(function.block)}
        for function in view.functions
    ]
    content = {"model": Path(view.source).name, "functions": functions, "weights": weights}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # In a script element only this sequence could end the data.
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text.replace("<", "\\u003c"))


def _weight_data(weight: Weight) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": "x".join(map(str, weight.shape)) or "scalar",
        "form": weight.form,
        "bits": round(weight.bits, 3),
        "bytes": weight.nbytes,
        "sqnr": json_decibels(weight.sqnr_db),
        "histogram": histogram(weight),
    }


def histogram(weight: Weight) -> dict[str, Any] | None:
    """Counts of the decoded values in equal bins, over at most 2**18 of them; None if unreadable.

    NaN and infinite values are left out.
    """
    try:
        values = np.asarray(weight.load()).reshape(-1)
    except Exception:  # a form that this code cannot decode: its place on the map stays
        return None
    values = values[:: max(1, -(-values.size // _MOST_SAMPLES))].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    counts, edges = np.histogram(values, _BINS)
    return {"counts": counts.tolist(), "low": float(f"{edges[0]:.4g}"), "high": float(f"{edges[-1]:.4g}")}
