"""Which op of one program is which op of another."""

from collections.abc import Iterator
from typing import Any, Literal

import attrs
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses.program.weights import is_constant

_TRANSPARENT = ("cast", "identity")  # models of different precision differ in them


@attrs.frozen(eq=False)
class Pair:
    """An op of a and its counterpart in b."""

    a: Any
    b: Any
    how: Literal["name", "structure"]


@attrs.frozen(eq=False)
class Matching:
    """The pairs in the order of a, and the ops without a partner. Constants and casts are left out."""

    pairs: list[Pair]
    unmatched_a: list[Any]
    unmatched_b: list[Any]


def source(var: Any) -> Any:
    """The variable that ``var`` is, but for casts."""
    while var.op is not None and var.op.op_type in _TRANSPARENT and not is_constant(var.op.inputs["x"]):
        var = var.op.inputs["x"]
    return var


def live_inputs(op: Any) -> dict[tuple[str, int], Any]:
    """The inputs of ``op`` that a run computes, by parameter and position, seen through casts."""
    found: dict[tuple[str, int], Any] = {}
    for param, bound in op.inputs.items():
        if bound is None or param.startswith("_"):
            continue
        for index, var in enumerate(bound if isinstance(bound, list | tuple) else [bound]):
            if not is_constant(var):
                found[param, index] = source(var)
    return found


def match(a: Any, b: Any) -> Matching:
    """Pair the ops of two functions.

    Ops of the same type and output shapes are a pair if they have the same name, and nothing is known against
    it: inputs that belong to other pairs. A name with a number in it may have moved, so that it gives way to
    an op whose inputs are all known to be the same. So does the name of an op that the other program lacks,
    unless that op has a namesake of its own with the same inputs.
    """
    return _Matcher(a, b).run()


class _Matcher:
    def __init__(self, a: Any, b: Any) -> None:
        self.ops_a, self.ops_b = list(_walk(a)), list(_walk(b))
        self.names_a = {op.name: op for op in self.ops_a}
        self.names_b = {op.name: op for op in self.ops_b}
        self.users_b: dict[Any, list[Any]] = {}  # variable of b -> ops
        for op in self.ops_b:
            for var in dict.fromkeys(live_inputs(op).values()):
                self.users_b.setdefault(var, []).append(op)
        self.a_to_b: dict[Any, Any] = {}  # variables
        self.b_to_a: dict[Any, Any] = {}
        self.taken: set[Any] = set()  # ops of b
        self.done: set[Any] = set()  # ops of a that were looked at
        for name in a.inputs.keys() & b.inputs.keys():
            self._pair_vars(a.inputs[name], b.inputs[name])

    def run(self) -> Matching:
        pairs: list[Pair] = []
        for op in self.ops_a:
            pair = self._partner(op)
            self.done.add(op)
            if pair is not None:
                pairs.append(pair)
                self._take(pair)
        found = {pair.a for pair in pairs}
        lost_a = [op for op in self.ops_a if op not in found]
        return Matching(pairs, lost_a, [op for op in self.ops_b if op not in self.taken])

    def _partner(self, op: Any) -> Pair | None:
        namesake = self.names_b.get(op.name)
        agree = None
        if namesake is not None:
            agree = self._agree(op, namesake)
            if namesake in self.taken or not _alike(op, namesake) or agree is False:
                namesake = None
        if namesake is not None and (agree or not any(map(str.isdigit, op.name))):
            return Pair(op, namesake, "name")
        other = self._by_structure(op)
        if other is not None:
            return Pair(op, other, "name" if other is namesake else "structure")
        return None if namesake is None else Pair(op, namesake, "name")

    def _by_structure(self, op: Any) -> Any:
        """The first op of b with the same inputs that does not wait for a namesake with the same inputs."""
        known = next((self.a_to_b[var] for var in live_inputs(op).values() if var in self.a_to_b), None)
        for other in self.users_b.get(known, []):
            if other in self.taken or not _alike(op, other) or not self._agree(op, other):
                continue
            namesake = self.names_a.get(other.name)
            waits = namesake is not None and namesake not in self.done and namesake is not op
            if not waits or not _alike(namesake, other) or not self._agree(namesake, other):
                return other
        return None

    def _agree(self, op: Any, other: Any) -> bool | None:
        """The inputs are the same (True), or those of other pairs (False); None: not known, or no input."""
        inputs, others = live_inputs(op), live_inputs(other)
        answer: bool | None = bool(inputs) or None
        for key in inputs.keys() | others.keys():
            mine, theirs = inputs.get(key), others.get(key)
            if mine is None or theirs is None:
                answer = None
            elif self.b_to_a.get(theirs) is not mine:
                if theirs in self.b_to_a and mine in self.a_to_b:
                    return False
                answer = None
        return answer

    def _take(self, pair: Pair) -> None:
        self.taken.add(pair.b)
        for mine, theirs in zip(pair.a.outputs, pair.b.outputs, strict=True):
            self._pair_vars(mine, theirs)
        for block, other in zip(pair.a.blocks, pair.b.blocks, strict=False):
            for mine, theirs in zip(block.inputs, other.inputs, strict=False):
                self._pair_vars(mine, theirs)

    def _pair_vars(self, mine: Any, theirs: Any) -> None:
        self.a_to_b[mine] = theirs
        self.b_to_a[theirs] = mine


def _walk(block: Any) -> Iterator[Any]:
    """The ops of a block, each before those inside it."""
    for op in block.operations:
        if op.op_type == "const" or op.op_type.startswith("constexpr_") or op.op_type in _TRANSPARENT:
            continue
        yield op
        for nested in op.blocks:
            yield from _walk(nested)


def _alike(op: Any, other: Any) -> bool:
    """The same type, and as many outputs of the same shapes."""
    return op.op_type == other.op_type and _shapes(op) == _shapes(other)


def _shapes(op: Any) -> list[Any]:
    return [
        tuple(None if is_symbolic(size) else int(size) for size in getattr(var, "shape", None) or ())
        for var in op.outputs
    ]
