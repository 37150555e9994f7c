"""A program in memory, as a pass sees it: its weights, and the ops of their encodings in their place."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from coremltools.converters.mil.mil import types
from numpy.typing import NDArray

from milpasses import _coremltools as host
from milpasses.encoding.lowering import OpSpec, base_name
from milpasses.encoding.storage import SMALLEST_IN_FILE, STORED_BITS, packed_bytes
from milpasses.program import graph
from milpasses.program.builder import built
from milpasses.program.discovery import Occurrence, compressed_site, discover
from milpasses.program.graph import CONSTEXPR, Produced, StoredConstant
from milpasses.program.opset import Opset, opset_of
from milpasses.program.protocol import Rewrite, Runner, make_runner
from milpasses.program.weights import Site

_IN_FILE = ("float16", "float32", "uint8", "int8")
_IN_TYPED_FILE = (*_IN_FILE, "uint16", "int16", "int32", "uint32")  # since iOS18, in coremltools' writer
_BATCHES = 8  # in which replaced constants are removed


class MemoryFunction:
    """One function of a coremltools ``Program``. A ``FunctionGraph`` until ops are replaced in it."""

    def __init__(self, name: str, block: Any) -> None:
        self.name = name
        self._block = block

    @cached_property
    def _order(self) -> dict[int, int]:
        """The place of each op, by identity: an index of the ops would keep the old weights alive."""
        return {id(op): place for place, op in enumerate(_walk(self._block))}

    @cached_property
    def _in_file(self) -> tuple[str, ...]:
        """The types of constants that coremltools' writer puts into the weight file."""
        opset = opset_of(int(self._block.opset_version))
        return _IN_TYPED_FILE if opset.constexpr and opset.constexpr.typed else _IN_FILE

    def operations(self) -> Iterator[Any]:
        """Every op in order, nested ones included."""
        return _walk(self._block)

    def body(self) -> Sequence[Any]:
        """The ops of the function itself, without nested ones."""
        return list(self._block.operations)

    def operands(self, op: Any) -> list[tuple[str, str]]:
        """What ``op`` takes: parameters, each with the name of a variable."""
        return [
            (param, str(variable.name))
            for param, bound in sorted(op.inputs.items())
            for variable in (bound if isinstance(bound, list | tuple) else [bound])
            if variable is not None
        ]

    def op_type(self, op: Any) -> str:
        """The type of ``op``."""
        return str(op.op_type)

    def op_name(self, op: Any) -> str:
        """The name of ``op``."""
        return str(op.name)

    def outputs(self, op: Any) -> Sequence[Any]:
        """The variables that ``op`` makes."""
        return op.outputs

    def variable_name(self, variable: Any) -> str:
        """The name of a variable."""
        return str(variable.name)

    def uses(self, variable: Any) -> Sequence[tuple[Any, str]]:
        """The ops that take ``variable``, each with the parameter, in order."""
        users = list(dict.fromkeys(variable.child_ops))
        if len(users) > 1:
            last = len(self._order)
            users.sort(key=lambda op: self._order.get(id(op), last))
        return [(op, param) for op in users for param in _params(op, variable)]

    def returned(self, variable: Any) -> bool:
        """A block returns ``variable``."""
        return bool(variable.consuming_blocks)

    def weight(self, op: Any) -> StoredConstant | None:
        """The constant of a const op that coremltools' writer puts into the weight file."""
        if op.op_type != "const":
            return None
        value = op.outputs[0].val
        in_file = (
            isinstance(value, np.ndarray)
            and value.size >= SMALLEST_IN_FILE
            and value.dtype.name in self._in_file
            and not value.dtype.metadata
        )
        return _stored(op.outputs[0]) if in_file else None

    def inputs(self, op: Any) -> dict[str, StoredConstant | Produced]:
        """What a constexpr op takes."""
        found: dict[str, StoredConstant | Produced] = {}
        for param, bound in sorted(op.inputs.items()):
            if bound is None:
                continue
            if bound.op is not None and bound.op.op_type.startswith(CONSTEXPR):
                found[param] = Produced(bound.op, bound.op.outputs.index(bound))
            else:
                found[param] = _stored(bound)
        return found

    def result(self, op: Any) -> tuple[tuple[int, ...], str]:
        """Shape and type of the first output of ``op``."""
        variable = op.outputs[0]
        return tuple(variable.shape), np.dtype(host.numpy_type_of(variable.dtype)).name

    def scalar(self, op: Any, param: str) -> Any:
        """The value of a constant scalar input, None where it is not given or not known."""
        bound = op.inputs.get(param)
        return None if bound is None else bound.val

    def takes_input(self, op: Any) -> bool:
        """``op`` takes an input of the function, as it is or cast."""
        for bound in op.inputs.values():
            for variable in bound if isinstance(bound, list | tuple) else [bound]:
                while variable is not None and variable.op is not None and variable.op.op_type == "cast":
                    variable = variable.op.x
                if variable is not None and variable.op is None and variable.val is None:
                    return True
        return False

    def inferred(self, op: Any) -> bool:
        """``op`` has a value that was inferred from its constant inputs."""
        return any(output.val is not None for output in op.outputs)


