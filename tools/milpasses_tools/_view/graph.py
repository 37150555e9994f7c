"""A program as the tools look at it: functions, blocks, ops and values, whether saved or in memory.

Small constants stand at their uses, as literals. A constant of ten numbers or more, and a compressed weight,
is an op of its own, which carries what is known of the weight.
"""

import json
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from milpasses.program.weights import Site

SMALLEST_WEIGHT = 10  # elements: below, coremltools writes a constant into the program itself


@attrs.frozen
class Variable:
    """A value that an op or a block gives: ``float16[1,64,?,?]``; ``?`` is a size that is not known."""

    name: str
    type: str


@attrs.frozen(eq=False)
class Constant:
    """A constant at its use. ``load`` reads the value: an array, a text, a list or a mapping."""

    type: str
    size: int
    load: Callable[[], Any]

    @property
    def text(self) -> str:
        """The value as MIL would write it; of large arrays, and of what cannot be read, only the type."""
        if self.size >= SMALLEST_WEIGHT:
            return f"<{self.type}>"
        try:
            return literal(self.load())
        except Exception:  # a type newer than this code, or damaged bytes: the op still shows
            return f"<{self.type}>"


@attrs.frozen(eq=False)
class Weight:
    """A stored weight. ``name`` is without the suffix that compression gave it; ``load`` decodes it.

    ``sqnr_db`` is what compression cost it, where the model's own report tells. ``form``: ``dense float16``,
    ``int8 per_channel``, ...
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    nbytes: int
    load: Callable[[], Any]
    sqnr_db: float | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bits(self) -> float:
        """Stored bits for each element."""
        return 8 * self.nbytes / max(self.size, 1)

    @property
    def compressed(self) -> bool:
        """It is stored in a constexpr form."""
        return not self.form.startswith("dense ")


Operand = str | Constant


@attrs.frozen(eq=False)
class Op:
    """An operation; ``passes`` are the graph passes that made it, where the program remembers them."""

    type: str
    name: str
    inputs: dict[str, tuple[Operand, ...]]
    outputs: tuple[Variable, ...]
    blocks: tuple["Block", ...] = ()
    weight: Weight | None = None
    passes: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """A constant, or a part of a compressed weight."""
        return self.type == "const" or self.type.startswith("constexpr_")

    def variables(self) -> Iterator[str]:
        """Names of the variables that it takes."""
        for operands in self.inputs.values():
            for operand in operands:
                if isinstance(operand, str):
                    yield operand


@attrs.frozen(eq=False)
class Block:
    """Ops in order, what comes in, and the names of what goes out."""

    inputs: tuple[Variable, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    def walk(self) -> Iterator[Op]:
        """Every op, each before those inside it."""
        for op in self.ops:
            yield op
            for block in op.blocks:
                yield from block.walk()


@attrs.frozen(eq=False)
class Function:
    """A function of the program; ``target`` is the deployment target of its ops."""

    name: str
    target: str
    block: Block


@attrs.frozen(eq=False)
class GraphView:
    """A whole program. ``features`` is what the package says of inputs and outputs, empty for a program."""

    source: str
    functions: tuple[Function, ...]
    features: dict[str, str] = attrs.field(factory=dict)

    def walk(self) -> Iterator[Op]:
        """Every op of every function."""
        for function in self.functions:
            yield from function.block.walk()

    def weights(self) -> list[Weight]:
        """The weights in program order; one that several functions share is listed for each."""
        return [op.weight for op in self.walk() if op.weight is not None]


def compressed_weight(site: "Site", sqnr_db: float | None = None) -> Weight:
    """The weight of a compressed site; a form that this milpasses does not know is ``unknown form``."""
    from milpasses.errors import MilpassesError, PackageError

    assert site.existing is not None
    try:
        form = site.existing().form
    except PackageError:  # damaged: that is no question of knowing the form
        raise
    except (MilpassesError, KeyError, ValueError):
        form = "unknown form"
    weight = site.weight
    return Weight(weight.name, weight.shape, weight.dtype, form, site.nbytes, weight.load, sqnr_db)


def ordered(inputs: dict[str, tuple[Operand, ...]]) -> dict[str, tuple[Operand, ...]]:
    """Variables first, ``x`` before the others, then constants; each by name: files keep no order."""

    def key(param: str) -> tuple[bool, bool, str]:
        return isinstance(next(iter(inputs[param]), None), Constant), param != "x", param

    return {param: inputs[param] for param in sorted(inputs, key=key)}


def tensor_text(dtype: str, shape: tuple[int | str, ...]) -> str:
    """``float16[1,3,8]``, or ``float16`` for a scalar."""
    return f"{dtype}[{','.join(map(str, shape))}]" if shape else dtype


def literal(value: Any) -> str:
    """A constant as text: ``"valid"``, ``true``, ``[1, 1]``, ``1e-05``."""
    rank: int | None = getattr(value, "ndim", None)  # NumPy's, without importing it
    if rank:
        return f"[{', '.join(map(literal, value))}]"
    value = value if rank is None else value[()]
    if isinstance(value, bool) or getattr(value, "dtype", None) == "bool":
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return str(value)
