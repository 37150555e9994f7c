"""A program as text that reads like MIL: one op a line, nested blocks indented, the same text every time."""

from collections.abc import Iterable, Iterator, Sequence

from milpasses_tools._output import sqnr_text
from milpasses_tools._view.graph import Block, Constant, Function, GraphView, Op, Operand, Variable, Weight
from milpasses_tools._view.select import EVERYTHING, Selection

_INDENT = "  "


def text_lines(view: GraphView, selection: Selection = EVERYTHING, passes: bool = False) -> Iterator[str]:
    """The lines of a program; ``passes`` adds to each op the graph passes that made it, if known."""
    writer = _Writer(selection, passes)
    for function in view.functions:
        yield from writer.function(function)
    total = sum(1 for _ in view.walk())
    weights = view.weights()
    shown = "" if writer.count == total else f"{writer.count:,} of "
    nbytes = sum(weight.nbytes for weight in weights)
    yield f"# {shown}{total:,} ops; {len(weights):,} weights, {nbytes:,} bytes"


def op_line(op: Op, end: str = "") -> str:
    """The op on one line, without what is inside its blocks; ``end`` comes before the comment, if any."""
    results = ", ".join(map(_variable, op.outputs))
    # The name is that of the (first) result, as a rule; where it is not, it is said.
    outputs = [variable.name for variable in op.outputs]
    name = "" if op.name in outputs[:1] or not op.name else f"  # name: {op.name}"
    call = f"{op.type}({', '.join(_input(*one) for one in op.inputs.items())})"
    return f"{results} = {call}{end}{name}" if results else f"{call}{end}{name}"


def weight_text(weight: Weight) -> str:
    """What is known of a weight, in a few words."""
    sqnr = sqnr_text(weight.sqnr_db)
    error = "" if sqnr is None else ", exact" if sqnr == "exact" else f", {sqnr} dB"
    return f"{weight.form}, {weight.bits:.4g} bits, {weight.nbytes:,} bytes{error}"


def operands_text(operands: Sequence[Operand]) -> str:
    """The value of one input: ``%y``, ``[1, 1]``, ``(%a, %b)``."""
    texts = [one.text if isinstance(one, Constant) else f"%{one}" for one in operands]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _input(param: str, operands: Sequence[Operand]) -> str:
    return f"{param}={operands_text(operands)}"


def _variable(variable: Variable) -> str:
    return f"%{variable.name}: {variable.type}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"%{name}" for name in names)


class _Writer:
    def __init__(self, selection: Selection, passes: bool) -> None:
        self.selection, self.passes = selection, passes
        self.count = 0

    def function(self, function: Function) -> Iterator[str]:
        lines = list(self.ops(function.block, _INDENT))
        if self.selection.ops is not None and not lines:
            return
        inputs = ", ".join(map(_variable, function.block.inputs))
        yield f"func {function.name}<{function.target}>({inputs}) {{"
        yield from lines
        yield f"{_INDENT}return {_names(function.block.outputs)}"
        yield "}"

    def block(self, block: Block, indent: str) -> Iterator[str]:
        inputs = ", ".join(map(_variable, block.inputs))
        yield f"{indent}({inputs}) {{"
        yield from self.ops(block, indent + _INDENT)
        yield f"{indent}{_INDENT}return {_names(block.outputs)}"
        yield f"{indent}}}"

    def ops(self, block: Block, indent: str) -> Iterator[str]:
        for op in block.ops:
            if not self.selection.reaches(op):
                continue
            self.count += 1
            yield f"{indent}{op_line(op, ' {' if op.blocks else '')}{self._notes(op)}"
            for nested in op.blocks:
                yield from self.block(nested, indent + _INDENT)
            if op.blocks:
                yield f"{indent}}}"

    def _notes(self, op: Op) -> str:
        notes = "" if op.weight is None else f"  # {weight_text(op.weight)}"
        if self.passes and op.passes:
            notes += f"  # made by {', '.join(op.passes)}"
        return notes
