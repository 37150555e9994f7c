"""What is emitted is, op for op and input for input, what coremltools emits for the same configuration.

No machine that runs these tests can load the model into Core ML; coremltools' own output is the proxy.
"""

from typing import Any

import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from models import TARGETS, conv_linear_program, convert

import milpasses as mp

Q, P, M, T = (
    cto.OpLinearQuantizerConfig,
    cto.OpPalettizerConfig,
    cto.OpMagnitudePrunerConfig,
    cto.OpThresholdPrunerConfig,
)
QUANTIZE, PALETTIZE, PRUNE = "linear_quantize_weights", "palettize_weights", "prune_weights"

IOS16: list[tuple[str, Any]] = [
    *[
        (QUANTIZE, Q(mode=mode, dtype=dtype, granularity=granularity, weight_threshold=500))
        for mode in ("linear_symmetric", "linear")
        for dtype in ("int8", "uint8")
        for granularity in ("per_tensor", "per_channel")
    ],
    *[(PALETTIZE, P(nbits=bits, mode="kmeans", weight_threshold=500)) for bits in (1, 2, 4, 6, 8)],
    *[(PALETTIZE, P(nbits=bits, mode="uniform", weight_threshold=500)) for bits in (2, 4, 8)],
    (PRUNE, M(target_sparsity=0.6, weight_threshold=500)),
    (PRUNE, T(threshold=0.1, minimum_sparsity_percentile=0.3, weight_threshold=500)),
    (PRUNE, M(n_m_ratio=(2, 4), weight_threshold=500)),
    (PRUNE, M(target_sparsity=0.5, block_size=4, weight_threshold=500)),
]
IOS18: list[tuple[str, Any]] = [
    *IOS16,
    *[
        (QUANTIZE, Q(mode=mode, dtype=dtype, granularity=granularity, block_size=16, weight_threshold=500))
        for mode in ("linear_symmetric", "linear")
        for dtype in ("int4", "uint4", "int8")
        for granularity in ("per_tensor", "per_channel", "per_block")
    ],
    (PALETTIZE, P(nbits=3, mode="kmeans", weight_threshold=500)),
    *[
        (PALETTIZE, P(nbits=bits, granularity="per_grouped_channel", group_size=16, weight_threshold=500))
        for bits in (1, 2, 3, 4, 6)
    ],
    (
        PALETTIZE,
        P(nbits=4, granularity="per_grouped_channel", group_size=8, channel_axis=1, weight_threshold=500),
    ),
    (PALETTIZE, P(nbits=4, cluster_dim=2, weight_threshold=500)),
]


def described(model: Any) -> list[Any]:
    """Each constexpr op: type, name, and (parameter, dtype, shape) of its inputs; values blanked."""
    ops = []
    for op in model._mil_program.functions["main"].operations:
        if op.op_type.startswith("constexpr_"):
            inputs = {
                param: (types.builtin_to_string(var.dtype), tuple(var.shape))
                for param, var in op.inputs.items()
                if var is not None
            }
            outputs = [(types.builtin_to_string(var.dtype), tuple(var.shape)) for var in op.outputs]
            ops.append(
                (op.op_type, op.name, inputs, outputs, [user.op_type for user in op.outputs[0].child_ops])
            )
    return ops


def blank_counts(ops: list[Any]) -> list[Any]:
    """Pruning keeps an exact count; coremltools' depends on ties: compare all but the number of non-zeros."""
    return [
        (kind, name, {k: v for k, v in inputs.items() if k != "nonzero_data"}, o)
        for kind, name, inputs, o, _ in ops
    ]


CASES = [
    pytest.param(target, function, config, id=f"{target}-{index}-{function}")
    for target, configs in (("iOS16", IOS16), ("iOS18", IOS18))
    for index, (function, config) in enumerate(configs)
]


