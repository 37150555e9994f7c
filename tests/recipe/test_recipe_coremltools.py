"""Recipes from coremltools' own configs: every weight gets what coremltools would give it."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types
from coremltools.models.ml_program import compression_utils
from coremltools.optimize.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
    OptimizationConfig,
)

from milpasses.program.weights import Consumer, Weight
from milpasses.recipe import Keep, Palettize, Prune, Quantize, Recipe, RecipeError, Rule, Scheme
from milpasses.recipe.coremltools_configs import read_op_config


@pytest.fixture(scope="module")
def program() -> Program:
    """A linear, a convolution and a matmul; names carry glob characters."""

    def const(name: str, *shape: int) -> Any:
        return mb.const(val=np.ones(shape, np.float32), name=name)

    @mb.program(input_specs=[mb.TensorSpec((1, 8, 8, 8)), mb.TensorSpec((2, 64))])
    def build(x: Any, y: Any) -> Any:
        a = mb.conv(x=x, weight=const("conv_w", 16, 8, 3, 3), pad_type="same", name="conv_1")
        b = mb.linear(x=y, weight=const("w[0]*", 64, 64), name="linear_1")
        c = mb.matmul(x=b, y=const("big", 64, 64), name="layers[1]?")
        d = mb.matmul(x=c, y=const("w0", 64, 64), name="layers1x")
        return a, d

    return build


def weights_of(program: Program) -> dict[str, tuple[Any, Weight]]:
    consts = [op for op in program.functions["main"].operations if op.op_type == "const"]
    weights: dict[str, tuple[Any, Weight]] = {}
    for op in consts:
        value = op.outputs[0].val
        if isinstance(value, np.ndarray) and value.ndim > 1:
            uses = tuple(
                Consumer(
                    user.op_type, user.name, next(k for k, v in user.inputs.items() if v is op.outputs[0])
                )
                for user in op.outputs[0].child_ops
            )
            weight = Weight(op.name, value.shape, str(value.dtype), uses, load=lambda value=value: value)
            weights[op.name] = (op, weight)
    return weights


PAL4, PAL2, INT8 = OpPalettizerConfig(nbits=4), OpPalettizerConfig(nbits=2), OpLinearQuantizerConfig()


@pytest.mark.parametrize(
    "config",
    [
        OptimizationConfig(),
        OptimizationConfig(PAL4),
        OptimizationConfig(None, {"conv": PAL4, "linear": None}),
        OptimizationConfig(PAL4, {"conv": None}, {"conv_1": PAL2}),
        OptimizationConfig(PAL4, {"linear": PAL2}, {"w[0]*": INT8}),
        OptimizationConfig(PAL4, {"linear": PAL2}, {"w[0]*": None, "linear_1": INT8}),
        OptimizationConfig(PAL4, {"matmul": PAL2}, {"layers[1]?": INT8}),
        OptimizationConfig(PAL4, {}, {"w*": INT8, "layers?x": INT8}),
    ],
)
def test_each_weight_gets_what_coremltools_would_give_it(
    program: Program, config: OptimizationConfig
) -> None:
    recipe = Recipe.from_coremltools(config)
    weights = weights_of(program)
    assert sorted(weights) == ["big", "conv_w", "w0", "w[0]*"]
    for op, weight in weights.values():
        expected = read_op_config(config._get_const_op_config(op))
        assert recipe.decide(weight).scheme == expected
    assert Recipe.of(config) == recipe
    assert Recipe.parse(recipe.to_text()) == recipe


def test_order_is_weight_name_then_op_name_then_op_type() -> None:
    config = OptimizationConfig(PAL4, {"conv": PAL2}, {"conv_1": INT8, "conv_w": None})
    assert Recipe.from_coremltools(config) == Recipe(
        Palettize(4),
        [
            Rule(Quantize(), name="conv_1"),
            Rule(Keep(), name="conv_w"),
            Rule(Quantize(), op_name="conv_1"),
            Rule(Keep(), op_name="conv_w"),
            Rule(Palettize(2), op_type="conv"),
        ],
    )


def lut_function(weight: np.ndarray) -> tuple[list[float], list[int]]:
    return [0.0, 1.0], [0] * weight.size


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        (None, Keep()),
        (OpLinearQuantizerConfig(), Quantize()),
        (OpLinearQuantizerConfig(mode="LINEAR", dtype=np.uint8), Quantize("uint8", "linear")),
        (OpLinearQuantizerConfig(dtype=types.int4), Quantize("int4")),
        (
            OpLinearQuantizerConfig(dtype=types.uint4, weight_threshold=7),
            Quantize("uint4", weight_threshold=7),
        ),
        (
            OpLinearQuantizerConfig(granularity="per_block", block_size=[1, 16]),
            Quantize(granularity="per_block", block_size=(1, 16)),
        ),
        (
            OpLinearQuantizerConfig(granularity="per_tensor", block_size=16),
            Quantize(granularity="per_tensor"),
        ),
        (OpPalettizerConfig(nbits=6, num_kmeans_workers=4), Palettize(6)),
        (OpPalettizerConfig(mode="unique"), Palettize(mode="unique")),
        (
            OpPalettizerConfig(nbits=2, mode="uniform", group_size=8, channel_axis=1),
            Palettize(2, mode="uniform"),
        ),
        (
            OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=16, channel_axis=1),
            Palettize(4, granularity="per_grouped_channel", group_size=16, channel_axis=1),
        ),
        (OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=0), Palettize(4)),
        (
            OpPalettizerConfig(
                nbits=4, granularity="per_grouped_channel", group_size=0, cluster_dim=2, channel_axis=1
            ),
            Palettize(4, cluster_dim=2, channel_axis=1),
        ),
        (
            OpPalettizerConfig(nbits=4, cluster_dim=2, enable_per_channel_scale=True),
            Palettize(4, cluster_dim=2, enable_per_channel_scale=True),
        ),
        (
            OpPalettizerConfig(mode="custom", lut_function=lut_function),
            Palettize(mode="custom", lut_function=lut_function),
        ),
        (OpMagnitudePrunerConfig(target_sparsity=0.5), Prune(target_sparsity=0.5)),
        (
            OpMagnitudePrunerConfig(target_sparsity=0.5, block_size=4),
            Prune(target_sparsity=0.5, block_size=4, dim=0),
        ),
        (OpMagnitudePrunerConfig(n_m_ratio=[2, 4], dim=0), Prune(n_m_ratio=(2, 4), dim=0)),
        (OpThresholdPrunerConfig(), Prune(threshold=1e-12)),
        (
            OpThresholdPrunerConfig(threshold=0.1, minimum_sparsity_percentile=0.2),
            Prune(threshold=0.1, minimum_sparsity_percentile=0.2),
        ),
    ],
)
def test_op_configs(config: Any, scheme: Scheme) -> None:
    assert read_op_config(config) == scheme


def test_every_linear_quantizer_config_converts() -> None:
    options = itertools.product(
        ["int8", "uint8", "int4", "uint4"],
        ["linear", "linear_symmetric"],
        ["per_tensor", "per_channel", "per_block"],
    )
    for dtype, mode, granularity in options:
        config = OpLinearQuantizerConfig(dtype=dtype, mode=mode, granularity=granularity)
        scheme = read_op_config(config)
        assert scheme == Quantize(dtype, mode, granularity)
        assert (scheme.nbits, scheme.signed, scheme.method) == (config.nbits, config.signed, "search")


def deprecated(config: Any, selector: Any) -> OptimizationConfig:
    return OptimizationConfig(global_config=config, is_deprecated=True, op_selector=selector)


def test_op_selector_of_the_deprecated_api(program: Program) -> None:
    selectors = (
        lambda op: op.name == "big",
        lambda op: op.val.val.size > 2000,
        lambda op: op.op_type == "const" and op.outputs[0].val.ndim == 4,
        lambda op: op.outputs[0].child_ops[0].op_type == "linear",
        lambda op: "layers" in op.outputs[0].child_ops[0].name,
    )
    for selector in selectors:
        config = deprecated(OpPalettizerConfig(nbits=4, weight_threshold=None), selector)
        recipe = Recipe.from_coremltools(config)
        for op, weight in weights_of(program).values():
            decision = recipe.decide(weight)
            assert isinstance(decision.scheme, Palettize) is bool(selector(op))
            assert decision.skip is None
        with pytest.raises(RecipeError, match="rule 1: where is a Python function"):
            recipe.to_text()


def test_op_selector_that_wants_more_says_what_to_write() -> None:
    config = deprecated(
        OpPalettizerConfig(nbits=4, weight_threshold=None), lambda op: op.enclosing_block is None
    )
    with pytest.raises(RecipeError, match=r"op_selector: .*'enclosing_block'.*Rule\(where="):
        Recipe.from_coremltools(config).decide(Weight("w", (4, 4), "float16", ()))


def test_default_op_selector_is_the_threshold() -> None:
    config = deprecated(
        OpLinearQuantizerConfig(weight_threshold=None), compression_utils._default_op_selector
    )
    assert Recipe.from_coremltools(config) == Recipe(Quantize(weight_threshold=2048))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (3, "expected a coremltools OptimizationConfig, not 3"),
        (PAL4, "expected a coremltools OptimizationConfig"),
        (
            OptimizationConfig(None, {"conv": OpPalettizerConfig(nbits=2, mode="uniform", cluster_dim=2)}),
            "op_type_configs['conv']: cluster_dim: 2 goes only with mode=kmeans or unique, not uniform",
        ),
        (
            OptimizationConfig(None, None, {"a": OpMagnitudePrunerConfig(n_m_ratio=(-1, 4))}),
            "op_name_configs['a']: n_m_ratio: expected a pair",
        ),
        (
            OptimizationConfig(OpLinearQuantizerConfig(weight_threshold=None)),
            "global_config: weight_threshold: expected a whole number of at least 0, not None",
        ),
    ],
)
def test_what_cannot_be_says_where(config: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_coremltools(config)
    assert message in str(caught.value)


def test_a_config_of_another_kind_lists_what_is_accepted() -> None:
    with pytest.raises(
        RecipeError, match="config: unknown 'SimpleNamespace'; accepted: OpLinearQuantizerConfig"
    ):
        read_op_config(SimpleNamespace(weight_threshold=0))


YAML = """
config_type: OpPalettizerConfig
global_config:
  mode: kmeans
  nbits: 4
