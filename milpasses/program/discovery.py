"""The weights of a program: found, with why one cannot be rewritten, and equal ones joined. Written once for
programs in memory and saved ones.
"""

from collections.abc import Generator, Hashable, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import base_name
from milpasses.errors import MilpassesError, PackageError, Refusal
from milpasses.program.graph import (
    CONSTEXPR,
    FunctionGraph,
    Produced,
    StoredConstant,
    chain,
    data_of,
    gives_weight,
    lift_weight,
)
from milpasses.program.weight_uses import COMBINED, PASSED_ON, weight_use
from milpasses.program.weights import Consumer, Site, Weight

_ENDS = 128  # bytes at each end by which constants are told apart before they are compared


@attrs.define(eq=False)
class Occurrence:
    """An op that gives a weight, and the function that it stands in. ``release`` forgets both."""

    graph: FunctionGraph | None
    op: Any

    def value(self) -> NDArray[Any]:
        """The weight, dense."""
        graph = self._graph()
        constant = graph.weight(self.op)
        if constant is not None:
            return constant.load()
        encoding = self.encoding()
        with _damage(graph, self.op):
            return encoding.decode()

    def encoding(self) -> Encoding:
        """The encoding of a compressed weight; ``PackageError`` where its parts do not fit together."""
        graph = self._graph()
        with _damage(graph, self.op):
            encoding = lift_weight(graph, self.op)
            shape, _ = graph.result(self.op)
            if tuple(encoding.shape) != shape:
                raise ValueError(f"it holds shape {tuple(encoding.shape)}, and {shape} was declared")
            return encoding

    def release(self) -> None:
        """Forget the op, so that its values can go."""
        self.graph = self.op = None

    def _graph(self) -> FunctionGraph:
        if self.graph is None:
            raise RuntimeError("the weight was rewritten; its old values are gone")
        return self.graph


@contextmanager
def _damage(graph: FunctionGraph, op: Any) -> Generator[None]:
    """What kernels and NumPy say of parts that do not fit together, as one clear error."""
    try:
        yield
    except MilpassesError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise PackageError(
            f"{graph.op_name(op)}: a damaged {graph.op_type(op)}, or one of a newer form: {text}"
        ) from error


@attrs.define(eq=False)
class _Discovered:
    """A site, where it occurs, and what is stored of it."""

    site: Site
    occurrences: list[Occurrence]
    stored: tuple[StoredConstant, ...]
    structure: Hashable
    data: dict[Hashable, int]  # bytes of what holds its values, by what shares storage

    @property
    def identity(self) -> Hashable:
        """Equal for two that share all their storage."""
        return self.structure, tuple(constant.identity for constant in self.stored)

    def ends(self) -> Hashable:
        """What is equal for equal weights, and quick to read."""
        parts = (constant.stored() for constant in self.stored)
        return self.structure, b"".join(p[:_ENDS].tobytes() + p[-_ENDS:].tobytes() for p in parts)

    def same_bytes(self, other: "_Discovered") -> bool:
        """All that is stored of both is equal."""
        pairs = zip(self.stored, other.stored, strict=True)
        return all(a.identity == b.identity or np.array_equal(a.stored(), b.stored()) for a, b in pairs)

    def join(self, other: "_Discovered") -> None:
        """Add the uses of ``other``; blocked if any use is."""
        weight, more = self.site.weight, other.site.weight
        weight = attrs.evolve(
            weight,
            consumers=tuple(dict.fromkeys((*weight.consumers, *more.consumers))),
            functions=tuple(dict.fromkeys((*weight.functions, *more.functions))),
        )
        self.data |= other.data
        self.site = attrs.evolve(
            self.site,
            weight=weight,
            places=(*self.site.places, *other.site.places),
            blocked=self.site.blocked or other.site.blocked,
            all_nbytes=sum(self.data.values()),
        )
        self.occurrences += other.occurrences


def discover(graphs: Iterable[FunctionGraph]) -> dict[Site, list[Occurrence]]:
    """Every constant that goes to the weight file, and every compressed weight, in program order.

    Those that share storage, and equal ones of two dimensions or more, are one site: same bytes, same
    encoding.
    """
    joined: list[_Discovered] = []
    by_identity: dict[Hashable, _Discovered] = {}
    by_ends: dict[Hashable, list[_Discovered]] = {}
    for graph in graphs:
        for op in graph.operations():
            found = _discover(graph, op)
            if found is None:
                continue
            twin = by_identity.get(found.identity)
            if twin is None and found.site.weight.rank > 1:
                alike = by_ends.setdefault(found.ends(), [])
                twin = next((known for known in alike if known.same_bytes(found)), None)
                if twin is None:
                    alike.append(found)
            if twin is not None:
                twin.join(found)
                continue
            by_identity[found.identity] = found
            joined.append(found)
    return {found.site: found.occurrences for found in joined}


def _discover(graph: FunctionGraph, op: Any) -> _Discovered | None:
    """The site that ``op`` gives by itself, or None."""
    kind = graph.op_type(op)
    if kind == "const":
        constant = graph.weight(op)
        return None if constant is None or _is_part(graph, op) else _dense(graph, op, constant)
    if kind.startswith(CONSTEXPR) and gives_weight(graph, op):
        return _compressed(graph, op)
    return None


