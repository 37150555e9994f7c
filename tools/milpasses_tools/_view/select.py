"""Parts of a program: its weights, its ops, what has a type or a name, what is around one op."""

import difflib
from collections.abc import Sequence
from enum import Enum
from fnmatch import fnmatchcase

import attrs

from milpasses_tools._view.graph import GraphView, Op


class Show(str, Enum):
    """What is shown: everything, only the weights, only the other ops, only what goes in and out."""

    ALL = "all"
    WEIGHTS = "weights"
    OPS = "ops"
    INPUTS = "inputs"


@attrs.frozen(eq=False)
class Selection:
    """Ops of a view: of a kind, and among ``ops`` if that is given (identities: ops have no equality)."""

    show: Show = Show.ALL
    ops: frozenset[int] | None = None

    def takes(self, op: Op) -> bool:
        """The op itself is selected."""
        if self.ops is not None and id(op) not in self.ops:
            return False
        if self.show is Show.WEIGHTS:
            return op.weight is not None
        return self.show is Show.ALL or (self.show is Show.OPS and not op.is_constant)

    def reaches(self, op: Op) -> bool:
        """The op is selected, or one inside it."""
        return self.takes(op) or any(self.takes(one) for block in op.blocks for one in block.walk())


EVERYTHING = Selection()


def select(
    view: GraphView, show: Show, patterns: Sequence[str] = (), name: str | None = None, radius: int = 2
) -> Selection:
    """What ``only`` and ``around`` both take, where they are asked for."""
    ops = only(view, patterns) if patterns else None
    if name is not None:
        near = around(view, name, radius)
        ops = near if ops is None else near & ops
    return Selection(show, ops)


def only(view: GraphView, patterns: Sequence[str]) -> frozenset[int]:
    """The ops whose type is one of ``patterns``, or whose type or name matches one as a glob.

    Raises ``MilpassesError`` for a pattern that matches nothing, with what is near.
    """
    ops = list(view.walk())
    found: set[int] = set()
    for pattern in patterns:
        hits = {
            id(op)
            for op in ops
            if fnmatchcase(op.type, pattern) or any(fnmatchcase(n, pattern) for n in names(op))
        }
        if not hits:
            near = _near(pattern, {op.type for op in ops}) or _near(
                pattern, {n for op in ops for n in names(op)}
            )
            raise _error(f"no op has a type or name that matches {pattern!r}{near}")
        found |= hits
    return frozenset(found)


def around(view: GraphView, name: str, radius: int) -> frozenset[int]:
    """The op called ``name`` (or that gives ``%name``) and all within ``radius`` edges, in any direction.

    An op inside a block is a neighbour of the op that owns the block where it takes the block's inputs or
    gives its outputs. Raises ``MilpassesError`` if there is no such op.
    """
    name = name.removeprefix("%")
    found: set[int] = set()
    known: set[str] = set()
    for function in view.functions:
        ops = {id(op): op for op in function.block.walk()}
        known.update(n for op in ops.values() for n in names(op))
        reached = {key for key, op in ops.items() if name in names(op)}
        neighbours = _edges(list(ops.values())) if reached else {}
        edge = reached
        for _ in range(radius):
            edge = {near for key in edge for near in neighbours.get(key, ())} - reached
            reached = reached | edge
        found |= reached
    if not found:
        raise _error(f"there is no op {name!r}{_near(name, known)}")
    return frozenset(found)


def names(op: Op) -> set[str]:
    """The op's name, and those of what it gives."""
    return {op.name, *(variable.name for variable in op.outputs)}


def _edges(ops: list[Op]) -> dict[int, set[int]]:
    producers: dict[str, Op] = {}
    pairs: list[tuple[str, Op]] = []
    for op in ops:
        producers.update((variable.name, op) for variable in op.outputs)
        pairs.extend((name, op) for name in op.variables())
        for block in op.blocks:
            producers.update((variable.name, op) for variable in block.inputs)
            pairs.extend((name, op) for name in block.outputs)
    edges: dict[int, set[int]] = {}
    for name, user in pairs:
        producer = producers.get(name)
        if producer is not None and producer is not user:
            edges.setdefault(id(producer), set()).add(id(user))
            edges.setdefault(id(user), set()).add(id(producer))
    return edges


def _near(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 3)
    return f"; there is {', '.join(near)}" if near else ""


def _error(message: str) -> Exception:
    from milpasses.errors import MilpassesError  # brings coremltools, which --help does without

    return MilpassesError(message)
