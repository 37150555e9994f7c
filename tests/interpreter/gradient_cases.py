"""A call of every op that a gradient passes: its float inputs, and its other parameters.

A tuple is the shape of an input of values between -1 and 1 that are all different, so that none stands at a
kink; an array is taken as it is. ``...`` are inputs that have no gradient.
"""

from typing import Any

import numpy as np

I = np.int32  # noqa: E741
X = (2, 3, 4)
IMAGE = (1, 4, 4, 4)
SPREAD = np.random.default_rng(7).permutation(np.linspace(-0.95, 0.95, 24)).reshape(X)
POSITIVE = np.abs(SPREAD) + 0.3
LARGE = 8 * SPREAD
INDEX = np.array([[2, 0], [1, -1]], I)
GRID = np.random.default_rng(5).uniform(-0.8, 0.8, (1, 2, 3, 2))


def arr(*values: Any) -> np.ndarray:
    return np.array(values, I)


def of(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


Case = tuple[str, dict[str, Any], dict[str, Any]]

CASES: list[Case] = [
    # elementwise
    *[
        (name, {"x": SPREAD}, {})
        for name in (
            "abs",
            "acos",
            "asin",
            "atan",
            "atanh",
            "cos",
            "cosh",
            "erf",
            "exp",
            "exp2",
            "sin",
            "sinh",
            "square",
            "tan",
            "tanh",
            "relu",
            "sigmoid",
            "silu",
            "softplus",
            "softsign",
            "identity",
        )
    ],
    *[(name, {"x": POSITIVE}, {}) for name in ("sqrt", "log", "rsqrt", "inverse")],
    *[(name, {"x": X, "y": (3, 1)}, {}) for name in ("add", "sub", "mul", "maximum", "minimum")],
    ("real_div", {"x": X, "y": POSITIVE}, {}),
    ("pow", {"x": POSITIVE, "y": (4,)}, {}),
    ("mod", {"x": LARGE}, {"y": of(1.7)}),
    ("clip", {"x": X}, {"alpha": of(-0.4), "beta": of(0.6)}),
    ("threshold", {"x": X}, {"alpha": of(0.1)}),
    ("cast", {"x": X}, {"dtype": "fp32"}),
    ("select", {"a": X, "b": X}, {"cond": SPREAD > 0}),
    # activations
    ("clamped_relu", {"x": X}, {"alpha": of(0.3), "beta": of(0.5)}),
    ("elu", {"x": 200 * SPREAD}, {"alpha": of(0.7)}),
    ("sigmoid", {"x": 200 * SPREAD}, {}),
    *[("gelu", {"x": LARGE}, {"mode": m}) for m in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")],
    ("leaky_relu", {"x": X}, {"alpha": of(0.1)}),
    ("linear_activation", {"x": X}, {"alpha": of(0.1), "beta": of(2.0)}),
    ("prelu", {"x": X, "alpha": (3,)}, {}),
    ("relu6", {"x": LARGE}, {}),
    ("scaled_tanh", {"x": X}, {"alpha": of(0.5), "beta": of(2.0)}),
    ("sigmoid_hard", {"x": LARGE}, {"alpha": of(0.2), "beta": of(0.5)}),
    ("softplus_parametric", {"x": X, "alpha": (3,), "beta": (3,)}, {}),
    *[("softmax", {"x": X}, {"axis": axis}) for axis in (-1, 1)],
    ("thresholded_relu", {"x": X}, {"alpha": of(0.1)}),
    # matrix products and convolutions
    ("linear", {"x": X, "weight": (5, 4), "bias": (5,)}, {}),
    ("matmul", {"x": X, "y": (2, 5, 4)}, {"transpose_y": True}),
    ("matmul", {"x": (2, 4, 3), "y": (2, 4, 5)}, {"transpose_x": True}),
    ("einsum", {"values": [(1, 2, 3, 4), (1, 4, 3, 5)]}, {"equation": "bchw,bwhu->bchu"}),
    ("conv", {"x": (1, 4, 9), "weight": (6, 4, 3), "bias": (6,)}, {}),
    ("conv", {"x": IMAGE, "weight": (6, 2, 3, 3)}, {"groups": 2, "pad_type": "same", "strides": arr(2, 1)}),
    (
        "conv",
        {"x": IMAGE, "weight": (4, 1, 2, 2)},
        {"groups": 4, "pad_type": "custom", "pad": arr(1, 0, 0, 1), "dilations": arr(1, 2)},
    ),
    ("conv", {"x": (1, 2, 3, 3, 3), "weight": (2, 2, 2, 2, 2)}, {}),
    ("conv_transpose", {"x": (1, 4, 5), "weight": (4, 2, 3), "bias": (2,)}, {"strides": arr(2)}),
    (
        "conv_transpose",
        {"x": IMAGE, "weight": (4, 3, 3, 3), "bias": (3,)},
        {"strides": arr(2, 2), "pad_type": "custom", "pad": arr(1, 1, 1, 1), "output_shape": arr(1, 3, 8, 8)},
    ),
    (
        "scaled_dot_product_attention",
        {"query": X, "key": (2, 5, 4), "value": (2, 5, 4), "attn_mask": (2, 3, 5)},
        {},
    ),
    (
        "scaled_dot_product_attention",
        {"query": X, "key": (2, 5, 4), "value": (2, 5, 4)},
        {"attn_mask": np.tri(3, 5, 2).astype(bool)},
    ),
    # normalizations
    (
        "batch_norm",
        {"x": X, "mean": (3,), "variance": np.array([0.5, 1, 2]), "gamma": (3,), "beta": (3,)},
        {},
    ),
    ("instance_norm", {"x": IMAGE, "gamma": (4,), "beta": (4,)}, {}),
    ("l2_norm", {"x": IMAGE}, {}),
    ("layer_norm", {"x": X, "gamma": (4,), "beta": (4,)}, {"axes": arr(-1)}),
    ("layer_norm", {"x": X, "gamma": (3,), "beta": (3,)}, {"axes": arr(1)}),
    ("local_response_norm", {"x": IMAGE}, {"size": 3}),
    # pooling
    *[
        (
            name,
            {"x": IMAGE},
            {
                "kernel_sizes": arr(2, 3),
                "strides": arr(1, 2),
                "pad_type": "custom",
                "pad": arr(1, 0, 1, 1),
                "ceil_mode": ceil,
            },
        )
        for name in ("avg_pool", "max_pool", "l2_pool")
        for ceil in (False, True)
    ],
    (
        "avg_pool",
        {"x": (1, 3, 8)},
        {"kernel_sizes": arr(3), "pad_type": "same", "exclude_padding_from_average": True},
    ),
    ("max_pool", {"x": (1, 2, 4, 4, 4)}, {"kernel_sizes": arr(2, 2, 2)}),
    ("avg_pool", {"x": (1, 2, 4, 4, 4)}, {"kernel_sizes": arr(2, 2, 2)}),
    # reductions
    *[
        (f"reduce_{name}", {"x": SPREAD}, {"axes": arr(0, -1), "keep_dims": keep})
        for name in ("l1_norm", "l2_norm", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square")
        for keep in (False, True)
    ],
    *[(f"reduce_{name}", {"x": SPREAD}, {}) for name in ("log_sum_exp", "mean", "prod", "max")],
    ("reduce_log_sum", {"x": POSITIVE}, {"axes": arr(1)}),
    ("cumsum", {"x": X}, {"axis": 1, "exclusive": True, "reverse": True}),
    # shapes
    ("band_part", {"x": X}, {"lower": 1, "upper": 0}),
    (
        "batch_to_space",
        {"x": (4, 2, 2, 3)},
        {"block_shape": arr(2, 2), "crops": np.array([[0, 1], [1, 0]], I)},
    ),
    ("space_to_batch", {"x": IMAGE}, {"block_shape": arr(2, 2), "paddings": np.array([[0, 0], [1, 1]], I)}),
    *[
        (name, {"x": IMAGE}, {parameter: 2})
        for name, parameter in (
            ("depth_to_space", "block_size"),
            ("space_to_depth", "block_size"),
            ("pixel_shuffle", "upscale_factor"),
            ("pixel_unshuffle", "downscale_factor"),
        )
    ],
    *[
        ("concat", {"values": [(2, 3), (2, 3)]}, {"axis": 1, "interleave": interleave})
        for interleave in (False, True)
    ],
    ("crop", {"x": IMAGE}, {"crop_height": arr(1, 1), "crop_width": arr(0, 2)}),
    ("expand_dims", {"x": X}, {"axes": arr(0, -1)}),
    ("flatten2d", {"x": X}, {"axis": 2}),
    *[
        ("pad", {"x": X}, {"pad": arr(1, 2, 2, 1), "mode": mode})
        for mode in ("constant", "reflect", "replicate")
    ],
    ("reshape", {"x": X}, {"shape": arr(0, -1, 2)}),
    (
        "reshape_like",
        {"x": (6, 4)},
        {"ref_tensors": [SPREAD], "begins": [0], "ends": [3], "end_masks": [False]},
    ),
    ("reverse", {"x": X}, {"axes": arr(0, 2)}),
    ("reverse_sequence", {"x": (3, 4, 2)}, {"lengths": arr(1, 3, 4), "seq_axis": 1, "batch_axis": 0}),
    ("reverse_sequence", {"x": (4, 2, 3)}, {"lengths": arr(1, 3, 4), "seq_axis": 0, "batch_axis": 2}),
    (
        "slice_by_index",
        {"x": X},
        {
            "begin": arr(0, 2, -1),
            "end": arr(2, 0, 0),
            "stride": arr(1, -1, -2),
            "begin_mask": np.array([True, False, False]),
        },
    ),
    (
        "slice_by_index",
        {"x": X},
        {"begin": arr(1, 0, 0), "end": arr(0, 2, 4), "squeeze_mask": np.array([True, False, False])},
    ),
    ("slice_by_size", {"x": X}, {"begin": arr(0, 1, 1), "size": arr(2, 2, -1)}),
    (
        "slice_update",
        {"x": X, "update": (2, 2, 2)},
        {"begin": arr(0, 1, 0), "end": arr(2, 3, 4), "stride": arr(1, 1, 2)},
    ),
    (
        "slice_update",
        {"x": X, "update": (2, 3, 2)},
        {"begin": arr(0, 0, 3), "end": arr(2, 3, 0), "stride": arr(1, 1, -2)},
    ),
    ("sliding_windows", {"x": X}, {"axis": 2, "size": 2, "stride": 2}),
    ("split", {"x": X}, {"axis": 2, "num_splits": 2}),
    ("split", {"x": X}, {"axis": 2, "split_sizes": arr(1, 3)}),
    ("squeeze", {"x": (1, 3, 1, 2)}, {"axes": arr(0, 2)}),
    ("stack", {"values": [X, X]}, {"axis": 1}),
    ("tile", {"x": X}, {"reps": arr(2, 1, 3)}),
    ("transpose", {"x": X}, {"perm": arr(2, 0, -2)}),
    ("topk", {"x": SPREAD}, {"k": 2, "axis": 2}),
    # gather and scatter
    ("gather", {"x": X}, {"indices": INDEX, "axis": 1}),
    ("gather", {"x": X}, {"indices": INDEX, "axis": 1, "batch_dims": 1}),
    ("gather_along_axis", {"x": (2, 3)}, {"indices": INDEX, "axis": 1}),
    ("gather_nd", {"x": X}, {"indices": np.array([[1, 2], [0, -1]], I)}),
    *[
        ("scatter", {"data": X, "updates": (2, 2, 4)}, {"indices": arr(1, 1), "axis": 1, "mode": mode})
        for mode in ("add", "sub")
    ],
    ("scatter", {"data": X, "updates": (2, 2, 4)}, {"indices": arr(0, 2), "axis": 1, "mode": "update"}),
    *[
        (
            "scatter_along_axis",
            {"data": (2, 3), "updates": (2, 2)},
            {"indices": np.array([[2, 0], [1, 0]], I), "axis": 1, "mode": mode},
        )
        for mode in ("add", "update")
    ],
    *[
        (
            "scatter_nd",
            {"data": X, "updates": (2, 4)},
            {"indices": np.array([[1, 2], [0, 1]], I), "mode": mode},
        )
        for mode in ("add", "update")
    ],
    # recurrent layers
    *[
        (
            "rnn",
            {"x": (3, 2, 4), "initial_h": (2, 5), "weight_ih": (5, 4), "weight_hh": (5, 5), "bias": (5,)},
            {"output_sequence": True, "direction": way},
        )
        for way in ("forward", "reverse")
    ],
    *[
        (
            "gru",
            {"x": (3, 2, 4), "initial_h": (2, 5), "weight_ih": (15, 4), "weight_hh": (15, 5), "bias": (15,)},
            {"reset_after": after, "output_sequence": True},
        )
        for after in (False, True)
    ],
    (
        "lstm",
        {
            "x": (3, 2, 4),
            "initial_h": (2, 5),
            "initial_c": (2, 5),
            "weight_ih": (20, 4),
            "weight_hh": (20, 5),
            "bias": (20,),
            "peephole": (15,),
        },
        {"clip": of(0.9)},
    ),
    (
        "lstm",
        {
            "x": (3, 2, 4),
            "initial_h": (2, 10),
            "initial_c": (2, 10),
            "weight_ih": (20, 4),
            "weight_hh": (20, 5),
            "weight_ih_back": (20, 4),
            "weight_hh_back": (20, 5),
        },
        {"direction": "bidirectional", "output_sequence": True},
    ),
    # images
    *[
        (
            "resize_bilinear",
            {"x": IMAGE},
            {"target_size_height": 7, "target_size_width": 3, "sampling_mode": mode},
        )
        for mode in ("DEFAULT", "UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS")
    ],
    ("resize_nearest_neighbor", {"x": IMAGE}, {"target_size_height": 7, "target_size_width": 3}),
    *[
        ("resize", {"x": IMAGE}, {"shape": arr(6, 0), "resized_dims": 2, "interpolation_mode": mode})
        for mode in ("LINEAR", "NEAREST_NEIGHBOR")
    ],
    ("upsample_bilinear", {"x": IMAGE}, {"scale_factor_height": 2, "scale_factor_width": 2}),
    ("upsample_nearest_neighbor", {"x": IMAGE}, {"scale_factor_height": 2, "scale_factor_width": 2}),
    *[
        (
            "resample",
            {"x": IMAGE, "coordinates": GRID},
            {
                "sampling_mode": "bilinear",
                "padding_mode": mode,
                "padding_value": of(0.5),
                "coordinates_mode": "normalized_minus_one_to_one",
                "align_corners": True,
            },
        )
        for mode in ("constant", "border", "reflection", "symmetric")
    ],
    (
        "affine",
        {"x": IMAGE, "transform_matrix": np.array([[0.7, 0.1, 0.05, -0.1, 0.8, 0.02]])},
        {
            "output_height": 3,
            "output_width": 5,
            "sampling_mode": "BILINEAR",
            "padding_mode": "CONSTANT",
            "padding_value": of(0),
            "coordinates_mode": "NORMALIZED_MINUS_ONE_TO_ONE",
            "align_corners": True,
        },
    ),
    (
        "crop_resize",
        {"x": IMAGE},
        {"boxes": np.array([[0.2, 0.3, 2.6, 2.4]]), "target_height": 2, "target_width": 3},
    ),
    # compressed weights and quantized activations
    (
        "dequantize",
        {"scale": (3,)},
        {
            "input": np.arange(24, dtype=np.int8).reshape(X),
            "axis": 1,
            "zero_point": np.array([1, 2, 3], np.int8),
        },
    ),
    (
        "conv_quantized",
        {"x": IMAGE, "quant_scale": (2,), "quant_bias": (2,)},
        {"weight": np.arange(32, dtype=np.uint8).reshape(2, 4, 2, 2), "quantization_type": "linear"},
    ),
    # lists
    ("list_read", {"ls": [X, X]}, {"index": I(1)}),
    ("list_gather", {"ls": [X, X]}, {"indices": arr(1, 0, 1)}),
    ("list_write", {"ls": [X, X], "value": X}, {"index": I(0)}),
    ("list_scatter", {"ls": [X, X], "value": (2, *X)}, {"indices": arr(1, 0)}),
]

# Their results are integers, truth or steps, or come from no float.
WITHOUT_GRADIENT = {
    *("argsort", "reduce_argmax", "reduce_argmin", "non_zero", "one_hot", "range_1d", "shape", "list_length"),
    *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"),
    *("logical_and", "logical_or", "logical_xor", "logical_not"),
    *("ceil", "floor", "floor_div", "round", "sign", "quantize", "classify", "non_maximum_suppression"),
    *("fill", "fill_like", "make_list"),
    *("random_bernoulli", "random_categorical", "random_normal", "random_uniform"),
}
# These run blocks or keep states: programs test them. Weights are decoded before a run.
IN_PROGRAMS = {"cond", "while_loop", "read_state", "coreml_update_state", "const"}
