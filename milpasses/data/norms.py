"""What flows into weights, without data: a normalization says what its channels look like.

After a normalization, channel c is distributed about as beta_c + gamma_c z with z normal: E[x^2] = gamma^2 +
beta^2. Activations, constant factors and offsets and moves of axes carry that on to the next weight. An RMS
norm, which MIL has no op for, is known by its parts: x * rsqrt(mean(x^2) + eps).
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.moments import Moments, Statistics
from milpasses.errors import Refusal
from milpasses.interpreter.registry import rule
from milpasses.program.weight_uses import weight_use
from milpasses.program.weights import is_constant

Array = NDArray[np.float64]
NORMS = "norms"  # instead of data: what the normalizations before weights tell
DESCRIPTION = "norms (no data)"
_POINTS = 64  # equally probable values of a channel
_ACTIVATIONS = frozenset(
    ("clamped_relu", "elu", "gelu", "leaky_relu", "linear_activation", "prelu", "relu", "relu6",
     "scaled_tanh", "sigmoid", "sigmoid_hard", "silu", "softplus", "softsign", "tanh", "thresholded_relu")
)  # fmt: skip


def is_norms(data: Any) -> bool:
    """``NORMS`` stands where statistics or data could."""
    return isinstance(data, str) and data == NORMS


@attrs.frozen(eq=False)
class _Channels:
    """Equally probable values of each channel, [1, channels, points], along ``axis`` of a variable."""

    axis: int
    values: Array


def _normal() -> Array:
    """Points of a normal distribution with mean 0 and variance 1, (1, 1, points)."""
    quantile = NormalDist().inv_cdf
    points = np.array([quantile((i + 0.5) / _POINTS) for i in range(_POINTS)])
    return (points / points.std())[None, None]


def norm_statistics(function: Any, name_of: Callable[[Any], str | None]) -> Statistics:
    """Second moments of what flows into weights behind normalizations, without running the function.

    ``function``: of a coremltools ``Program``; ``name_of`` gives the name of a constant that is a weight.
    The moments count as one row: only the ratios between the channels of a weight mean something. In
    ``skipped``: weights that stand behind no normalization.
    """
    known: dict[Any, _Channels] = {}
    moments: dict[str, list[Moments | None]] = {}
    for op in function.operations:
        for param, bound in op.inputs.items():
            for var in bound if isinstance(bound, list | tuple) else [bound]:
                name = name_of(var) if var is not None and is_constant(var) else None
                if name is None or op.op_type.startswith("const"):
                    continue
                if not weight_use(op.op_type, param).is_lookup:
                    moments.setdefault(name, []).append(_moments(op, param, known))
        after = _after(op, known)
        if after is not None:
            known[op.outputs[0]] = after
    statistics = Statistics(data=DESCRIPTION)
    for name, uses in moments.items():
        first = uses[0]
        if first is None or any(use is None or use.layout != first.layout for use in uses):
            statistics.skipped[name] = Refusal("no-normalization")
        else:
            first.square_sum = np.mean([use.square_sum for use in uses if use is not None], axis=0)
            statistics.weights[name] = first
    return statistics


def _after(op: Any, known: Mapping[Any, _Channels]) -> _Channels | None:
    """What is known of the op's first output."""
    if op.op_type in _NORMS:
        return _NORMS[op.op_type](op)
    if op.op_type in ("mul", "add", "sub", "real_div"):
        return _rms(op) or _with_constant(op, known)
    x = op.inputs.get("x")
    before = known.get(x) if not isinstance(x, list | tuple) and x is not None else None
    if before is None:
        return None
    if op.op_type in _ACTIVATIONS:
        own = rule(op.op_type)
        assert own is not None
        if op.op_type == "gelu":
            return _Channels(before.axis, _gelu(op, before.values))
        arguments = {
            n: v.val for n, v in op.inputs.items() if n != "x" and v is not None and v.val is not None
        }
        if op.op_type == "prelu" and before.axis != 1:
            return None
        return _Channels(before.axis, own.function(x=before.values, **arguments))
    move = _MOVES.get(op.op_type)
    axis = None if move is None else move(op, before.axis)
    return None if axis is None else _Channels(axis, before.values)


def _gelu(op: Any, values: Array) -> Array:
    """x * Phi(x): the exact form stands for its approximations."""
    cumulative = np.vectorize(NormalDist().cdf)
    return values * cumulative(values)


def _affine(op: Any, axis: int, channels: int) -> _Channels | None:
    """beta + gamma z, of a normalization op over one axis of channels."""
    gamma, beta = (op.inputs.get(name) for name in ("gamma", "beta"))
    scale = np.ones(channels) if gamma is None else gamma.val
    offset = np.zeros(channels) if beta is None else beta.val
    if scale is None or offset is None or np.shape(scale) != (channels,) or np.shape(offset) != (channels,):
        return None
    return _Channels(axis, offset[None, :, None] + scale[None, :, None] * _normal())


def _layer_norm(op: Any) -> _Channels | None:
    rank = len(op.x.shape)
    axes = [int(axis) % rank for axis in (op.axes.val if op.axes is not None else range(rank))]
    size = op.x.shape[axes[0]]
    return _affine(op, axes[0], int(size)) if len(axes) == 1 and isinstance(size, int | np.integer) else None


def _channel_norm(op: Any) -> _Channels | None:
    size = op.x.shape[1]
    return _affine(op, 1, int(size)) if isinstance(size, int | np.integer) else None


