"""Convolution, pooling, normalization and resizing, each against torch or NumPy."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from nn_models import Array, network, normal, positive, run_layer, run_spec

from milpasses.neuralnetwork import LayerError, read
from milpasses.neuralnetwork.spec import weight_params

torch = pytest.importorskip("torch")
functional = torch.nn.functional
X = normal(2, 1, 4, 7, 6)  # [Seq, Batch, C, H, W]


def t(x: Array) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def images(x: Array) -> Any:
    """The sequence and batch as one batch."""
    return t(x).reshape(-1, *x.shape[-3:])


def conv(
    border: str = "valid",
    groups: int = 1,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, ...] = (0, 0, 0, 0),
    mode: str = "BOTTOM_RIGHT_HEAVY",
    deconv: bool = False,
    shape: tuple[int, int] | None = None,
    kernel: tuple[int, int] = (3, 2),
) -> tuple[Any, Array, Array]:
    """What adds the layer; its kernels as the format stores them; its bias."""
    weight = normal(4, 6 // groups, *kernel) if deconv else normal(6, 4 // groups, *kernel)
    bias = normal(6, seed=1)
    stored = weight.transpose(2, 3, 0, 1) if deconv else weight.transpose(2, 3, 1, 0)

    def build(builder: Any) -> None:
        builder.add_convolution(
            "conv", 4 if deconv else 4 // groups, 6, *kernel, stride, stride, border, groups,
            stored, bias, True, deconv, shape, "x", "out", [dilation] * 2, padding_top=pads[0],
            padding_bottom=pads[1], padding_left=pads[2], padding_right=pads[3],
            same_padding_asymmetry_mode=mode,
        )  # fmt: skip

    return build, weight, bias


def padded_same(x: Any, kernel: tuple[int, int], stride: int, lower: bool) -> Any:
    """Padding so that the result has size / stride, rounded up; the odd pixel before or after."""
    amounts: list[int] = []
    for size, k in zip(x.shape[:1:-1], kernel[::-1], strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + k - size)
        first = total - total // 2 if lower else total // 2
        amounts += [first, total - first]
    return functional.pad(x, amounts)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"groups": 2, "stride": 2},
        {"pads": (1, 2, 0, 3)},
        {"dilation": 2},
        {"border": "same", "stride": 2},
        {"border": "same", "mode": "TOP_LEFT_HEAVY"},
        {"border": "same", "dilation": 2},
    ],
)
def test_convolution(settings: dict[str, Any]) -> None:
    build, weight, bias = conv(**settings)
    x, stride, dilation = images(X), settings.get("stride", 1), settings.get("dilation", 1)
    top, bottom, left, right = settings.get("pads", (0, 0, 0, 0))
    x = functional.pad(x, (left, right, top, bottom))
    if settings.get("border") == "same":
        reach = (dilation * 2 + 1, dilation + 1)
        x = padded_same(x, reach, stride, settings.get("mode") == "TOP_LEFT_HEAVY")
    wanted = functional.conv2d(x, t(weight), t(bias), stride, 0, dilation, settings.get("groups", 1))
    out = run_layer(build, {"x": X})["out"]
    assert out.shape == (2, 1, *wanted.shape[1:])
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({}, None),
        ({"stride": 2, "groups": 2}, None),
        ({"stride": 2, "pads": (1, 0, 0, 1)}, (1, -0, 0, -1)),
        ({"stride": 2, "border": "same"}, (0, -1, 0, -0)),
        ({"stride": 2, "border": "same", "mode": "TOP_LEFT_HEAVY"}, (1, -0, 0, -0)),
        ({"stride": 2, "shape": (14, 12)}, (0, -1, 0, -0)),
        ({"stride": 2, "dilation": 3, "pads": (2, 1, 0, 1)}, (2, -1, 0, -1)),
    ],
)
def test_deconvolution(settings: dict[str, Any], window: tuple[int, ...] | None) -> None:
    build, weight, bias = conv(deconv=True, **settings)
    wanted = functional.conv_transpose2d(
        images(X),
        t(weight),
        t(bias),
        settings.get("stride", 1),
        groups=settings.get("groups", 1),
        dilation=settings.get("dilation", 1),
    )
    if window is not None:
        top, bottom, left, right = window
        wanted = wanted[:, :, top : wanted.shape[2] + bottom, left : wanted.shape[3] + right]
    out = run_layer(build, {"x": X})["out"]
    assert out.shape == (2, 1, *wanted.shape[1:])
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_deconvolution_with_a_scale_for_each_channel(groups: int) -> None:
    build, weight, bias = conv(deconv=True, groups=groups)
    spec = network(build, {"x": X.shape})
    codes = np.random.default_rng(0).integers(0, 256, weight.shape).astype(np.uint8)
    scale = positive(6) / 100
    params = spec.neuralNetwork.layers[0].convolution.weights
    weight_params.write_linear(params, codes, scale, -128 * scale, 8)
    by_group = scale.reshape(groups, 1, 6 // groups, 1, 1)
    weight = ((codes.reshape(groups, -1, *weight.shape[1:]) - 128.0) * by_group).reshape(weight.shape)
    wanted = functional.conv_transpose2d(images(X), t(weight), t(bias), groups=groups)
    out = run_spec(spec, {"x": X})["out"]
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)
    assert read(spec).target == (ct.target.iOS16 if groups == 1 else ct.target.iOS18)


def test_convolution_takes_its_kernels_as_an_input() -> None:
    weight = normal(6, 4, 3, 3)

    def build(builder: Any) -> None:
        builder.add_convolution(
            "conv", 4, 6, 3, 3, 1, 1, "valid", 1, None, None, False, input_name=["x", "w"], output_name="out"
        )

    x = normal(1, 4, 7, 6)
    out = run_layer(build, {"x": x, "w": weight}, exact=True)["out"]
    np.testing.assert_allclose(out, functional.conv2d(t(x), t(weight)), rtol=1e-4, atol=1e-5)


def caffe_pool(x: Array, kind: str, k: int, s: int, pad: int, exclude: bool) -> Array:
    """Pooling that includes the last pixel, window by window."""
    height, width = x.shape[-2:]
    sizes = []
    for size in (height, width):
        count = -(-(size + 2 * pad - k) // s) + 1
        sizes.append(count - 1 if pad and (count - 1) * s >= size + pad else count)
    out = np.empty((*x.shape[:-2], *sizes), np.float32)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            top, left = i * s - pad, j * s - pad
            bottom, right = min(top + k, height + pad), min(left + k, width + pad)
            window = x[..., max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            area = window[0, 0, 0].size if exclude else (bottom - top) * (right - left)
            total = window.sum((-2, -1)) / area
            out[..., i, j] = {"MAX": window.max((-2, -1)), "AVERAGE": total}[kind]
    return out


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE"])
@pytest.mark.parametrize(("k", "s", "pad", "exclude"), [(3, 2, 0, False), (3, 2, 1, False), (3, 2, 1, True)])
def test_pooling_includes_the_last_pixel(kind: str, k: int, s: int, pad: int, exclude: bool) -> None:
    x = normal(1, 1, 3, 8, 6)

    def build(builder: Any) -> None:
        builder.add_pooling(
            "pool", k, k, s, s, kind, "INCLUDE_LAST_PIXEL", "x", "out", exclude_pad_area=exclude,
            padding_top=pad, padding_bottom=pad, padding_left=pad, padding_right=pad,
        )  # fmt: skip

    out = run_layer(build, {"x": x})["out"]
    wanted = caffe_pool(x, kind, k, s, pad, exclude)
    assert out.shape == wanted.shape[2:]
    np.testing.assert_allclose(out, wanted[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "border", "exclude"),
    [("MAX", "VALID", True), ("AVERAGE", "VALID", True), ("AVERAGE", "VALID", False), ("L2", "VALID", True),
     ("MAX", "SAME", True), ("AVERAGE", "SAME", True)],
)  # fmt: skip
def test_pooling(kind: str, border: str, exclude: bool) -> None:
    def build(builder: Any) -> None:
        builder.add_pooling("pool", 3, 2, 2, 2, kind, border, "x", "out", exclude_pad_area=exclude)

    x = images(X)
    if border == "SAME":
        mask = padded_same(torch.ones_like(x), (3, 2), 2, False)
        x = padded_same(x, (3, 2), 2, False)
        x = torch.where(mask > 0, x, -1e9) if kind == "MAX" else x
        share = functional.avg_pool2d(mask, (3, 2), 2) if exclude else 1.0
    else:
        share = 1.0
    wanted = {
        "MAX": lambda: functional.max_pool2d(x, (3, 2), 2),
        "AVERAGE": lambda: functional.avg_pool2d(x, (3, 2), 2) / share,
        "L2": lambda: torch.sqrt(functional.avg_pool2d(x**2, (3, 2), 2) * 6),
    }[kind]()
    out = run_layer(build, {"x": X})["out"]
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE", "L2"])
def test_pooling_whole_images(kind: str) -> None:
    def build(builder: Any) -> None:
        builder.add_pooling("pool", 0, 0, 0, 0, kind, "VALID", "x", "out", is_global=True)

    wanted = {"MAX": X.max((3, 4)), "AVERAGE": X.mean((3, 4)), "L2": np.sqrt((X**2).sum((3, 4)))}[kind]
    out = run_layer(build, {"x": X})["out"]
    np.testing.assert_allclose(out[..., 0, 0], wanted, rtol=1e-5)


def lrn(x: Array) -> Array:
    sums = sum(np.roll(np.pad(x**2, ((0, 0),) * 2 + ((1, 1), (0, 0), (0, 0))), d, 2) for d in (-1, 0, 1))
    return x / (2 + 0.5 / 3 * sums[:, :, 1:-1]) ** 0.75


C4 = [positive(4, seed=s) for s in range(4)]


def batchnorm(x: Array) -> Array:
    gamma, beta, mean, variance = (v.reshape(4, 1, 1) for v in C4)
    return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta


def centred(x: Array, axes: tuple[int, ...], epsilon: float = 1e-6) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def affine(x: Array) -> Array:
    return C4[0].reshape(4, 1, 1) * x + C4[1].reshape(4, 1, 1)


def over_batch(layer: Any) -> None:
    """What the builder does not make."""
    layer.batchnorm.instanceNormalization = False


NORMALIZATIONS: dict[str, tuple[Any, Any]] = {
    "batchnorm": (lambda b: b.add_batchnorm("n", 4, *C4, "x", "out", epsilon=1e-3), batchnorm),
    "instance": (
        lambda b: b.add_batchnorm("n", 4, *C4[:2], None, None, "x", "out", True, True, 1e-3),
        lambda x: affine(centred(x, (3, 4), 1e-3)),
    ),
    "batch": (
        lambda b: over_batch(b.add_batchnorm("n", 4, *C4[:2], None, None, "x", "out", True, True, 1e-3)),
        lambda x: affine(centred(x, (0, 1, 3, 4), 1e-3)),
    ),
    "mvn": (lambda b: b.add_mvn("n", "x", "out", False, True, 1e-6), lambda x: centred(x, (3, 4))),
    "mvn across": (lambda b: b.add_mvn("n", "x", "out", True, True, 1e-6), lambda x: centred(x, (2, 3, 4))),
    "mvn mean only": (
        lambda b: b.add_mvn("n", "x", "out", False, False, 1e-6),
        lambda x: x - x.mean((3, 4), keepdims=True),
    ),
    "l2normalize": (
        lambda b: b.add_l2_normalize("n", "x", "out", 1e-2),
        lambda x: x / np.sqrt((x**2).sum((2, 3, 4), keepdims=True) + 1e-2),
    ),
    "softmax": (
        lambda b: b.add_softmax("n", "x", "out"),
        lambda x: np.exp(x) / np.exp(x).sum(2, keepdims=True),
    ),
    "lrn": (lambda b: b.add_lrn("n", "x", "out", 0.5, 0.75, 3, 2.0), lrn),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization(name: str) -> None:
    build, wanted = NORMALIZATIONS[name]
    np.testing.assert_allclose(run_layer(build, {"x": X})["out"], wanted(X), rtol=1e-4, atol=1e-5)


def bilinear(x: Array, rows: Array, columns: Array) -> Array:
    """Sampled at fractional rows and columns."""
    for axis, points in ((-2, rows), (-1, columns)):
        low = np.floor(points).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (points - low).reshape((-1, 1) if axis == -2 else -1)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def grid(size: int, count: int, mode: str) -> Array:
    """Grid points as the specification words them."""
    if mode in ("STRICT_ALIGN_ENDPOINTS_MODE", "ALIGN_ENDPOINTS_MODE"):
        return np.linspace(0, size - 1, count)
    if mode == "UPSAMPLE_MODE":
        return np.minimum(size - 1, np.linspace(0, size - size / count, count))
    if mode == "HALF_PIXEL":
        return np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
    spacing = max(1, size - 1) / count
    return np.minimum(size - 1, 0.5 * spacing + spacing * np.arange(count))


MODES = ("STRICT_ALIGN_ENDPOINTS_MODE", "ALIGN_ENDPOINTS_MODE", "UPSAMPLE_MODE", "ROI_ALIGN_MODE")


@pytest.mark.parametrize("mode", MODES)
def test_resize_bilinear(mode: str) -> None:
    out = run_layer(lambda b: b.add_resize_bilinear("r", "x", "out", 5, 9, mode), {"x": X})["out"]
    wanted = bilinear(X, grid(7, 5, mode), grid(6, 9, mode))
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("linear", "mode"),
    [("DEFAULT", "UPSAMPLE_MODE"), ("ALIGN_CORNERS_TRUE", MODES[0]), ("ALIGN_CORNERS_FALSE", "HALF_PIXEL")],
)
def test_upsample(linear: str, mode: str) -> None:
    build: Any = lambda b: b.add_upsample("u", 2, 3, "x", "out", "BILINEAR", linear)  # noqa: E731
    wanted = bilinear(X, grid(7, 14, mode), grid(6, 18, mode))
    np.testing.assert_allclose(run_layer(build, {"x": X})["out"], wanted, rtol=1e-4, atol=1e-5)


def test_upsample_nearest() -> None:
    out = run_layer(lambda b: b.add_upsample("u", 2, 3, "x", "out", "NN"), {"x": X})["out"]
    np.testing.assert_array_equal(out, X.repeat(2, 3).repeat(3, 4))


@pytest.mark.parametrize("target", [None, "iOS18"])
@pytest.mark.parametrize("numbers", [4, 5])
def test_crop_resize(numbers: int, target: str | None) -> None:
    x = normal(1, 2, 3, 8, 9)
    boxes = np.array([[1, 0, 6, 5], [2, 3, 7, 8]], np.float32)
    which = np.array([[1.0], [0.0]], np.float32)
    rows = np.concatenate([which, boxes], 1) if numbers == 5 else boxes
    out = run_layer(
        lambda b: b.add_crop_resize("c", ["x", "boxes"], "out", 4, 3, mode=MODES[0]),
        {"x": x, "boxes": rows.reshape(2, 1, numbers, 1, 1)},
        minimum_deployment_target=None if target is None else ct.target[target],
    )["out"]
    for n, (top, left, bottom, right) in enumerate(boxes):
        points = np.linspace(top, bottom, 4), np.linspace(left, right, 3)
        chosen = x[0, 1 - n : 2 - n] if numbers == 5 else x[0]
        np.testing.assert_allclose(out[n], bilinear(chosen, *points), rtol=1e-4, atol=1e-5)


def test_a_crop_that_leaves_the_image_is_refused() -> None:
    spec = network(
        lambda b: b.add_crop("c", 0, 0, 0, 0, [5, 5], ["x", "y"], "out"), {"x": (3, 8, 8), "y": (3, 4, 4)}
    )
    with pytest.raises(LayerError, match=r"layer 0 'c' \(crop\): cuts"):
        read(spec)