op_type_configs:
  conv: {mode: uniform, nbits: 1}
  linear: null
op_name_configs:
  conv_1:
    config_type: OpThresholdPrunerConfig
    threshold: 0.01
"""


def test_coremltools_own_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML, encoding="utf-8")
    expected = Recipe(
        Palettize(4),
        [
            Rule(Prune(threshold=0.01), name="conv_1"),
            Rule(Prune(threshold=0.01), op_name="conv_1"),
            Rule(Palettize(1, mode="uniform"), op_type="conv"),
            Rule(Keep(), op_type="linear"),
        ],
    )
    assert Recipe.of(path) == Recipe.from_yaml(YAML) == expected
    assert Recipe.from_coremltools(OptimizationConfig.from_yaml(str(path))) == expected
    document = {"config_type": "OpPalettizerConfig", "op_type_configs": {"conv": {"nbits": 4}}}
    assert Recipe.of(document) == Recipe.of(document) == Recipe("keep", [Rule("pal4", op_type="conv")])
    assert document["op_type_configs"] == {"conv": {"nbits": 4}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("global_config: {nbits: 4}", "recipe: coremltools: config_type must be provided"),
        ("{config_type: OpPalettizerConfig, default: int8}", "unknown 'default'; accepted: config_type, glo"),
        ("{config_type: OpPalettizerConfig, global_config: {nbits: 5}}", 'Invalid value of "nbits" (5)'),
        ("{config_type: OpPalettizerConfig, global_config: {nbit: 4}}", "nbit; accepted: mode, nbits"),
        (
            "{config_type: OpPaletizerConfig, global_config: {nbits: 4}}",
            "config_type: unknown 'OpPaletizerConfig'; ",
        ),
        ("{config_type: OpPalettizerConfig, op_type_configs: 3}", "op_type_configs must be type of dict"),
    ],
)
def test_coremltools_yaml_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text)
    assert message in str(caught.value)
