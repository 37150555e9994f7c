"""A weight as rules see it: its name, shape, dtype and the ops that use it; and the site where it stands."""

from collections.abc import Callable
from hashlib import blake2b
from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Encoding
from milpasses.errors import Refusal
from milpasses.program.weight_uses import MatrixLayout, WeightUse, weight_use

Place = tuple[str, str]  # function, variable
FLOATS = ("float16", "float32")  # the types of weights that can be compressed


@attrs.frozen
class Consumer:
    """One use of a weight: the op's type and name, and the parameter that takes the weight.

    ``transposed`` is the op's own flag for that parameter (``transpose_y`` of a matmul), ``groups`` a
    convolution's. ``passed_on``: the op only reshapes, casts or scales the weight, and an op that takes its
    output multiplies and sums with it; or it is a mean image that an input of the program loses.
    """

    op_type: str
    op_name: str
    param: str
    transposed: bool = False
    groups: int = 1
    passed_on: bool = False

    @classmethod
    def of(
        cls,
        op_type: str,
        op_name: str,
        param: str,
        constant: Callable[[str], Any],
        passed_on: bool = False,
    ) -> "Consumer":
        """The use of a weight by an op; ``constant(name)``: a parameter's value, None where it has none."""
        use = weight_use(op_type, param)
        flag = constant(use.transpose_flag) if use.transpose_flag else None
        groups = constant(use.groups_param) if use.groups_param else None
        return cls(op_type, op_name, param, bool(flag), 1 if groups is None else int(groups), passed_on)

    @property
    def weight_use(self) -> WeightUse:
        """How the op meets the weight."""
        return weight_use(self.op_type, self.param)

    def channel_axes(self, rank: int) -> tuple[int, int]:
        """(output channel, input channel) axes of a weight of ``rank`` in this op, as coremltools'."""
        return self.weight_use.axes(rank, self.transposed)

    def layout(self, shape: tuple[int, ...]) -> MatrixLayout:
        """A weight of ``shape`` as the matrices that meet the op's input."""
        return self.weight_use.layout(shape, self.transposed, self.groups)

    @property
    def multiplies(self) -> bool:
        """The op, or one that it passes the weight on to, multiplies and sums with it or looks slices up."""
        return self.passed_on or self.weight_use.multiplies

    @property
    def structured(self) -> bool:
        """Whether the weight may be pruned by blocks, or n of every m."""
        return self.weight_use.structured

    def groups_along(self, axis: int) -> int:
        """Into how many parts the op splits the weight along ``axis``."""
        return max(self.groups, 1) if axis == 0 and self.weight_use.groups_param else 1


@attrs.frozen
class Weight:
    """A constant that a recipe may compress.

    ``name`` is the const op's name (a compressed weight's without the suffix that compression gave it),
    ``dtype`` NumPy's name of its type (``"float16"``), ``functions`` the program's functions that use it.
    ``value`` reads the array: ask for it last, it may come from disk.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    consumers: tuple[Consumer, ...]
    functions: tuple[str, ...] = ("main",)
    load: Callable[[], NDArray[Any]] = attrs.field(default=lambda: np.empty(0), repr=False, eq=False)

    @property
    def is_multiplied(self) -> bool:
        """Whether it is a weight, and no grid, mask or scale; one without known uses counts as one."""
        return not self.consumers or any(use.multiplies for use in self.consumers)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def value(self) -> NDArray[Any]:
        """The weight itself, dense."""
        return self.load()

    @property
    def content_shape(self) -> str:
        """How ``content`` begins."""
        return f"{'x'.join(map(str, self.shape))}:"

    @property
    def content(self) -> str:
        """The shape and a digest of the values as float16, the same for any float type that holds them."""
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(self.value, np.float16)
        return self.content_shape + blake2b(halves.data, digest_size=8).hexdigest()

    @property
    def channel_axes(self) -> tuple[int, int]:
        """(output channel, input channel) axes; those of the first op that uses the weight."""
        return self.consumers[0].channel_axes(self.rank) if self.consumers else (0, min(1, self.rank - 1))

    @property
    def product(self) -> Consumer | None:
        """The first use that multiplies with the weight: what flows into that can calibrate it.

        Uses of which it is known what flows in come before others; None where the weight is only read.
        """
        products = [use for use in self.consumers if not use.weight_use.is_lookup]
        known = [use for use in products if use.weight_use.rows is not None]
        return next(iter(known or products), None)


@attrs.frozen(eq=False)
class Site:
    """A weight in a program, and what is known of it before its values are read.

    A constant, or the last of the constexpr ops of a compressed weight. ``places``: the function and the
    variable of each op that gives it, several where functions, or equal constants, share it. ``nbytes``: what
    is stored of it now, and ``all_nbytes`` of all its copies, where equal ones are stored more than once.
    ``blocked``: why it cannot be rewritten whatever the recipe says. ``existing``: reads the
    encoding of a weight that is compressed already. ``op_type``: of the op that gives it.
    """

    weight: Weight
    nbytes: int
    places: tuple[Place, ...] = ()
    blocked: Refusal | None = None
    existing: Callable[[], Encoding] | None = None
    op_type: str = "const"
    all_nbytes: int = attrs.field(default=attrs.Factory(lambda site: site.nbytes, takes_self=True))

    def variables(self, function: str) -> list[str]:
        """The variables that it is in ``function``."""
        return [variable for name, variable in self.places if name == function]


def is_constant(var: Any) -> bool:
    """A variable of a program in memory is a const, or what a constexpr op gives: a compressed weight."""
    return var.op is not None and (var.op.op_type == "const" or var.op.op_type.startswith("constexpr_"))