def _walk(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _walk(nested)


def _params(op: Any, variable: Any) -> Iterator[str]:
    """The parameters of ``op`` that take ``variable``."""
    for param, bound in sorted(op.inputs.items()):
        if bound is variable or (isinstance(bound, list | tuple) and any(one is variable for one in bound)):
            yield param


def _stored(variable: Any) -> StoredConstant:
    value = variable.val
    dtype = mil_name(variable)
    shape = np.shape(value)
    nbytes = packed_bytes(int(np.prod(shape)), dtype) if dtype in STORED_BITS else 0
    op = variable.op
    identity: Any = getattr(op, "weight_id", None) or variable

    def stored() -> NDArray[np.uint8]:
        plain = np.ascontiguousarray(_plain(value))
        return plain.reshape(-1).view(np.uint8) if plain.dtype.kind != "U" else plain.view(np.uint8)

    return StoredConstant(shape, dtype, nbytes, identity, lambda: _plain(value), stored)


def _plain(value: Any) -> Any:
    """``value`` without the marks of types below a byte in its dtype: NumPy warns when they meet."""
    return value if isinstance(value, str) else np.asarray(value).view(np.asarray(value).dtype.str)


def mil_name(variable: Any) -> str:
    """MIL's name of the type of a constant's elements, floats as NumPy calls them."""
    name = types.builtin_to_string(variable.dtype)
    return {"fp16": "float16", "fp32": "float32"}.get(name, name)


class MemoryProgram:
    """A coremltools ``Program`` and the weights in it. A ``WeightProgram``, which ``replace`` changes."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self._occurrences: dict[Site, list[Occurrence]] = {}

    @property
    def functions(self) -> list[MemoryFunction]:
        """The functions, by name."""
        return [MemoryFunction(name, block) for name, block in sorted(self.program.functions.items())]

    @property
    def target(self) -> Opset:
        """The oldest opset among the functions."""
        versions = [function.opset_version for function in self.program.functions.values()]
        oldest = min(versions, default=None)
        return opset_of(0) if oldest is None else opset_of(int(oldest), oldest.name)

    def sites(self) -> list[Site]:
        """Every constant that goes to the weight file, and every compressed weight, in program order."""
        self._occurrences = discover(self.functions)
        return list(self._occurrences)

    def runner(self, function: str | None = None) -> Runner:
        """What runs a function of the program as it is."""
        return make_runner(self.program, function)

    def replace(self, sites: Sequence[Site], rewrite: Rewrite) -> int:
        """Put the ops that ``rewrite`` gives in each site's place; returns how many sites were rewritten.

        Replaced constants are removed in a few batches: coremltools checks a whole block at each removal, and
        the old weights must not all stay in memory until the end.
        """
        batch = _Batch(limit=max(sum(site.nbytes for site in sites) // _BATCHES, 1))
        count = 0
        for site in sites:
            count += self._replace(site, rewrite, batch)
            batch.flush_if_full()
        batch.flush()
        return count

    def _replace(self, site: Site, rewrite: Rewrite, batch: "_Batch") -> bool:
        """One site; in a function of its own, so that nothing here keeps the old weight alive."""
        occurrences = self._occurrences.pop(site)
        specs = rewrite(site)
        if specs is None:
            return False
        shared = _shared_id(site, occurrences)
        for occurrence in occurrences:
            batch.add(occurrence.op, site.nbytes)
            _emit(occurrence.op, specs, shared)
            occurrence.release()
        return True


def program_site(op: Any, function: str) -> Site:
    """The site of one compressed weight of a program in memory: ``op`` is the last of its constexpr ops."""
    return compressed_site(MemoryFunction(function, op.enclosing_block), op)


def gives_weight(op: Any) -> bool:
    """No other constexpr op takes an output of ``op``: it gives the weight itself."""
    return graph.gives_weight(MemoryFunction("", op.enclosing_block), op)


def _shared_id(site: Site, occurrences: Sequence[Occurrence]) -> str | None:
    """What functions, or equal constants, that share a weight share its codes by: coremltools writes a
    ``weight_id`` once.
    """
    known = (getattr(occurrence.op, "weight_id", None) for occurrence in occurrences)
    own = f"milpasses_{site.places[0][0]}_{site.places[0][1]}" if len(occurrences) > 1 else None
    return next((name for name in known if name is not None), own)


def _emit(op: Any, specs: list[OpSpec], shared: str | None) -> None:
    """Build ``specs`` before ``op`` and let its users take the last one's output."""
    block, base, here = op.enclosing_block, base_name(specs[-1].name), base_name(op.name)

    def name_of(name: str) -> str:
        return here + name[len(base) :]

    def share(new: Any) -> None:
        if shared is not None:
            _share(new, shared)

    with _entered(block):
        weight = built(specs, name_of, share, before_op=op)
    host.replace_uses(block, op, op.outputs[0], weight)


def _entered(block: Any) -> Any:
    """Leaving a block walks all of it, so it is entered only where it is not the current one."""
    return nullcontext() if host.current_block() is block else block


def _share(op: Any, shared: str) -> None:
    """Give what ``op`` stores the identity by which others store the same."""
    if op.op_type == "const":  # the same values for all of them
        if op.weight_id is None:
            op.weight_id = shared
        return
    for param, bound in op.inputs.items():
        constant = None if bound is None else bound.op
        if constant is not None and constant.op_type == "const" and constant.weight_id is None:
            constant.weight_id = f"{shared}_{op.op_type}_{param}"


@attrs.define(eq=False)
class _Batch:
    """Replaced ops that wait to be removed, block by block."""

    limit: int
    waiting: dict[int, tuple[Any, list[Any]]] = attrs.field(factory=dict)
    nbytes: int = 0

    def add(self, op: Any, nbytes: int) -> None:
        """Remove ``op``, and the constexpr ops that only feed it, at the next flush."""
        _, ops = self.waiting.setdefault(id(op.enclosing_block), (op.enclosing_block, []))
        ops.append(op)
        ops.extend(_feeders(op))
        self.nbytes += nbytes

    def flush_if_full(self) -> None:
        """Flush once enough bytes wait."""
        if self.nbytes >= self.limit:
            self.flush()

    def flush(self) -> None:
        """Remove what waits, and forget its values: ops and variables refer to each other, so that otherwise
        they would stay until Python looks for circles.
        """
        for block, ops in self.waiting.values():
            block.remove_ops(ops)
            for constant in (op for op in ops if op.op_type == "const"):
                for variable in (*constant.outputs, *constant.inputs.values(), constant.val):
                    host.hide_value(variable)
        self.waiting.clear()
        self.nbytes = 0


def _feeders(op: Any) -> list[Any]:
    """Constants and constexpr ops that nothing but the compressed weight ``op`` uses."""
    if op.op_type == "const":
        return []
    feeders: list[Any] = []
    for bound in op.inputs.values():
        producer = None if bound is None else bound.op
        if producer is None or producer in feeders:
            continue
        if all(user is op for output in producer.outputs for user in output.child_ops):
            feeders.append(producer)
            feeders.extend(_feeders(producer))
    return feeders
