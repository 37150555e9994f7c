"""A program for Google's Model Explorer: a graph collection, and node data to colour the weights by.

The JSON is what ``model_explorer.graph_builder`` and ``node_data_builder`` (package ai-edge-model-explorer)
describe; neither is needed to write it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from milpasses_tools._output import sqnr_text
from milpasses_tools._view.graph import Block, Constant, Function, GraphView, Op, Variable, Weight
from milpasses_tools._view.select import EVERYTHING, Selection
from milpasses_tools._view.text import operands_text

_COLORS = ((1.5, "#6baed6"), (2.5, "#74c8c0"), (4.5, "#8fd694"), (6.5, "#c8e08a"), (9, "#f5d76e"))
_DENSE = "#f2a65e"
_GRADIENT = ({"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#2f7fc1"})
_REVERSED = ({"stop": 0, "bgColor": "#d9534f"}, {"stop": 1, "bgColor": "#ffffff"})
MEASURES = {"bits": "bits a weight", "bytes": "stored bytes", "sqnr": "SQNR in dB"}


def graph_collection(view: GraphView, selection: Selection = EVERYTHING) -> dict[str, Any]:
    """The program as a ``GraphCollection``: a graph for each function, nested blocks as layers."""
    graphs = [_Graph(function, selection).graph() for function in view.functions]
    return {"label": Path(view.source).name, "graphs": graphs}


def node_data(collection: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``bits``, ``bytes`` and ``sqnr`` of the weights of ``graph_collection``, each as ``ModelNodeData``.

    A weight of which no error is known, or that lost nothing, has no ``sqnr``.
    """
    found: dict[str, dict[str, Any]] = {}
    for measure, title in MEASURES.items():
        gradient = _REVERSED if measure == "sqnr" else _GRADIENT
        graphs: dict[str, Any] = {}
        for graph in collection["graphs"]:
            values = {node["id"]: _number(node, title) for node in graph["nodes"]}
            results = {key: {"value": value} for key, value in values.items() if value is not None}
            graphs[graph["id"]] = {"name": title, "results": results, "gradient": list(gradient)}
        found[measure] = graphs
    return found


def _number(node: dict[str, Any], title: str) -> float | None:
    text = next((attr["value"] for attr in node["attrs"] if attr["key"] == title), "exact")
    return None if text == "exact" else float(text)


@attrs.define
class _Graph:
    """One function: its nodes in program order, and which of them gives each variable."""

    function: Function
    selection: Selection
    nodes: list[dict[str, Any]] = attrs.field(factory=list)
    sources: dict[str, tuple[str, str]] = attrs.field(factory=dict)  # variable -> node, its output
    ids: set[str] = attrs.field(factory=set)

    def graph(self) -> dict[str, Any]:
        block = self.function.block
        self.block(block, "")
        target = {"deployment target": self.function.target}
        return {"id": self.function.name, "nodes": self.nodes, "groupNodeAttributes": {"": target}}

    def block(self, block: Block, namespace: str) -> None:
        """The nodes of a block; its own inputs and outputs are nodes as well."""
        for variable in block.inputs:
            node = self.node(f"{namespace}/{variable.name}" if namespace else variable.name, "input")
            self.add(node, namespace, (variable,))
        for op in block.ops:
            if self.selection.reaches(op):
                self.op(op, namespace)
        for index, name in enumerate(block.outputs):
            node = self.node(f"{namespace}/output {index}" if namespace else f"output {index}", "output")
            node["incomingEdges"] = list(self.edges([("", name)]))
            node["attrs"] = _attrs({"variable": name})
            self.add(node, namespace, ())

    def op(self, op: Op, namespace: str) -> None:
        # Model Explorer hides nodes labelled const.
        node = self.node(op.name or op.type, "dense weight" if op.type == "const" else op.type)
        given = [(param, one) for param, operands in op.inputs.items() for one in operands]
        constants = {
            param: operands_text(operands)
            for param, operands in op.inputs.items()
            if any(isinstance(one, Constant) for one in operands)
        }
        node["attrs"] = _attrs({"name": op.name, **constants, **_facts(op.weight)})
        node["incomingEdges"] = list(self.edges([(p, one) for p, one in given if isinstance(one, str)]))
        node["inputsMetadata"] = [
            {"id": str(index), "attrs": _attrs({"__tensor_tag": param})}
            for index, (param, one) in enumerate(given)
            if isinstance(one, str)
        ]
        if op.weight is not None:
            node["style"] = {"backgroundColor": _color(op.weight)}
        self.add(node, namespace, op.outputs)
        for index, block in enumerate(op.blocks):
            inside = f"{op.name} block {index}" if len(op.blocks) > 1 else f"{op.name} block"
            self.block(block, f"{namespace}/{inside}" if namespace else inside)

    def node(self, name: str, label: str) -> dict[str, Any]:
        unique, count = name, 1
        while unique in self.ids:
            count += 1
            unique = f"{name} ({count})"
        self.ids.add(unique)
        return {"id": unique, "label": label, "attrs": [], "incomingEdges": []}

    def add(self, node: dict[str, Any], namespace: str, outputs: tuple[Variable, ...]) -> None:
        node["namespace"] = namespace
        node["outputsMetadata"] = [
            {
                "id": str(index),
                "attrs": _attrs({"tensor_name": variable.name, "tensor_shape": variable.type}),
            }
            for index, variable in enumerate(outputs)
        ]
        for index, variable in enumerate(outputs):
            self.sources[variable.name] = (node["id"], str(index))
        self.nodes.append(node)

    def edges(self, given: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
        for index, (_, name) in enumerate(given):
            if name in self.sources:  # not where a selection leaves the producer out
                source, output = self.sources[name]
                yield {
                    "sourceNodeId": source,
                    "sourceNodeOutputId": output,
                    "targetNodeInputId": str(index),
                }


def _facts(weight: Weight | None) -> dict[str, str]:
    if weight is None:
        return {}
    facts = {
        "form": weight.form,
        MEASURES["bits"]: f"{weight.bits:.4g}",
        MEASURES["bytes"]: str(weight.nbytes),
    }
    error = sqnr_text(weight.sqnr_db)
    return facts if error is None else {**facts, MEASURES["sqnr"]: error}


def _color(weight: Weight) -> str:
    return next((color for limit, color in _COLORS if weight.bits <= limit), _DENSE)


def _attrs(content: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in content.items()]
