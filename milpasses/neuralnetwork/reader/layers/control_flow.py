"""Loops and branches: blobs that are written in place become variables that MIL carries.

A blob that a nested network makes is seen outside it by its name. So a branch gives every blob that exists
after both of its sides, and a loop carries every blob that it makes and that existed before. Where a branch
may leave the loop (break) or the iteration (continue), what follows it in the body moves into both sides::

    a; branch(p: break); b   =>   a; cond(p: stop=true | b; stop=false)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from milpasses import _coremltools as host
from milpasses.neuralnetwork.reader.layers.tensor_nd_shape import scalar
from milpasses.neuralnetwork.reader.network import Layer, Network
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.neuralnetwork.spec.networks import nested_networks
from milpasses.program.builder import mb

_NEAR_ZERO = np.float32(1e-6)  # a predicate of no larger magnitude is false


@layer("loopBreak", "loopContinue")
def jump(layer: Layer) -> Value:
    """Only a loop's body may hold these, and ``_body`` reads them there."""
    raise LayerError("stands outside of a loop")


@layer("branch")
def branch(layer: Layer) -> list[Value]:
    """One of two networks; where it is known which, the other may not even be possible, and is left out."""
    network, params = layer.network, layer.spec.branch
    sides = (params.ifBranch.layers, params.elseBranch.layers)
    known = layer.value.known
    if known is not None:
        network.run(sides[0 if np.abs(known).item() > _NEAR_ZERO else 1])
        return []
    names = _kept(network, sides)

    def side(layers: Any) -> Any:
        def build() -> list[Any]:
            child = network.child()
            child.run(layers)
            return [_owned(child.values[name].exact()) for name in names]

        return build

    if names:
        _take(
            network,
            names,
            mb.cond(pred=_truth(layer.value), _true_fn=side(sides[0]), _false_fn=side(sides[1])),
        )
    return []


@layer("loop")
def loop(layer: Layer) -> list[Value]:
    """A network again and again: a number of times, while a condition holds, or both."""
    network, params = layer.network, layer.spec.loop
    check, body = params.conditionNetwork.layers, params.bodyNetwork.layers
    limit: Any = scalar(layer.value, integer=True) if layer.inputs else int(params.maxLoopIterations)
    bounded = bool(layer.inputs) or limit > 0 or not params.conditionVar
    if isinstance(limit, int):
        limit = np.int32(min(limit, np.iinfo(np.int32).max))
    network.run(check)
    going = _condition(network, params.conditionVar) if params.conditionVar else mb.const(val=np.bool_(True))
    names = [name for name in _outputs([*check, *body]) if name in network.values]
    first = [_open(network.values[name].exact()) for name in names]

    def goes_on(count: Any, go: Any, *carried: Any) -> Any:
        del carried
        return mb.logical_and(x=go, y=mb.less(x=count, y=limit)) if bounded else mb.identity(x=go)

    def iteration(count: Any, go: Any, *carried: Any) -> tuple[Any, ...]:
        del go
        child = network.child()
        child.values.update(zip(names, map(Value.of, carried), strict=True))
        stay = _body(child, list(body), names)
        child.run(check)
        if params.conditionVar:
            stay = mb.logical_and(x=stay, y=_condition(child, params.conditionVar))
        results = [_open(child.values[name].exact()) for name in names]
        return (mb.add(x=count, y=np.int32(1)), _open(stay), *results)

    start = (_open(np.int32(0)), _open(going), *first)
    results = mb.while_loop(_cond=goes_on, _body=iteration, loop_vars=start, name=layer.name)
    _take(network, names, results[2:])
    return []


def _body(network: Network, layers: list[Any], names: Sequence[str]) -> Any:
    """Read a loop's body; return a bool variable: whether the loop goes on."""
    for index, spec in enumerate(layers):
        kind = spec.WhichOneof("layer")
        if kind in ("loopBreak", "loopContinue"):
            return mb.const(val=np.bool_(kind == "loopContinue"))
        if kind == "branch" and _jumps(spec):
            return _leaving(network, spec, layers[index + 1 :], names)
        network.run([spec])
    return mb.const(val=np.bool_(True))


def _leaving(network: Network, spec: Any, rest: list[Any], names: Sequence[str]) -> Any:
    """A branch that may leave, and the layers after it."""

    def side(layers: Any) -> Any:
        def build() -> list[Any]:
            child = network.child()
            stay = _body(child, [*layers, *rest], names)
            return [mb.identity(x=stay), *(_owned(child.values[name].exact()) for name in names)]

        return build

    if spec.input[0] not in network.values:
        raise LayerError(f"no earlier layer gives '{spec.input[0]}', on which a branch depends")
    results = mb.cond(
        pred=_truth(network.values[spec.input[0]]),
        _true_fn=side(spec.branch.ifBranch.layers),
        _false_fn=side(spec.branch.elseBranch.layers),
    )
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    _take(network, names, results[1:])
    return results[0]


def _jumps(spec: Any) -> bool:
    """Whether a branch holds a break or continue of the loop that it stands in."""
    for _, network in nested_networks(spec):
        for inner in network.layers:
            kind = inner.WhichOneof("layer")
            if kind in ("loopBreak", "loopContinue") or (kind == "branch" and _jumps(inner)):
                return True
    return False


def _outputs(layers: Any) -> list[str]:
    """Names of the blobs that layers and those inside them make, in order of appearance."""
    names: dict[str, None] = {}
    for spec in layers:
        names.update(dict.fromkeys(spec.output))
        for _, network in nested_networks(spec):
            names.update(dict.fromkeys(_outputs(network.layers)))
    return list(names)


def _kept(network: Network, sides: Sequence[Any]) -> list[str]:
    """Blobs that exist after either side of a branch."""
    outputs = [_outputs(layers) for layers in sides]
    either = dict.fromkeys([*outputs[0], *outputs[1]])
    return [name for name in either if name in network.values or all(name in part for part in outputs)]


def _take(network: Network, names: Sequence[str], results: Any) -> None:
    """Let the blobs ``names`` be what an op gives: a variable, or several."""
    variables = results if isinstance(results, (list, tuple)) else [results]
    network.values.update(zip(names, map(Value.of, variables), strict=True))


def _condition(network: Network, name: str) -> Any:
    if name not in network.values:
        raise LayerError(f"its condition '{name}' is made nowhere")
    return _truth(network.values[name])


def _truth(value: Value) -> Any:
    """A scalar bool variable."""
    return mb.greater(x=mb.abs(x=scalar(value)), y=_NEAR_ZERO)


def _open(variable: Any) -> Any:
    """What a loop starts with or carries on: a variable that hides its value, even where that is a constant.

    MIL takes a block's input for a constant if the loop starts with one and the first iteration, with
    everything known, gives it again; a value that later iterations change is then refused.
    """
    carried = mb.identity(x=variable)
    host.hide_value(carried)
    return carried


def _owned(variable: Any) -> Any:
    """A variable that a nested block may give: made by an op of its own."""
    return mb.identity(x=variable)