def _is_part(graph: FunctionGraph, op: Any) -> bool:
    """A constant that only feeds constexpr ops: a part of a compressed weight, which has its own site."""
    users = [user for user, _ in graph.uses(graph.outputs(op)[0])]
    return bool(users) and all(graph.op_type(user).startswith(CONSTEXPR) for user in users)


def _dense(graph: FunctionGraph, op: Any, constant: StoredConstant) -> _Discovered:
    occurrence, variable = Occurrence(graph, op), graph.outputs(op)[0]
    weight = Weight(
        graph.op_name(op),
        constant.shape,
        constant.dtype,
        consumers(graph, variable),
        (graph.name,),
        occurrence.value,
    )
    place = (graph.name, graph.variable_name(variable))
    site = Site(weight, constant.nbytes, (place,), _blocked(graph, variable))
    data = {constant.identity: constant.nbytes}
    return _Discovered(site, [occurrence], (constant,), (constant.shape, constant.dtype), data)


def compressed_site(graph: FunctionGraph, op: Any) -> Site:
    """The site of a compressed weight: ``op`` is the last of its constexpr ops."""
    return _compressed(graph, op).site


def _compressed(graph: FunctionGraph, op: Any) -> _Discovered:
    occurrence, variable = Occurrence(graph, op), graph.outputs(op)[0]
    shape, dtype = graph.result(op)
    data = {constant.identity: constant.nbytes for constant in data_of(graph, op)}
    weight = Weight(
        base_name(graph.op_name(op)),
        shape,
        dtype,
        consumers(graph, variable),
        (graph.name,),
        occurrence.value,
    )
    blocked = Refusal("returned-by-block") if graph.returned(variable) else None
    place = (graph.name, graph.variable_name(variable))
    site = Site(weight, sum(data.values()), (place,), blocked, occurrence.encoding, graph.op_type(op))
    return _Discovered(site, [occurrence], _all_inputs(graph, op), _structure(graph, op), data)


def _all_inputs(graph: FunctionGraph, op: Any) -> tuple[StoredConstant, ...]:
    return tuple(
        source
        for part in chain(graph, op)
        for _, source in sorted(graph.inputs(part).items())
        if isinstance(source, StoredConstant)
    )


def _structure(graph: FunctionGraph, op: Any) -> Hashable:
    """The types of the ops, and the parameters, shapes and types of all that is stored."""
    return tuple(
        (
            graph.op_type(part),
            tuple(
                (
                    param,
                    ("of", source.output) if isinstance(source, Produced) else (source.shape, source.dtype),
                )
                for param, source in sorted(graph.inputs(part).items())
            ),
        )
        for part in chain(graph, op)
    )


def consumers(graph: FunctionGraph, variable: Any) -> tuple[Consumer, ...]:
    """The uses of ``variable`` as rules see them."""
    uses = [
        Consumer.of(
            graph.op_type(op),
            graph.op_name(op),
            param,
            partial(graph.scalar, op),
            _normalizes_input(graph, op) or _is_passed_on(graph, op, param, combined=False, seen=set()),
        )
        for op, param in graph.uses(variable)
    ]
    return tuple(dict.fromkeys(uses))


def _normalizes_input(graph: FunctionGraph, op: Any) -> bool:
    """``op`` subtracts a mean image from an input of the program: as good as a first layer."""
    return graph.op_type(op) == "sub" and graph.takes_input(op)


def _is_passed_on(graph: FunctionGraph, op: Any, param: str, combined: bool, seen: set[str]) -> bool:
    """``op`` hands what its ``param`` takes to an op that multiplies and sums with it.

    ``combined``: other values are in it already, so that it is a weight only where an op calls it that.
    ``seen``: names of variables that were followed.
    """
    kind = graph.op_type(op)
    if not (kind in COMBINED or (kind in PASSED_ON and param == "x")):
        return False
    combined = combined or kind in COMBINED
    for variable in graph.outputs(op):
        if graph.variable_name(variable) in seen:
            continue
        seen.add(graph.variable_name(variable))
        for user, taken_as in graph.uses(variable):
            multiplies = weight_use(graph.op_type(user), taken_as).multiplies
            if multiplies and (taken_as == "weight" or not combined):
                return True
            if _is_passed_on(graph, user, taken_as, combined, seen):
                return True
    return False


def _blocked(graph: FunctionGraph, variable: Any) -> Refusal | None:
    """Why a constant must stay, whatever the recipe says."""
    if graph.returned(variable):
        return Refusal("returned-by-block")
    users: Sequence[Any] = [user for user, _ in graph.uses(variable)]
    if not users:
        return Refusal("unused")
    for user in users:
        if graph.op_type(user).startswith(CONSTEXPR):
            return Refusal("part-of-compressed")
        if graph.inferred(user):
            return Refusal("inferred-value", op=graph.op_name(user), op_type=graph.op_type(user))
    return None
