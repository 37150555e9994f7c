"""Where the scale of a channel can move from one op's weights into the next one's, leaving the outputs alone.

An op whose outputs are linear in a weight (conv, linear, the gain of a layer norm), then ops that commute
with a positive factor for each channel, then convolutions or linears that take the result, alone.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.program.weights import FLOATS, Site, is_constant

Array = NDArray[Any]
_HOMOGENEOUS = ("relu", "leaky_relu", "max_pool", "avg_pool")
_CAPPED = "relu6"  # commutes with a factor for values that stay below 6
_GAINS = {"conv": ("weight", "bias"), "linear": ("weight", "bias"), "layer_norm": ("gamma", "beta")}


@attrs.frozen(eq=False)
class Consumer:
    """A conv or linear that takes the channels: its weight, and the groups of its inputs."""

    site: Site
    groups: int

    def spread(self, scales: Array) -> Array:
        """The scale of the input channel that each element of the weight meets, shaped to multiply it."""
        shape = self.site.weight.shape
        grouped = scales.reshape(self.groups, 1, shape[1])
        repeated = np.broadcast_to(grouped, (self.groups, shape[0] // self.groups, shape[1]))
        return repeated.reshape(*shape[:2], *(1 for _ in shape[2:]))

    def largest(self, value: Array) -> Array:
        """The largest magnitude of ``value``, the weight, that each input channel meets."""
        outputs, inputs = value.shape[:2]
        flat = np.abs(value.astype(np.float64)).reshape(self.groups, outputs // self.groups, inputs, -1)
        return flat.max(axis=(1, 3)).reshape(-1)


@attrs.frozen(eq=False)
class Pair:
    """Channels between two ops.

    ``name``: the op that makes them; ``producers``: its constants, which have them along axis 0.
    ``tensors``: variables, from its output to what the ``consumers`` take; ``axis``: of the channels in
    them. ``capped``: of these, those that a ``relu6`` takes.
    """

    name: str
    producers: tuple[Site, ...]
    consumers: tuple[Consumer, ...]
    tensors: tuple[str, ...]
    axis: int
    capped: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.producers[0].weight.shape[0]


def find_pairs(function: Any, sites: Mapping[str, Site]) -> list[Pair]:
    """The pairs of a function in memory; ``sites``: its weights by variable."""
    pairs = (_pair(function, op, sites) for op in function.operations if op.op_type in _GAINS)
    return [pair for pair in pairs if pair is not None]


def _pair(function: Any, op: Any, sites: Mapping[str, Site]) -> Pair | None:
    producers = _producers(op, sites)
    if producers is None:
        return None
    axis = 1 if op.op_type == "conv" else -1
    outputs = set(function.outputs)
    variable, tensors, capped = op.outputs[0], [op.outputs[0].name], list[str]()
    while variable not in outputs and not variable.consuming_blocks:
        users = list(dict.fromkeys(variable.child_ops))
        if not users:
            return None
        found = [_consumer(user, variable, sites, axis) for user in users]
        if all(found):
            consumers = tuple(each for each in found if each is not None)
            return Pair(op.name, producers, consumers, tuple(tensors), axis, tuple(capped))
        (user, *others) = users
        if others or user.op_type not in (*_HOMOGENEOUS, _CAPPED):
            return None
        if axis == -1 and "pool" in user.op_type:
            return None
        if user.op_type == _CAPPED:
            capped.append(variable.name)
        variable = user.outputs[0]
        tensors.append(variable.name)
    return None


def _producers(op: Any, sites: Mapping[str, Site]) -> tuple[Site, ...] | None:
    """The constants that make the channels, None where one of them cannot be changed."""
    found: list[Site] = []
    if op.op_type == "layer_norm" and (op.axes is None or list(op.axes.val) not in ([-1], [op.x.rank - 1])):
        return None
    for place, param in enumerate(_GAINS[op.op_type]):
        bound = op.inputs.get(param)
        if bound is None:
            if place == 0:
                return None
            continue
        site = _changeable(bound, sites)
        if site is None:
            return None
        found.append(site)
    return tuple(found)


def _consumer(op: Any, variable: Any, sites: Mapping[str, Site], axis: int) -> Consumer | None:
    kind = "conv" if axis == 1 else "linear"
    if op.op_type != kind or op.inputs["x"] is not variable or variable in (op.weight, op.inputs.get("bias")):
        return None
    site = _changeable(op.weight, sites)
    groups = int(op.groups.val) if kind == "conv" else 1
    return None if site is None else Consumer(site, groups)


def _changeable(variable: Any, sites: Mapping[str, Site]) -> Site | None:
    """A dense float constant that one op uses, as a site that may be rewritten."""
    if not is_constant(variable):
        return None
    site = sites.get(variable.name)
    if site is None or site.existing is not None or site.weight.dtype not in FLOATS:
        return None
    alone = len(site.places) == 1 and len(site.weight.consumers) == 1
    return site if alone else None
