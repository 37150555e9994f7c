"""``milpasses dump``: a program as text, data, a graph or a page."""

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._options import Force, Model, OneFunction, OutputFile, Part
from milpasses_tools._output import json_decibels, print_written
from milpasses_tools._view.graph import Block, Constant, GraphView, Op, Variable, Weight
from milpasses_tools._view.select import EVERYTHING, Selection, Show, select
from milpasses_tools._view.text import operands_text, text_lines
from milpasses_tools._view.view import view

if TYPE_CHECKING:
    import os

    from coremltools.converters.mil.mil import Program
    from coremltools.models import MLModel


class Format(str, Enum):
    """How a program is written."""

    TEXT = "text"
    JSON = "json"
    DOT = "dot"
    HTML = "html"
    MODEL_EXPLORER = "model-explorer"


def dump(
    model: "str | os.PathLike[str] | MLModel | Program",
    format: Format | str = Format.TEXT,
    *,
    show: Show | str = Show.ALL,
    only_ops: "tuple[str, ...] | list[str]" = (),
    around_op: str | None = None,
    radius: int = 2,
    passes: bool = False,
    part: str | None = None,
    function: str | None = None,
    original: "str | os.PathLike[str] | MLModel | Program | None" = None,
) -> str:
    """Write a program as ``text`` that reads like MIL, as ``json``, ``dot`` or one ``html`` page.

    ``model`` is the path of an ``.mlpackage``, an ``MLModel``, or a coremltools ``Program`` at any point of a
    conversion; it is not changed. Small constants stand at their uses; weights are summed up: form, bits an
    element, bytes, and what compression cost them where the model's report tells. The same model gives the
    same text.

    ``show`` is ``all``, ``weights``, ``ops`` (no weights) or ``inputs``. ``only_ops`` are op types, or globs
    of types or names. ``around_op`` shows what is within ``radius`` edges of an op. ``passes`` adds to the
    text the graph passes that made each op, which a program in memory remembers. ``part``: of a pipeline,
    this one alone; ``function``: of several functions. ``original``, the model before it was compressed,
    shows on the page what values each weight had. ``model-explorer`` is a graph
    collection in the JSON that Google's Model Explorer opens. Raises ``MilpassesError``.
    """
    kind = Format(format)
    _check_original(original, kind)
    found = view(model, part, function)
    selection = select(found, Show(show), only_ops, around_op, radius)
    if kind is Format.HTML:
        from milpasses_tools._view.html import page

        return page(found, selection, model, original) + "\n"
    return "".join(f"{line}\n" for line in _lines(found, kind, selection, passes))


def _check_original(original: Any, kind: Format) -> None:
    if original is not None and kind is not Format.HTML:
        from milpasses.errors import MilpassesError

        raise MilpassesError(f"original= is for the format html, not {kind.value}")


def _lines(found: GraphView, kind: Format, selection: Selection, passes: bool) -> Iterator[str]:
    if kind is Format.TEXT:
        return text_lines(found, selection, passes)
    if kind is Format.JSON:
        content = to_dict(found, selection)
        return iter([json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)])
    if kind is Format.DOT:
        from milpasses_tools._view.dot import dot_lines

        return dot_lines(found, selection)
    from milpasses_tools._view.model_explorer import graph_collection

    return iter([json.dumps(graph_collection(found, selection), indent=1, ensure_ascii=False)])


def to_dict(found: GraphView, selection: Selection = EVERYTHING) -> dict[str, Any]:
    """The program as plain values for JSON: functions, nested blocks, ops, weights."""

    def op_dict(op: Op) -> dict[str, Any] | None:
        if not selection.reaches(op):
            return None
        content: dict[str, Any] = {
            "type": op.type,
            "name": op.name,
            "inputs": {param: _operands(operands) for param, operands in op.inputs.items()},
            "outputs": _variables(op.outputs),
        }
        if op.blocks:
            content["blocks"] = [block_dict(block) for block in op.blocks]
        if op.weight is not None:
            content["weight"] = weight_dict(op.weight)
        if op.passes:
            content["passes"] = list(op.passes)
        return content

    def block_dict(block: Block) -> dict[str, Any]:
        ops = [content for content in map(op_dict, block.ops) if content is not None]
        return {"inputs": _variables(block.inputs), "ops": ops, "outputs": list(block.outputs)}

    return {
        "model": found.source,
        "features": found.features,
        "functions": [
            {"name": function.name, "target": function.target, **block_dict(function.block)}
            for function in found.functions
        ],
    }


def weight_dict(weight: Weight) -> dict[str, Any]:
    """What is known of a weight, as plain values for JSON."""
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "dtype": weight.dtype,
        "form": weight.form,
        "bits": round(weight.bits, 4),
        "nbytes": weight.nbytes,
        "sqnr_db": json_decibels(weight.sqnr_db),
    }


def _variables(variables: tuple[Variable, ...]) -> list[dict[str, str]]:
    return [{"name": variable.name, "type": variable.type} for variable in variables]


def _operands(operands: Any) -> list[str]:
    """Variables as ``%name``, constants as their text."""
    return [one.text if isinstance(one, Constant) else operands_text([one]) for one in operands]


def command(
    model: Model,
    format: Annotated[Format, typer.Option("--format", help="How to write the program.")] = Format.TEXT,
    show: Annotated[
        Show, typer.Option(help="All of it, or only weights, other ops, inputs and outputs.")
    ] = Show.ALL,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE_OR_GLOB", help="Only ops of this type, or whose type or name matches."),
    ] = None,
    around: Annotated[
        str | None, typer.Option(metavar="OP", help="Only the neighbourhood of the op of this name.")
    ] = None,
    radius: Annotated[int, typer.Option(metavar="N", min=0, help="How many edges --around reaches.")] = 2,
    part: Part = None,
    function: OneFunction = None,
    original: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="With html: the model before compression, for its histograms."),
    ] = None,
    output: OutputFile = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show the program inside a model.

    The text reads like MIL: one op a line, nested blocks indented, weights summed up. Two runs give the same
    text, so it can be kept and compared.

    \b
    milpasses dump model.mlpackage --show ops
    milpasses dump model.mlpackage --only conv --only '*attention*'
    milpasses dump model.mlpackage --around conv1 --radius 1
    milpasses dump small.mlpackage --format html --original model.mlpackage -o small.html
    milpasses dump small.mlpackage --format model-explorer -o small.json

    The last also writes small.bits.json, small.bytes.json and small.sqnr.json, the node data that
    Model Explorer colours the weights by.
    """
    from milpasses.program.files import check_files, write_text

    format = Format.JSON if as_json else format
    beside: dict[str, Path] = {}
    if output is not None and format is Format.MODEL_EXPLORER:
        from milpasses_tools._view.model_explorer import MEASURES

        beside = {name: output.parent / f"{output.stem}.{name}.json" for name in MEASURES}
    check_files([output, *beside.values()], force, (model, original))
    text = dump(
        model,
        format,
        show=show,
        only_ops=only or (),
        around_op=around,
        radius=radius,
        part=part,
        function=function,
        original=original,
    )
    if output is None:
        print(text, end="")
        return
    write_text(output, text, force)
    print_written(output, *beside.values())
    if beside:
        from milpasses_tools._view.model_explorer import node_data

        for measure, content in node_data(json.loads(text)).items():
            write_text(beside[measure], json.dumps(content, indent=1) + "\n", force)