@pytest.mark.parametrize(("target", "function", "config"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_same_form_and_no_more_error(conv_linear: Any, target: str, function: str, config: Any) -> None:
    model = conv_linear(target)
    wanted = getattr(cto, function)(model, cto.OptimizationConfig(global_config=config))
    ours = getattr(mp.coreml, function)(model, cto.OptimizationConfig(global_config=config))
    if function == PRUNE:
        assert blank_counts(described(ours)) == blank_counts(described(wanted))
    else:
        assert described(ours) == described(wanted)
    assert described(ours), "nothing was compressed"
    reference = dense_values(model)
    theirs, mine = (
        dense_values(cto.decompress_weights(wanted)),
        dense_values(mp.coreml.decompress_weights(ours)),
    )
    for name, value in reference.items():
        error = {"theirs": noise(value, theirs, name), "ours": noise(value, mine, name)}
        assert error["ours"] <= error["theirs"] * (1 + 1e-9) + 1e-12, (name, error)


def dense_values(model: Any) -> dict[str, np.ndarray]:
    """The constants that conv and linear take, by consumer."""
    values = {}
    for op in model._mil_program.functions["main"].operations:
        if op.op_type in ("conv", "linear"):
            values[op.name] = np.asarray(op.weight.val, np.float64)
    return values


def noise(value: np.ndarray, others: dict[str, np.ndarray], name: str) -> float:
    return float(np.sum((value - others[name]) ** 2))


JOINT = [
    (
        PRUNE,
        M(target_sparsity=0.5, weight_threshold=500),
        PALETTIZE,
        P(nbits=2, weight_threshold=500),
        "sparse50+pal2",
    ),
    (
        PRUNE,
        M(target_sparsity=0.5, weight_threshold=500),
        PALETTIZE,
        P(nbits=4, weight_threshold=500),
        "sparse50+pal4",
    ),
    (PRUNE, M(target_sparsity=0.5, weight_threshold=500), QUANTIZE, Q(weight_threshold=500), "sparse50+int8"),
    (
        PRUNE,
        M(target_sparsity=0.5, weight_threshold=500),
        QUANTIZE,
        Q(dtype="int4", weight_threshold=500),
        "sparse50+int4",
    ),
    (
        PALETTIZE,
        P(nbits=4, weight_threshold=500),
        QUANTIZE,
        Q(granularity="per_tensor", weight_threshold=500),
        "pal4+int8",
    ),
]


@pytest.mark.parametrize(("first", "one", "second", "two", "name"), JOINT, ids=[case[-1] for case in JOINT])
@pytest.mark.filterwarnings("ignore")
def test_same_joint_form(conv_linear: Any, first: str, one: Any, second: str, two: Any, name: str) -> None:
    model = conv_linear("iOS18")
    step = getattr(cto, first)(model, cto.OptimizationConfig(global_config=one))
    wanted = getattr(cto, second)(step, cto.OptimizationConfig(global_config=two), joint_compression=True)
    recipe = mp.Recipe.of(name)
    recipe = mp.Recipe(default=mp.Keep(), rules=[mp.Rule(scheme=recipe.default, min_elements=500)])
    ours = mp.compress(model, recipe)

    def shapes(model: Any) -> list[Any]:
        return [
            (
                kind,
                {p: v for p, v in inputs.items() if p not in ("nonzero_data", "indices_nonzero_data")},
                users,
            )
            for kind, _, inputs, _, users in described(model)
        ]

    assert shapes(ours) == shapes(wanted)


def test_through_ct_convert_as_through_compress() -> None:
    """Both entry points emit the same ops with the same names and values."""
    for target in ("iOS16", "iOS18"):
        program = conv_linear_program(TARGETS[target])
        pipeline = mp.pipeline(mp.Recipe(default=mp.Palettize(nbits=4, weight_threshold=500)))
        converted = convert(program, TARGETS[target], pass_pipeline=pipeline)
        plain = convert(conv_linear_program(TARGETS[target]), TARGETS[target])
        compressed = mp.compress(plain, mp.Palettize(nbits=4, weight_threshold=500))
        assert described(converted) == described(compressed)
        assert [r.row() for r in pipeline.report] == [r.row() for r in compressed.report]


def test_scales_of_their_own_have_names_of_their_own() -> None:
    """Both ops of a scaled table once had the weight's name: each took itself, and no reader could tell."""
    dense = convert(conv_linear_program(), skip_model_load=True)
    config = P(nbits=8, mode="uniform", enable_per_channel_scale=True, weight_threshold=500)
    small = mp.coreml.palettize_weights(dense, cto.OptimizationConfig(config))
    theirs = cto.palettize_weights(dense, cto.OptimizationConfig(config))
    names = [
        [
            op.name
            for op in model._mil_program.functions["main"].operations
            if op.op_type.startswith("constexpr_")
        ]
        for model in (small, theirs)
    ]
    assert len(set(names[0])) == len(names[0]) == 4
    assert names[0] == names[1]
    assert [r.name for r in mp.decompress(small).report] == [
        r.name for r in small.report if "scaled" in r.form
    ]
    assert mp.compress(small, "int8; min_elements=0 -> int8").report.count("compressed") == 0
