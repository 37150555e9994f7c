"""Which op of one program is which of another: by name first, then by structure."""

from bisect import bisect_left
from collections.abc import Iterator

import attrs

from milpasses_tools._view.graph import Block, Constant, Op, Variable


@attrs.frozen(eq=False)
class OpInBlock:
    """An op and where it stands: the op around it, if any, which of that op's blocks, and its position."""

    op: Op
    owner: Op | None
    block: int
    position: int


@attrs.frozen(eq=False)
class Pair:
    """An op of a and the op of b that it is."""

    a: OpInBlock
    b: OpInBlock


@attrs.define(eq=False)
class Pairs:
    """The pairs in the order of a, what is left of each, and which variable of b each variable of a is."""

    pairs: list[Pair] = attrs.field(factory=list)
    removed: list[OpInBlock] = attrs.field(factory=list)
    added: list[OpInBlock] = attrs.field(factory=list)
    variables: dict[str, str] = attrs.field(factory=dict)

    def take(self, a: OpInBlock, b: OpInBlock) -> None:
        """Make a pair, and pairs of what the two give."""
        self.pairs.append(Pair(a, b))
        self.bind(a.op.outputs, b.op.outputs)
        for mine, theirs in zip(a.op.blocks, b.op.blocks, strict=False):
            self.bind(mine.inputs, theirs.inputs)

    def bind(self, mine: tuple[Variable, ...], theirs: tuple[Variable, ...]) -> None:
        """The variables ``mine`` are ``theirs``, one by one."""
        for one, other in zip(mine, theirs, strict=False):
            self.variables[one.name] = other.name

    def moved(self) -> list[Pair]:
        """The pairs whose ops stand in another block, or in another order than the most that do not."""
        partner = {id(pair.a.op): pair.b.op for pair in self.pairs}
        found: list[Pair] = []
        groups: dict[tuple[int, int], list[Pair]] = {}
        for pair in self.pairs:
            owner = None if pair.a.owner is None else partner.get(id(pair.a.owner))
            if (owner is not pair.b.owner) or pair.a.block != pair.b.block:
                found.append(pair)
            else:
                groups.setdefault((id(pair.a.owner), pair.a.block), []).append(pair)
        for group in groups.values():
            group.sort(key=lambda pair: pair.a.position)
            kept = _longest_increasing([pair.b.position for pair in group])
            found.extend(pair for index, pair in enumerate(group) if index not in kept)
        return found


def pair_ops(a: Block, b: Block, weights: dict[str, str]) -> Pairs:
    """Pair the ops of two functions.

    1. An op is the one of the same name, if that is of the same type and gives the same types or takes
       an input that is known to be the same.
    2. Of the rest, in program order, an op is the first of the same type that gives the same types and takes
       the same inputs and constants.
    3. Of the rest, ops of the same name are a pair: its type has changed.

    ``weights`` says which weight variable of b each of a is.
    """
    found = Pairs(variables=dict(weights))
    names = {variable.name for variable in b.inputs}
    found.variables.update((one.name, one.name) for one in a.inputs if one.name in names)
    mine, theirs = list(_place(a)), list(_place(b))
    by_name = {one.op.name: one for one in theirs}
    taken: set[int] = set()
    left: list[OpInBlock] = []

    def take(one: OpInBlock, other: OpInBlock) -> None:
        taken.add(id(other.op))
        found.take(one, other)

    for one in mine:
        other = by_name.get(one.op.name)
        if other is not None and id(other.op) not in taken and _alike(one.op, other.op, found.variables):
            take(one, other)
        else:
            left.append(one)
    by_structure: dict[object, list[OpInBlock]] = {}
    for other in theirs:
        if id(other.op) not in taken:
            by_structure.setdefault(_structure(other.op, None), []).append(other)
    last: list[OpInBlock] = []
    for one in left:
        others = by_structure.get(_structure(one.op, found.variables), [])
        if others:
            take(one, others.pop(0))
        else:
            last.append(one)
    for one in last:
        other = by_name.get(one.op.name)
        if other is not None and id(other.op) not in taken:
            take(one, other)
        else:
            found.removed.append(one)
    found.added = [other for other in theirs if id(other.op) not in taken]
    order = {id(one.op): index for index, one in enumerate(mine)}
    found.pairs.sort(key=lambda pair: order[id(pair.a.op)])
    return found


def _place(block: Block, owner: Op | None = None, index: int = 0) -> Iterator[OpInBlock]:
    """The ops that are no weights, each before those inside it."""
    for position, op in enumerate(block.ops):
        if op.weight is not None or (op.type.startswith("constexpr_") and not op.blocks):
            continue
        yield OpInBlock(op, owner, index, position)
        for number, nested in enumerate(op.blocks):
            yield from _place(nested, op, number)


def _alike(a: Op, b: Op, variables: dict[str, str]) -> bool:
    if a.type != b.type:
        return False
    if [one.type for one in a.outputs] == [one.type for one in b.outputs]:
        return True
    theirs = set(b.variables())
    return any(variables.get(name) in theirs for name in a.variables())


def _structure(op: Op, variables: dict[str, str] | None) -> object:
    """What an op is but for its name; in terms of the variables of b, if ``variables`` translates them."""

    def operand(one: "str | Constant") -> str:
        if isinstance(one, Constant):
            return one.text
        return f"%{one if variables is None else variables.get(one, '')}"

    inputs = tuple((param, tuple(map(operand, operands))) for param, operands in sorted(op.inputs.items()))
    return op.type, tuple(one.type for one in op.outputs), inputs, len(op.blocks)


def _longest_increasing(values: list[int]) -> set[int]:
    """Indices of a longest increasing subsequence."""
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for index, value in enumerate(values):
        at = bisect_left(tails, value)
        previous.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(value)
            ends.append(index)
        else:
            tails[at], ends[at] = value, index
    kept: set[int] = set()
    index = ends[-1] if ends else -1
    while index >= 0:
        kept.add(index)
        index = previous[index]
    return kept
