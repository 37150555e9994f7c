"""Recurrent layers: x is [S, B, I]; gate matrices hold their gates one after another.

A layer of direction ``reverse`` returns its states in the order in which it made them, the last input's
first; the backward half of a bidirectional one returns them in the order of the inputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from milpasses.interpreter.ops.activation import sigmoid_of
from milpasses.interpreter.registry import Array, Context, InterpreterError, contiguous, op

# Two have parameters, which recurrent ops cannot state. By coremltools' own tests Core ML takes 1 and 1 for
# scaled_tanh here, which makes it tanh, and 0.2 and 0.5 for hard_sigmoid.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid_of,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "scaled_tanh": np.tanh,
    "hard_sigmoid": lambda x: np.clip(np.float32(0.2) * x + np.float32(0.5), 0, 1),
}


def _activation(name: str) -> Callable[[Array], Array]:
    key = {"sigmoid_hard": "hard_sigmoid"}.get(name.lower(), name.lower())
    if key not in _ACTIVATIONS:
        raise InterpreterError(f"no recurrent activation {name!r}")
    return _ACTIVATIONS[key]


def _project(ctx: Context, x: Array, weight: Array, bias: Array | None) -> Array:
    """The inputs' share of all gates at all steps, in one product."""
    return ctx.backend.linear(x, weight, bias)


def _order(steps: int, direction: str) -> range:
    return range(steps - 1, -1, -1) if direction == "reverse" else range(steps)


def _sequence(states: Array, last: Array, output_sequence: Any) -> Array:
    return states if bool(output_sequence) else last[None]


@op("rnn")
def rnn(
    ctx: Context,
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """h = act(W x + R h + b)."""
    act = _activation(activation)
    inputs = _project(ctx, x, weight_ih, bias)
    states, hidden = list[Array](), initial_h
    for step in _order(len(x), direction):
        hidden = act(inputs[step] + hidden @ weight_hh.T)
        states.append(hidden)
    return _sequence(np.stack(states), hidden, output_sequence), hidden


@op("gru")
def gru(
    ctx: Context,
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: Any = False,
    input_bias: Array | None = None,
) -> tuple[Array, Array]:
    """Gates r, o, z. ``reset_after`` (iOS18) applies r to R_o h + b, else to h before the product."""
    gate, act = _activation(recurrent_activation), _activation(activation)
    size = weight_hh.shape[1]
    after = bool(reset_after)
    hidden_bias = np.zeros(3 * size, np.float32) if bias is None else bias
    inputs = _project(ctx, x, weight_ih, input_bias)
    states, hidden = list[Array](), initial_h
    gates_rz = np.concatenate([weight_hh[:size], weight_hh[2 * size :]]).T
    bias_rz = np.concatenate([hidden_bias[:size], hidden_bias[2 * size :]])
    weight_o, bias_o = weight_hh[size : 2 * size].T, hidden_bias[size : 2 * size]
    for step in _order(len(x), direction):
        share = inputs[step]
        recurrent = hidden @ gates_rz + bias_rz
        reset = gate(share[:, :size] + recurrent[:, :size])
        update = gate(share[:, 2 * size :] + recurrent[:, size:])
        new = reset * (hidden @ weight_o + bias_o) if after else (reset * hidden) @ weight_o + bias_o
        candidate = act(share[:, size : 2 * size] + new)
        hidden = (1 - update) * candidate + update * hidden
        states.append(hidden)
    return _sequence(np.stack(states), hidden, output_sequence), hidden


@op("lstm")
def lstm(
    ctx: Context,
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Any = None,
) -> tuple[Array, Array, Array]:
    """Gates i, f, o, z; two directions are concatenated along the hidden axis."""
    acts = (_activation(recurrent_activation), _activation(cell_activation), _activation(activation))
    limit = None if clip is None else float(clip)
    size = weight_hh.shape[1]

    def run_direction(
        way: str, half: slice, ih: Array, hh: Array, b: Array | None, peep: Array | None
    ) -> tuple[Array, ...]:
        return _lstm_direction(
            ctx, x, initial_h[:, half], initial_c[:, half], ih, hh, b, peep, way, acts, limit
        )

    if direction != "bidirectional":
        states, hidden, cell = run_direction(direction, slice(None), weight_ih, weight_hh, bias, peephole)
        return _sequence(states, hidden, output_sequence), hidden, cell
    assert weight_ih_back is not None
    assert weight_hh_back is not None
    forward = run_direction("forward", slice(0, size), weight_ih, weight_hh, bias, peephole)
    made, *last = run_direction(
        "reverse", slice(size, None), weight_ih_back, weight_hh_back, bias_back, peephole_back
    )
    pairs = zip(forward, (made[::-1], *last), strict=True)
    states, hidden, cell = (np.concatenate(pair, axis=-1) for pair in pairs)
    return _sequence(states, hidden, output_sequence), hidden, cell


def _lstm_direction(
    ctx: Context,
    x: Array,
    hidden: Array,
    cell: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None,
    peephole: Array | None,
    direction: str,
    acts: tuple[Callable[[Array], Array], Callable[[Array], Array], Callable[[Array], Array]],
    limit: float | None,
) -> tuple[Array, Array, Array]:
    gate, cell_act, act = acts
    size = weight_hh.shape[1]
    inputs = _project(ctx, x, weight_ih, bias)
    states: list[Array] = []
    recurrent = contiguous(weight_hh.T)
    for step in _order(len(x), direction):
        share = inputs[step] + hidden @ recurrent
        i, f, o, z = (share[:, k * size : (k + 1) * size] for k in range(4))
        if peephole is not None:
            i, f = i + peephole[:size] * cell, f + peephole[size : 2 * size] * cell
        cell = gate(f) * cell + gate(i) * cell_act(z)
        if limit is not None:  # the cell's state, as coremltools' own tests expect of Core ML
            cell = np.clip(cell, -limit, limit)
        if peephole is not None:
            o = o + peephole[2 * size :] * cell
        hidden = gate(o) * act(cell)
        states.append(hidden)
    return np.stack(states), hidden, cell
