"""Where ``quantize`` and ``dequantize`` pairs stand: where coremltools' activation passes put them.

Before conv, linear, avg_pool, max_pool (``x``) and add (``x`` and ``y``, both live) each input gets a pair
of its own; after conv, linear, add and pooling, behind one fused activation, the output gets one. Where both
fall on the same tensor they share its ``quantize``, which is what coremltools' elimination leaves of them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from milpasses.program.graph import CONSTEXPR, FunctionGraph

# The passes insert_prefix_ and insert_suffix_quantize_dequantize_pair of coremltools 9.0.
UNARY = ("conv", "avg_pool", "max_pool", "linear")
CORE = (*UNARY, "add")
FUSED = ("leaky_relu", "tanh", "scaled_tanh", "sigmoid", "hard_sigmoid", "relu", "relu6")
ON_REQUEST = ("matmul",)  # coremltools leaves it float
FLOATS = ("float16", "float32")
# What these return holds values of ``x``, and no others.
MOVES = ("max_pool", "reshape", "transpose", "squeeze", "expand_dims", "flatten2d", "slice_by_index",
         "slice_by_size", "upsample_nearest_neighbor", "tile", "identity")  # fmt: skip

Wanted = Callable[[str, str], bool]


@attrs.frozen
class Use:
    """An input of an op that takes the dequantized tensor."""

    op_name: str
    param: str
    op_type: str = ""


@attrs.frozen
class Point:
    """A tensor that is quantized once, for one use or more.

    ``name``: the variable; ``tensors``: all that share its range, sorted, itself among them. ``uses``: inputs
    that get a dequantized copy each. ``after``: the op behind which the pair stands where one quantizes an
    op's output, and then every other use takes its dequantized copy too. ``core``: the op whose
    output that is, before the fused activation. ``dtype``: the float type. ``follows``: the quantized tensor
    whose values it holds: on the same grid it loses nothing more.
    """

    name: str
    tensors: tuple[str, ...]
    uses: tuple[Use, ...]
    after: str = ""
    dtype: str = "float16"
    core: str = ""
    follows: str = ""


def every_op(op_type: str, op_name: str) -> bool:
    """What coremltools quantizes with one global configuration."""
    return op_type in CORE


def find_points(graph: FunctionGraph, wanted: Wanted = every_op) -> list[Point]:
    """The tensors of a function that get pairs, in program order; those that have one already are left out.

    ``wanted(op type, op name)``: the input and output of that op may be quantized. Ops in nested blocks stay
    float, as coremltools' own pass leaves what follows them.
    """
    return _Search(graph, wanted).points()


class _Search:
    def __init__(self, graph: FunctionGraph, wanted: Wanted) -> None:
        self.graph, self.wanted = graph, wanted
        self.ops = list(graph.body())
        self.made: dict[str, Any] = {}
        self.users: dict[str, list[Any]] = {}  # each op once, nested ones included
        for op in graph.operations():
            for variable in graph.outputs(op):
                self.made[graph.variable_name(variable)] = op
            for name in dict.fromkeys(name for _, name in graph.operands(op)):
                self.users.setdefault(name, []).append(op)
        self.before: dict[str, list[Use]] = {}
        self.behind: dict[str, str] = {}
        self.cores: dict[str, str] = {}
        self.dtypes: dict[str, str] = {}
        self.covered: set[str] = set()  # names of ops whose inputs come from a dequantize

    def points(self) -> list[Point]:
        """See ``find_points``."""
        for op in self.ops:
            self._inputs(op)
        for op in self.ops:
            if self.graph.op_name(op) in self.covered and self._kind(op) in CORE:
                self._output(op)
        shared = _shared(self.graph, self.ops)
        order = [name for name in self._order() if name in self.before or name in self.behind]
        return [
            Point(
                name,
                shared.get(name, (name,)),
                tuple(self.before.get(name, ())),
                self.behind.get(name, ""),
                self.dtypes[name],
                self.cores.get(name, ""),
                self._source(name),
            )
            for name in order
        ]

    def _source(self, name: str) -> str:
        """The nearest quantized tensor of whose values ``name`` is made, if only ``MOVES`` are between."""
        op = self.made.get(name)
        while op is not None and self._kind(op) in MOVES:
            source = dict(self.graph.operands(op)).get("x", "")
            if source in self.behind or Use(self.graph.op_name(op), "x", self._kind(op)) in self.before.get(
                source, ()
            ):
                return source
            op = self.made.get(source)
        return ""

    def _order(self) -> Iterable[str]:
        names: dict[str, None] = {}
        for op in self.ops:
            names.update(dict.fromkeys(name for _, name in self.graph.operands(op)))
            names.update(dict.fromkeys(map(self.graph.variable_name, self.graph.outputs(op))))
        return names

    def _kind(self, op: Any) -> str:
        return self.graph.op_type(op)

    def _constant(self, name: str) -> bool:
        maker = self.made.get(name)
        return maker is not None and (self._kind(maker) == "const" or self._kind(maker).startswith(CONSTEXPR))

    def _dequantized(self, name: str) -> bool:
        return name in self.made and self._kind(self.made[name]) == "dequantize"

    def _inputs(self, op: Any) -> None:
        kind, name = self._kind(op), self.graph.op_name(op)
        if kind not in (*CORE, *ON_REQUEST) or not self.wanted(kind, name):
            return
        shape, dtype = self.graph.result(op)
        params = ("x",) if kind in UNARY else ("x", "y")
        takes = [(param, var) for param, var in self.graph.operands(op) if param in params]
        live = [(param, var) for param, var in takes if not self._constant(var)]
        if dtype not in FLOATS or not shape or (len(live) < len(params) if kind == "add" else not live):
            return
        self.covered.add(name)
        for param, var in live:
            if not self._dequantized(var):
                self.before.setdefault(var, []).append(Use(name, param, kind))
                self.dtypes[var] = dtype

    def _output(self, op: Any) -> None:
        """The pair behind ``op``, or behind the activation that is fused into it."""
        core, variable = self.graph.op_name(op), self.graph.outputs(op)[0]
        name = self.graph.variable_name(variable)
        children = self._children(name)
        if not children or self._only_quantize(children):
            return
        first = children[0]
        if first is not None and self._kind(first) in FUSED:
            behind = self.graph.variable_name(self.graph.outputs(first)[0])
            further = self._children(behind)
            if further:
                if self._only_quantize(further):
                    return
                op, name = first, behind
        if name in self.behind:
            return
        self.behind[name] = self.graph.op_name(op)
        self.cores[name] = core
        self.dtypes[name] = self.graph.result(op)[1]

    def _children(self, name: str) -> list[Any]:
        """The ops that take a tensor once inputs have their pairs: None stands for a ``quantize`` of those.

        In the order that coremltools sees: what was there, then what its first pass inserted.
        """
        inserted = self.before.get(name, [])
        replaced = {use.op_name for use in inserted}
        kept = [op for op in self.users.get(name, []) if self.graph.op_name(op) not in replaced]
        return [*kept, *(None for _ in inserted)]

    def _only_quantize(self, children: Sequence[Any]) -> bool:
        return len(children) == 1 and (children[0] is None or self._kind(children[0]) == "quantize")


def _shared(graph: FunctionGraph, ops: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """For each input and output of a concat all tensors that must have its range, over any number of them."""
    groups: dict[str, set[str]] = {}
    for op in ops:
        if graph.op_type(op) != "concat":
            continue
        names = {var for param, var in graph.operands(op) if param == "values"}
        names.update(map(graph.variable_name, graph.outputs(op)))
        for name in tuple(names):
            names |= groups.get(name, set())
        groups.update(dict.fromkeys(names, names))
    return {name: tuple(sorted(group)) for name, group in groups.items()}
