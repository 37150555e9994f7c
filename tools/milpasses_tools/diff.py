"""``milpasses diff``: what two programs have different, structure first, then attributes, then weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import typer

from milpasses_tools._options import Force, Json, OneFunction, OutputFile, Part
from milpasses_tools._output import json_decibels, print_json, printed_to, shape_text, sqnr_text
from milpasses_tools._pairs import Pair, Pairs, pair_ops
from milpasses_tools._view.graph import Constant, Function, GraphView, Op, Operand, Variable, Weight
from milpasses_tools._view.text import op_line, operands_text
from milpasses_tools._view.view import view

if TYPE_CHECKING:
    import os

    from coremltools.converters.mil.mil import Program
    from coremltools.models import MLModel

Kind = Literal["added", "removed", "changed", "moved"]


@attrs.frozen
class OpChange:
    """An op that only one program has, or that differs: ``details`` says in what. ``line`` is its text."""

    kind: Kind
    function: str
    name: str
    type: str
    line: str
    details: tuple[str, ...] = ()


@attrs.frozen
class WeightChange:
    """A weight that differs; a or b is None where a program lacks it.

    ``sqnr_db`` is 10 log10(sum a^2 / sum (a - b)^2) of the decoded values, infinite where they are the same,
    None where the two cannot be compared.
    """

    kind: Kind
    function: str
    name: str
    a: str | None
    b: str | None
    bits_a: float | None = None
    bits_b: float | None = None
    sqnr_db: float | None = None


@attrs.frozen
class Diff:
    """All differences of two programs. ``interface`` has those of functions, inputs, outputs and targets."""

    a: str
    b: str
    interface: tuple[str, ...] = ()
    ops: tuple[OpChange, ...] = ()
    weights: tuple[WeightChange, ...] = ()

    @property
    def same(self) -> bool:
        """There is no difference."""
        return not (self.interface or self.ops or self.weights)

    def of_kind(self, kind: Kind) -> tuple[OpChange, ...]:
        """The op changes of one kind."""
        return tuple(change for change in self.ops if change.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        weights = [{**attrs.asdict(one), "sqnr_db": json_decibels(one.sqnr_db)} for one in self.weights]
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "interface": list(self.interface),
            "ops": [attrs.asdict(change) for change in self.ops],
            "weights": weights,
        }

    def lines(self) -> Iterator[str]:
        """The text: ``-`` removed, ``+`` added, ``~`` changed, ``>`` moved; weights begin with ``weight``."""
        if self.same:
            return
        yield f"--- {self.a}"
        yield f"+++ {self.b}"
        for text in self.interface:
            yield f"~ {text}"
        several = len({change.function for change in (*self.ops, *self.weights)}) > 1
        for change in self.ops:
            where = f"{change.function}: " if several else ""
            if change.kind in ("added", "removed"):
                yield f"{'+' if change.kind == 'added' else '-'} {where}{change.line}"
            elif change.kind == "moved":
                yield f"> {where}{change.name} ({change.type}){': ' + '; '.join(change.details)}"
            else:
                yield f"~ {where}{change.name} ({change.type}): {'; '.join(change.details)}"
        for one in self.weights:
            sign = {"added": "+", "removed": "-"}.get(one.kind, "~")
            sqnr = sqnr_text(one.sqnr_db)
            error = "" if sqnr is None else ", same values" if sqnr == "exact" else f", {sqnr} dB"
            forms = " -> ".join(dict.fromkeys(text for text in (one.a, one.b) if text is not None))
            yield f"{sign} weight {f'{one.function}: ' if several else ''}{one.name}: {forms}{error}"
        counts = ", ".join(
            f"{len(self.of_kind(kind)):,} {kind}" for kind in ("added", "removed", "changed", "moved")
        )
        yield f"# ops: {counts}; weights: {len(self.weights):,} differ"


def diff(
    a: "str | os.PathLike[str] | MLModel | Program",
    b: "str | os.PathLike[str] | MLModel | Program",
    *,
    part: str | None = None,
    function: str | None = None,
) -> Diff:
    """Say what is different in program b, against program a.

    Ops are matched by name, then by structure. A weight is compared by its form and its decoded values, so a
    weight that was compressed is a changed weight, and the op that uses it is not changed. Each model is what
    ``dump`` takes. Of pipelines each part is compared with that of its name, or ``part`` alone; of parts that
    are no programs only whether they are the same. ``function``: of several functions, this one alone.
    Raises ``MilpassesError``.
    """
    first, second = view(a, part, function), view(b, part, function)
    functions_a = {function.name: function for function in first.functions}
    functions_b = {function.name: function for function in second.functions}
    interface = [f"function {name} is removed" for name in functions_a.keys() - functions_b.keys()]
    interface += [f"function {name} is added" for name in functions_b.keys() - functions_a.keys()]
    interface.sort()
    interface += _features(first, second)
    if part is None:
        interface += other_parts(a, b)
    ops: list[OpChange] = []
    weights: list[WeightChange] = []
    for name in functions_a:
        if name in functions_b:
            found = PairedFunctions(functions_a[name], functions_b[name])
            interface += found.interface()
            ops += found.ops()
            weights += found.weights()
    return Diff(first.source, second.source, tuple(interface), tuple(ops), tuple(weights))


def other_parts(a: Any, b: Any) -> list[str]:
    """What is different in the parts of two pipelines that are no programs, and which are not in both."""
    from coremltools.converters.mil.mil import Program

    from milpasses_tools._models import open_whole

    if isinstance(a, Program) or isinstance(b, Program):
        return []
    whole = [open_whole(model) for model in (a, b)]
    first, second = ({} if one is None else {leaf.name: leaf for leaf in one.leaves()} for one in whole)
    found: list[str] = []
    for name in dict.fromkeys((*first, *second)):
        mine, theirs = first.get(name), second.get(name)
        if mine is None or theirs is None:
            one = mine or theirs
            assert one is not None
            found.append(f"part {name} ({one.kind}) is {'added' if mine is None else 'removed'}")
        elif mine.kind != theirs.kind:
            found.append(f"part {name}: {mine.kind} -> {theirs.kind}")
        elif mine.program is None and mine.spec != theirs.spec:
            found.append(f"part {name} ({mine.kind}) differs")
    return found


def _features(a: GraphView, b: GraphView) -> Iterator[str]:
    if not a.features or not b.features:  # a program in memory has no description
        return
    for name in dict.fromkeys((*a.features, *b.features)):
        mine, theirs = a.features.get(name), b.features.get(name)
        if mine != theirs:
            yield f"{name}: {mine or 'none'} -> {theirs or 'none'}"


class PairedFunctions:
    """Two functions of one name, with their weights and ops paired."""

    def __init__(self, a: Function, b: Function) -> None:
        self.a, self.b = a, b
        self.weights_a, self.weights_b = _weights(a), _weights(b)
        by_name = {weight.name: name for name, weight in self.weights_b.items()}
        self.same_weight = {
            name: by_name[weight.name] for name, weight in self.weights_a.items() if weight.name in by_name
        }
        self.found: Pairs = pair_ops(a.block, b.block, self.same_weight)
        for pair in self.found.pairs:  # a weight of another name at the same place is the same weight
            for mine, theirs in _operands(pair):
                if isinstance(mine, str) and isinstance(theirs, str) and mine in self.weights_a:
                    free = theirs in self.weights_b and theirs not in self.same_weight.values()
                    if free and mine not in self.same_weight:
                        self.same_weight[mine] = theirs
                        self.found.variables[mine] = theirs

    def interface(self) -> Iterator[str]:
        name = self.a.name
        if self.a.target != self.b.target:
            yield f"{name}: target {self.a.target} -> {self.b.target}"
        if self.a.block.inputs != self.b.block.inputs:
            yield f"{name}: inputs {_types(self.a.block.inputs)} -> {_types(self.b.block.inputs)}"
        if self._translated(self.a.block.outputs) != self.b.block.outputs:
            yield f"{name}: returns {', '.join(self.a.block.outputs)} -> {', '.join(self.b.block.outputs)}"

    def ops(self) -> Iterator[OpChange]:
        for one in self.found.removed:
            yield self._change("removed", one.op)
        for one in self.found.added:
            yield self._change("added", one.op)
        for pair in self.found.pairs:
            details = tuple(self._details(pair.a.op, pair.b.op))
            if details:
                yield self._change("changed", pair.a.op, details)
        for pair in self.found.moved():
            yield self._change("moved", pair.a.op, (_moved_text(pair),))

    def weights(self) -> Iterator[WeightChange]:
        for name, weight in self.weights_a.items():
            if name not in self.same_weight:
                yield WeightChange("removed", self.a.name, weight.name, _form(weight), None, weight.bits)
                continue
            change = _compare(self.a.name, weight, self.weights_b[self.same_weight[name]])
            if change is not None:
                yield change
        known = set(self.same_weight.values())
        for name, weight in self.weights_b.items():
            if name not in known:
                yield WeightChange("added", self.b.name, weight.name, None, _form(weight), None, weight.bits)

    def _change(self, kind: Kind, op: Op, details: tuple[str, ...] = ()) -> OpChange:
        return OpChange(kind, self.a.name, op.name, op.type, op_line(op), details)

    def _translated(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.found.variables.get(name, "") for name in names)

    def _details(self, a: Op, b: Op) -> Iterator[str]:
        if a.type != b.type:
            yield f"type {a.type} -> {b.type}"
        if a.name != b.name:
            yield f"name {a.name} -> {b.name}"
        for param in dict.fromkeys((*a.inputs, *b.inputs)):
            mine, theirs = a.inputs.get(param), b.inputs.get(param)
            if mine is None or theirs is None or not self._equal(mine, theirs):
                texts = ["none" if one is None else operands_text(one) for one in (mine, theirs)]
                yield f"{param} {' -> '.join(texts)}"
        if [one.type for one in a.outputs] != [one.type for one in b.outputs]:
            yield f"gives {_types(a.outputs)} -> {_types(b.outputs)}"
        if len(a.blocks) != len(b.blocks):
            yield f"{len(a.blocks)} blocks -> {len(b.blocks)}"
        for index, (mine, theirs) in enumerate(zip(a.blocks, b.blocks, strict=False)):
            if self._translated(mine.outputs) != theirs.outputs:
                yield f"block {index} returns {', '.join(mine.outputs)} -> {', '.join(theirs.outputs)}"

    def _equal(self, mine: tuple[Operand, ...], theirs: tuple[Operand, ...]) -> bool:
        if len(mine) != len(theirs):
            return False
        for one, other in zip(mine, theirs, strict=True):
            if isinstance(one, Constant) and isinstance(other, Constant):
                if not _same_constant(one, other):
                    return False
            elif isinstance(one, Constant) or self.found.variables.get(one) != other:
                return False
        return True


def _operands(pair: Pair) -> Iterator[tuple[Operand, Operand]]:
    for param, operands in pair.a.op.inputs.items():
        yield from zip(operands, pair.b.op.inputs.get(param, ()), strict=False)


def _weights(function: Function) -> dict[str, Weight]:
    """The weights by their variables."""
    return {op.outputs[0].name: op.weight for op in function.block.walk() if op.weight is not None}


def _same_constant(a: Constant, b: Constant) -> bool:
    if a.type != b.type or a.text != b.text:
        return False
    if not a.text.startswith("<"):
        return True
    return same_values(a.load(), b.load())


def same_values(a: Any, b: Any) -> bool:
    """The same bytes; a list or a text: equal."""
    import numpy as np

    if (
        not isinstance(a, np.ndarray)
        or not isinstance(b, np.ndarray)
        or a.dtype.hasobject
        or b.dtype.hasobject
    ):
        return bool(np.array_equal(a, b))
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (np.ascontiguousarray(one).reshape(-1).view(np.uint8) for one in (a, b))
    return np.array_equal(first, second)


def _compare(function: str, a: Weight, b: Weight) -> WeightChange | None:
    first, second = a.load(), b.load()
    same = first.shape == second.shape and same_values(first, second)
    if same and (a.form, a.nbytes) == (b.form, b.nbytes):
        return None
    sqnr: float | None = float("inf") if same else None
    floats = {"float16", "float32"}
    if not same and first.shape == second.shape and {first.dtype.name, second.dtype.name} <= floats:
        from milpasses.encoding.verify import decoding_errors

        sqnr = decoding_errors(first, second)["sqnr_db"]
    return WeightChange("changed", function, a.name, _form(a), _form(b), a.bits, b.bits, sqnr)


def _form(weight: Weight) -> str:
    return f"{shape_text(weight.shape)} {weight.form}, {weight.bits:.4g} bits"


def _types(variables: tuple[Variable, ...]) -> str:
    return ", ".join(f"{one.name}: {one.type}" for one in variables) or "none"


def _moved_text(pair: Pair) -> str:
    owners = [
        "the function" if one.owner is None else f"{one.owner.name}, block {one.block}"
        for one in (pair.a, pair.b)
    ]
    return " -> ".join(owners) if owners[0] != owners[1] else "in another order"


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model that may differ.")],
    part: Part = None,
    function: OneFunction = None,
    output: OutputFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what is different in model B, against model A.

    Structure first (ops removed -, added +, moved >), then attributes (changed ~), then weights (form, bits,
    and the error in decibels between the decoded values). Ends with status 0 if the two are the same, 1 if
    they differ, 2 if they cannot be compared.
    """
    from milpasses.program.files import check_files

    check_files([output], force, (a, b))
    found = diff(a, b, part=part, function=function)
    with printed_to(output, force):
        if as_json:
            print_json(found.to_dict())
        else:
            for line in found.lines():
                print(line)
    if not found.same:
        raise typer.Exit(1)
