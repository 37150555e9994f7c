"""A program as one page that opens offline: searchable, collapsible, with a map of the weights."""

import json
from pathlib import Path
from typing import Any

from milpasses_tools._output import json_decibels
from milpasses_tools._view.graph import Block, GraphView, Op, Weight
from milpasses_tools._view.histograms import code_usage, encodings_of, histograms, originals_of
from milpasses_tools._view.select import EVERYTHING, Selection
from milpasses_tools._view.text import op_line
from milpasses_tools._view.view import view as view_of

_TEMPLATE = Path(__file__).with_name("page.html")


def page(view: GraphView, selection: Selection = EVERYTHING, model: Any = None, original: Any = None) -> str:
    """The page: the template with the program as JSON inside; it loads nothing from anywhere.

    ``model``, where the view comes from, adds how often each code of a compressed weight is used;
    ``original``, the model before compression, the values that its weights had.
    """
    weights: list[dict[str, Any]] = []
    encodings = {} if model is None else encodings_of(model)
    originals = {} if original is None else originals_of(view, view_of(original))

    def weight_data(weight: Weight) -> dict[str, Any]:
        encoding = encodings.get(weight.name) if weight.compressed else None
        return {
            "name": weight.name,
            "shape": "x".join(map(str, weight.shape)) or "scalar",
            "form": weight.form,
            "bits": round(weight.bits, 3),
            "bytes": weight.nbytes,
            "sqnr": json_decibels(weight.sqnr_db),
            "histogram": histograms(weight, originals.get(weight.name)),
            "codes": None if encoding is None else code_usage(encoding),
        }

    def op_data(op: Op) -> dict[str, Any]:
        data: dict[str, Any] = {"text": op_line(op), "type": op.type}
        if op.blocks:
            data["blocks"] = [block_data(block) for block in op.blocks]
        if op.weight is not None:
            data["weight"] = len(weights)
            weights.append(weight_data(op.weight))
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
