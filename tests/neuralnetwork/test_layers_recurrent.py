"""Recurrent layers against step-by-step NumPy, in the words of the specification."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nn_models import Array, normal, run_layer

from milpasses.neuralnetwork import LayerError

S, B, I, H = 4, 2, 3, 5  # noqa: E741
X = normal(S, B, I, 1, 1)
H0, C0 = normal(1, B, H, 1, 1, seed=1), normal(1, B, H, 1, 1, seed=2)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def hard(x: Array) -> Array:
    return np.clip(0.2 * x + 0.5, 0, 1)


def gates(count: int, seed: int = 0) -> tuple[list[Array], list[Array], list[Array]]:
    """Input matrices, recursion matrices and biases."""
    return (
        [normal(H, I, seed=seed + n) for n in range(count)],
        [normal(H, H, seed=seed + n) for n in range(count)],
        [normal(H, seed=seed + n) for n in range(count)],
    )


def steps(reverse: bool) -> Array:
    x = X[..., 0, 0]
    return x[::-1] if reverse else x


def vectors(y: Array) -> Array:
    return y.reshape(-1, B, y.shape[-3])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
def test_simple_recurrent(reverse: bool, sequence: bool) -> None:
    (w,), (r,), (b,) = gates(1)
    out = run_layer(
        lambda n: n.add_simple_rnn("r", r, w, b, H, I, "TANH", ["x", "h"], ["y", "hn"], sequence, reverse),
        {"x": X, "h": H0},
        ("y", "hn"),
    )
    h, states = H0[0, ..., 0, 0], []
    for x in steps(reverse):
        h = np.tanh(x @ w.T + h @ r.T + b)
        states.append(h)
    np.testing.assert_allclose(vectors(out["y"]), states if sequence else states[-1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(out["hn"])[0], h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_gru(reverse: bool) -> None:
    w, r, b = gates(3)
    out = run_layer(
        lambda n: n.add_gru(
            "g", r, w, b, H, I, ["x", "h"], ["y", "hn"], output_all=True, reverse_input=reverse
        ),
        {"x": X, "h": H0},
        ("y", "hn"),
    )
    h, states = H0[0, ..., 0, 0], []
    for x in steps(reverse):
        z, s = (hard(x @ w[k].T + h @ r[k].T + b[k]) for k in (0, 1))
        o = np.tanh(x @ w[2].T + (h * s) @ r[2].T + b[2])
        h = (1 - z) * o + z * h
        states.append(h)
    np.testing.assert_allclose(vectors(out["y"]), states, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(out["hn"])[0], h, rtol=1e-4, atol=1e-5)


def lstm(
    weights: tuple[list[Array], list[Array], list[Array]],
    peep: list[Array] | None = None,
    reverse: bool = False,
    coupled: bool = False,
    forget_bias: bool = False,
    gate: Callable[[Array], Array] = sigmoid,
    h: Array = H0,
    c: Array = C0,
) -> tuple[Array, Array, Array]:
    """The builder orders gates input, forget, output, block input."""
    w, r, b = weights
    h, c, states = h[0, ..., 0, 0], c[0, ..., 0, 0], []
    p = peep or [np.zeros(H, np.float32)] * 3
    for x in steps(reverse):
        i, f, o, z = (x @ w[k].T + h @ r[k].T + b[k] for k in range(4))
        i = gate(i + p[0] * c)
        f = 1 - i if coupled else gate(f + p[1] * c + forget_bias)
        c = f * c + i * np.tanh(z)
        h = gate(o + p[2] * c) * np.tanh(c)
        states.append(h)
    return np.array(states), h, c


@pytest.mark.parametrize(
    "settings",
    [{}, {"reverse": True}, {"peep": [normal(H, seed=7 + k) for k in range(3)]}, {"coupled": True},
     {"forget_bias": True}, {"gate": hard}],
    ids=["plain", "reverse", "peephole", "coupled", "forget bias", "hard sigmoid"],
)  # fmt: skip
@pytest.mark.parametrize("sequence", [False, True])
def test_lstm(settings: dict[str, Any], sequence: bool) -> None:
    weights = gates(4)
    w, r, b = weights
    out = run_layer(
        lambda n: n.add_unilstm(
            "l", r, w, b, H, I, ["x", "h", "c"], ["y", "hn", "cn"], peep=settings.get("peep"),
            output_all=sequence, forget_bias=settings.get("forget_bias", False),
            coupled_input_forget_gate=settings.get("coupled", False),
            reverse_input=settings.get("reverse", False),
            inner_activation="SIGMOID_HARD" if "gate" in settings else "SIGMOID",
        ),
        {"x": X, "h": H0, "c": C0},
        ("y", "hn", "cn"),
    )  # fmt: skip
    states, h, c = lstm(weights, **settings)
    np.testing.assert_allclose(vectors(out["y"]), states if sequence else states[-1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(out["hn"])[0], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(out["cn"])[0], c, rtol=1e-4, atol=1e-5)


def test_bidirectional_lstm() -> None:
    there, back = gates(4), gates(4, seed=20)
    names = ["y", "h1", "c1", "h2", "c2"]
    inputs = {"x": X, "h": H0, "c": C0, "hb": C0, "cb": H0}
    out = run_layer(
        lambda n: n.add_bidirlstm(
            "l", there[1], there[0], there[2], back[1], back[0], back[2], H, I, list(inputs), names,
            output_all=True,
        ),
        inputs,
        tuple(names),
    )  # fmt: skip
    first, second = lstm(there), lstm(back, reverse=True, h=C0, c=H0)
    wanted = np.concatenate([first[0], second[0][::-1]], -1)
    np.testing.assert_allclose(vectors(out["y"]), wanted, rtol=1e-4, atol=1e-5)
    for name, state in zip(names[1:], (*first[1:], *second[1:]), strict=True):
        np.testing.assert_allclose(vectors(out[name])[0], state, rtol=1e-4, atol=1e-5)


def test_states_that_are_not_given_are_zeros() -> None:
    weights = gates(4)
    w, r, b = weights
    out = run_layer(lambda n: n.add_unilstm("l", r, w, b, H, I, ["x"], ["y"]), {"x": X}, ("y",))
    zeros = np.zeros_like(H0)
    np.testing.assert_allclose(vectors(out["y"])[0], lstm(weights, h=zeros, c=zeros)[1], rtol=1e-4, atol=1e-5)


def test_an_activation_with_other_parameters_is_refused() -> None:
    (w,), (r,), (b,) = gates(1)

    def build(n: Any) -> None:
        n.add_simple_rnn("r", r, w, b, H, I, "SIGMOID_HARD", ["x"], ["y"])
        n.nn_spec.layers[0].simpleRecurrent.activation.sigmoidHard.alpha = 0.3

    with pytest.raises(LayerError, match="parameters other than"):
        run_layer(build, {"x": X}, ("y",))