def _rms(op: Any) -> _Channels | None:
    """x * rsqrt(mean(x^2)) over the last axis, in either order, or x / sqrt(mean(x^2))."""
    if op.op_type not in ("mul", "real_div"):
        return None
    orders = ((op.x, op.y), (op.y, op.x)) if op.op_type == "mul" else ((op.x, op.y),)
    root = "rsqrt" if op.op_type == "mul" else "sqrt"
    for x, norm in orders:
        part = _made_by(norm, root)
        mean = part.x if part is not None else None
        offset = _made_by(mean, "add")
        if offset is not None:
            mean = next((v for v in (offset.x, offset.y) if v.val is None), None)
        mean = _made_by(mean, "reduce_mean")
        if (
            mean is None
            or mean.axes is None
            or [int(a) % len(x.shape) for a in mean.axes.val] != [len(x.shape) - 1]
        ):
            continue
        squared = _squared(mean.x)
        if (
            squared is not None
            and _uncast(squared) is _uncast(x)
            and isinstance(x.shape[-1], int | np.integer)
        ):
            return _Channels(len(x.shape) - 1, np.repeat(_normal(), int(x.shape[-1]), axis=1))
    return None


def _squared(var: Any) -> Any:
    """What ``var`` is the square of, or None."""
    made = None if var is None else _uncast(var).op
    if made is None:
        return None
    if made.op_type == "square" or (
        made.op_type == "pow" and made.y.val is not None and bool(np.all(made.y.val == 2))
    ):
        return made.x
    return made.x if made.op_type == "mul" and made.x is made.y else None


def _made_by(var: Any, op_type: str) -> Any:
    """The op of ``op_type`` that makes ``var``, casts apart, or None."""
    made = None if var is None else _uncast(var).op
    return made if made is not None and made.op_type == op_type else None


def _uncast(var: Any) -> Any:
    while var.op is not None and var.op.op_type == "cast":
        var = var.op.x
    return var


def _with_constant(op: Any, known: Mapping[Any, _Channels]) -> _Channels | None:
    """A constant for all channels, or one for each, added, multiplied with and so on."""
    for var, other, swapped in ((op.x, op.y, False), (op.y, op.x, True)):
        before = known.get(var)
        if before is None or other.val is None or (swapped and op.op_type in ("sub", "real_div")):
            continue
        value, rank = np.asarray(other.val, np.float64), len(var.shape)
        shape = (1,) * (rank - value.ndim) + value.shape
        channels = before.values.shape[1]
        if value.ndim > rank or any(n != 1 and a != before.axis for a, n in enumerate(shape)):
            return None
        constant = np.broadcast_to(value.reshape(-1), (channels,))[None, :, None]
        return _Channels(before.axis, _ARITHMETIC[op.op_type](before.values, constant))
    return None


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "mul": np.multiply, "add": np.add, "sub": np.subtract, "real_div": np.divide,
}  # fmt: skip
_NORMS: dict[str, Callable[[Any], _Channels | None]] = {
    "layer_norm": _layer_norm, "batch_norm": _channel_norm, "instance_norm": _channel_norm,
}  # fmt: skip


def _reshaped(op: Any, axis: int) -> int | None:
    """Channels along the last axis stay there where its size stays."""
    before, after = op.x.shape, op.outputs[0].shape
    kept = axis == len(before) - 1 and before[-1] == after[-1]
    return len(after) - 1 if kept else None


def _transposed(op: Any, axis: int) -> int:
    return [int(a) % len(op.x.shape) for a in op.perm.val].index(axis)


def _expanded(op: Any, axis: int) -> int:
    rank = len(op.outputs[0].shape)
    new = {int(a) % rank for a in op.axes.val}
    return [a for a in range(rank) if a not in new][axis]


def _squeezed(op: Any, axis: int) -> int | None:
    rank = len(op.x.shape)
    sizes = op.x.shape
    axes = (
        [int(a) % rank for a in op.axes.val]
        if op.axes is not None
        else [a for a in range(rank) if sizes[a] == 1]
    )
    return None if axis in axes else axis - sum(a < axis for a in axes)


_MOVES: dict[str, Callable[[Any, int], int | None]] = {
    "cast": lambda _, axis: axis, "identity": lambda _, axis: axis, "transpose": _transposed,
    "reshape": _reshaped, "expand_dims": _expanded, "squeeze": _squeezed,
}  # fmt: skip


def _moments(op: Any, param: str, known: Mapping[Any, _Channels]) -> Moments | None:
    """The second moments of the rows that meet the weight ``param`` of ``op``, laid out as its flow."""
    use = weight_use(op.op_type, param)
    entering = op.inputs.get(use.input)
    if use.rows is None or entering is None:
        return None
    channels = known.get(entering)
    transposed = bool(_constant(op, use.input_flag, False))
    if channels is None or channels.axis != use.input_axis(len(entering.shape), transposed):
        return None
    flag, groups = bool(_constant(op, use.transpose_flag, False)), int(_constant(op, use.groups_param, 1))
    layout = use.layout(tuple(op.inputs[param].shape), flag, groups)
    squares = layout.spread(np.mean(channels.values**2, axis=2))
    zeros = np.zeros_like(squares)
    return Moments(layout.axis, layout.taps, 1, zeros, squares, None, (f"{op.op_type} {op.name}",))


def _constant(op: Any, param: str, default: Any) -> Any:
    """The value of a parameter that is a constant; ``default`` where the op has none."""
    bound = op.inputs.get(param)
    return default if bound is None or bound.val is None else bound.val
