"""How an op meets a weight, written once: an entry of ``WEIGHT_USES`` for each op and parameter.

Rules and encoders ask for axes and groups, statistics for the rows that reach the weight, calibration and
budgets for the weight as matrices. A new op is one entry; an op without one is taken to have its outputs
along axis 0 and its inputs along the last, and nothing is known of what flows into its weights.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod

import attrs

from milpasses.errors import Refusal
from milpasses.program.flows import (
    Array,
    Flow,
    MatrixLayout,
    OpCall,
    conv_rows,
    conv_transpose_rows,
    gather_reads,
    linear_rows,
    matmul_rows,
)

Shape = tuple[int, ...]


def _outputs_first(rank: int, transposed: bool) -> tuple[int, int]:
    return 0, min(1, rank - 1)


def _outputs_second(rank: int, transposed: bool) -> tuple[int, int]:
    return 1, 0


def _matmul_axes(param: str, rank: int, transposed: bool) -> tuple[int, int]:
    """y is (..., in, out) and x is (..., out, in), unless the op transposes it."""
    if rank < 2:
        return _outputs_first(rank, transposed)
    out_last = (param == "y") != transposed
    return (rank - 1, rank - 2) if out_last else (rank - 2, rank - 1)


def _plain_layout(shape: Shape, axis: int, groups: int) -> MatrixLayout:
    return MatrixLayout(1, shape[-1])


def _conv_layout(shape: Shape, axis: int, groups: int) -> MatrixLayout:
    return MatrixLayout(groups, prod(shape[1:]), axis, prod(shape[2:]))


def _conv_transpose_layout(shape: Shape, axis: int, groups: int) -> MatrixLayout:
    return MatrixLayout(groups, shape[0] // groups, axis, inputs_first=True)


def _stacked_layout(shape: Shape, axis: int, groups: int) -> MatrixLayout:
    return MatrixLayout(prod(shape[:-2]), shape[axis], axis, inputs_first=axis == len(shape) - 2)


def _no_rule(call: OpCall, param: str) -> Refusal:
    return Refusal("no-use-rule", op_type=call.op_type, op=call.op_name, param=param)


def _hidden_states(call: OpCall, param: str) -> Refusal:
    return Refusal("hidden-states", op_type=call.op_type, op=call.op_name)


def _last_axis(rank: int, transposed: bool) -> int:
    return rank - 1


def _second_axis(rank: int, transposed: bool) -> int:
    return 1


def _matmul_input_axis(other: str, rank: int, transposed: bool) -> int:
    return rank - 1 if transposed == (other == "y") else rank - 2


@attrs.frozen(eq=False)
class WeightUse:
    """How an op meets the weight that one of its parameters takes.

    ``axes(rank, transposed)``: the weight's axes of output and of input channels, as coremltools' own passes
    take them; ``transposed`` is the op's flag for the weight, its parameter ``transpose_flag``.
    ``matrices(shape, input axis, groups)``: the weight as matrices; ``groups`` is what the op's parameter
    ``groups_param`` says, into which axis 0 of the weight is split.
    ``rows(call, layout)``: what flows in, as ``flows`` describes it; None where that is not known, and
    ``refusal(call, parameter)`` says why. ``input``: the parameter that meets the weight;
    ``input_axis(rank, transposed)``: its axis of channels, ``input_flag`` the parameter that transposes it.
    ``bias``: the parameter that may take up what the outputs lose on average; empty where the op has none, or
    its mean output is not known. ``structured``: it may be pruned by blocks and n:m. ``reads``: of a look-up
    table, which is no factor of a product: the axis along which it is read, and how often each slice was.
    ``multiplies``: the op multiplies and sums with the parameter, or looks slices of it up: what is given
    there is a weight. Other constants (grids, masks, scales, states) are not.
    """

    axes: Callable[[int, bool], tuple[int, int]] = _outputs_first
    matrices: Callable[[Shape, int, int], MatrixLayout] = _plain_layout
    rows: Callable[[OpCall, MatrixLayout], Iterable[Array]] | None = None
    refusal: Callable[[OpCall, str], Refusal] = _no_rule
    input: str = "x"
    input_axis: Callable[[int, bool], int] = _last_axis
    transpose_flag: str = ""
    input_flag: str = ""
    groups_param: str = ""
    bias: str = ""
    structured: bool = False
    reads: Callable[[OpCall], tuple[int, Array]] | None = None
    multiplies: bool = True

    @property
    def is_lookup(self) -> bool:
        """The op reads slices of the weight, and multiplies with nothing."""
        return self.reads is not None

    def layout(self, shape: Shape, transposed: bool = False, groups: int = 1) -> MatrixLayout:
        """A weight of ``shape`` as the matrices that its inputs meet."""
        return self.matrices(shape, self.axes(len(shape), transposed)[1], groups)


def _matmul(param: str, other: str) -> WeightUse:
    """A matmul whose ``param`` is the weight, and ``other`` flows in."""
    flag, input_axis = f"transpose_{other}", partial(_matmul_input_axis, other)

    def rows(call: OpCall, layout: MatrixLayout) -> Iterable[Array]:
        x = call.arguments[other]
        last = input_axis(x.ndim, bool(call.arguments.get(flag))) == x.ndim - 1
        return matmul_rows(call, call.arguments[param], x, last, layout)

    return WeightUse(
        axes=partial(_matmul_axes, param),
        matrices=_stacked_layout,
        rows=rows,
        input=other,
        input_axis=input_axis,
        transpose_flag=f"transpose_{param}",
        input_flag=flag,
    )


_RECURRENT = WeightUse(rows=linear_rows)
_HIDDEN = WeightUse(refusal=_hidden_states)
_UNKNOWN = WeightUse(multiplies=False)
_UNKNOWN_FLOW = WeightUse()  # a product, or a look-up, of which it is not known what flows in
WEIGHT_USES: dict[tuple[str, str], WeightUse] = {
    ("linear", "weight"): WeightUse(rows=linear_rows, bias="bias", structured=True),
    ("conv", "weight"): WeightUse(
        matrices=_conv_layout,
        rows=conv_rows,
        input_axis=_second_axis,
        groups_param="groups",
        bias="bias",
        structured=True,
    ),
    # No bias: an output near the border meets fewer taps, which are not told apart.
    ("conv_transpose", "weight"): WeightUse(
        axes=_outputs_second,
        matrices=_conv_transpose_layout,
        rows=conv_transpose_rows,
        input_axis=_second_axis,
        groups_param="groups",
    ),
    # Its axes are the op's, as coremltools': a bias has no axis 1, so no output channels.
    ("conv_transpose", "bias"): WeightUse(axes=_outputs_second, multiplies=False),
    ("matmul", "x"): _matmul("x", "y"),
    ("matmul", "y"): _matmul("y", "x"),
    ("lstm", "weight_ih"): _RECURRENT,
    ("lstm", "weight_ih_back"): _RECURRENT,
    ("gru", "weight_ih"): _RECURRENT,
    ("rnn", "weight_ih"): _RECURRENT,
    ("lstm", "weight_hh"): _HIDDEN,
    ("lstm", "weight_hh_back"): _HIDDEN,
    ("gru", "weight_hh"): _HIDDEN,
    ("rnn", "weight_hh"): _HIDDEN,
    ("gather", "x"): WeightUse(reads=gather_reads),
    ("gather_nd", "x"): _UNKNOWN_FLOW,
    ("gather_along_axis", "x"): _UNKNOWN_FLOW,
    ("einsum", "values"): _UNKNOWN_FLOW,
    ("scaled_dot_product_attention", "query"): _UNKNOWN_FLOW,
    ("scaled_dot_product_attention", "key"): _UNKNOWN_FLOW,
    ("scaled_dot_product_attention", "value"): _UNKNOWN_FLOW,
}

# Ops whose output holds the elements of their ``x`` and nothing else: who takes it takes the weight.
PASSED_ON = frozenset(
    {
        "cast",
        "expand_dims",
        "identity",
        "reshape",
        "slice_by_index",
        "slice_by_size",
        "split",
        "squeeze",
        "transpose",
    }
)
# Ops whose output is a weight where an op takes it as one: a convolution whose weights depend on its input.
COMBINED = frozenset({"add", "mul", "real_div", "sub"})


def weight_use(op_type: str, param: str) -> WeightUse:
    """How an op of ``op_type`` meets the weight that its ``param`` takes."""
    return WEIGHT_USES.get((op_type, param), _UNKNOWN)


def flow_of(call: OpCall, param: str) -> Flow | Refusal:
    """The rows that reach the weight that ``param`` takes in a call of an op; where not known, why."""
    use, arguments = weight_use(call.op_type, param), call.arguments
    if use.rows is None:
        return use.refusal(call, param)
    transposed, groups = bool(arguments.get(use.transpose_flag)), int(arguments.get(use.groups_param, 1))
    layout = use.layout(arguments[param].shape, transposed, groups)
    try:
        blocks = use.rows(call, layout)
    except Refusal as refusal:
        return refusal
    return Flow(layout.groups, layout.width, layout.axis, layout.taps, blocks)


def reads_of(call: OpCall, param: str) -> tuple[int, Array] | Refusal:
    """The axis along which a look-up table is read in a call of an op, and how often each slice was."""
    reads = weight_use(call.op_type, param).reads
    assert reads is not None
    try:
        return reads(call)
    except Refusal as refusal:
        return refusal
