"""Channels scaled alike: which pairs there are, that outputs stay, and that unequal channels gain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder, types

import milpasses as mp
from milpasses.activations import equalization
from milpasses.activations.pairs_to_equalize import Pair, find_pairs
from milpasses.activations.quantize import wanted_points
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program
from milpasses.recipe.recipe import Recipe

mb: Any = Builder
SPREAD = (2.0 ** np.random.default_rng(9).integers(-5, 6, 12)).astype(np.float32)
RNG = np.random.default_rng(0)


def equalized(program: Any, data: Any, recipe: Recipe, folder: Path) -> Any:
    (view,) = program.functions
    return equalization.equalized(program, data, recipe, wanted_points(recipe, view), folder, view.name)[0]


def constant(*shape: int) -> Any:
    return (RNG.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float16)


def scaled(value: Any, scale: Any, axis: int) -> Any:
    shape = [1] * value.ndim
    shape[axis] = -1
    return (value.astype(np.float32) * scale.reshape(shape)).astype(np.float16)


def separable(x: Any) -> Any:
    return convolutions(x, mb.relu)


def convolutions(x: Any, activation: Any) -> Any:
    """Convolution, depthwise, pointwise; the channels between have ranges a thousand times apart."""
    first = scaled(constant(12, 3, 3, 3), 1 / SPREAD, 0)
    bias = scaled(constant(12), 1 / SPREAD, 0)
    x = mb.conv(x=x, weight=first, bias=bias, pad_type="same", name="first")
    x = activation(x=x)
    middle = scaled(constant(12, 1, 3, 3), SPREAD, 0)
    x = mb.relu(x=mb.conv(x=x, weight=middle, pad_type="same", groups=12, name="depthwise"))
    return mb.conv(x=x, weight=constant(12, 12, 1, 1), name="result")


def grouped(x: Any) -> Any:
    x = mb.relu(x=mb.conv(x=x, weight=scaled(constant(12, 3, 1, 1), 1 / SPREAD, 0), name="first"))
    weight = constant(6, 4, 1, 1).astype(np.float32)
    weight *= np.repeat(SPREAD.reshape(3, 4), 2, axis=0)[:, :, None, None]
    return mb.conv(x=x, weight=weight.astype(np.float16), groups=3, name="result")


def attention(x: Any) -> Any:
    x = mb.reshape(x=x, shape=[1, 16, 12])
    gamma, beta = scaled(np.ones(12), 1 / SPREAD, 0), scaled(constant(12), 1 / SPREAD, 0)
    x = mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=np.float16(1e-5), name="norm")
    q, k, v = (mb.linear(x=x, weight=scaled(constant(12, 12), SPREAD, 1)) for _ in range(3))
    scores = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True))
    return mb.linear(x=mb.matmul(x=scores, y=v), weight=constant(12, 12), name="result")


def residual(x: Any) -> Any:
    x = mb.relu(x=mb.conv(x=x, weight=constant(12, 3, 1, 1), name="first"))
    y = mb.conv(x=x, weight=constant(12, 12, 1, 1), name="second")
    return mb.add(x=x, y=y, name="result")


def saved(network: Callable[[Any], Any]) -> Any:
    global RNG
    RNG = np.random.default_rng(0)
    spec = mb.TensorSpec(shape=(1, 3, 8, 8), dtype=types.fp16)
    program = mb.program(input_specs=[spec], opset_version=ct.target.iOS17)(network)
    return ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
        pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
    )  # fmt: skip


def samples(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float16)} for _ in range(count)]


def pairs_of(model: Any) -> list[Pair]:
    program = open_program(model)
    interpreter = Interpreter(model)
    sites = {name: site for site in program.sites() for name in site.variables(interpreter.function_name)}
    return find_pairs(interpreter.function, sites)


def sqnr(reference: Any, other: Any) -> float:
    data = samples(12, 7)
    outputs = [(Interpreter(reference).run(x), Interpreter(other).run(x)) for x in data]
    pairs = [(a[n].astype(np.float64), b[n].astype(np.float64)) for a, b in outputs for n in a]
    return 10 * np.log10(sum((a**2).sum() for a, _ in pairs) / sum(((a - b) ** 2).sum() for a, b in pairs))


@pytest.mark.parametrize(
    ("network", "names", "consumers"),
    [
        (separable, ["first", "depthwise"], [1, 1]),
        (grouped, ["first"], [1]),
        (attention, ["norm"], [3]),
        (residual, [], []),  # the addition takes the channels as they are
    ],
)
def test_which_pairs_there_are(network: Any, names: list[str], consumers: list[int]) -> None:
    found = pairs_of(saved(network))
    assert [pair.name for pair in found] == names
    assert [len(pair.consumers) for pair in found] == consumers


def test_a_weight_that_two_ops_use_stays() -> None:
    def shared(x: Any) -> Any:
        weight = mb.const(val=constant(3, 3, 3, 3), name="weight")
        x = mb.relu(x=mb.conv(x=x, weight=weight, pad_type="same"))
        return mb.conv(x=x, weight=weight, pad_type="same")

    assert pairs_of(saved(shared)) == []


@pytest.mark.parametrize("network", [separable, grouped, attention])
def test_outputs_stay_and_8_bits_gain(network: Any, tmp_path: Path) -> None:
    model = saved(network)
    program, recipe, data = open_program(model), Recipe.of("int8 + a8; min_elements=0 -> int8"), samples(16)
    found = equalized(program, data, recipe, tmp_path)
    (note,) = found.notes
    assert note.startswith("channels of ")
    assert sqnr(model, tmp_path / "equalized.mlpackage") > 55  # but for the rounding of float16
    with_, without = (
        mp.compress(model, str(recipe), calibration=data, equalize=flag) for flag in (True, False)
    )
    assert sqnr(model, with_) > sqnr(model, without) + 6
    assert any(note.startswith("channels of ") for note in with_.report.notes)
    assert not any(note.startswith("channels of ") for note in without.report.notes)


def test_what_gains_nothing_stays_as_it_is(tmp_path: Path) -> None:
    recipe = Recipe.of("int8 + a8")
    for model in (saved(residual),):
        program = open_program(model)
        assert equalized(program, samples(16), recipe, tmp_path) is program
    program = open_program(saved(separable))
    assert equalized(program, samples(4), recipe, tmp_path) is program  # too few to tell
    assert equalized(program, samples(16), Recipe.of("int8"), tmp_path) is program  # no pairs of 8 bits
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_finds_nothing_more(tmp_path: Path) -> None:
    recipe, data = Recipe.of("int8 + a8; min_elements=0 -> int8"), samples(16)
    once = equalized(open_program(saved(separable)), data, recipe, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    program = open_program(once.package.path)
    assert equalized(program, data, recipe, again) is program
    assert list(again.iterdir()) == []


def test_a_cap_is_not_crossed(tmp_path: Path) -> None:
    def capped(x: Any) -> Any:
        return convolutions(x, mb.relu6)

    model = saved(capped)
    (first, _) = pairs_of(model)
    assert first.capped == first.tensors[:1]
    found = equalized(open_program(model), samples(16), Recipe.of("int8 + a8"), tmp_path)
    path = found.package.path if found.notes else None
    assert path is not None
    assert sqnr(model, path) > 55
