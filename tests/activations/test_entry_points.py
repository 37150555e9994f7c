"""8-bit activations from each entry point, and what is refused with one line."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.optimize import coreml as cto
from test_form import NETWORKS, convnet, described, program_in, program_of, residual, samples, saved_model

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import upgrade


def kinds(model: Any) -> list[str]:
    return [line[0] for line in described(program_in(model))]


def sqnr(reference: Any, other: Any, data: list[dict[str, Any]]) -> float:
    runs = [(Interpreter(reference), Interpreter(other), sample) for sample in data]
    pairs = [(a.run(sample)["result"], b.run(sample)["result"]) for a, b, sample in runs]
    noise = sum(float(((a - b).astype(np.float64) ** 2).sum()) for a, b in pairs)
    return 10 * np.log10(sum(float((a.astype(np.float64) ** 2).sum()) for a, _ in pairs) / noise)


@pytest.mark.parametrize("text", ["int8+a8", "pal4+int8 + a8", "a8"])
def test_weights_and_activations_in_one_call(text: str) -> None:
    model = saved_model(residual)
    weights = text.removesuffix("a8").rstrip(" +")
    small = mp.compress(
        model,
        f"{text}; min_elements=0 -> {weights}" if weights else text,
        calibration=samples(8),
        minimum_deployment_target=ct.target.iOS18,
    )
    found = kinds(small)
    assert found.count("quantize") > 5
    assert found.count("conv") == kinds(model).count("conv")
    assert any(kind.startswith("constexpr_") for kind in found) == (text != "a8")
    totals = small.report.totals()
    assert totals["quantized_activations"] == len(small.report.activations) > 5
    assert totals["weights"] == len(small.report)
    assert sqnr(model, small, samples(3, 9)) > (10 if "pal4" in text else 20)
    assert "activations quantized" in str(small.report)
    assert '"activations"' in small.report.to_json()


def test_rules_leave_ops_float_and_ask_for_more() -> None:
    model = saved_model(NETWORKS["transformer"])
    every = kinds(mp.compress(model, "a8", calibration=samples())).count("quantize")
    fewer = mp.compress(model, "a8; op_type=linear -> a8=keep", calibration=samples())
    assert 0 < kinds(fewer).count("quantize") < every
    assert not any(":linear." in use for record in fewer.report.activations for use in record.uses)
    more = mp.compress(model, "keep; op_type=matmul -> a8", calibration=samples())
    assert kinds(more).count("quantize") == 4
    assert {use.split(":")[1] for r in more.report.activations for use in r.uses} == {"matmul.x", "matmul.y"}


TEXTS = [
    "a8", "int8+a8", "pal4+int8+a8", "int8+a8-asym", "a8-uint8-asym", "int8+a8-sym", "a8-uint8",
    "int8+a8; op_type=linear -> a8=keep",
    "int8+a8; op_type=conv -> pal4; op_name=head* -> a8=keep; op_type=matmul -> a8=a8-uint8; rest=half",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_recipes_read_back(text: str) -> None:
    recipe = mp.Recipe.of(text)
    assert recipe.wants_activations
    assert recipe.to_text() == text
    assert str(recipe) == text
    assert mp.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert mp.Recipe.of(mp.Recipe.of(text.replace("+", " + "))) == recipe


@pytest.mark.parametrize("text", ["a9", "int8+a8-b32", "a8+int8", "int8+a8+a8", "int8; name=x -> a8"])
def test_recipes_that_cannot_be(text: str) -> None:
    with pytest.raises(mp.RecipeError):
        mp.Recipe.of(text)


def test_a_conversion_with_statistics() -> None:
    program = program_of(convnet)
    statistics = mp.statistics(program, samples())
    pipeline = mp.pipeline("int8+a8", ct.PassPipeline.EMPTY, statistics)
    options: dict[str, Any] = {"convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS17}
    model = ct.convert(program, pass_pipeline=pipeline, skip_model_load=True, **options)
    assert kinds(model).count("quantize") == len(pipeline.report.activations) == 8
    assert pipeline.report.totals()["quantized_activations"] == 8
    with pytest.raises(mp.MilpassesError, match="statistics="):
        mp.pipeline("int8+a8")


def test_statistics_of_another_model_are_refused(tmp_path: Path) -> None:
    others = {"residual": mp.statistics(saved_model(residual), samples())}
    others["same names"] = mp.statistics(saved_model(convnet), samples())
    histogram = others["same names"].histograms["x"]
    for name in others["same names"].histograms:
        others["same names"].histograms[name] = histogram  # of tensors of other sizes
    for statistics in others.values():
        with pytest.raises(mp.MilpassesError, match=r"do not fit this model .*they belong to another one"):
            mp.compress(saved_model(convnet), "a8", statistics=statistics, output=tmp_path / "a.mlpackage")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turned", [False, True])
def test_the_range_is_of_all_samples_in_any_order(turned: bool) -> None:
    """coremltools 9.0 keeps that of the last: [-5, 9] then [-1, 1] gives [-1, 1]."""
    wide, narrow = np.zeros((2, 1, 3, 8, 8), np.float16)
    wide.flat[:2], narrow.flat[:2] = (-5, 9), (-1, 1)
    data = [{"x": wide}, {"x": narrow}]
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear"))
    model = saved_model(convnet)
    found = mp.coreml.linear_quantize_activations(model, config, data[::-1] if turned else data)
    record = next(record for record in found.report.activations if record.name == "x")
    assert (record.low, record.high) == (-5, 9)


def test_the_drop_in_takes_what_coremltools_takes() -> None:
    model = saved_model(convnet)
    unnamed = [{None: sample["x"]} for sample in samples(1)]
    config = cto.OptimizationConfig(
        cto.OpLinearQuantizerConfig(), op_type_configs={"linear": None, "max_pool": None}
    )
    found = mp.coreml.linear_quantize_activations(model, config, unnamed, calibration_op_group_size=2)
    uses = {use.split(":")[1] for record in found.report.activations for use in record.uses}
    assert uses == {"conv.x", "avg_pool.x"}
    assert None in unnamed[0]  # coremltools renames it in place
    wrong = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4))
    with pytest.raises(mp.MilpassesError, match="not OpPalettizerConfig"):
        mp.coreml.linear_quantize_activations(model, wrong, unnamed)


def bad_calls() -> dict[str, Any]:
    bad = np.full((1, 3, 8, 8), np.nan, np.float16)
    return {
        "no data": ({}, "calibration=data"),
        "norms": ({"calibration": "norms"}, "calibration=data"),
        "no sample": ({"calibration": []}, "there is no sample"),
        "one sample": ({"calibration": samples(1)}, "at least 2"),
        "NaN": ({"calibration": [{"x": bad}, {"x": bad}]}, "384 NaN or infinite values"),
        "missing input": ({"calibration": [{"y": bad}] * 2}, "x"),
    }


@pytest.mark.parametrize("what", ["no data", "norms", "no sample", "one sample", "NaN", "missing input"])
def test_bad_data_gets_one_line_and_nothing_is_written(what: str, tmp_path: Path) -> None:
    options, words = bad_calls()[what]
    with pytest.raises(mp.MilpassesError, match=words) as error:
        mp.compress(saved_model(convnet), "int8+a8", output=tmp_path / "a.mlpackage", **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_never_varies_stays_float(tmp_path: Path) -> None:
    zeros = [{"x": np.zeros((1, 3, 8, 8), np.float16)}] * 3
    found = mp.compress(saved_model(convnet), "a8", calibration=zeros + samples(0))
    record = next(record for record in found.report.activations if record.name == "x")
    assert record.status == "float"
    assert record.refusal is not None
    assert record.refusal.code == "point-range"
    assert "x: float: every value in the samples is 0" in str(found.report)


def test_data_of_which_no_activation_varies_is_refused(tmp_path: Path) -> None:
    from test_form import FP16, mb

    @mb.program(input_specs=[mb.TensorSpec((1, 1, 8, 8), FP16)], opset_version=ct.target.iOS17)
    def prog(x: Any) -> Any:
        return mb.relu(x=mb.max_pool(x=x, kernel_sizes=[2, 2], pad_type="valid"), name="result")

    options: dict[str, Any] = {"convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS17}
    model = ct.convert(prog, skip_model_load=True, **options)
    ones = [{"x": np.ones((1, 1, 8, 8), np.float16)}] * 2
    with pytest.raises(mp.MilpassesError, match="no activation can be quantized: x: every value") as error:
        mp.compress(model, "a8", calibration=ones, output=tmp_path / "a.mlpackage")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "rule", ["op_type=matmul -> a8=keep", "op_name=nothing* -> a8", "op_type=relu -> a8"]
)
def test_a_rule_that_decides_no_op_is_said(rule: str, tmp_path: Path) -> None:
    """Of a net without a matmul: relu, too, has no pair of its own."""
    asked, model = f"a8; {rule}", saved_model(convnet)
    with pytest.warns(mp.UnmatchedRuleWarning, match="activation rule 1"):
        found = mp.compress(model, asked, calibration=samples())
    assert len(found.report.unmatched) == 1
    assert rule in found.report.unmatched[0]
    assert "conv" in found.report.unmatched[0]
    with pytest.raises(mp.RecipeError, match="activation rule 1"):
        mp.compress(model, asked, calibration=samples(), strict=True, output=tmp_path / "a.mlpackage")
    assert list(tmp_path.iterdir()) == []
    program = program_of(convnet)
    statistics = mp.statistics(program, samples())
    options: dict[str, Any] = {"convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS17}
    strict = mp.pipeline(asked, ct.PassPipeline.EMPTY, statistics, strict=True)
    with pytest.raises(mp.RecipeError, match="activation rule 1"):
        ct.convert(program, pass_pipeline=strict, skip_model_load=True, **options)


def legacy_network() -> Any:
    from coremltools.models import datatypes, neural_network

    builder = neural_network.NeuralNetworkBuilder(
        [("x", datatypes.Array(64))], [("y", datatypes.Array(64))], disable_rank5_shape_mapping=True
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    builder.add_inner_product("dense", weight, None, 64, 64, False, "x", "h")
    builder.add_activation("act", "RELU", "h", "g")
    builder.add_inner_product("head", weight.T.copy(), None, 64, 64, False, "g", "y")
    return builder.spec


def test_a_legacy_network_is_upgraded_with_activations() -> None:
    draw = np.random.default_rng(1).standard_normal
    data = [{"x": draw(64).astype(np.float32)} for _ in range(4)]
    made = upgrade(legacy_network(), "int8+a8", calibration=data)
    tensors = 3  # before each linear, and behind the last one, whose output is reshaped
    assert kinds(made).count("quantize") == len(made.report.activations) == tensors
    assert made.get_spec().specificationVersion == ct.target.iOS17
    assert made.report.count("compressed") == 2
    with pytest.raises(mp.MilpassesError, match="8-bit activations need data"):
        upgrade(legacy_network(), "int8+a8")
    more = [{"x": draw(64).astype(np.float32)} for _ in range(12)]
    partly = upgrade(legacy_network(), "a8", calibration=more, equalize=False, fallback=1)
    floats = [record for record in partly.report.activations if record.status == "float"]
    assert len(floats) == 1
    assert "outputs" in str(floats[0].reason)


def test_sweep_and_explain_know_of_activations(tmp_path: Path) -> None:
    from milpasses_tools import explain, sweep

    model, data = tmp_path / "a.mlpackage", tmp_path / "x.npz"
    saved_model(convnet).save(str(model))
    np.savez(data, x=np.concatenate([sample["x"] for sample in samples(20)])[:, None])
    plan = explain(model, recipe="int8+a8").plan
    assert plan is not None
    assert any("8-bit activations" in note for note in plan.notes)
    found = sweep(model, tmp_path / "out", ["a8", "keep"], data)
    rows = {row["name"]: row for row in found.rows}
    assert rows["a8"]["status"] == rows["keep"]["status"] == "done"
    assert rows["a8"]["output_snr_db"] < 60


def test_a_target_without_activations(tmp_path: Path) -> None:
    model = mp.compress(saved_model(convnet), "keep")
    from test_form import FP16, mb

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 8, 8), FP16)], opset_version=ct.target.iOS16)
    def prog(x: Any) -> Any:
        return mb.relu(x=convnet(x), name="result")

    old = ct.convert(
        prog, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True
    )
    with pytest.raises(mp.TargetError, match=r"minimum_deployment_target=ct\.target\.iOS17") as error:
        mp.compress(old, "int8+a8", calibration=samples(), output=tmp_path / "a.mlpackage")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    raised = mp.compress(old, "int8+a8", calibration=samples(), minimum_deployment_target=ct.target.iOS17)
    assert kinds(raised).count("quantize") == kinds(
        mp.compress(model, "int8+a8", calibration=samples())
    ).count("quantize")


def test_explain_shows_pairs_and_what_they_cover(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from milpasses_tools.explain import command, explain

    path = tmp_path / "a.mlpackage"
    model = mp.compress(saved_model(residual), "int8+a8-asym", calibration=samples(), output=path)
    pairs = explain(path).activations
    assert len(pairs) == kinds(model).count("quantize")
    records = {record.name: record for record in model.report.activations}
    for pair in pairs:
        record = records[pair.name]
        assert (pair.scale, pair.zero_point, pair.dtype) == (record.scale, record.zero_point, "int8")
        assert pair.low is not None
        assert pair.high is not None
        assert record.low is not None
        assert record.high is not None
        assert record.scale is not None
        assert pair.low <= min(record.low, 0) + 2 * record.scale
        assert pair.high >= record.high - 2 * record.scale
        assert pair.used_by
    command(path)
    assert "used by" in capsys.readouterr().out


def test_the_command_takes_a8(tmp_path: Path) -> None:
    from milpasses_tools.cli import app
    from typer.testing import CliRunner

    source, data, output = tmp_path / "a.mlpackage", tmp_path / "x.npz", tmp_path / "b.mlpackage"
    saved_model(convnet).save(str(source))
    np.savez(data, x=np.concatenate([sample["x"] for sample in samples()])[:, None])
    asked = ["compress", str(source), "-r", "int8+a8", "-o", str(output)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code != 0
    assert not output.exists()
    done = CliRunner().invoke(app, [*asked, "--data", str(data)])
    assert done.exit_code == 0, done.output
    assert "8 of 8 activations quantized" in done.output
    assert kinds(ct.models.MLModel(str(output), skip_model_load=True)).count("quantize") == 8


def test_a_second_run_is_idle_where_the_first_left_a_tensor_that_never_varies() -> None:
    """All that is left to quantize then is what cannot be: that was an error."""
    dead = saved_model(program_with_a_dead_branch)
    data = samples(3)
    first = mp.compress(dead, "a8", calibration=data)
    assert {record.status for record in first.report.activations} == {"quantized", "float"}
    second = mp.compress(first, "a8", calibration=data)
    assert {record.status for record in second.report.activations} == {"float"}
    assert kinds(second) == kinds(first)
    everything_left = mp.compress(second, "a8", calibration=data)
    assert kinds(everything_left) == kinds(first)


def program_with_a_dead_branch(x: Any) -> Any:
    from coremltools.converters.mil import Builder as mb
    from test_form import conv

    alive = mb.relu(x=conv(x, 4))
    dead = mb.conv(x=mb.mul(x=alive, y=np.float16(0)), weight=np.ones((4, 4, 1, 1), np.float16))
    return mb.reduce_mean(x=mb.concat(values=[alive, mb.exp(x=dead)], axis=1), axes=[2, 3])
