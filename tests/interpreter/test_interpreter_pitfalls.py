"""What is easy to get wrong, one test each."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types
from interpreter_measure import snr

from milpasses.interpreter import Interpreter
from milpasses.interpreter.numpy_kernels import NumpyBackend

BACKENDS = ["numpy", "torch"]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def program(shape: Any, build: Any, dtype: Any = types.fp32, target: Any = ct.target.iOS17) -> Any:
    """A program of one input ``x`` without constant folding of its ops."""

    @mb.program(input_specs=[mb.TensorSpec(shape=shape, dtype=dtype)], opset_version=target)
    def made(x: Any) -> Any:
        return build(x)

    return made


def run(made: Any, x: Any, backend: Any = "auto", **options: Any) -> np.ndarray:
    return next(iter(Interpreter(made, backend=backend, **options).run({"x": x}).values()))


@pytest.fixture(params=BACKENDS)
def backend(request: Any) -> str:
    if request.param == "torch":
        pytest.importorskip("torch")
    return request.param


def _naive_conv(
    x: np.ndarray, w: np.ndarray, pads: list[tuple[int, int]], strides: Any, dilations: Any, groups: int
) -> Any:
    """Convolution from its definition, in float64."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    n, c, height, width = x.shape
    o, _, kh, kw = w.shape
    oh = (height - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    ow = (width - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    out = np.zeros((n, o, oh, ow))
    for f in range(o):
        first = f // (o // groups) * (c // groups)
        for i in range(oh):
            for j in range(ow):
                rows = i * strides[0] + np.arange(kh) * dilations[0]
                columns = j * strides[1] + np.arange(kw) * dilations[1]
                window = x[:, first : first + c // groups][:, :, rows][:, :, :, columns]
                out[:, f, i, j] = (window * w[f]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize(
    ("pad_type", "pad", "pads"),
    [
        ("custom", [2, 0, 0, 1], [(2, 0), (0, 1)]),
        ("same", None, [(0, 1), (1, 1)]),
        ("same_lower", None, [(1, 0), (1, 1)]),
        ("valid", [9, 9, 9, 9], [(0, 0), (0, 0)]),
    ],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_padding_of_convolutions(backend: str, pad_type: str, pad: Any, pads: Any, groups: int) -> None:
    x, w = normal(2, 4, 8, 7), normal(8, 4 // groups, 3, 3)
    extra = {} if pad is None else {"pad": pad}
    made = program(
        x.shape, lambda v: mb.conv(x=v, weight=w, strides=[2, 2], pad_type=pad_type, groups=groups, **extra)
    )
    expected = _naive_conv(x, w, pads, (2, 2), (1, 1), groups)
    np.testing.assert_allclose(run(made, x, backend), expected, rtol=1e-4, atol=1e-5)


def test_dilated_convolution_of_three_dimensions_agrees_between_backends() -> None:
    torch = pytest.importorskip("torch")
    x, w = normal(1, 2, 7, 8, 9), normal(4, 1, 2, 3, 2)
    made = program(
        x.shape,
        lambda v: mb.conv(
            x=v,
            weight=w,
            pad_type="custom",
            pad=[1, 1, 0, 2, 1, 0],
            dilations=[2, 1, 3],
            strides=[1, 2, 1],
            groups=2,
        ),
    )
    padded = torch.nn.functional.pad(torch.from_numpy(x), (1, 0, 0, 2, 1, 1))
    expected = torch.conv3d(padded, torch.from_numpy(w), None, (1, 2, 1), 0, (2, 1, 3), 2).numpy()
    for name in BACKENDS:
        assert snr(expected, run(made, x, name)) > 100


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "size"), [(2, 3, 0, 9), (2, 3, 1, 8), (3, 2, 1, 8), (1, 3, 0, 7)]
)
@pytest.mark.parametrize("include", [True, False])
def test_ceil_mode_and_the_divisor_of_average_pooling(
    backend: str, kernel: int, stride: int, pad: int, size: int, include: bool
) -> None:
    torch = pytest.importorskip("torch")
    x = normal(1, 2, size, size + 1)
    options = {"kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "pad_type": "custom", "pad": [pad] * 4}
    average = program(
        x.shape,
        lambda v: mb.avg_pool(x=v, ceil_mode=True, exclude_padding_from_average=not include, **options),
    )
    maximum = program(x.shape, lambda v: mb.max_pool(x=v, ceil_mode=True, **options))
    functional, source = torch.nn.functional, torch.from_numpy(x)
    expected = functional.avg_pool2d(source, kernel, stride, pad, ceil_mode=True, count_include_pad=include)
    np.testing.assert_allclose(run(average, x, backend), expected, atol=1e-6)
    np.testing.assert_array_equal(
        run(maximum, x, backend), functional.max_pool2d(source, kernel, stride, pad, ceil_mode=True)
    )


@pytest.mark.parametrize(
    ("stride", "pad", "output_padding", "groups"), [(2, 1, 1, 1), (3, 0, 2, 2), (2, 0, 1, 4)]
)
def test_transposed_convolution_with_output_padding(
    backend: str, stride: int, pad: int, output_padding: int, groups: int
) -> None:
    torch = pytest.importorskip("torch")
    x, w, b = normal(2, 4, 5, 6), normal(4, 8 // groups, 3, 3), normal(8)
    expected = torch.conv_transpose2d(
        *(torch.from_numpy(a) for a in (x, w, b)), stride, pad, output_padding, groups
    ).numpy()
    options = {"pad_type": "custom", "pad": [pad] * 4, "strides": [stride] * 2, "groups": groups}
    made = program(
        x.shape, lambda v: mb.conv_transpose(x=v, weight=w, bias=b, output_shape=expected.shape, **options)
    )
    assert snr(expected, run(made, x, backend)) > 100


def test_converted_transposed_convolution_with_output_padding(convert: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(4, 8, 3, 2, 1, 1, dilation=2).eval()
    x = torch.randn(2, 4, 5, 6)
    assert (
        snr(
            layer(x).detach().numpy(),
            next(iter(Interpreter(convert(layer, x)).run({"in0": x.numpy()}).values())),
        )
        > 100
    )


def test_gru_resets_before_the_product_unless_told_otherwise() -> None:
    size = 3
    x, h = normal(1, 1, 2), normal(1, size)
    ih, hh, b = normal(3 * size, 2), normal(3 * size, size), normal(3 * size)

    def gru(v: Any, **options: Any) -> Any:
        return mb.gru(x=v, initial_h=h, weight_ih=ih, weight_hh=hh, bias=b, **options)[1]

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    (w_r, w_o, w_z), (r_r, r_o, r_z), (b_r, b_o, b_z) = np.split(ih, 3), np.split(hh, 3), np.split(b, 3)
    r, z = sigmoid(x[0] @ w_r.T + h @ r_r.T + b_r), sigmoid(x[0] @ w_z.T + h @ r_z.T + b_z)
    before = np.tanh(x[0] @ w_o.T + (r * h) @ r_o.T + b_o)
    after = np.tanh(x[0] @ w_o.T + r * (h @ r_o.T + b_o))
    plain = run(program(x.shape, gru, target=ct.target.iOS18), x)
    told = run(program(x.shape, lambda v: gru(v, reset_after=True), target=ct.target.iOS18), x)
    np.testing.assert_allclose(plain, (1 - z) * before + z * h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told, (1 - z) * after + z * h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("begin", "end", "options", "index"),
    [
        ([3, 4], [0, 1], {"stride": [-1, -2]}, np.s_[3:0:-1, 4:1:-2]),
        (
            [0, 0],
            [0, 0],
            {"stride": [-1, -1], "begin_mask": [True] * 2, "end_mask": [True] * 2},
            np.s_[::-1, ::-1],
        ),
        ([-1, -2], [-4, -5], {"stride": [-1, -1]}, np.s_[-1:-4:-1, -2:-5:-1]),
        ([-1, 1], [0, 3], {"squeeze_mask": [True, False]}, np.s_[-1, 1:3]),
    ],
)
def test_slices_with_negative_strides_and_masks(begin: Any, end: Any, options: Any, index: Any) -> None:
    x = normal(4, 5)
    made = program(x.shape, lambda v: mb.slice_by_index(x=v, begin=begin, end=end, **options))
    np.testing.assert_array_equal(run(made, x), x[index])


def test_integer_linear_and_matmul_are_exact(backend: str) -> None:
    x = np.array([[2**20 + 1, 3, -5]], np.int32)
    w = np.array([[1025, 7, 1], [0, 1, 2]], np.int32)
    linear = program(
        x.shape,
        lambda v: mb.linear(x=v, weight=w, bias=np.array([1, 2], np.int32)),
        types.int32,
        ct.target.iOS16,
    )
    matmul = program(x.shape, lambda v: mb.matmul(x=v, y=w.T.copy()), types.int32)
    np.testing.assert_array_equal(run(linear, x, backend), x @ w.T + [1, 2])
    result = run(matmul, x, backend)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, x @ w.T)


@pytest.mark.parametrize("axis", [None, 0])
def test_both_outputs_of_lut_to_sparse(axis: int | None) -> None:
    mask = np.array([[1, 0, 1], [0, 1, 1]]).astype(types.np_uint1_dtype)
    width = 1 if axis is None else 2
    lut = np.arange(4 * width, dtype=np.float32).reshape(1, 1, 4, width) + 1
    codes = np.array([3, 0, 1, 2]).astype(types.np_uint2_dtype)

    def build(v: Any) -> Any:
        extra = {} if axis is None else {"vector_axis": axis}
        out_mask, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask, indices_nonzero_data=codes, lut=lut, **extra
        )
        return mb.add(x=v, y=mb.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask))

    shape = (2 * width, 3)
    dense = np.zeros((2, width, 3), np.float32)
    for (row, column), code in zip(np.argwhere(mask), codes, strict=True):
        dense[row, :, column] = lut[0, 0, code]
    result = run(program(shape, build, target=ct.target.iOS18), np.zeros(shape, np.float32))
    np.testing.assert_array_equal(result, dense.reshape(shape))


def test_symbolic_declared_shapes() -> None:
    batch, length = get_new_symbol(), get_new_symbol()
    made = program(
        (batch, length, 4), lambda v: mb.reshape(x=mb.transpose(x=v, perm=[1, 0, 2]), shape=[-1, 8])
    )
    for shape in ((2, 3, 4), (1, 2, 4)):
        x = normal(*shape)
        np.testing.assert_array_equal(run(made, x), x.transpose(1, 0, 2).reshape(-1, 8))


def test_minus_infinity_that_became_float16() -> None:
    mask = np.array([[0, -np.inf, 0]], np.float16)
    lowest = np.full((1, 3), np.finfo(np.float32).min)

    def build(v: Any) -> Any:
        cut = mb.cast(x=mb.add(x=mb.cast(x=v, dtype="fp32"), y=lowest), dtype="fp16")
        return mb.softmax(x=mb.add(x=v, y=mask)), cut

    made = program((2, 3), build, types.fp16)
    for backend in BACKENDS:
        masked, cut = Interpreter(made, backend=backend).run({"x": np.ones((2, 3), np.float16)}).values()  # type: ignore
        np.testing.assert_allclose(masked, [[0.5, 0, 0.5]] * 2)
        assert np.isneginf(cut).all()


def test_bgr_images_reach_the_model_in_its_own_order() -> None:
    image = RNG.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    for layout in ("RGB", "BGR"):
        made = program((1, 3, 2, 2), lambda v: mb.identity(x=v))
        declared = ct.ImageType("x", (1, 3, 2, 2), scale=0.5, bias=[1.0, 2.0, 3.0], color_layout=layout)
        model = ct.convert(
            made, inputs=[declared], minimum_deployment_target=ct.target.iOS17, skip_model_load=True
        )
        planes = image.transpose(2, 0, 1)[:: -1 if layout == "BGR" else 1][None].astype(np.float32)
        expected = planes * 0.5 + np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
        np.testing.assert_allclose(run(model, image), expected)


def test_error_function_of_numpy_alone() -> None:
    from math import erf

    x = np.concatenate([np.linspace(-6, 6, 5001), [np.inf, -np.inf, 0, 1e-8]]).astype(np.float32)
    expected = np.array([erf(float(v)) for v in x])
    np.testing.assert_allclose(NumpyBackend().erf(x), expected, rtol=5e-7)


def test_lstm_clips_the_state_of_its_cells_and_scales_no_tanh() -> None:
    size, steps = 2, 5
    x, ih, hh = normal(steps, 1, 3), 3 * normal(4 * size, 3), normal(4 * size, size)
    zeros = np.zeros((1, size), np.float32)

    def lstm(v: Any) -> Any:
        return mb.lstm(
            x=v,
            initial_h=zeros,
            initial_c=zeros,
            weight_ih=ih,
            weight_hh=hh,
            activation="scaled_tanh",
            clip=np.float32(0.2),
        )[2]

    h, c = zeros[0].astype(np.float64), zeros[0].astype(np.float64)
    for step in range(steps):
        i, f, o, z = np.split(ih @ x[step, 0] + hh @ h, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = np.clip(f * c + i * np.tanh(z), -0.2, 0.2)
        h = o * np.tanh(c)
    assert np.abs(c).max() == 0.2
    np.testing.assert_allclose(run(program(x.shape, lstm), x)[0], c, rtol=1e-5, atol=1e-6)
