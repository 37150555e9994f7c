"""A program for Graphviz: nested blocks are clusters, weights are boxes of their own."""

import json
from collections.abc import Iterator
from itertools import count

from milpasses_tools._output import sqnr_text
from milpasses_tools._view.graph import Block, Function, GraphView, Op
from milpasses_tools._view.select import EVERYTHING, Selection


def dot_lines(view: GraphView, selection: Selection = EVERYTHING) -> Iterator[str]:
    """The lines of a ``digraph``; what is not shown has neither node nor edges."""
    yield "digraph program {"
    yield '  node [shape=box, style="rounded,filled", fillcolor=white, fontname=Helvetica, fontsize=10];'
    yield "  edge [fontname=Helvetica, fontsize=8];"
    numbers = count()
    for function in view.functions:
        yield from _Writer(selection, numbers).function(function)
    yield "}"


class _Writer:
    def __init__(self, selection: Selection, numbers: "count[int]") -> None:
        self.selection, self.numbers = selection, numbers
        self.producers: dict[str, str] = {}  # variable -> node
        self.edges: list[str] = []

    def function(self, function: Function) -> Iterator[str]:
        yield from self.cluster(f"{function.name} ({function.target})", function.block, "  ", None)
        yield from self.edges

    def cluster(self, label: str, block: Block, indent: str, owner: str | None) -> Iterator[str]:
        inner = indent + "  "
        yield f"{indent}subgraph cluster_{next(self.numbers)} {{"
        yield f"{inner}label={_quoted(label)};"
        for variable in block.inputs:
            node = self._node()
            self.producers[variable.name] = node
            yield f"{inner}{node} [shape=ellipse, label={_quoted(variable.name, variable.type)}];"
        for op in block.ops:
            yield from self.op(op, inner)
        for name in block.outputs:
            if owner is None:
                node = self._node()
                yield f"{inner}{node} [shape=ellipse, label={_quoted(name)}];"
                self._edge(name, node, "")
            else:
                self._edge(name, owner, "style=dashed")
        yield f"{indent}}}"

    def op(self, op: Op, indent: str) -> Iterator[str]:
        if not self.selection.reaches(op):
            return
        node = self._node()
        yield f"{indent}{node} [label={_quoted(*_label(op))}{_style(op)}];"
        for param, operands in op.inputs.items():
            for operand in operands:
                if isinstance(operand, str):
                    self._edge(operand, node, f"label={_quoted(param)}")
        for index, block in enumerate(op.blocks):
            yield from self.cluster(f"{op.type} {op.name}, block {index}", block, indent, node)
        for variable in op.outputs:
            self.producers[variable.name] = node

    def _node(self) -> str:
        return f"n{next(self.numbers)}"

    def _edge(self, variable: str, node: str, options: str) -> None:
        producer = self.producers.get(variable)
        if producer is not None:
            self.edges.append(f"  {producer} -> {node} [{options}];")


def _label(op: Op) -> list[str]:
    lines = [op.type, op.name]
    if op.weight is None:
        lines.extend(variable.type for variable in op.outputs)
    else:
        sqnr = sqnr_text(op.weight.sqnr_db)
        lines += [op.weight.form, f"{op.weight.nbytes:,} bytes" + (f", {sqnr} dB" if sqnr else "")]
    return lines


def _style(op: Op) -> str:
    if op.weight is None:
        return ", fillcolor=lightyellow" if op.blocks else ""
    return f", shape=box, style=filled, fillcolor={'lightblue' if op.weight.compressed else 'lightgray'}"


def _quoted(*lines: str) -> str:
    return json.dumps("\n".join(lines), ensure_ascii=False)
